"""A drill recovers points of a real archive, and finds a damaged index and a missing segment."""

import json
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.config import load
from pgkeep.crypt.options import Encryption
from pgkeep.pitr import drill, location
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from tests.support import invoke, servers


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the user of the server can enter."""
    with tempfile.TemporaryDirectory(prefix="pitr-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_drill(open_folder: Path) -> None:
    """A5, A11, A19: two points are proved; a lost segment is a finding."""
    programs = servers.bin_folder(18)
    settings = {"max_slot_wal_keep_size": "1GB"}
    backups = open_folder / "backups"
    backups.mkdir()
    with Server(programs, settings=settings, initdb=["--wal-segsize=1"]) as server:
        path = f"{programs}:{invoke.environment()['PATH']}"
        own = {"BACKUP_DIR": str(backups), "PATH": path}
        env = invoke.environment(server, "postgres") | own
        invoke.run("pitr", "enable", "--service=none", env=env)
        with servers.connect(server, "postgres") as connection:
            connection.execute("create table t (i int primary key)")
            for number in range(30):
                connection.execute("insert into t values (%s)", [number])
                if number % 10 == 0:
                    connection.execute("select pg_switch_wal()")
            connection.execute("select pg_switch_wal()")
            connection.execute("insert into t values (1000)")
            row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        invoke.run("pitr", "stream", f"--until={row[0]}", env=env)
        invoke.run("pitr", "disable", env=env)
    (config,) = load(own)
    (place,) = location.known(config)

    def drilled() -> drill.PitrDrillResult:
        return drill.drill(
            place, Encryption(), open_folder, 2, Silent(), now=datetime.now(UTC),
            chance=random.Random(1),  # noqa: S311
        )  # fmt: skip

    result = drilled()
    assert result.passed, result
    assert [point.lsn is not None for point in result.points] == [True, True]
    assert result.points[0].age is not None
    assert json.loads(json.dumps(result.points[1].target)).endswith("UTC")
    segments = sorted((backups / "pitr" / result.system_identifier / "wal").glob("*.gz"))
    damaged = segments[len(segments) // 2]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    result = drilled()
    assert not result.passed
    assert any(damaged.name in text for point in result.points for text in point.findings)
