"""Rows whose exact number at any second is known, and pgbench beside them."""

import os
import subprocess
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server

SCHEMA = "create table ledger (n bigint primary key, made timestamptz not null)"
PAUSE = 0.05  # seconds between two rows
SUMS = """
select (select count(*) from ledger), (select coalesce(max(n), 0) from ledger),
    (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
    (select sum(bbalance) from pgbench_branches),
    (select coalesce(sum(delta), 0) from pgbench_history)
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """When a row was committed, as the client saw it."""

    sent: datetime
    acknowledged: datetime


class Ledger:
    """One session that inserts numbered rows, for a with block."""

    def __init__(self, server: Server, database: str) -> None:
        self._conninfo = make_conninfo("", **server.params, dbname=database)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.commits: list[Commit] = []
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                while not self._stop.wait(PAUSE):
                    sent = datetime.now(UTC)
                    connection.execute(
                        "insert into ledger values (%s, clock_timestamp())",
                        [len(self.commits) + 1],
                    )
                    self.commits.append(Commit(sent, datetime.now(UTC)))
        except psycopg.Error as error:
            self.failed.append(str(error))

    def between(self, moment: datetime) -> tuple[datetime, int] | None:
        """Return a time near a moment at which no commit was under way, and the rows by then."""
        number = bisect_right(self.commits, moment, key=lambda commit: commit.acknowledged)
        if not 0 < number < len(self.commits):
            return None
        before, after = self.commits[number - 1].acknowledged, self.commits[number].sent
        return before + (after - before) / 2, number


def check(row: tuple[Any, ...], rows: int) -> str | None:
    """Return how the sums of a restored database differ from what they must be."""
    count, highest, accounts, tellers, branches, history = row
    if (count, highest) != (rows, rows):
        return f"the ledger has {count} rows up to {highest}, expected {rows}"
    if not accounts == tellers == branches == history:
        return f"the sums of pgbench differ: {accounts}, {tellers}, {branches}, {history}"
    return None


class Load:
    """pgbench with a fixed number of transactions for each second, for a with block."""

    def __init__(self, programs: Mapping[str, str], rate: int) -> None:
        self._environment = {**os.environ, **programs}
        self._rate = rate
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = ["pgbench", "-n", "-c", "4", "-R", str(self._rate), "-T", "999999"]
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
