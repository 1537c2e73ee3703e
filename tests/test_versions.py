"""The supported versions of PostgreSQL: each is tested, and the documents name them."""

import dataclasses
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.backup import preflight
from pgkeep.doctor import examine
from pgkeep.pitr import checks, enable
from pgkeep.postgres import versions
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.facts import server_facts
from pgkeep.postgres.programs import Installation
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import invoke, servers, version_page
from tests.support.prose import ROOT
from tests.support.servers import sql

PAGE = ROOT / "docs" / "versions.md"
FIX = "run make versions VERSIONS_ARGS=--next, which writes docs/versions.md"


def test_a_server_of_each_version_is_tested() -> None:
    """A1.12: tests/test_roundtrip.py backs up and restores with each of these servers."""
    assert {*servers.DEFAULT, *servers.ON_DEMAND} == {*versions.SUPPORTED}
    for major in versions.SUPPORTED:
        program = servers.bin_folder(major) / "postgres"
        said = subprocess.check_output([program, "--version"], text=True)
        assert re.search(rf" {major}\.\d+", said), said


def test_the_page_has_every_version_and_every_pair() -> None:
    each, pairs, point_in_time = version_page.tables(PAGE.read_text())
    majors = [*versions.SUPPORTED]
    numbers = [int(row[0].partition(".")[0]) for row in each[1:] if "." in row[0]]
    assert numbers == majors, FIX
    assert [cell for row in each[1:] for cell in row if cell in ("", "failed")] == [], FIX
    for row, major in zip(pairs[1:], majors[:-1], strict=False):
        cells = dict(zip(pairs[0][1:], row[1:], strict=True))
        for target in majors[major - majors[0] + 1 :]:
            (time,) = (cells[name] for name in cells if name.startswith(f"{target}."))
            assert float(time) > 0, (major, target, FIX)
    recovered = [int(row[0].partition(".")[0]) for row in point_in_time[1:] if "." in row[0]]
    assert recovered == list(range(versions.OLDEST_FOR_POINT_IN_TIME, versions.NEWEST + 1)), FIX


@pytest.mark.parametrize("name", ["README.md", "docs/versions.md"])
def test_documents_name_the_supported_versions(name: str) -> None:
    text = " ".join((ROOT / name).read_text().split())
    named = re.findall(r"(?:version|PostgreSQL) (\d+) to (\d+)", text)
    assert {*named} == {(str(versions.OLDEST), str(versions.NEWEST))}
    since = re.findall(r"(?:PostgreSQL (\d+) or newer, pgkeep also|recovery from (\d+) on)", text)
    assert [*filter(None, since[0])] == [str(versions.OLDEST_FOR_POINT_IN_TIME)]


def test_a_server_that_is_newer(pg17: Server, app: str, tmp_path: Path) -> None:
    """A1.12: a backup, a restore, and doctor warn; all of them go on."""
    env = invoke.environment(pg17, app, BACKUP_DIR=str(tmp_path))
    newer = "import pgkeep.postgres.versions as v; v.NEWEST = 16"
    ((version,),) = sql(pg17, app, "show server_version")
    warning = f"server is PostgreSQL {version}, pgkeep supports 12 to 16"
    for args in (
        ["backup"],
        ["restore", "--latest", "--target-db=other", "--dry-run"],
        ["restore", "--latest", "--table=u", "--as=other", "--dry-run"],
        ["doctor"],
    ):
        done = invoke.run_python(newer, *args, env=env)
        assert done.returncode == 0, done.stderr
        assert warning in done.stdout + done.stderr
    assert versions.REMEDY in done.stdout


def test_a_server_that_is_older_is_refused(pg17: Server, app: str) -> None:
    with Endpoint({**pg17.params, "dbname": app}).connect() as connection:
        facts = server_facts(connection)
        old = msgspec.structs.replace(facts, version="11.22", version_num=110022)
        found = preflight.check(connection, old, [], 2)
    required = r"server is PostgreSQL 11\.22, version 12 or newer is required"
    with pytest.raises(e.DumpFailed, match=required):
        preflight.refuse(found)


def test_point_in_time_of_a_newer_server(pg17: Server) -> None:
    with Endpoint({**pg17.params, "dbname": "postgres"}).connect() as connection:
        facts = checks.read(connection)
    assert "supports" not in enable._advice(facts)[0].message
    newer = dataclasses.replace(facts, version="99.1", version_num=990001)
    assert enable._advice(newer)[0].message == "server is PostgreSQL 99.1, pgkeep supports 12 to 18"


def test_client_programs_that_are_newer_than_the_server(
    pg17: Server, database: DatabaseFactory
) -> None:
    """A1.4: what they write for an inherited column is no SQL for the server itself."""
    source, target = database(pg17), database(pg17)
    sql(pg17, source, "create table a (i int); create table b () inherits (a)")
    sql(pg17, source, "alter table b alter i set not null")
    written = servers.run(pg17, source, ["pg_dump"], major=18)
    with pytest.raises(AssertionError, match='syntax error at or near "NOT"'):
        servers.psql_bytes(pg17, target, script=written)
    newer = Installation((18, 99), Path("/bin"))
    (note,) = examine.client_findings(newer, 17)
    assert (note.level, note.remedy) == ("note", "Install the client programs of PostgreSQL 17.")
    assert "18.99 (/bin) are newer than the server: PostgreSQL 17 can reject" in note.message
    assert examine.client_findings(newer, 18) == []
    assert examine.client_findings(Installation((18, 0), Path("/bin")), 18)[0].level == "warning"
