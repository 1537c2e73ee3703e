"""--where is one expression of the user's own, and says so where it is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from pgkeep import errors as e
from pgkeep.postgres.server import Server
from pgkeep.restore.tables.where_condition import check, embedded
from tests.support import invoke, servers
from tests.support.disposable import Disposables

ROWS = """
create schema app;
create table app.t (id int primary key, note text, secret text);
insert into app.t select i, 'note ' || i, 'x' from generate_series(1, 100) i;
create table app.empty ();
insert into app.empty default values;
create table app.computed (a int generated always as (1) stored);
insert into app.computed default values;
"""


@pytest.fixture(scope="module")
def shop(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with Disposables() as disposables:
        name = disposables.database(pg17)
        servers.psql(pg17, name, input=ROWS)
        yield name, invoke.backup(pg17, name, tmp_path_factory.mktemp("condition"))


def where(pg17: Server, shop: tuple[str, Path], condition: str, *args: str, code: int = 0) -> str:
    name, artifact = shop
    restore = ["restore", f"--backup={artifact}", f"--target-db={name}", "--yes"]
    table = [] if any(argument.startswith("--table") for argument in args) else ["--table=app.t"]
    env = invoke.environment(pg17)
    return invoke.run(*restore, *table, f"--where={condition}", *args, env=env, code=code)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("id = 1) or (true", 'syntax error at or near ")"'),
        ("id = 1) or (true --", 'syntax error at or near ")"'),
        ("true; drop table app.t", "expected one condition, found several statements"),
        ("true order by id", 'syntax error at or near "order"'),
        ("true union select", 'syntax error at or near "union"'),
        ("true limit 1", 'syntax error at or near "limit"'),
        ("id = = 1", "at character 6: syntax error"),
        ("id =", "at its end: syntax error at end of input"),
        ("(id = 1", "at its end: syntax error at end of input"),
        ("nosuch = 1", 'at character 1: column "nosuch" does not exist'),
        ("id", "argument of WHERE must be type boolean, not type integer"),
        ("count(*) > 1", "aggregate functions are not allowed in WHERE"),
        ("note = 'x", "unterminated quoted string"),
        ("id = 1 /* open", "unterminated /* comment"),
        ("id = $1", "parameter $1 is not allowed"),
        ("", "at its end: syntax error at end of input"),
        ("-- nothing", "at its end: syntax error at end of input"),
    ],
)
def test_what_is_no_condition(
    pg17: Server, shop: tuple[str, Path], condition: str, said: str
) -> None:
    """G6.8: refused, and nothing is executed; the message is about what was typed."""
    with servers.connect(pg17, shop[0]) as connection, pytest.raises(e.UsageError) as caught:
        check(connection, sql.SQL("app.t AS t"), condition)
    assert said in caught.value.message
    assert caught.value.message.startswith("--where")
    assert servers.sql(pg17, shop[0], "select count(*) from app.t") == [(100,)]


def test_it_is_refused_before_anything_is_done(pg17: Server, shop: tuple[str, Path]) -> None:
    """G6.8: in the plan, with exit 2."""
    err = where(pg17, shop, "id = 1) or (true", "--dry-run", code=2)
    assert 'error: --where at character 7: syntax error at or near ")"' in err


@pytest.mark.parametrize(
    "condition",
    ["id <= 3 -- the first ones", "id < 2\nor id in (2, 3)", "(id <= 3) and (true)", "t.id <= 3"],
)
def test_comments_and_lines(pg17: Server, shop: tuple[str, Path], condition: str) -> None:
    """G6.8: what is one condition passes, and keeps its meaning within our query."""
    with servers.connect(pg17, shop[0]) as connection:
        check(connection, sql.SQL("app.t AS t"), condition)
        query = sql.SQL("select array_agg(id order by id) from app.t as t where {} and id < 10")
        row = connection.execute(query.format(embedded(condition))).fetchone()
    assert row == ([1, 2, 3],)


def test_a_comment_at_the_end(pg17: Server, shop: tuple[str, Path]) -> None:
    """G6.8: it hides nothing of ours."""
    servers.sql(pg17, shop[0], "delete from app.t where id <= 10")
    where(pg17, shop, "id <= 3 -- the first ones")
    query = "select array_agg(id order by id) from app.t where id <= 10"
    assert servers.sql(pg17, shop[0], query) == [([1, 2, 3],)]


def test_tables_without_columns_to_fill(pg17: Server, shop: tuple[str, Path]) -> None:
    """G6.9: there is nothing that tells their rows apart: refused, and not a syntax error."""
    for table in ("app.empty", "app.computed"):
        err = where(pg17, shop, "true", f"--table={table}", "--dry-run", code=9)
        assert f"{table} has no columns that can be filled" in err
