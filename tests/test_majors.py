"""From every major version into every one that is not older: the commonest real restore."""

from pathlib import Path

import pytest

from . import compare, keep
from . import servers as s
from .conftest import DatabaseFactory
from .test_tables import SHOP

SOURCES = (13, 14, 15, 16, 17)
TARGETS = (15, 16, 17, 18)


@pytest.mark.parametrize("source", SOURCES, ids=lambda major: f"from pg{major}")
def test_into_every_newer_major(
    source: int, servers: s.Servers, database: DatabaseFactory, tmp_path: Path
) -> None:
    """A1.2, A1.3, A4.8, E18: the rows, and the definitions as psql makes them of pg_dump's.

    Of a database that every build can have; the one with everything needs ICU and lz4.
    """
    shop = database(servers(source))
    s.psql(servers(source), shop, input=SHOP)
    artifact = keep.backup(servers(source), shop, tmp_path)
    definitions = s.dump(servers(source), shop, "--schema-only")
    expected = compare.facts(servers(source), shop, database=False)
    for major in TARGETS:
        if major <= source:
            continue
        server = servers(major)
        by_hand = database(server)
        s.psql_bytes(server, by_hand, script=definitions)
        target = f"from {source} into {major}"
        try:
            keep.restore(server, artifact, target)
            assert compare.facts(server, target, database=False) == expected
            assert compare.schema(server, target, major) == compare.schema(server, by_hand, major)
        finally:
            s.drop(server, target)
