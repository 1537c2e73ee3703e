"""A backup is repeated after what passes by itself, and after nothing else."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, servers
from tests.support.disposable import Disposables
from tests.support.faults import Run
from tests.support.wire import through, wire

ROWS = """
create table rows as select i as id, repeat(md5(i::text), 20) as filler
    from generate_series(1, 30000) as i;
"""


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that the test can stop."""
    with Server(servers.bin_folder(17)) as running:
        yield running


def warnings(directory: Path) -> list[str]:
    env = invoke.environment(BACKUP_DIR=str(directory))
    (listed,) = json.loads(invoke.run("list", "--json", env=env))
    found: list[str] = listed["manifest"].get("warnings", [])
    return found


@pytest.mark.parametrize("kind", ["cut", "restart"])
def test_a_lost_connection_and_a_restart(
    kind: str, pg17: Server, own: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A6.5: one more attempt, as a warning; the server may take its time to be there again."""
    server = pg17 if kind == "cut" else own
    name, gate = database(server), tmp_path / "gate"
    servers.sql(server, name, ROWS)
    path = faults.path_with(tmp_path / "bin", server, {"pg_dump": faults.gate(gate)})
    with wire(server) as network:
        env = {**through(network), "BACKUP_DIR": str(tmp_path / "b"), "PATH": path}
        if kind == "restart":
            env["BACKUP_DATABASES"] = name  # the connection with the lock of the run is lost too
        with Run(server, name, "backup", env=env) as run:
            faults.eventually(lambda: faults.waiting_at(gate), "the start of pg_dump")
            shutil.rmtree(gate)
            if kind == "cut":
                network.cut()
            else:
                server.stop()
                server.start()
            said = run.ends(0, 60)
    assert "repeating the backup: " in said
    (warning,) = warnings(tmp_path / "b")
    assert warning.startswith("attempt 1 failed: ")
    assert len(faults.published(tmp_path / "b")) == 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_name_of_several_servers(
    jobs: str, pg17: Server, own: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A7.7: connections that alternate between two servers are noticed, with the cause."""
    name = database(pg17)
    other = database(own, name=name)
    for server in (pg17, own):
        servers.sql(server, other, ROWS)
    with wire(pg17, own) as network:
        env = invoke.environment(pg17, name, **through(network), BACKUP_DIR=str(tmp_path / "b"),
                                 BACKUP_JOBS=jobs)  # fmt: skip
        said = invoke.run("backup", env=env, code=4)
    assert "reached a different server" in said
    assert "hint: The host name leads to several servers" in said
    assert "repeating" not in said
    assert invoke.left_over(tmp_path / "b") == []


def test_roles_of_another_server(
    pg17: Server, own: Server, disposables: Disposables, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A7.7: pg_dumpall cannot say where it was; its roles can."""
    name, gate = database(pg17), tmp_path / "gate"
    database(own, name=name)
    disposables.role(pg17)
    path = faults.path_with(tmp_path / "bin", pg17, {"pg_dumpall": faults.gate(gate)})
    with wire(pg17) as network:
        env = {**through(network), "BACKUP_DIR": str(tmp_path / "b"), "PATH": path}
        with Run(pg17, name, "backup", env=env) as run:
            faults.eventually(lambda: faults.waiting_at(gate), "the start of pg_dumpall")
            network.divert(own)
            shutil.rmtree(gate)
            said = run.ends(4)
    assert "pg_dumpall reached a different server: role " in said
    assert "hint: The host name leads to several servers" in said
    assert invoke.left_over(tmp_path / "b") == []


def test_not_after_another_failure_nor_twice(
    pg17: Server, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A6.5: what a repetition would only hide is told at once."""
    name = database(pg17)
    servers.sql(pg17, name, ROWS)
    count = tmp_path / "count"
    lines = {"disk": "no luck", "cut": "server closed the connection unexpectedly"}
    for kind, attempts in (("disk", 1), ("cut", 2)):
        script = f'echo x >>{count}-{kind}; echo "pg_dump: error: {lines[kind]}" >&2; exit 1'
        path = faults.path_with(tmp_path / kind, pg17, {"pg_dump": script})
        env = {"BACKUP_DIR": str(tmp_path / "b"), "PATH": path}
        with Run(pg17, name, "backup", env=env) as run:
            assert lines[kind] in run.ends(4)
        assert len(Path(f"{count}-{kind}").read_text().splitlines()) == attempts
    assert invoke.left_over(tmp_path / "b") == []
