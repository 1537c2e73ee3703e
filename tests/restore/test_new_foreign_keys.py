"""Foreign keys that are checked by queries, before they are added without a check."""

from pgkeep.postgres.server import Server
from pgkeep.restore.target import new_foreign_keys
from tests.conftest import DatabaseFactory
from tests.support import servers


def test_a_view_in_the_place_of_a_table_runs_nothing(
    pg17: Server, database: DatabaseFactory
) -> None:
    """G2.2: a table is replaced by a view of its owner between the plan and the check of a key."""
    app = database(pg17)
    servers.sql(
        pg17, app,
        "create sequence called; create table t (a int primary key); create view v as"
        " select nextval('called')::int as a",
    )  # fmt: skip
    key = new_foreign_keys.Key(("public", "v"), "k", ["a"], ("public", "t"), ["a"])
    with servers.connect(pg17, app) as connection:
        assert new_foreign_keys.is_violated(connection, key.violations()) is None
    assert servers.sql(pg17, app, "select is_called from called") == [(False,)]
