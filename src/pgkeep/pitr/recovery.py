"""Recover a data directory to a point, on a private socket, and prove that it was reached.

The WAL that recovery needs lies in pg_wal before the server starts, checked: PostgreSQL takes every
failure of restore_command with an exit status up to 125 for the end of the WAL, and would end
recovery too early (manual, 25.3.5).

The server runs code of the owners of its databases, such as functions in indexes. It sees no other
files and no network where the system permits that, as the server of a drill.
"""

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

import psycopg

from .. import errors as e
from ..model.wal import Lsn
from ..postgres import server as servers
from ..postgres.connection import Connection, Endpoint, first_row
from ..postgres.server import SOCKET_NAME, Account
from . import recovery_settings
from .recovery_settings import EVENT_TRIGGERS_SINCE, PORT
from .target import Point

START_SECONDS = 3600.0  # until the server accepts connections: it replays up to consistency
_CAUSE = re.compile("FATAL|PANIC|DETAIL|unrecognized|invalid value")
_STOPPING = re.compile(
    r"recovery stopping (?:before|after) commit of (?:prepared )?transaction (\d+), time ([^\n]+)"
    r"|recovery stopping (?:before|after) WAL location \(LSN\) [^\n]+"
    r"|recovery stopping at restore point \"([^\n]*)\""
    r"|recovery stopping after reaching (consistency)"
)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the recovered server says of the point that it has reached."""

    lsn: Lsn
    timeline: int
    last_commit: datetime | None  # of the last replayed transaction
    stopped: str  # the line of the server's log
    promoted: bool = False  # by the server itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A restored data directory, and what its server needs."""

    programs: Path
    major: int
    data: Path
    run: Path  # an empty directory for socket, configuration and log
    settings: Mapping[str, str]  # that recovery must not lower
    superusers: Sequence[str]  # names that the first superuser can have
    databases: Sequence[str]  # that can allow connections
    elsewhere: Mapping[str, Path] = field(default_factory=dict)  # folders at other paths


def _compare(last: datetime | None, point: Point) -> None:
    """Compare the time of the last replayed commit with that of the chosen one.

    Raises:
        RestoreFailed: it is another commit.

    """
    if point.setting[0] != "recovery_target_xid" or not point.before:
        return
    expected = point.before[-1].time
    if last is None or abs((last - expected).total_seconds()) > 1e-3:
        raise e.RestoreFailed(f"the last replayed commit is that of {last}, expected {expected}")


