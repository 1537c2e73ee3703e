"""Recover a data directory to a point, on a private socket, and prove that it was reached.

The WAL that recovery needs lies in a folder before the server starts, checked: PostgreSQL takes
every failure of restore_command with an exit status up to 125 for the end of the WAL, and would end
recovery too early (manual, 25.3.5; exit status 255 stops the server).
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from .. import errors as e
from ..model.wal import Lsn
from ..postgres.connection import Connection, Endpoint
from ..postgres.server import SOCKET_NAME, Account
from .target import Point

PORT = 5432
START_SECONDS = 3600.0  # until the server accepts connections: it replays up to consistency
# What the source had must not come along: it would archive, connect, listen, or run its code.
_SETTINGS = {
    "listen_addresses": "",
    "archive_mode": "off",
    "hot_standby": "on",
    "recovery_prefetch": "off",
    "recovery_target_action": "pause",
    "recovery_target_inclusive": "on",
    "max_logical_replication_workers": "0",
    "synchronous_standby_names": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "recovery_end_command": "",
    "archive_cleanup_command": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "%m ",
    "lc_messages": "C",
    "external_pid_file": "",
    "ssl": "off",
    "cluster_name": "pgkeep recovery",
}
_CAUSE = re.compile("FATAL|DETAIL|unrecognized|invalid value")
_REPLACED = ("postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
_STOPPING = re.compile(
    r"recovery stopping (?:before|after) commit of transaction (\d+), time ([^\n]+)"
    r"|recovery stopping (?:before|after) WAL location \(LSN\) \"?([0-9A-F]+/[0-9A-F]+)\"?"
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


class RecoveredServer:
    """A server on a restored data directory, for a with block; it is stopped at the end."""

    def __init__(
        self, programs: Path, data: Path, wal: Path, run: Path, settings: Mapping[str, str]
    ) -> None:
        """Store the parameters; `run` is an empty directory for socket, configuration and log."""
        self._programs = programs
        self._data = data
        self._wal = wal
        self._run = run
        self._settings = dict(settings)
        self._account = Account.choose()
        self._process: subprocess.Popen[bytes] | None = None
        self.log = run / "log"

    @property
    def endpoint(self) -> Endpoint:
        """How to connect, as the superuser of the cluster."""
        return Endpoint(
            {"host": str(self._run), "port": str(PORT), "user": "postgres", "dbname": "postgres"}
        )

    def recover(self, point: Point, timeline: int) -> Proof:
        """Replay the WAL up to a point, and stop there.

        Raises:
            RestoreFailed: the point was not reached.

        """
        name, value = point.setting
        target = {name: value, "recovery_target_timeline": str(timeline)}
        self._configure({**target, "restore_command": self._restore_command()})
        (self._data / "recovery.signal").touch(mode=0o600)
        for path in (self._data, self._wal, self._run):
            self._account.own(path)
        self._start()
        with self.endpoint.connect() as connection:
            self._wait_for_pause(connection)
            return self._proof(connection, point)

    def promote(self) -> None:
        """End recovery: the server becomes a primary on a new timeline.

        Raises:
            RestoreFailed: it did not.

        """
        with self.endpoint.connect() as connection:
            (done,) = _row(connection, "SELECT pg_catalog.pg_promote(true, 600)")
            (recovering,) = _row(connection, "SELECT pg_catalog.pg_is_in_recovery()")
        if not done or recovering:
            raise e.RestoreFailed(f"the server was not promoted: {self._tail()}")

    def stop(self) -> None:
        """Stop the server."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _restore_command(self) -> str:
        """Return the command that copies a file from the folder of WAL.

        Exit status 1 means that the file does not exist, in a folder that has all that exist.
        """
        folder = shlex.quote(str(self._wal)).replace("%", "%%")
        return (
            f"test -d {folder} || exit 255; test -e {folder}/%f || exit 1;"
            f" cp {folder}/%f %p || exit 255"
        )

    def _configure(self, recovery: Mapping[str, str]) -> None:
        """Write configuration of our own; that of the source is kept under other names."""
        for name in _REPLACED:
            source = self._data / name
            if source.exists() and not source.with_name(f"{name}.source").exists():
                source.rename(source.with_name(f"{name}.source"))
        for name in ("recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts"):
            (self._data / name).unlink(missing_ok=True)
        settings = {
            **_SETTINGS,
            "unix_socket_directories": str(self._run),
            "unix_socket_permissions": "0700",
            "port": str(PORT),
            "hba_file": str(self._run / "pg_hba.conf"),
            "ident_file": str(self._run / "pg_ident.conf"),
            **self._settings,
            **recovery,
        }
        text = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
        (self._run / "postgresql.conf").write_text(text)
        (self._run / "pg_hba.conf").write_text("local all all trust\n")
        (self._run / "pg_ident.conf").write_text("")
        (self._data / "postgresql.auto.conf").write_text("")

    def _start(self) -> None:
        command = [
            str(self._programs / "postgres"), "-D", str(self._data),
            "-c", f"config_file={self._run / 'postgresql.conf'}",
            "-c", f"data_directory={self._data}",
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = self._account.popen(command, stdout=log, stderr=log, cwd="/")
        socket = self._run / SOCKET_NAME.format(port=PORT)
        deadline = time.monotonic() + START_SECONDS
        while not (socket.exists() and self._answers()):
            if self._process.poll() is not None:
                raise e.RestoreFailed(f"the recovered server did not start: {self._tail()}")
            if time.monotonic() > deadline:
                raise e.RestoreFailed(f"the recovered server is not ready: {self._tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with self.endpoint.connect():
                return True
        except e.ConnectionFailed:
            return False

    def _wait_for_pause(self, connection: Connection) -> None:
        """Wait until recovery has stopped; a server that ends has missed its target."""
        while True:
            if self._process is None or self._process.poll() is not None:
                raise e.RestoreFailed(f"recovery ended before its target: {self._tail()}")
            (state,) = _row(connection, "SELECT pg_catalog.pg_get_wal_replay_pause_state()")
            if state == "paused":
                return
            time.sleep(0.1)

    def _proof(self, connection: Connection, point: Point) -> Proof:
        """Compare what the server says with the point: it also pauses for other reasons."""
        found = [match[0] for match in _STOPPING.finditer(self.log.read_text(errors="replace"))]
        kind, value = point.setting
        said = found[-1] if found else ""
        if not found or (kind == "recovery_target_xid" and f"transaction {value}," not in said):
            raise e.RestoreFailed(
                f"recovery stopped at another point than {kind} {value}: {said or self._tail()}"
            )
        lsn, commit, timeline = _row(
            connection,
            "SELECT pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text,"
            " pg_catalog.pg_last_xact_replay_timestamp(),"
            " (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())",
        )
        last = point.before[-1] if point.before else None
        by_xid = kind == "recovery_target_xid" and last is not None and commit is not None
        if by_xid and last is not None and abs((commit - last.time).total_seconds()) > 1e-3:
            raise e.RestoreFailed(
                f"the last replayed commit is that of {commit}, expected {last.time}"
            )
        return Proof(Lsn.parse(lsn), int(timeline), commit, said)

    def _tail(self) -> str:
        if not self.log.exists():
            return "no log"
        lines = self.log.read_text(errors="replace").splitlines()
        fatal = [
            line for line in lines if re.search("FATAL|DETAIL|unrecognized|invalid value", line)
        ]
        return "; ".join((fatal or lines)[-3:])


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _row(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM returns a row
    return row


def stage_wal(folder: Path, files: Mapping[str, bytes], segment_size: int) -> None:
    """Write files of the WAL archive where restore_command finds them.

    An unfinished segment is padded to the size of a segment, and gets the name of one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in files.items():
        target = folder / name.removesuffix(".partial")
        if name.endswith(".partial"):
            if target.exists():
                continue
            data = data + bytes(segment_size - len(data))  # noqa: PLW2901
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of a file system."""
    return shutil.disk_usage(folder).free


def raised(*settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the highest value of each setting that recovery must not lower."""
    highest: dict[str, int] = {}
    for found in settings:
        for name, value in found.items():
            if str(value).isdigit():
                highest[name] = max(highest.get(name, 0), int(value))
    return {name: str(value) for name, value in highest.items()}


def names_of(segments: Sequence[Any], size: int) -> list[str]:
    """Return the file names of segments."""
    return [segment.name(size) for segment in segments]
