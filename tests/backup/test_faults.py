"""Whatever fails while a backup runs: nothing half done is published, the first cause is told."""

import contextlib
import ctypes
import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkeep import task_group
from pgkeep.artifact.file import ArtifactWriter
from pgkeep.backup import assembly
from pgkeep.postgres.server import Server
from pgkeep.stores.memory import MemoryStore
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.faults import PROGRAMS, Run

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
    servers.sql(pg17, "postgres", f"create database {name} template template0")
    servers.sql(pg17, name, FILL)
    yield name
    servers.drop(pg17, name)


@pytest.fixture
def begin(pg17: Server, source: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start a backup of the source into `tmp_path / "backups"`."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, PATH: str = os.environ["PATH"], **options: Any) -> Run:  # noqa: N803
            env = {"BACKUP_DIR": str(tmp_path / "backups"), "BACKUP_JOBS": "2", "PATH": PATH}
            env["BACKUP_RETRIES"] = "0"  # the first failure is what is to be seen
            env |= options.pop("env", {})
            run = Run(pg17, source, "backup", *args, env=env, **options)
            return stack.enter_context(run)

        yield start


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "backups"


Begin = Callable[..., Run]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_killed_at_its_beginning(
    begin: Begin, pg17: Server, source: str, directory: Path, tmp_path: Path, program: str
) -> None:
    """B1: not one byte was written by it."""
    gate = tmp_path / "gate"
    path = faults.path_with(tmp_path / "bin", pg17, {program: faults.gate(gate)})
    run = begin(PATH=path, env={"BACKUP_JOBS": "1"})
    (waiting,) = faults.eventually(lambda: faults.waiting_at(gate), f"the start of {program}")
    os.kill(int(waiting.name.partition("-")[2]), signal.SIGKILL)
    shutil.rmtree(gate)
    assert f"{program} failed (signal 9)" in run.ends(4)
    assert invoke.left_over(directory) == []
    run.leaves_no_child()


@pytest.mark.parametrize(("program", "table"), [("pg_dump", "others"), ("psql", "rows")])
def test_a_program_killed_in_the_middle(
    begin: Begin, pg17: Server, source: str, directory: Path, program: str, table: str
) -> None:
    """B1, B31: what it has written looks fine; its end does not."""
    run = begin()
    with run.frozen_in_copy(pg17, table):
        assert os.sched_getscheduler(run.children(program)[0]) == os.SCHED_BATCH
        os.kill(run.children(program)[0], signal.SIGKILL)
    assert f"{program} failed (signal 9)" in run.ends(4)
    assert invoke.left_over(directory) == []
    run.leaves_no_child()
    faults.leaves_no_session(pg17, source)


@pytest.mark.parametrize("table", ["others", "rows"])
def test_a_session_ended_in_the_middle_of_copy(
    begin: Begin, pg17: Server, source: str, directory: Path, table: str
) -> None:
    """A2.3, B31: nothing more comes, most often not even the server's last words."""
    run = begin()
    with run.frozen_in_copy(pg17, table) as backends:
        servers.sql(pg17, "postgres", f"select pg_terminate_backend({backends[0]})")
    said = run.ends(4)
    assert re.search("server closed the connection unexpectedly|terminating connection due", said)
    assert invoke.left_over(directory) == []
    run.leaves_no_child()


def test_the_session_with_the_snapshot_ended(
    begin: Begin, pg17: Server, source: str, directory: Path
) -> None:
    """D2: those who have the snapshot could go on, but its locks are gone."""
    run = begin()
    with run.frozen_in_copy(pg17, "rows"):
        locks = "pid in (select pid from pg_locks where locktype = 'advisory')"
        (holder,) = faults.sessions(pg17, source, locks)
        servers.sql(pg17, "postgres", f"select pg_terminate_backend({holder})")
    said = run.ends(4)
    # A worker that comes to it only now may find it gone before its holder is missed.
    assert re.search(r'snapshot "\S+" does not exist|lost the connection ', said)
    assert invoke.left_over(directory) == []
    run.leaves_no_child()
    faults.leaves_no_session(pg17, source)


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
        "incomplete output of pg_dump: the dump ends inside the data of a COPY",
    ),
    "pg_dump says nothing": (
        "pg_dump",
        "exit 0",
        "pg_dump ended without an error, but its closing line is missing",
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
        "could not dump the roles: truncated output of pg_dumpall",
    ),
    "pg_dumpall says nothing": (
        "pg_dumpall",
        "exit 0",
        "could not dump the roles: truncated output of pg_dumpall",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_program_that_lies(
    begin: Begin, pg17: Server, directory: Path, tmp_path: Path, lie: str
) -> None:
    """A2.3, B1, B24: neither an exit status nor an output is enough, both must be right."""
    program, script, said = LIES[lie]
    path = faults.path_with(tmp_path / "bin", pg17, {program: script})
    run = begin(PATH=path, env={"BACKUP_JOBS": "1"})
    assert said in run.ends(4)
    assert invoke.left_over(directory) == []


def test_a_table_that_pg_dump_leaves_out(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """D7: each table that was locked must be in the backup, whatever exit status and output say."""
    name = database(pg17)
    servers.sql(pg17, name, "create table t as select 1 a")
    script = 'exec "$real" "$@" --exclude-table-data=public.t'
    path = faults.path_with(tmp_path / "bin", pg17, {"pg_dump": script})
    env = invoke.environment(pg17, name, BACKUP_DIR=str(tmp_path / "b"), PATH=path)
    said = invoke.run("backup", env=env, code=4)
    assert "1 tables dumped not at all, such as public.t" in said
    assert invoke.left_over(tmp_path / "b") == []


def test_a_flood_of_complaints(
    begin: Begin, pg17: Server, source: str, directory: Path, tmp_path: Path
) -> None:
    """B30: 100 MB on standard error stop neither pg_dump nor pgkeep, nor are they all kept."""
    line = "pg_dump: warning: " + "x" * 1000
    flood = f'yes {line!r} | head -c 100000000 >&2; exec "$real" "$@"'
    run = begin(PATH=faults.path_with(tmp_path / "bin", pg17, {"pg_dump": flood}))
    run.ends(0)
    (manifest,) = faults.published(directory)
    assert (directory / manifest).stat().st_size < 1_000_000


@pytest.fixture(scope="module")
def whole(pg17: Server, source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the source."""
    return invoke.backup(pg17, source, tmp_path_factory.mktemp("whole"))


def limited(size: int) -> Callable[[], None]:
    """Let no file grow beyond so many bytes: the disk is full for everybody, root or not."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_the_disk_is_full(
    begin: Begin, pg17: Server, source: str, whole: Path, directory: Path, share: float
) -> None:
    """B3, B31: at the first byte, in the middle, and where only the end marker is missing."""
    run = begin(preexec_fn=limited(int(whole.stat().st_size * share)))
    said = run.ends(6)
    assert ".sql.gz.partial-" in said
    assert "File too large" in said
    assert invoke.left_over(directory) == []
    run.leaves_no_child()
    faults.leaves_no_session(pg17, source)


def test_the_disk_is_full_at_the_manifest(
    pg17: Server, directory: Path, database: DatabaseFactory
) -> None:
    """B3: the last file of all; it is larger than the others where there are many empty tables."""
    name = database(pg17)
    tables = "".join(f"create table {'wide' * 14}_{i} ();" for i in range(300))
    servers.sql(pg17, name, tables)
    env = {"BACKUP_DIR": str(directory)}
    with Run(pg17, name, "backup", env=env, preexec_fn=limited(25_000)) as run:
        said = run.ends(6)
    assert ".manifest.json.partial-" in said
    assert "File too large" in said
    assert invoke.left_over(directory) == []


# What the system calls of a failing disk or network file system say, and when.
FAULTS = {
    "the disk is full at fsync": ("fsync", ".sql.gz.partial-", 1, "ENOSPC"),
    "the quota is used up at close": ("close", ".sql.gz.partial-", 1, "EDQUOT"),
    "the first renaming fails": ("rename", ".sql.gz.partial-", 1, "EIO"),
    "the last renaming fails": ("rename", ".manifest.json.partial-", 1, "EIO"),
    "the directory cannot be synced": ("fsync", "/backups", 1, "EIO"),
    "nor at the last time": ("fsync", "/backups", 4, "EIO"),
    "the file system has become read-only": ("write", ".sql.gz.partial-", 1, "EROFS"),
}
INJECTION = """
import errno, os, pathlib
real = getattr(os, {call!r})
seen = 0
def failing(file, *args, **kwargs):
    global seen
    name = os.readlink(f"/proc/self/fd/{{file}}") if isinstance(file, int) else os.fspath(file)
    if {part!r} in name[-len({part!r}) - 16:]:
        seen += 1
        if seen == {count}:
            code = getattr(errno, {error!r})
            raise OSError(code, os.strerror(code), name)
    return real(file, *args, **kwargs)
os.{call} = failing
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_system_call_fails(begin: Begin, directory: Path, tmp_path: Path, fault: str) -> None:
    """B3, B19: what fails late fails the backup too, and takes back what had its name already."""
    call, part, count, error = FAULTS[fault]
    (tmp_path / "sitecustomize.py").write_text(
        INJECTION.format(call=call, part=part, count=count, error=error)
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    said = begin(env={"PYTHONPATH": path}).ends(6)
    assert os.strerror(getattr(errno, error)) in said
    assert invoke.left_over(directory) == []


def without_override() -> None:
    """Take root's right to write everywhere; others do not have it."""
    drop_from_bounding_set, dac_override = 24, 1  # of prctl(2) and capabilities(7)
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


def test_the_directory_is_not_ours(begin: Begin, directory: Path) -> None:
    """B24: told in words, with what to do."""
    directory.mkdir(mode=0o555)
    said = begin(preexec_fn=without_override).ends(2)
    assert f"could not write to {directory}: Permission denied\nhint: " in said
    assert [*directory.iterdir()] == []


@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("locking", signal.SIGTERM),
        ("dumping", signal.SIGTERM),
        ("dumping", signal.SIGINT),
        ("roles", signal.SIGTERM),
        ("roles", signal.SIGHUP),
    ],
)
def test_a_signal_ends_everything(
    begin: Begin,
    pg17: Server,
    source: str,
    directory: Path,
    tmp_path: Path,
    phase: str,
    number: signal.Signals,
) -> None:
    """B20: within seconds; nothing goes on, here or on the server, and nothing stays."""
    gate = tmp_path / "gate"
    held = {"dumping": "psql", "roles": "pg_dumpall"}
    scripts = {held[phase]: faults.gate(gate)} if phase in held else {}
    lock = faults.statement(pg17, source, "lock table rows") if phase == "locking" else None
    with lock or contextlib.nullcontext():
        run = begin(PATH=faults.path_with(tmp_path / "bin", pg17, scripts))
        faults.eventually(
            lambda: (
                faults.waiting_at(gate) if phase in held else faults.sessions(pg17, source, WAITS)
            ),
            f"the phase of {phase}",
        )
        run.process.send_signal(number)
        assert f"ended by {number.name}" in run.ends(128 + number, seconds=20)
        run.leaves_no_child()
        faults.leaves_no_session(pg17, source)
    assert invoke.left_over(directory) == []


