"""Make a running pgkeep fail: hold it at a point, list its processes, replace programs on PATH."""

import contextlib
import os
import secrets
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from pgkeep.model import naming
from pgkeep.postgres.server import Server
from tests.support import invoke, launcher, servers

T = TypeVar("T")

PROGRAMS = ("pg_dump", "pg_dumpall", "psql")


def eventually(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)  # a condition may ask a server, which shares our processors
    return value


def synced_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each file and directory that is flushed to disk."""
    real, names = os.fsync, list[str]()

    def noted(fd: int) -> None:
        real(fd)
        names.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

    monkeypatch.setattr(os, "fsync", noted)
    return names


class Run:
    """A pgkeep at work on a database; killed when the context is left."""

    def __init__(self, server: Server, database: str, *args: str, **options: Any) -> None:
        mark = secrets.token_hex(8)
        self._mark = f"PGFAULTS={mark}".encode()  # children get all that begins with PG
        extra = {**options.pop("env", {}), "PGFAULTS": mark}
        env = invoke.environment(server, database, **extra)
        self.process: launcher.Process = (
            invoke.start(*args, env=env, **options) if options else launcher.start(args, env)
        )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                os.kill(pid, signal.SIGKILL)

    def ends(self, code: int, seconds: float = 30) -> str:
        """Wait for the end; return its standard error."""
        out, err = self.process.communicate(timeout=seconds)
        assert self.process.returncode == code, f"exit {self.process.returncode}\n{out}\n{err}"
        assert "Traceback" not in (err or ""), err
        return err or ""

    def kill(self) -> None:
        """Kill it, so that it cannot clean up."""
        self.process.kill()
        self.process.wait()

    def children(self, name: str = "") -> list[int]:
        """Return the running processes that this pgkeep has started."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            pid = int(folder.name)
            with contextlib.suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                program = (folder / "comm").read_text().strip()
                if self._mark in variables and program.startswith(name):
                    found.append(pid)
        return [pid for pid in found if pid != self.process.pid]

    def leaves_no_child(self) -> None:
        eventually(lambda: not self.children(), "the end of every child")

    @contextlib.contextmanager
    def frozen_in_copy(self, server: Server, table: str) -> Iterator[list[int]]:
        """Stop pgkeep in the middle of a table, when nobody reads the rows that its backend sends.

        The child and its backend go on until the pipes are full; the table must be larger.
        """
        copying = f"query like 'COPY%%{table}%%' and state = 'active'"
        stuck = f"{copying} and wait_event = 'ClientWrite'"
        with servers.connect(server, "postgres") as connection:

            def attempt() -> list[int]:
                assert self.process.poll() is None, self.process.communicate()
                if not _backends(connection, copying):
                    return []
                os.kill(self.process.pid, signal.SIGSTOP)
                deadline = time.monotonic() + 1
                while time.monotonic() < deadline:
                    if found := _backends(connection, stuck):
                        return found
                os.kill(self.process.pid, signal.SIGCONT)
                return []

            found = eventually(attempt, f"the copying of {table}")
        try:
            yield found
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


def _backends(connection: psycopg.Connection[Any], condition: str) -> list[int]:
    query = (
        "select pid from pg_stat_activity where application_name like 'pgkeep%%'"
        f" and pid <> pg_backend_pid() and {condition}"
    )
    return [row[0] for row in connection.execute(query, [])]


def sessions(server: Server, database: str, condition: str = "true") -> list[int]:
    """Return the backends of pgkeep and its children in databases whose names begin like this."""
    rows = servers.sql(
        server,
        "postgres",
        "select pid from pg_stat_activity where starts_with(datname, %(database)s)"
        f" and application_name like 'pgkeep%%' and {condition}",
        database=database,
    )
    return [row[0] for row in rows]


def leaves_no_session(server: Server, database: str) -> None:
    eventually(lambda: not sessions(server, database), "the end of every session")


@contextlib.contextmanager
def statement(server: Server, database: str, query: str) -> Iterator[None]:
    """Hold what a statement locks, without doing it."""
    with servers.connect(server, database) as connection:
        connection.execute("begin")
        connection.execute(query)
        try:
            yield
        finally:
            connection.execute("rollback")


def path_with(folder: Path, server: Server, scripts: Mapping[str, str]) -> str:
    """Return a PATH on which some programs are shell scripts; `$real` is what they stand for."""
    folder.mkdir()
    installation = servers.programs_for(servers.major_of(server))
    for name in PROGRAMS:
        script = scripts.get(name, 'exec "$real" "$@"')
        (folder / name).write_text(
            f"#!/bin/sh\nreal={shlex.quote(installation.program(name))}\n"
            f'[ "$1" = --version ] && exec "$real" "$@"\n{script}\n'
        )
        (folder / name).chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


def gate(folder: Path) -> str:
    """Return a script that waits as long as the folder exists, then becomes the program."""
    folder.mkdir()
    place = shlex.quote(str(folder))
    return (
        f"touch {place}/waits-$$ 2>/dev/null;"
        f" while [ -d {place} ]; do sleep 0.02; done 2>/dev/null;"
        ' exec "$real" "$@"'
    )


def waiting_at(folder: Path) -> list[Path]:
    return [*folder.glob("waits-*")]


def remove_unfinished_publication(directory: Path) -> None:
    """Remove the files of a backup that was killed between its renamings: all but the manifest.

    SIGKILL cannot be held. The manifest is renamed last, so these files are no backup; `pgkeep
    list` names them, and `pgkeep adopt` recreates the manifest.
    """
    names = {name for name in invoke.left_over(directory) if ".partial-" not in name}
    for backup in _backups_of(names):
        if backup.manifest in names:
            continue
        renamed = [file for file in backup.files if file in names]
        assert renamed == list(backup.files[: len(renamed)])  # in their order
        for file in renamed:
            (directory / file).unlink()


def published(directory: Path) -> list[str]:
    """Return the manifests in a directory; what has a final name must have its manifest."""
    names = {name for name in invoke.left_over(directory) if ".partial-" not in name}
    parsed = [(name, naming.parse(name)) for name in names]
    orphans = [name for name, one in parsed if one is None or one.manifest not in names]
    assert not orphans, orphans
    backups = _backups_of(names)
    assert names == {file for backup in backups for file in backup.files}
    return sorted(backup.manifest for backup in backups)


def _backups_of(names: Iterable[str]) -> list[naming.BackupName]:
    """Return the backups that have these files; a manifest's name does not show the cipher."""
    found: dict[naming.BackupName, naming.BackupName] = {}
    for backup in map(naming.parse, names):
        if backup is not None and (backup not in found or backup.cipher):
            found[backup] = backup
    return list(found.values())
