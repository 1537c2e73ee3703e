"""A5.25: values come back as they were, whatever the target's own settings are."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, locales, servers
from tests.support.disposable import Disposables

# Each reads something in another way than a dump writes it, or has a check that is needed fail.
HOSTILE = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "'escape'",
    "check_function_bodies": "on",
    "DateStyle": "'SQL, DMY'",
    "default_transaction_isolation": "'serializable'",
    "default_transaction_read_only": "on",
    "escape_string_warning": "on",
    "exit_on_error": "on",
    "IntervalStyle": "'sql_standard'",
    "lc_monetary": "'C'",
    "quote_all_identifiers": "on",
    "restrict_nonsystem_relation_kind": "'view'",
    "row_security": "on",
    "session_replication_role": "'replica'",
    "standard_conforming_strings": "off",
    "TimeZone": "'Asia/Kathmandu'",
    "transform_null_equals": "on",
    "xmloption": "'document'",
}
VALUES = r"""
create domain price as money;
create table money_of (id int primary key, m money, l money[], p price default '7,50 EUR');
insert into money_of values (1, 7.50, '{"1,25"}', 1234567.89), (2, -0.01, null, 0);
create table others (id int primary key references money_of, a text[], b bytea, d date,
    i interval, z timestamptz, t text, x XML, n int);
insert into others values
    (1, '{NULL,"null",x}', '\x00ff5c27', '2026-02-03', '-1 day +02:03:04', '2026-11-25 23:30+00',
     E'back\\slash''s "q"', 'no document', null),
    (2, null, '', '0044-03-15 BC', '1 year -2 mons', '1999-12-31 23:59:59.5-05', '', null, 3);
create view nulls as select id from others where n = null;
create view lines as select id, m from money_of;
create materialized view days as select id, z::date as day, l.m from others join lines l using (id);
"""
QUERIES = (
    "select id, m::numeric, l::numeric[]::text, p::numeric from money_of order by id",
    "select id, a, b, d::text, i, z, t, x::text, n from others order by id",
    "select count(*) from nulls",
    "select id, day, m::numeric from days order by id",
)


@pytest.fixture(scope="module", params=[15, 17, 18], ids="pg{}".format)
def european(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that writes 7,50 and in whose locale 7.50 is 750."""
    settings = {"lc_monetary": locales.NAME, "timezone": "Europe/Lisbon"}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgkeep-locales-"))
        Path(folder).chmod(0o755)  # the server's user is another one
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOCPATH", str(locales.compiled(Path(folder) / "compiled")))
            server = Server(servers.bin_folder(request.param), settings=settings)
            stack.enter_context(server)
        yield server


def values(server: Server, database: str, *queries: str) -> list[object]:
    with servers.connect(server, database) as connection:
        connection.execute("set DateStyle = iso; set IntervalStyle = postgres; set timezone = utc")
        connection.execute(
            "select set_config(name, '', false) from pg_settings"
            " where name = 'restrict_nonsystem_relation_kind'"
        )
        return [connection.execute(query).fetchall() for query in queries or QUERIES]


@pytest.fixture
def hostile(european: Server) -> Iterator[tuple[Disposables, str]]:
    """A database of the same server, which then gets settings for every session of every role."""
    names = servers.sql(
        european, "postgres", "select name from pg_settings where name = any(%(n)s)",
        n=list(HOSTILE),
    )  # fmt: skip
    with Disposables() as made, servers.connect(european, "postgres") as connection:
        source = made.database(european)
        xml = "xml" if servers.major_of(european) == 15 else "text"
        servers.psql(european, source, input=VALUES.replace("XML", xml))
        for (name,) in names:
            connection.execute(f"alter role all set {name} = {HOSTILE[name]}".encode())
        yield made, source
        connection.execute("alter role all reset all")