WAITS = "wait_event_type = 'Lock'"


def test_an_impatient_second_signal(
    begin: Begin, directory: Path, pg17: Server, source: str
) -> None:
    """B20: it does not interrupt the cleaning up."""
    with faults.statement(pg17, source, "lock table rows"):
        run = begin()
        faults.eventually(lambda: faults.sessions(pg17, source, WAITS), "waiting for the lock")
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            run.process.send_signal(number)
        assert "ended by SIGINT" in run.ends(130, seconds=20)
    assert invoke.left_over(directory) == []


def test_a_signal_that_was_ignored_before(
    begin: Begin, directory: Path, pg17: Server, source: str
) -> None:
    """B20: as nohup does it, that the end of a terminal does not end a backup."""
    with faults.statement(pg17, source, "lock table rows"):
        run = begin(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        faults.eventually(lambda: faults.sessions(pg17, source, WAITS), "waiting for the lock")
        run.process.send_signal(signal.SIGHUP)
    run.ends(0)
    assert len(faults.published(directory)) == 1


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 6), (signal.SIGKILL, 8)])
def test_ended_at_any_moment(
    begin: Begin, pg17: Server, source: str, directory: Path, number: signal.Signals, times: int
) -> None:
    """A6.9, B12, B20, B21: each next run begins at once; in the end nothing is left of them."""
    started = time.monotonic()
    begin("--verify").ends(0)
    whole = time.monotonic() - started
    for moment in range(times):
        run = begin("--verify")
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(whole * moment / (times - 1))
        run.process.send_signal(number)
        _, err = run.process.communicate(timeout=30)
        # Ended before there was a handler for it, by the handler, or too late.
        assert run.process.returncode in (-number, 128 + number, 0), err
        if number == signal.SIGKILL:
            faults.remove_unfinished_publication(directory)
        faults.published(directory)
        if number == signal.SIGTERM:
            assert [name for name in invoke.left_over(directory) if ".partial-" in name] == []
    begin("--verify").ends(0)
    manifests = faults.published(directory)
    assert [name for name in invoke.left_over(directory) if ".partial-" in name] == []
    artifact = directory / manifests[-1].replace(".manifest.json", ".sql.gz")
    invoke.run("verify", str(artifact), env=invoke.environment())
    run.leaves_no_child()
    faults.leaves_no_session(pg17, source)


