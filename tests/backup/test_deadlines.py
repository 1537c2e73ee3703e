"""A backup never waits without end: for a network that carries nothing, or with an old snapshot."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import faults, invoke, servers
from tests.support.faults import Run
from tests.support.wire import Wire, through, wire

ROWS = """
create table rows as select i as id, repeat(md5(i::text), 20) as filler
    from generate_series(1, 60000) as i;
create table others as select i as id, repeat(md5(i::text), 20) as filler
    from generate_series(1, 12000) as i;
"""
STALLED = "the backup has not advanced for 3 s: no byte arrived from the server, and no session"


@pytest.fixture(scope="module")
def source(pg17: Server) -> Iterator[str]:
    name = f"deadlines_{os.getpid()}"
    servers.sql(pg17, "postgres", f"create database {name} template template0")
    servers.sql(pg17, name, ROWS)
    yield name
    servers.drop(pg17, name)


@pytest.fixture
def network(pg17: Server) -> Iterator[Wire]:
    with wire(pg17) as running:
        yield running


@pytest.mark.parametrize("phase", ["connecting", "locking", "dumping", "roles"])
def test_a_network_that_carries_nothing(
    pg17: Server, source: str, network: Wire, tmp_path: Path, phase: str
) -> None:
    """A6.9, B22: no connection is closed; the backup ends by itself, with all that it started."""
    gate = tmp_path / "gate"
    scripts = {"pg_dumpall": faults.gate(gate)} if phase == "roles" else {}
    env = {**through(network), "BACKUP_DIR": str(tmp_path / "b"), "BACKUP_STALL_TIMEOUT": "3s",
           "PATH": faults.path_with(tmp_path / "bin", pg17, scripts)}  # fmt: skip
    network.stall_after = {"connecting": 900, "dumping": 5_000_000}.get(phase)
    with Run(pg17, source, "backup", env=env) as run:
        if phase == "locking":
            with faults.statement(pg17, source, "lock table rows"):
                waits = "wait_event_type = 'Lock'"
                faults.eventually(lambda: faults.sessions(pg17, source, waits), "the lock")
                network.stall()
                said = run.ends(4, 60)
        else:
            if phase == "roles":
                faults.eventually(lambda: faults.waiting_at(gate), "the start of pg_dumpall")
                network.stall()
                shutil.rmtree(gate)
            said = run.ends(4, 60)
        assert STALLED in said
        run.leaves_no_child()
    assert network.stalled
    assert invoke.left_over(tmp_path / "b") == []
    network.close()
    faults.leaves_no_session(pg17, source)


def test_a_server_that_works_is_waited_for(
    pg17: Server, source: str, network: Wire, tmp_path: Path
) -> None:
    """A6.9: nothing arrives while a backend computes, or waits for a lock, which has its limit."""
    env = {**through(network), "BACKUP_DIR": str(tmp_path / "b"), "BACKUP_STALL_TIMEOUT": "4s",
           "BACKUP_JOBS": "1", "BACKUP_RETRIES": "0"}  # fmt: skip
    with (
        faults.statement(pg17, source, "lock table rows"),
        Run(pg17, source, "backup", env=env) as run,
    ):
        waits = "wait_event_type = 'Lock'"
        (backend,) = faults.eventually(lambda: faults.sessions(pg17, source, waits), "the lock")
        os.kill(backend, signal.SIGSTOP)  # active for everybody who looks, and silent
        try:
            with pytest.raises(TimeoutError):
                _wait(run, 7)
        finally:
            os.kill(backend, signal.SIGCONT)
        servers.sql(pg17, "postgres", f"select pg_terminate_backend({backend})")
        assert "terminating connection" in run.ends(4)


def _wait(run: Run, seconds: float) -> None:
    """Wait for the end of a run, which must not come."""
    deadline = time.monotonic() + seconds
    while run.process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def test_the_age_of_a_snapshot_is_limited(pg17: Server, source: str, tmp_path: Path) -> None:
    """A6.4: a snapshot holds back VACUUM, however much is still read from it."""
    gate = tmp_path / "gate"
    path = faults.path_with(tmp_path / "bin", pg17, {"pg_dump": faults.gate(gate)})
    env = {"BACKUP_DIR": str(tmp_path / "b"), "BACKUP_MAX_SNAPSHOT_AGE": "2s", "PATH": path,
           "BACKUP_STALL_TIMEOUT": "0"}  # fmt: skip
    with Run(pg17, source, "backup", env=env) as run:
        said = run.ends(4, 60)
        run.leaves_no_child()
    assert re.search("snapshot is older than 2 s, the limit is BACKUP_MAX_SNAPSHOT_AGE", said)
    assert invoke.left_over(tmp_path / "b") == []
    faults.leaves_no_session(pg17, source)


def test_a_rate_limit_is_no_stall(pg17: Server, source: str, tmp_path: Path) -> None:
    """A6.4: all connections together stay below it; its waits are no stall, and end at a signal."""
    env = {"BACKUP_DIR": str(tmp_path / "b"), "BACKUP_JOBS": "3", "BACKUP_STALL_TIMEOUT": "2s",
           "BACKUP_RATE_LIMIT": "300kB"}  # fmt: skip
    with Run(pg17, source, "backup", env=env) as run:
        with pytest.raises(TimeoutError):
            _wait(run, 6)  # a block of a megabyte takes three seconds, of each connection
        run.process.send_signal(signal.SIGTERM)
        assert "ended by SIGTERM" in run.ends(128 + signal.SIGTERM, seconds=20)
    artifact = invoke.backup(pg17, source, tmp_path / "c", BACKUP_RATE_LIMIT="15MB")
    manifest = json.loads((artifact.parent / next(artifact.parent.glob("*.json"))).read_text())
    began, ended = (datetime.fromisoformat(manifest[name]) for name in ("snapshot", "finished"))
    least = manifest["raw_bytes"] / (15 << 20)
    assert least > 2
    assert (ended - began).total_seconds() > 0.9 * least