class RecoveredServer:
    """A server on a restored data directory, for a with block; it is stopped at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._account = Account.choose()
        self._process: subprocess.Popen[bytes] | None = None
        self._login: tuple[str, str] | None = None  # role and database that were accepted
        self._programs = servers.reachable(
            cluster.programs, ("postgres",), cluster.run, self._account
        )
        self._namespaces = servers.namespaces(
            self._programs, cluster.run, self._account, [cluster.run, cluster.data],
            elsewhere=cluster.elsewhere,
        )  # fmt: skip
        self.log = cluster.run / "log"

    @property
    def isolation(self) -> tuple[str, ...]:
        """What separates the server from our files: another user, namespaces."""
        return (
            *(() if self._account.uid is None else ("user",)),
            *(() if self._namespaces is None else ("namespaces",)),
        )

    @property
    def superuser(self) -> str:
        """The name of the first superuser."""
        return self._login[0] if self._login is not None else self._cluster.superusers[0]

    @property
    def endpoint(self) -> Endpoint:
        """How to connect, as the superuser of the cluster.

        What owners of databases have set does not run in these sessions.
        """
        user, database = self._login or (
            self._cluster.superusers[0],
            self._cluster.databases[0],
        )
        return self._endpoint(user, database)

    def _endpoint(self, user: str, database: str) -> Endpoint:
        options = "-c session_preload_libraries= -c default_transaction_read_only=off"
        if self._cluster.major >= EVENT_TRIGGERS_SINCE:
            options += " -c event_triggers=off"
        return Endpoint({
            "host": str(self._cluster.run), "hostaddr": "", "port": str(PORT), "user": user,
            "dbname": database, "options": options,
        })  # fmt: skip

    def recover(self, point: Point, timeline: int) -> Proof:
        """Replay the WAL up to a point, and stop there.

        Raises:
            RestoreFailed: the point was not reached.

        """
        cluster = self._cluster
        recovery_settings.prepare(cluster.data)
        target = recovery_settings.recovery(point, timeline)
        recovery_settings.write_temporary(
            cluster.run, cluster.major, {**cluster.settings, **target}
        )
        (cluster.data / "recovery.signal").touch(mode=0o600)
        for path in (cluster.data, cluster.run, *cluster.elsewhere.values()):
            self._account.own(path)
        self._start()
        while True:
            self._wait_for_session()
            # What is replayed meanwhile can drop our database, or rename our role.
            with contextlib.suppress(e.ConnectionFailed), self.endpoint.connect() as connection:
                promoted = self._wait_for_pause(connection)
                return self._proof(connection, point, promoted=promoted)

    def promote(self) -> None:
        """End recovery: the server becomes a primary on a new timeline.

        Raises:
            RestoreFailed: it did not.

        """
        with self._lost("promotion"), self.endpoint.connect() as connection:
            (recovering,) = first_row(connection, "SELECT pg_catalog.pg_is_in_recovery()")
            if not recovering:  # PostgreSQL has promoted it
                return
            (done,) = first_row(connection, "SELECT pg_catalog.pg_promote(true, 600)")
            (recovering,) = first_row(connection, "SELECT pg_catalog.pg_is_in_recovery()")
        if not done or recovering:
            raise e.RestoreFailed(f"the server was not promoted: {self._tail()}")

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server; `immediate` leaves a directory that must be thrown away."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)[immediate:]:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        run, data = self._cluster.run, self._cluster.data
        command = [
            str(self._programs / "postgres"), "-D", str(data),
            "-c", f"config_file={run / 'postgresql.conf'}", "-c", f"data_directory={data}",
        ]  # fmt: skip
        if self._namespaces is not None:
            command = self._namespaces.command(command)
        with self.log.open("ab") as log:
            self._process = self._account.popen(command, stdout=log, stderr=log, cwd=run)

    def _wait_for_session(self) -> None:
        socket = self._cluster.run / SOCKET_NAME.format(port=PORT)
        deadline = time.monotonic() + START_SECONDS
        while not (socket.exists() and self._answers()):
            if self._process is None or self._process.poll() is not None:
                raise e.RestoreFailed(f"the recovered server did not start: {self._tail()}")
            if time.monotonic() > deadline:
                raise e.RestoreFailed(f"the recovered server is not ready: {self._tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether a session can be opened; which role and database exist is only known then.

        Raises:
            RestoreFailed: the server accepts sessions, and none of the roles and databases.

        """
        refused = []
        for user in self._cluster.superusers:
            for database in self._cluster.databases:
                try:
                    with self._endpoint(user, database).connect() as connection:
                        (first,) = first_row(
                            connection, "SELECT usesysid = 10 FROM pg_catalog.pg_user"
                            " WHERE usename = current_user",
                        )  # fmt: skip
                except e.ConnectionFailed as error:
                    if re.search(
                        "does not exist|not currently accepting|not permitted", str(error)
                    ):
                        refused.append(error.message)
                        continue
                    return False
                if first:
                    self._login = (user, database)
                    return True
                refused.append(f'role "{user}" is not the first superuser')
        raise e.RestoreFailed(
            f"no session on the recovered server is possible: {refused[0]}",
            hint="Name the superuser that initdb made with --superuser.",
        )

    def _wait_for_pause(self, connection: Connection) -> bool:
        """Wait until recovery has stopped; a server that ends has missed its target.

        Return whether it was promoted: without a session at the target, for example because a
        transaction with many subtransactions was running, PostgreSQL does not pause there.
        """
        while True:
            if self._process is None or self._process.poll() is not None:
                raise e.RestoreFailed(f"recovery ended before its target: {self._tail()}")
            try:
                (recovering,) = first_row(connection, "SELECT pg_catalog.pg_is_in_recovery()")
                if not recovering:
                    return True
                (state,) = first_row(
                    connection, "SELECT pg_catalog.pg_get_wal_replay_pause_state()"
                )
            except psycopg.OperationalError as error:  # the server ends, or only this session
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(2)
                    continue
                raise e.ConnectionFailed(f"the session was ended: {error}") from error
            except psycopg.Error:  # recovery has just ended
                continue
            if state == "paused":
                return False
            time.sleep(0.05)

    def _proof(self, connection: Connection, point: Point, *, promoted: bool) -> Proof:
        """Compare what the server says with the point: it also pauses for other reasons."""
        found = [match[0] for match in _STOPPING.finditer(self.log.read_text(errors="replace"))]
        kind, value = point.setting
        said = found[-1] if found else ""
        if not found or (kind == "recovery_target_xid" and f"transaction {value}," not in said):
            raise e.RestoreFailed(
                f"recovery stopped at another point than {kind} {value}: {said or self._tail()}"
            )
        with self._lost("the proof"):
            lsn, commit, timeline = first_row(
                connection,
                "SELECT pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text,"
                " pg_catalog.pg_last_xact_replay_timestamp(),"
                " (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())",
            )
        _compare(commit, point)
        return Proof(Lsn.parse(lsn), int(timeline), commit, said, promoted=promoted)

    @contextlib.contextmanager
    def _lost(self, when: str) -> Iterator[None]:
        """Report a session that ends, as when the server crashes on a damaged cluster."""
        try:
            yield
        except psycopg.Error as error:
            raise e.RestoreFailed(
                f"the recovered server ended the session during {when}: {self._tail()}"
            ) from error

    def _tail(self) -> str:
        if not self.log.exists():
            return "no log"
        lines = self.log.read_text(errors="replace").splitlines()
        fatal = [line for line in lines if _CAUSE.search(line)]
        return "; ".join((fatal or lines)[-3:])
