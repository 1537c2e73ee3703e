"""The database with one of everything: it has every kind of object, and pg_dump brings it back."""

import re
from pathlib import Path

import pytest

from pgkeep.backup.tasks import SMALLEST_FOR_WORKER
from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import servers
from tests.support.compare import assert_same_database
from tests.support.servers import ON_DEMAND

# What pg_dump's table of contents can hold, but for: DATABASE and its kin (only with --create),
# SECURITY LABEL (needs a provider, which is loaded at the server's start), STATISTICS DATA (only
# with --statistics), SUBSCRIPTION TABLE (only for pg_upgrade), TABLESPACE (belongs to the cluster).
KINDS = """
ACCESS METHOD, ACL, AGGREGATE, CAST, CHECK CONSTRAINT, COLLATION, COMMENT, CONSTRAINT, CONVERSION,
DEFAULT, DEFAULT ACL, DOMAIN, EVENT TRIGGER, EXTENSION, FK CONSTRAINT,
FOREIGN DATA WRAPPER, FOREIGN TABLE, FUNCTION, INDEX, INDEX ATTACH, MATERIALIZED VIEW,
MATERIALIZED VIEW DATA, OPERATOR, OPERATOR CLASS, OPERATOR FAMILY, POLICY, PROCEDURAL LANGUAGE,
PROCEDURE, PUBLICATION, PUBLICATION TABLE, PUBLICATION TABLES IN SCHEMA, ROW SECURITY, RULE,
SCHEMA, SEQUENCE, SEQUENCE OWNED BY, SEQUENCE SET, SERVER, SHELL TYPE, STATISTICS,
SUBSCRIPTION, TABLE, TABLE ATTACH, TABLE DATA, TEXT SEARCH CONFIGURATION,
TEXT SEARCH DICTIONARY, TEXT SEARCH PARSER, TEXT SEARCH TEMPLATE, TRANSFORM, TRIGGER, TYPE,
USER MAPPING, VIEW
"""
OF_15_TO_16 = "BLOB, BLOBS"
OF_17 = "BLOB METADATA, BLOBS"

NEW = {
    15: ("NULLS NOT DISTINCT", "ADD TABLES IN SCHEMA", "WHERE ((id > 10)", "security_invoker"),
    17: ("GRANT MAINTAIN ON", "provider = builtin"),
    18: (
        "WITHOUT OVERLAPS",
        "NOT ENFORCED",
        "t_not_null NOT NULL t NOT VALID",
        "GENERATED ALWAYS AS ((a + z))",
        "PG_UNICODE_FAST",
        "CREATE EXTENSION IF NOT EXISTS pgkeep_probe",
        "ON LARGE OBJECTS",
    ),
}


def test_has_every_kind(server: Server, objects: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    servers.dump(server, objects, "-Fc", "-Z0", "-f", str(archive))
    installation = servers.programs_for(servers.major_of(server))
    contents = servers.execute([installation.program("pg_restore"), "-l", str(archive)]).decode()
    blobs = OF_17 if servers.major_of(server) >= 17 else OF_15_TO_16
    kinds = [kind.strip() for kind in f"{KINDS},{blobs}".split(",")]
    missing = [kind for kind in kinds if not re.search(rf"^\d+; \d+ \d+ {kind} ", contents, re.M)]
    assert missing == []


def test_has_what_the_server_knows(server: Server, objects: str) -> None:
    """Nothing was left out by a wrong condition in the scripts."""
    schema = servers.dump(server, objects, "--schema-only").decode()
    known = {
        sign for since, signs in NEW.items() if servers.major_of(server) >= since for sign in signs
    }
    assert {sign for signs in NEW.values() for sign in signs if sign in schema} == known


@pytest.mark.timeout(120)
def test_round_trip(server: Server, objects: str, database: DatabaseFactory) -> None:
    target = database(server)
    servers.psql_bytes(server, target, script=servers.dump(server, objects))
    assert_same_database(server, objects, server, target, ignore_database=True)


@pytest.mark.parametrize("server", ON_DEMAND, ids=lambda major: f"pg{major}", indirect=True)
def test_round_trip_of_other_majors(server: Server, database: DatabaseFactory) -> None:
    source, target = database(server), database(server)
    servers.load_objects(server, source, rows=500)
    servers.psql_bytes(server, target, script=servers.dump(server, source))
    assert_same_database(server, source, server, target, ignore_database=True)


def test_big_tables_are_worth_a_worker(server: Server, objects: str) -> None:
    """Workers copy each of them: it has enough pages, of its own or in its TOAST table."""
    tables = ["wide", "toasted", "big_parent", "big_child", "big_parts_1", "updated"]
    for table in tables:
        ((size,),) = servers.sql(server, objects, f"select pg_table_size('app.{table}')")
        assert size > SMALLEST_FOR_WORKER, (table, size)
