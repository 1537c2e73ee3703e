"""The comparison of databases notices every kind of difference, and nothing else."""

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import servers
from tests.support.compare import assert_same_database

SMALL = """
create schema app;
create type app.mood as enum ('sad', 'ok', 'happy');
create table app.t (id int primary key, a text, b text);
insert into app.t select i, 'a' || i, 'b' || i from generate_series(1, 100) as i;
create table app.parent (id int);
create table app.child () inherits (app.parent);
insert into app.parent values (1), (2);
insert into app.child values (3);
create table app.h (id int, m app.mood) partition by hash (m);
create table app.h0 partition of app.h for values with (modulus 2, remainder 0);
create table app.h1 partition of app.h for values with (modulus 2, remainder 1);
insert into app.h values (1, 'sad'), (2, 'ok'), (3, 'happy');
create index t_a on app.t (a);
comment on table app.t is 'a comment';
grant select on app.t to public;
create sequence app.s;
create materialized view app.m as select count(*) from app.t;
select lo_from_bytea(4711, 'content');
comment on large object 4711 is 'a comment';
"""

DIFFERENCES = {
    "row changed": ("update app.t set a = 'x' where id = 7", r"rows of app.t:\n"),
    "row lost": ("delete from app.t where id = 7", r"- 100 rows.*\n.*\+ 99 rows"),
    "row doubled": ("insert into app.parent values (1)", "rows of app.parent"),
    "null for empty": ("update app.t set a = null where id = 7", "rows of app.t"),
    "values swapped between rows": (
        "update app.t set a = case id when 7 then 'a8' else 'a7' end where id in (7, 8)",
        "rows of app.t",
    ),
    "values swapped between columns": (
        "update app.t set a = b, b = a where id = 7",
        "rows of app.t",
    ),
    "row in the child, not the parent": (
        "delete from only app.parent where id = 1; insert into app.child values (1)",
        r"rows of app.child:\n(.*\n)*rows of app.parent:",
    ),
    "row below a hash root": ("update app.h set id = 9 where m = 'ok'", "rows of app.h:"),
    "sequence called": ("select nextval('app.s')", r"sequence app.s:\n.*False\n.*True"),
    "sequence set": ("select setval('app.s', 5, false)", r"\+ last value 5, is called False"),
    "large object's byte": ("select lo_put(4711, 3, 'X')", "large object 4711"),
    "large object lost": ("select lo_unlink(4711)", r"large object 4711:\n.*\n  \+ \(missing\)"),
    "large object's comment": ("comment on large object 4711 is 'x'", "large object 4711"),
    "large object's privileges": ("grant select on large object 4711 to public", "=r/postgres"),
    "large object's owner": ("alter large object 4711 owner to pg_monitor", "pg_monitor"),
    "index missing": ("drop index app.t_a", "-CREATE INDEX t_a ON app.t USING btree"),
    "comment changed": ("comment on table app.t is 'b'", r"\+COMMENT ON TABLE app.t IS 'b'"),
    "privilege missing": ("revoke select on app.t from public", "-GRANT SELECT ON TABLE app.t"),
    "owner changed": ("alter table app.t owner to pg_monitor", r"\+ALTER TABLE app.t OWNER TO"),
    "view not populated": (
        "refresh materialized view app.m with no data",
        r"rows of app.m:\n.*1 rows.*\n.*not populated",
    ),
    "view stale": (
        (
            "insert into app.t values (0); refresh materialized view app.m;"
            " delete from app.t where id = 0"
        ),
        "rows of app.m:",
    ),
    "database's setting": ("alter database {db} set work_mem = '9MB'", "setting of .all roles."),
    "role's setting": (
        "alter role postgres in database {db} set work_mem = '9MB'",
        "setting of postgres",
    ),
    "database's privileges": ("revoke temp on database {db} from public", "database's privileges"),
    "database's comment": ("comment on database {db} is 'x'", "database's comment"),
    "database's limit": ("alter database {db} connection limit 5", "database's connection limit"),
    "database's owner": ("alter database {db} owner to pg_monitor", "database's owner"),
    "extension missing": ("drop extension plpgsql", r"extension plpgsql:\n.*\n  \+ \(missing\)"),
}


@pytest.fixture
def pair(pg17: Server, database: DatabaseFactory) -> tuple[str, str]:
    source, target = database(pg17), database(pg17)
    servers.sql(pg17, source, SMALL)
    servers.sql(pg17, target, SMALL)
    return source, target


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_notices(pg17: Server, pair: tuple[str, str], kind: str) -> None:
    source, target = pair
    change, message = DIFFERENCES[kind]
    servers.sql(pg17, target, change.format(db=target))
    with pytest.raises(AssertionError, match=message) as caught:
        assert_same_database(pg17, source, pg17, target)
    assert len(str(caught.value)) < 4000


def test_same(pg17: Server, pair: tuple[str, str]) -> None:
    """Neither the order of rows, nor how the database shows them, nor restrict's key matters."""
    source, target = pair
    servers.sql(pg17, target, "update app.t set a = a where id < 50")
    for setting in ("DateStyle = 'SQL, DMY'", "extra_float_digits = 0", "search_path = 'x'"):
        for name in pair:
            servers.sql(pg17, name, f"alter database {name} set {setting}")
    assert_same_database(pg17, source, pg17, target)


def test_owner_and_privileges_may_be_left_out(pg17: Server, pair: tuple[str, str]) -> None:
    source, target = pair
    for kind in ("owner changed", "large object's owner", "privilege missing", "database's owner"):
        servers.sql(pg17, target, DIFFERENCES[kind][0].format(db=target))
    assert_same_database(pg17, source, pg17, target, ignore_owner=True)


def test_the_database_itself_may_be_left_out(pg17: Server, pair: tuple[str, str]) -> None:
    source, target = pair
    for kind in DIFFERENCES:
        if kind.startswith(("database's", "role's")):
            servers.sql(pg17, target, DIFFERENCES[kind][0].format(db=target))
    assert_same_database(pg17, source, pg17, target, ignore_database=True)


def test_encoding_and_locale(pg17: Server, database: DatabaseFactory) -> None:
    source = database(pg17, "encoding sql_ascii locale 'C'")
    target = database(pg17, "encoding latin1 locale 'C'")
    with pytest.raises(AssertionError, match=r"database's encoding:\n  - SQL_ASCII\n  \+ LATIN1"):
        assert_same_database(pg17, source, pg17, target)


def test_bytes_that_are_no_text(pg17: Server, database: DatabaseFactory) -> None:
    """A SQL_ASCII database may hold any bytes, in names too."""
    names = [database(pg17, "encoding sql_ascii locale 'C'") for _ in range(2)]
    script = b'create table "t\xe9" (a text); insert into "t\xe9" values (E\'%b\');'
    for name, value in zip(names, (b"\xff", b"\xff"), strict=True):
        servers.psql_bytes(pg17, name, script=script % value)
    assert_same_database(pg17, names[0], pg17, names[1])
    servers.psql_bytes(pg17, names[1], script=b"update \"t\xe9\" set a = E'\xfe'")
    with pytest.raises(AssertionError, match="rows of public"):
        assert_same_database(pg17, names[0], pg17, names[1])


def test_of_different_majors(pg15: Server, pg17: Server, database: DatabaseFactory) -> None:
    source, target = database(pg15), database(pg17)
    servers.sql(pg15, source, SMALL)
    servers.sql(pg17, target, SMALL)
    assert_same_database(pg15, source, pg17, target)
