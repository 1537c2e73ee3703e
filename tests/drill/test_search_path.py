"""G4: what a dump's SQL cannot name, and what a restore computes anew."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.artifact.file import Artifact
from pgkeep.catalog import side_files
from pgkeep.drill import examine
from pgkeep.postgres.connection import Endpoint
from pgkeep.postgres.server import Server
from pgkeep.progress import Silent
from pgkeep.sql import node_trees
from pgkeep.stores.local import LocalStore
from tests.support import invoke, servers

# With an empty search path citext is compared as text is: nothing fails, and nothing is the same.
SOURCE = """
create schema extensions;
create extension citext schema extensions;
create schema app;
set search_path = app, extensions;
create table users (
    id int primary key, mail citext,
    other text generated always as (nullif(mail, 'ANN')::text) stored,
    twice int generated always as (id * 2) stored,
    constraint not_root check (mail is distinct from 'ROOT'),
    constraint named check (mail <> 'nobody')
);
insert into users values (1, 'ann'), (2, 'Bob'), (3, 'eve');
create table aliases (mail citext, id int);
insert into aliases values ('Ann', 1), ('bob', 2);
create view joined as select id from users join aliases using (mail, id);
create materialized view counted as select count(*) from users natural join aliases;
create view cases as select case mail when 'ANN' then 1 else 2 end as n, case id when 1 then 2 end
    as m from users;
create view compared as select (id, mail) < (1, 'B') as less, (id, mail) in (table pairs) as pair
    from users, (select 1) as one;
create view fine as select mail = 'a' as a, mail in ('a', 'b') as b,
    mail in (select mail from aliases) as c, case when mail = 'x' then 1 end as d,
    (mail, mail) < ('a', 'b') as e, id is distinct from 2 as f, greatest(mail, 'x') as g,
    nullif(mail::text, 'x') as h from users order by mail;
create index by_other on users (nullif(mail, 'x'));
create index partly on users (id) where mail is distinct from 'x';
create policy own on users using (mail is not distinct from current_user::citext);
create rule r as on delete to aliases where old.mail is distinct from 'x' do also select 1;
create function fired() returns trigger language plpgsql as 'begin return new; end';
create trigger changed after update on users for each row
    when (old.mail is distinct from new.mail) execute function fired();
create domain address as citext constraint local check (value is distinct from '@');
""".replace("(table pairs)", "(select id, mail from aliases)")
SQL_BODY = """
create function app.same(a extensions.citext, b extensions.citext) returns boolean
    begin atomic select a is not distinct from b; end;
