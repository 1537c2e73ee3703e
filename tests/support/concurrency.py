"""Put a server under load, hold a backup at a chosen moment, look at how it went."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from pgkeep.artifact.file import Artifact, Object
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from tests.support import servers

T = TypeVar("T")

# Pages of which nine tenths are free: a table is large for the planner of a dump and quick to fill.
SPARSE = "with (fillfactor = 10, autovacuum_enabled = off)"
# What such a table needs for two slices: over 32 MiB of pages, 7 rows of 100 bytes on each.
SPARSE_ROWS = 32_000

WRAPPER = """\
#!/bin/sh
case "$*" in *--version*) exec {program} "$@" ;; esac
: > {reached}
while [ ! -e {opened} ]; do sleep 0.02; done
exec {program} "$@"
"""


class Gate:
    """The server's client programs, one of which waits at its start until it is let through."""

    def __init__(self, folder: Path, server: Server, held: str) -> None:
        self._folder = folder / f"gate-{held}"
        self._folder.mkdir()
        installed = servers.programs_for(servers.major_of(server))
        for name in ("pg_dump", "pg_dumpall", "psql"):
            script = f'#!/bin/sh\nexec {installed.program(name)} "$@"\n'
            if name == held:
                script = WRAPPER.format(
                    program=installed.program(name), reached=self._reached, opened=self._opened
                )
            (self._folder / name).write_text(script)
            (self._folder / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What makes pgkeep use these programs: those on PATH win."""
        return {"PATH": f"{self._folder}{os.pathsep}{os.environ['PATH']}"}

    def wait(self) -> None:
        """Wait until the program has been started."""
        until(self._reached.exists)

    def open(self) -> None:
        """Let it through, now and ever after."""
        self._opened.touch()

    @property
    def _reached(self) -> Path:
        return self._folder / "reached"

    @property
    def _opened(self) -> Path:
        return self._folder / "opened"


def until(condition: Callable[[], T], seconds: float = 30) -> T:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def repeated(
    server: Server,
    dbname: str,
    *statements: str,
    sessions: int = 1,
    tolerated: tuple[type[psycopg.Error], ...] = (),
) -> Iterator[Callable[[], int]]:
    """Let sessions repeat their statements until the end of the block; gives how often so far.

    Errors that are not tolerated are raised at the end.
    """
    stop = threading.Event()
    counts = [0] * sessions
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with servers.connect(server, dbname) as connection:
                while not stop.is_set():
                    for statement in statements:
                        with contextlib.suppress(*tolerated):
                            connection.execute(statement)
                    counts[number] += 1
        except BaseException as error:  # noqa: BLE001 - raised where it is seen
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: errors or all(counts))
        yield lambda: sum(counts)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


class Background:
    """Work in a thread of its own."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._execute, args=(work,), daemon=True)
        self._thread.start()

    def finish(self, seconds: float = 30) -> None:
        """Wait until it is done; it must succeed."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the work is not done"
        if self._error is not None:
            raise self._error

    def _execute(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised in finish
            self._error = error


class Later:
    """A statement that may have to wait, in a session of its own."""

    def __init__(self, server: Server, dbname: str, statement: str, **options: Any) -> None:
        self._connection = servers.connect(server, dbname, **options)
        self.pid = self._connection.info.backend_pid
        self._background = Background(lambda: self._connection.execute(statement))

    def finish(self, seconds: float = 30) -> None:
        """Wait until it is done; it must succeed."""
        self._background.finish(seconds)
        self._connection.close()


def waits(server: Server, pid: int) -> bool:
    """Whether a session waits for a lock."""
    found = servers.sql(
        server, "postgres", f"select 1 from pg_locks where pid = {pid} and not granted"
    )
    return bool(found)


def locks_of_backup(server: Server, dbname: str, table: str, *, granted: bool = True) -> int:
    """How many of the backup's sessions hold a lock on a table, or wait for one."""
    (row,) = servers.sql(
        server,
        dbname,
        "select count(distinct l.pid) from pg_locks l join pg_stat_activity a using (pid)"
        " where starts_with(a.application_name, 'pgkeep') and l.relation = to_regclass(%(table)s)"
        " and l.granted = %(granted)s",
        table=table,
        granted=granted,
    )
    return int(row[0])


@contextlib.contextmanager
def snapshot_of_backup(server: Server, dbname: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that sees what the only running backup sees."""
    ((name,),) = servers.sql(server, dbname, "select * from pg_ls_dir('pg_snapshots')")
    with servers.connect(server, dbname) as connection:
        connection.execute("begin isolation level repeatable read read only")
        connection.execute(f"set transaction snapshot '{name}'")
        yield connection


def contents(connection: psycopg.Connection[Any], table: str) -> tuple[Any, ...]:
    """Count and order-independent hash of the rows of a table, or of `only` its own."""
    row = connection.execute(
        f"select count(*), sum(hashtextextended(t::text, 0)::numeric) from {table} as t"
    ).fetchone()
    assert row is not None
    return tuple(row)


def parts(artifact: Path, table: str) -> list[Object]:
    """The pieces in which an artifact holds a table; slices, as long as rows stay below 16 MiB."""
    source = LocalStore(artifact.parent).open(artifact.name)
    try:
        index = Artifact(source).index
    finally:
        source.close()
    return [entry for entry in index.objects if entry.type == "TABLE DATA" and entry.name == table]


def children(pid: int) -> set[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stat = path.read_text()
            parent = int(stat.rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(path.parent.name))
    found: set[int] = set()
    new = [pid]
    while new:
        one = new.pop()
        found.add(one)
        new += parents.get(one, [])
    return found


def resident(pid: int) -> Mapping[str, int]:
    """Proportional memory of a process and all below it, in MiB, by program."""
    found: dict[str, int] = {}
    for child in children(pid):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{child}/comm").read_text().strip()
            for line in Path(f"/proc/{child}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found[name] = found.get(name, 0) + int(line.split()[1]) // 1024
    return found
