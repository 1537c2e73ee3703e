"""Whatever fails while a backup runs, nothing half done is published, and the first cause is told."""

import contextlib
import os
import pwd
import resource
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkeep import artifact as a
from pgkeep import crew, dump
from pgkeep.server import Server
from pgkeep.stores.memory import MemoryStore

from . import faults as f
from . import keep
from . import servers as s

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Enough for two workers, and for pg_dump itself to fill its pipe.
FILL = """
create table rows as select i as id, repeat(md5(i::text), 20) as filler
    from generate_series(1, 60000) as i;
create table others as select i as id, repeat(md5(i::text), 20) as filler
    from generate_series(1, 12000) as i;
create index on rows (id);
create sequence numbers start 7;
create view sums as select count(*) from rows;
"""


@pytest.fixture(scope="module")
def source(pg17: Server) -> Iterator[str]:
    """A database for reading only; its children are recognised by its name."""
    name = f"faults_{os.getpid()}"
    s.sql(pg17, "postgres", f"create database {name} template template0")
    s.sql(pg17, name, FILL)
    yield name
    s.drop(pg17, name)


@pytest.fixture
def begin(pg17: Server, source: str, tmp_path: Path) -> Iterator[Callable[..., f.Run]]:
    """Start a backup of the source into `tmp_path / "backups"`."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, PATH: str = os.environ["PATH"], **options: Any) -> f.Run:  # noqa: N803
            env = {"BACKUP_DIR": str(tmp_path / "backups"), "BACKUP_JOBS": "2", "PATH": PATH}
            env |= options.pop("env", {})
            run = f.Run(pg17, source, "backup", *args, env=env, **options)
            return stack.enter_context(run)

        yield start


def copying(server: Server, database: str, table: str) -> Callable[[], list[int]]:
    """Whether a COPY of a table is stuck because nobody reads its rows."""
    condition = f"query like 'COPY%%{table}%%' and state = 'active' and wait_event = 'ClientWrite'"
    return lambda: f.sessions(server, database, condition)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "backups"


Begin = Callable[..., f.Run]


@pytest.mark.parametrize("program", f.PROGRAMS)
def test_a_program_killed_at_its_beginning(
    begin: Begin, pg17: Server, source: str, directory: Path, tmp_path: Path, program: str
) -> None:
    """B1: not one byte was written by it."""
    gate = tmp_path / "gate"
    path = f.path_with(tmp_path / "bin", pg17, {program: f.gate(gate)})
    run = begin(PATH=path, env={"BACKUP_JOBS": "1"})
    (waiting,) = f.eventually(lambda: f.waiting_at(gate), f"the start of {program}")
    os.kill(int(waiting.name.partition("-")[2]), signal.SIGKILL)
    shutil.rmtree(gate)
    assert f"{program} failed (signal 9)" in run.ends(4)
    assert keep.left_over(directory) == []
    run.leaves_no_child()


@pytest.mark.parametrize(("program", "table"), [("pg_dump", "others"), ("psql", "rows")])
def test_a_program_killed_in_the_middle(
    begin: Begin, pg17: Server, source: str, directory: Path, program: str, table: str
) -> None:
    """B1, B31: what it has written looks fine; its end does not."""
    run = begin()
    with run.frozen(copying(pg17, source, table)):
        os.kill(run.children(program)[0], signal.SIGKILL)
    assert f"{program} failed (signal 9)" in run.ends(4)
    assert keep.left_over(directory) == []
    run.leaves_no_child()
    f.leaves_no_session(pg17, source)


@pytest.mark.parametrize("table", ["others", "rows"])
def test_a_session_ended_in_the_middle_of_copy(
    begin: Begin, pg17: Server, source: str, directory: Path, table: str
) -> None:
    """A2.3, B31: nothing more comes, not even the server's last words, as its pipe is full."""
    run = begin()
    with run.frozen(copying(pg17, source, table)) as backends:
        s.sql(pg17, "postgres", f"select pg_terminate_backend({backends[0]})")
    assert "server closed the connection unexpectedly" in run.ends(4)
    assert keep.left_over(directory) == []
    run.leaves_no_child()


def test_the_session_with_the_snapshot_ended(
    begin: Begin, pg17: Server, source: str, directory: Path
) -> None:
    """D2: those who have the snapshot could go on, but its locks are gone."""
    run = begin()
    with run.frozen(copying(pg17, source, "rows")):
        (holder,) = f.sessions(pg17, source, "state = 'idle in transaction' and query ~ '^S'")
        s.sql(pg17, "postgres", f"select pg_terminate_backend({holder})")
    said = run.ends(4)
    assert "lost the connection that holds the snapshot" in said
    assert "terminating connection due to administrator command" in said
    assert keep.left_over(directory) == []
    run.leaves_no_child()
    f.leaves_no_session(pg17, source)


LIES = {
    "pg_dump fails after its last line": ("pg_dump", '"$real" "$@"; exit 3', "exit status 3"),
    "pg_dump fails with half of its output": (
        "pg_dump",
        '"$real" "$@" | head -c 3000000; echo "pg_dump: error: no luck" >&2; exit 1',
        "no luck",
    ),
    "pg_dump says half of it and no word of that": (
        "pg_dump",
        '"$real" "$@" | head -c 3000000; exit 0',
        "pg_dump's output is not whole: the dump ends inside the data of a COPY",
    ),
    "pg_dump says nothing": (
        "pg_dump",
        "exit 0",
        "pg_dump ended without an error and without its closing line",
    ),
    "psql says half of it": (
        "psql",
        'printf "locked\n"; read -r _ && printf "1\tone\n2\tt"; exit 0',
        "psql failed (exit status 0)",
    ),
    "psql says nothing": ("psql", "exit 0", "psql failed (exit status 0)"),
    "psql fails after all": ("psql", '"$real" "$@"; exit 3', "psql failed (exit status 3)"),
    "pg_dumpall fails": ("pg_dumpall", '"$real" "$@"; exit 1', "pg_dumpall failed (exit status 1)"),
    "pg_dumpall fails with a reason": (
        "pg_dumpall",
        'echo "pg_dumpall: error: no luck" >&2; exit 1',
        "could not dump the roles: pg_dumpall failed (exit status 1): pg_dumpall: error: no luck",
    ),
    "pg_dumpall says half of it": (
        "pg_dumpall",
        '"$real" "$@" | head -c 300; exit 0',
        "could not dump the roles: pg_dumpall's output is cut",
    ),
    "pg_dumpall says nothing": (
        "pg_dumpall",
        "exit 0",
        "could not dump the roles: pg_dumpall's output is cut",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_program_that_lies(
    begin: Begin, pg17: Server, directory: Path, tmp_path: Path, lie: str
) -> None:
    """A2.3, B1, B24: neither an exit status nor an output is enough, both must be right."""
    program, script, said = LIES[lie]
    run = begin(PATH=f.path_with(tmp_path / "bin", pg17, {program: script}))
    assert said in run.ends(4)
    assert keep.left_over(directory) == []


def test_a_flood_of_complaints(
    begin: Begin, pg17: Server, source: str, directory: Path, tmp_path: Path
) -> None:
    """B30: 100 MB on standard error stop neither pg_dump nor pgkeep, nor are they all kept."""
    line = "pg_dump: warning: " + "x" * 1000
    flood = f"yes {line!r} | head -c 100000000 >&2; exec \"$real\" \"$@\""
    run = begin(PATH=f.path_with(tmp_path / "bin", pg17, {"pg_dump": flood}))
    run.ends(0)
    (manifest,) = f.published(directory)
    assert (directory / manifest).stat().st_size < 1_000_000