"""
PATH = "alter database {} set search_path = app, extensions, pg_catalog"
NAMED = {
    "column app.users.other": "NULLIF",
    "constraint local of app.address": "IS DISTINCT FROM",
    "constraint not_root of app.users": "IS DISTINCT FROM",
    "index app.by_other": "NULLIF",
    "index app.partly": "IS DISTINCT FROM",
    "materialized view app.counted": "JOIN USING",
    "policy own of app.users": "IS DISTINCT FROM",
    "rule r of app.aliases": "IS DISTINCT FROM",
    "trigger changed of app.users": "IS DISTINCT FROM",
    "view app.cases": "CASE ... WHEN",
    "view app.compared": "row comparison",
    "view app.joined": "JOIN USING",
}
FUNCTION = {"function app.same(extensions.citext,extensions.citext)": "IS DISTINCT FROM"}


@pytest.fixture(scope="module")
def source(server: Server) -> Iterator[str]:
    name = f"path_{os.getpid()}_{servers.major_of(server)}"
    servers.sql(server, "postgres", f"create database {name} template template0")
    servers.psql(server, name, input=SOURCE)
    if servers.major_of(server) > 13:
        servers.psql(server, name, input=f"set search_path = app, extensions; {SQL_BODY}")
    servers.sql(server, name, PATH.format(name))
    yield name
    servers.drop(server, name)


@pytest.fixture(scope="module")
def artifact(server: Server, source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invoke.backup(server, source, tmp_path_factory.mktemp("backups"), "--verify")


def named(server: Server) -> dict[str, str]:
    return NAMED | (FUNCTION if servers.major_of(server) > 13 else {})


def findings(server: Server, artifact: Path, database: str) -> tuple[set[str], list[str]]:
    """Compare a database with the backup as a drill does; return also the warnings."""
    store = LocalStore(artifact.parent)
    found = examine.examine(
        Endpoint({**server.params, "dbname": database}), Artifact(store.open(artifact.name)),
        side_files.read(store, artifact.name).manifest, jobs=2, progress=Silent(),
    )  # fmt: skip
    return set(found.findings), found.warnings


def warnings(artifact: Path) -> list[str]:
    (manifest,) = artifact.parent.glob(f"{artifact.name.removesuffix('.sql.gz')}*.json")
    return list(json.loads(manifest.read_text())["warnings"])


def test_what_sql_cannot_name_is_a_warning(server: Server, source: str, artifact: Path) -> None:
    """G4.1: with its name; what needs no warning has none."""
    found = Artifact(LocalStore(artifact.parent).open(artifact.name)).index.meta.resolutions
    assert {one.object: one.uses[0].construct for one in found} == named(server)
    schemas = {name for one in found for use in one.uses for name in use.schemas}
    assert schemas <= {"extensions", "pg_catalog"}
    (said,) = warnings(artifact)
    assert all(f"{name} ({what})" in said for name, what in named(server).items())
    out = invoke.run(
        "doctor", env=invoke.environment(server, source, BACKUP_DIR=str(artifact.parent))
    )
    assert said in out
    assert "--search-path=database" in out


def test_the_drill_is_red_where_it_means_something_else(server: Server, artifact: Path) -> None:
    """G4.1, G4.2: each object is named; stored columns and materialized views are compared."""
    target = f"{artifact.name.partition('.')[0]}_empty".lower()
    said = invoke.restore(server, artifact, target)
    try:
        assert "--search-path=database" in said + invoke.run(
            "restore", f"--backup={artifact}", "--target-db=x", "--dry-run",
            env=invoke.environment(server),
        )  # fmt: skip
        found, _ = findings(server, artifact, target)
        for name, construct in named(server).items():
            assert any(one.startswith(f"{name}: ") and construct in one for one in found), name
        said = "table app.users: its generated columns (other, twice) are not those of the backup"
        assert [one.partition(";")[0] for one in found if one.startswith("table ")] == [said]
        assert len(found) == len(named(server)) + 1
    finally:
        servers.drop(server, target)


@pytest.mark.parametrize("server", [15, 18], ids="pg{}".format, indirect=True, scope="module")
def test_a_restore_may_use_the_database_s_own_search_path(
    server: Server, source: str, artifact: Path
) -> None:
    """G4.1: then everything is as it was."""
    target = f"{source}_own"
    for args in ([], ["--in-place", "--yes"]):
        if args:
            servers.sql(server, "postgres", f"create database {target} template template0")
        invoke.restore(server, artifact, target, "--search-path=database", *args)
        try:
            assert findings(server, artifact, target) == (set(), [])
            query = "select other from app.users order by id"
            assert servers.sql(server, target, query) == servers.sql(server, source, query)
        finally:
            servers.drop(server, target)


@pytest.mark.parametrize("server", [17], ids=["pg17"], indirect=True, scope="module")
def test_a_drill_may_use_it_too(server: Server, artifact: Path) -> None:
    """G4.1: by the command, in a server of its own."""
    env = invoke.environment(server, BACKUP_DIR=str(artifact.parent))
    said = invoke.run("drill", f"--backup={artifact}", env=env, code=5)
    assert "drill of" in said
    invoke.run("drill", f"--backup={artifact}", "--search-path=database", env=env)


@pytest.mark.parametrize("server", [15, 18], ids="pg{}".format, indirect=True)
def test_what_fails_with_an_empty_path(server: Server, tmp_path: Path) -> None:
    """G4.1: ltree has no other operators to fall back to; --table has the option too."""
    name = f"ltree_{os.getpid()}_{servers.major_of(server)}"
    servers.sql(server, "postgres", f"create database {name} template template0")
    try:
        servers.psql(
            server,
            name,
            input="""
            create extension ltree;
            create table t (path ltree);
            insert into t values ('a.b');
            create function fired() returns trigger language plpgsql as 'begin return new; end';
            create trigger moved after update on t for each row
                when (old.path is distinct from new.path) execute function fired();
        """,
        )
        artifact = invoke.backup(server, name, tmp_path)
        env = invoke.environment(server)
        for args in ([f"--target-db={name}_two"], ["--table=t", "--drop-existing", "--yes"]):
            command = ["restore", f"--backup={artifact}", *args]
            assert "trigger moved of public.t may fail" in invoke.run(
                *command, "--dry-run", env=env
            )
            assert "moved" in invoke.run(*command, env=env, code=8)
            invoke.run(*command, "--search-path=database", env=env)
        query = "select path::text, tgname::text from t, pg_trigger where tgrelid = 't'::regclass"
        assert servers.sql(server, name, query) == [("a.b", "moved")]
    finally:
        servers.drop(server, f"{name}_two")
        servers.drop(server, name)


TREES = {
    "({DISTINCTEXPR :opno 9 :opfuncid 1 :args ({VAR :varno 1} {CONST :constvalue 4 [ 9 0 0 0 ]})})":
        [("IS DISTINCT FROM", 9)],
    "({NULLIFEXPR :opno 9 :args <>})": [("NULLIF", 9)],
    "({OPEXPR :opno 9 :args ({VAR} {CONST})})": [],
    "({SCALARARRAYOPEXPR :opno 9 :useOr true :args ({VAR} {ARRAYEXPR})})": [],
    "({CASE :casetype 1 :arg <> :args ({CASEWHEN :expr {OPEXPR :opno 9 :args ({VAR} {CONST})}})})":
        [],
    "({CASE :arg {VAR} :args ({CASEWHEN :expr {OPEXPR :opno 9 :args ({CASETESTEXPR :typeId 2}"
    " {CONST})} :result {OPEXPR :opno 8 :args ({VAR} {VAR})}})})": [("CASE ... WHEN", 9)],
    "({CASE :arg {VAR} :args ({CASEWHEN :expr {OPEXPR :opno 9 :args ({RELABELTYPE"
    " :arg {CASETESTEXPR :typeId 2} :resulttype 25} {CONST})}})})": [("CASE ... WHEN", 9)],
    '({JOINEXPR :usingClause ("a" "b\\ \\{\\)") :quals {BOOLEXPR :boolop and :args ({OPEXPR'
    " :opno 9 :args ({VAR} {VAR})} {OPEXPR :opno 1 :args ({VAR} {VAR})})} :alias <>})":
        [("JOIN USING", 9)],
    "({JOINEXPR :usingClause <> :quals {OPEXPR :opno 9 :args ({VAR} {VAR})}})": [],
    "({ROWCOMPAREEXPR :cmptype 1 :opnos (o 1 9) :largs ({VAR} {VAR})})": [("row comparison", 1, 9)],
    "({ROWCOMPAREEXPR :rctype 1 :opnos (o 9 9) :largs ({VAR} {VAR})})": [],
    "({SUBLINK :subLinkType 2 :testexpr {BOOLEXPR :boolop and :args ({OPEXPR :opno 1} {OPEXPR :opno"
    " 9})}})": [("row comparison", 1, 9)],
    "({SUBLINK :subLinkType 2 :testexpr {OPEXPR :opno 9}})": [],
    "({CASE :arg {NULLIFEXPR :opno 9 :args <>} :args ({CASEWHEN :expr {OPEXPR :opno 9 :args"
    " ({CASETESTEXPR} {CONST})} :result {CASE :arg {VAR} :args ({CASEWHEN :expr {OPEXPR :opno 9"
    " :args ({CASETESTEXPR} {CONST})}})}})})":
        [("CASE ... WHEN", 9), ("NULLIF", 9), ("CASE ... WHEN", 9)],
    '({CONST :name "\\{DISTINCTEXPR\\ :opno\\ 9\\}"})': [],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("tree", TREES)
def test_trees(tree: str) -> None:
    """G4.1: the text of parse trees, as 12 to 18 write it."""
    found = node_trees.unnamed(node_trees.uses(tree), {9: "public"})
    assert [(use.construct, *use.operators) for use in found] == TREES[tree]


def test_deep_trees() -> None:
    """G4.1: a chain of operators needs no stack of ours."""
    deep = "{OPEXPR :opno 1 :args (" * 20_000 + "{NULLIFEXPR :opno 9 :args <>}" + ")}" * 20_000
    assert node_trees.uses(deep) == [node_trees.Use("NULLIF", (9,))]