def test_hostile_settings_of_the_target(
    european: Server, hostile: tuple[Disposables, str], tmp_path: Path
) -> None:
    """A5.25: whole, in place, rows alone, a table and its copy, single rows, a plain dump."""
    made, source = hostile
    new, plain = made.name(european), made.name(european)
    writable = "set default_transaction_read_only = off;"
    expected = values(european, source)
    assert "'7.50'), '{1.25}', Decimal('1234567.89')" in str(expected[0])
    sessions = {"PGOPTIONS": f"-c lc_monetary={locales.NAME}", "PGTZ": "Europe/Lisbon"}
    artifact = invoke.backup(european, source, tmp_path, **sessions)
    invoke.restore(european, artifact, new)
    assert values(european, new) == expected
    dump = tmp_path / "plain.sql"
    dump.write_bytes(servers.dump(european, source))
    invoke.restore(european, dump, plain)
    assert values(european, plain, *QUERIES[:3]) == expected[:3]

    invoke.restore(european, artifact, new, "--table=money_of", "--as=copied")
    assert values(european, new, QUERIES[0].replace("money_of", "copied")) == expected[:1]
    servers.psql(european, new, input=f"{writable} delete from others where id = 1")
    invoke.restore(european, artifact, new, "--table=others", "--where=n is null", "--yes")
    assert values(european, new, QUERIES[1]) == expected[1:2]
    servers.psql(european, new, input=f"{writable} drop materialized view days; drop view nulls")
    invoke.restore(european, artifact, new, "--table=others", "--drop-existing", "--yes")
    assert values(european, new, QUERIES[1]) == expected[1:2]
    servers.psql(european, new, input=f"{writable} truncate money_of, others")
    invoke.restore(european, artifact, new, "--data-only", "--yes")
    assert values(european, new, *QUERIES[:2]) == expected[:2]
    servers.psql(european, new, input=f"{writable} drop table copied; drop view lines;"
                 " drop table others, money_of; drop domain price")  # fmt: skip
    invoke.restore(european, artifact, new, "--in-place", "--yes")
    assert values(european, new) == expected
    # Foreign keys are checked, although this role's sessions do not.
    servers.psql(european, new, input=f"{writable} drop materialized view days; drop view lines;"
                 " delete from others; delete from money_of where id = 2")  # fmt: skip
    restore = ["restore", f"--backup={artifact}", f"--target-db={new}", "--yes"]
    said = invoke.run(*restore, "--table=others", "--where=true", code=8,
                      env=invoke.environment(european))  # fmt: skip
    assert "violates foreign key constraint" in said


@pytest.mark.parametrize("european", [17], ids="pg{}".format, indirect=True)
def test_money_is_read_in_its_own_locale_or_not_at_all(
    european: Server, pg17: Server, tmp_path: Path
) -> None:
    """A5.25: by psql too; a server without the locale is refused, unless no money is restored."""
    with Disposables() as made:
        source, by_hand = made.database(european), made.database(european)
        elsewhere, restored = made.database(pg17), made.name(pg17)
        servers.psql(european, source, input=VALUES.replace("XML", "text"))
        artifact = invoke.backup(european, source, tmp_path)
        assert f"SET lc_monetary = '{locales.NAME}';" in servers.execute(
            ["zcat", str(artifact)]
        ).decode(errors="replace")
        invoke.run("verify", str(artifact), env=invoke.environment())
        servers.sql(european, "postgres", f"alter database {by_hand} set lc_monetary = 'C'")
        invoke.restore_by_hand(european, artifact, by_hand)
        assert values(european, by_hand) == values(european, source)
        env = invoke.environment(pg17)
        args = ["restore", f"--backup={artifact}", f"--target-db={restored}"]
        said = invoke.run(*args, env=env, code=9)
        assert (
            f"values of type money are written in locale {locales.NAME}, which the server" in said
        )
        skipped = [f"--skip={name}" for name in ("table:public.money_of", "domain:public.price")]
        invoke.run(*args, *skipped, env=env)
        servers.psql(pg17, elsewhere, input="create table money_of (id int primary key);"
                     " insert into money_of values (1), (2)")  # fmt: skip
        there = [*args[:2], f"--target-db={elsewhere}"]
        assert "values of type money" in invoke.run(
            *there, "--table=money_of", "--as=copied", "--dry-run", env=env, code=9
        )
        invoke.run(*there, "--table=others", env=env)
        assert values(pg17, elsewhere, QUERIES[1]) == values(european, source, QUERIES[1])
        chosen = env | {"PGOPTIONS": "-c lc_monetary=C"}
        invoke.run(*args, "--dry-run", env=chosen, code=9)  # exists by now
