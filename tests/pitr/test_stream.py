"""The receiver as a process: what it tells, what it survives, and how it ends."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.model.wal import Lsn
from pgkeep.pitr import stream_state
from pgkeep.pitr.stream_state import StreamState
from pgkeep.postgres.server import Server
from tests.support import invoke, servers

SETTINGS = {"max_slot_wal_keep_size": "1GB"}


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pitr-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "backups").mkdir()
        yield Path(folder)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Cluster:
    """A server whose WAL is received, and the environment of the commands."""

    server: Server
    env: dict[str, str]
    folder: Path  # of its files in the directory

    @property
    def spool(self) -> Path:
        return self.folder.parent / "spool" / self.folder.name

    def state(self) -> StreamState | None:
        return stream_state.read(stream_state.path_in(self.spool))

    def sql(self, text: str) -> object:
        with servers.connect(self.server, "postgres") as connection:
            cursor = connection.execute(text.encode())
            row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]

    def position(self) -> Lsn:
        return Lsn.parse(str(self.sql("select pg_current_wal_lsn()::text")))


def enabled(server: Server, place: Path, **extra: str) -> Cluster:
    """Create the slot of a server, as `pitr enable` does, and take no base backup."""
    programs = servers.bin_folder(servers.major_of(server))
    env = invoke.environment(
        server, "postgres", BACKUP_DIR=str(place / "backups"), BACKUP_WAL_MAX_LAG="1s",
        PATH=f"{programs}:{invoke.environment()['PATH']}", **extra,
    )  # fmt: skip
    with servers.connect(server, "postgres") as connection:
        row = connection.execute(
            "select system_identifier::text, pg_create_physical_replication_slot('pgkeep_'"
            " || right(system_identifier::text, 8), true) is not null from pg_control_system()"
        ).fetchone()
    assert row is not None
    return Cluster(server, env, place / "backups" / "pitr" / row[0])


@pytest.mark.parametrize("major", [15, 18])
def test_the_state_of_an_idle_server_is_new(major: int, place: Path) -> None:
    """A8, PITR rule 8: health is the age of what is stored, although no position moves.

    After a restart, the last record of an idle server ends with zeros, as the rest of its file.
    """
    with Server(servers.bin_folder(major), settings=SETTINGS, initdb=["--wal-segsize=1"]) as server:
        cluster = enabled(server, place)
        receiver = invoke.start("pitr", "stream", env=cluster.env)
        try:
            cluster.sql("create table public.t (n int)")
            wanted = cluster.position()

            def complete() -> bool:
                state = cluster.state()
                return state is not None and state.complete_until is not None and (
                    Lsn.parse(state.position or "0/0") >= wanted
                )  # fmt: skip

            until(complete)
            state = cluster.state()
            assert state is not None
            (store,) = state.stores
            assert store.error is None
            assert state.receiving
            assert state.timeline == 1
            assert state.slot is not None
            assert state.slot.status == "reserved"
            assert stream_state.path_in(cluster.spool).stat().st_mode & 0o777 == 0o600
            first = datetime.now(UTC)
            until(lambda: (state := cluster.state()) and state.lag(first) == 0)
        finally:
            receiver.terminate()
            receiver.communicate(timeout=20)