def test_killed_while_it_waits_for_a_lock(
    begin: Begin, pg17: Server, source: str, directory: Path
) -> None:
    """A6.9, B12: the server notices in its own time; the next run is patient for so long."""
    with faults.statement(pg17, source, "lock table rows"):
        run = begin()
        (backend,) = faults.eventually(
            lambda: faults.sessions(pg17, source, WAITS), "waiting for the lock"
        )
        os.kill(backend, signal.SIGSTOP)  # it would notice too soon, or too late, for this test
        try:
            run.kill()
            run = begin()
            # After each try, it looks at the session that holds the lock; it shows that query.
            tries = "query like '%%locktype = ''advisory''%%'"
            faults.eventually(lambda: faults.sessions(pg17, source, tries), "the next to try")
        finally:
            os.kill(backend, signal.SIGCONT)
        faults.eventually(
            lambda: backend not in faults.sessions(pg17, source), "the end of the first"
        )
        faults.eventually(lambda: faults.sessions(pg17, source, WAITS), "the next to wait")
    run.ends(0)
    assert len(faults.published(directory)) == 1


def test_only_its_own_leftovers_are_swept(
    begin: Begin, pg17: Server, source: str, directory: Path
) -> None:
    """B9, B21: of other databases, whatever they are called, and of people nothing is touched."""
    directory.mkdir()
    stem = "manual_20261122T020000Z"
    foreign = {
        f".{other}_{stem}.sql.gz.partial-01234567"
        for other in (f"{source}_x", f"{source}-2", f"x{source}", f"{source}_{stem}", source[:-1])
    } | {
        f".{source}_{stem}.sql.gz.partial-0123456",  # not as ours end
        f"{source}_{stem}.sql.gz.partial-01234567",  # not as ours begin
        f".{source}_{stem}.sql.partial-01234567",
        f".{source}_2026.sql.gz.partial-01234567",
        f"{source}_{stem}.sql.gz",  # somebody has copied it here without its manifest
        f"{source}.sql.gz",
        "notes.txt",
        ".hidden",
    }
    own = {f".{source}_{stem}{end}.partial-01234567" for end in (".sql.gz", ".manifest.json")}
    for name in foreign | own:
        (directory / name).write_text(name)
    (directory / "folder.partial-01234567").mkdir()
    begin().ends(0)
    left = {name: directory / name for name in invoke.left_over(directory)}
    assert not own & left.keys()
    assert {left[name].read_text() for name in foreign} == foreign
    assert "folder.partial-01234567" in left
    assert len(left) == len(foreign) + 1 + 4


