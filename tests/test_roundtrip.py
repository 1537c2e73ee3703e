"""One of everything: backed up and brought back, by pgkeep and by hand, it is the same."""

from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers
from tests.support.compare import assert_same_database
from tests.support.servers import ON_DEMAND


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {}


@pytest.fixture
def artifact(
    server: Server,
    objects: str,
    artifacts: dict[int, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A backup of the database with one of everything; made once per server."""
    major = servers.major_of(server)
    if major not in artifacts:
        directory = tmp_path_factory.mktemp(f"pg{major}")
        artifacts[major] = invoke.backup(server, objects, directory, "--verify", BACKUP_JOBS="3")
    return artifacts[major]


def test_restored_by_pgkeep(server: Server, objects: str, artifact: Path) -> None:
    """A3.6, A3.8, A5.15, A5.25, D8, D15, D16: also owner, settings and grants of the database."""
    target = f"restored {servers.major_of(server)}"
    try:
        invoke.restore(server, artifact, target)
        assert_same_database(server, objects, server, target)
    finally:
        servers.drop(server, target)


def test_restored_by_hand(
    server: Server, objects: str, artifact: Path, database: DatabaseFactory
) -> None:
    """D19, D20, E14, E19: zcat and psql alone, as the header of the file says."""
    target = database(server)
    invoke.restore_by_hand(server, artifact, target)
    assert_same_database(server, objects, server, target, ignore_database=True)


@pytest.mark.parametrize("server", ON_DEMAND, ids=lambda major: f"pg{major}", indirect=True)
def test_other_majors(server: Server, objects: str, tmp_path: Path) -> None:
    """A1.2, D11: servers with no client of their own, or too old for slices."""
    artifact = invoke.backup(server, objects, tmp_path, "--verify", BACKUP_JOBS="3")
    target = "restored elsewhere"
    try:
        invoke.restore(server, artifact, target)
        assert_same_database(server, objects, server, target)
    finally:
        servers.drop(server, target)