def test_a_foreign_manifest_stops_nothing(begin: Begin, source: str, directory: Path) -> None:
    """B25: a file that cannot be read is somebody's problem, not the next backup's."""
    directory.mkdir()
    broken = directory / f"{source}_manual_20261122T020000Z.manifest.json"
    broken.write_text("")
    begin().ends(0)
    assert broken.read_text() == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nobody_reads_its_output(
    begin: Begin, directory: Path, source: str, pg17: Server, stream: str
) -> None:
    """B31: a log reader that has gone is no reason to lose a backup."""
    reader, writer = os.pipe()
    os.close(reader)
    run = begin(**{stream: writer})
    os.close(writer)
    _, err = run.process.communicate(timeout=30)
    # The result itself could not be told; the backup is there all the same.
    assert run.process.returncode == (1 if stream == "stdout" else 0), err
    assert "Traceback" not in (err or "")
    assert len(faults.published(directory)) == 1


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_standard_stream_is_closed(begin: Begin, directory: Path, descriptor: int) -> None:
    """B31: no other file takes its place, to be filled with messages."""
    run = begin("--verify", preexec_fn=lambda: os.close(descriptor))
    run.ends(0)
    assert len(faults.published(directory)) == 1


def test_its_output_is_full(begin: Begin, directory: Path) -> None:
    """B24: told as an error, not as a traceback."""
    with Path("/dev/full").open("w") as full:
        said = begin(stdout=full).ends(1)
    assert "error: could not write: [Errno 28] No space left on device" in said
    assert len(faults.published(directory)) == 1


def test_who_comes_late_to_a_stopped_crew_does_not_wait() -> None:
    """B20: pg_dump's reader may reach its last section after everybody was told to stop."""
    members = task_group.TaskGroup()
    writer = ArtifactWriter(MemoryStore().create("file"))
    order = assembly.MemberOrder(writer, members, workers=1)
    members.stop()
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            order.wait_for_rows()
        except task_group.Stopped as error:
            ended.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(10)
    assert len(ended) == 1
