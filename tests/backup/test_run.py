"""The nightly run as cron starts it: several databases, retention, drift, locks, what it says."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgkeep.catalog import prune
from pgkeep.catalog.catalog import Catalog
from pgkeep.model import naming, retention
from pgkeep.model.drift import drift
from pgkeep.model.manifest import FileFacts, Manifest, TableRows, decode, encode
from pgkeep.model.retention import Policy
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalSource, LocalStore
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, launcher, planted, servers
from tests.support.compare import assert_same_database
from tests.support.disposable import Disposables
from tests.support.faults import Run
from tests.support.servers import SETTINGS

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
DAILY = "--type=daily"
ROW = "what stands in somebody's row"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    """A server of its own, for runs over every database."""
    with Server(servers.bin_folder(17), settings=SETTINGS) as server:
        yield server


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def app(cluster: Server, database: DatabaseFactory) -> str:
    """A small database with a few rows."""
    name = database(cluster)
    servers.sql(cluster, name, f"create table t (a int, b text default $${ROW}$$)")
    servers.sql(cluster, name, "insert into t select generate_series(1, 1000)")
    return name


def report(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    return found


def backup(server: Server, database: str, directory: Path, *args: str, code: int = 0,
           **env: Any) -> tuple[dict[str, Any], str]:  # fmt: skip
    """Run `pgkeep backup --json`; return its document and what it said on standard error."""
    variables = invoke.environment(server, database, BACKUP_DIR=str(directory), **env)
    status, out, err = invoke.complete("backup", "--json", *args, env=variables)
    assert status == code, out + err
    assert "Traceback" not in err
    return report(out), err


def names(document: dict[str, Any]) -> list[str]:
    return [one["database"]["name"] for one in document["backups"]]


def reader(server: Server, disposables: Disposables, *databases: str) -> str:
    """Return a role that may read every table of these databases."""
    role = disposables.role(server)
    for name in databases:
        servers.sql(server, name, f"alter table t owner to {role}")
    return role


def test_one_broken_database_stops_no_other(
    cluster: Server, directory: Path, disposables: Disposables
) -> None:
    """B4, B5, B24, B25: the others are published and cleaned up; the broken one loses nothing."""
    good, bad, last = (disposables.database(cluster) for _ in range(3))
    for name in (good, bad, last):
        servers.sql(cluster, name, f"create table t as select $${ROW}$$::text")
    role = reader(cluster, disposables, good, last)
    old = {}
    for name in (good, bad):
        old[name] = [
            planted.plant(directory, planted.manifest(NOW - age * DAY, kind, database=name,
                                                cluster=planted.cluster_of(cluster)))
            for age, kind in ((1, "daily"), (2, "daily"), (3, "weekly"), (40, "daily"))
        ]  # fmt: skip
    run = (cluster, good, directory, DAILY)
    several: dict[str, Any] = {"PGUSER": role, "BACKUP_DATABASES": f"{good}, {bad},{last}"}
    variables = invoke.environment(cluster, good, BACKUP_DIR=str(directory), **several)
    code, out, err = invoke.complete("doctor", env=variables)
    assert (code, err) == (4, "error: a backup would fail: 1 finding above\n")
    assert f"{cluster.host}:{cluster.port}, role {role}\n" in out
    assert [line for line in out.splitlines() if line.startswith("database ")] == [
        f"database   {name}, 1 table" for name in (good, bad, last)
    ]
    assert re.search(f"(?m)^error: {bad}: role {role} is not allowed to read public.t$", out), out
    document, said = backup(*run, code=11, **several)
    assert names(document) == [good, last]
    (failed,) = document["failed"]
    assert (failed["database"], failed["exit_code"]) == (bad, 4)
    assert "is not allowed to read public.t" in failed["error"]
    assert f"GRANT pg_read_all_data TO {role}" in failed["hint"]
    assert f"\nerror: 1 of 3 databases failed: {bad}\nhint: " in said
    assert document["removed"] == [old[good][-1].name.stem]
    there = set(invoke.left_over(directory))
    assert not there & set(old[good][-1].name.files)
    assert {file for one in old[bad] for file in one.name.files} <= there
    assert not [name for name in there if ".partial-" in name]

    servers.sql(cluster, bad, f"alter table t owner to {role}")
    document, _ = backup(*run, **several)
    assert names(document) == [good, bad, last]
    assert document["removed"] == [old[bad][-1].name.stem]


def test_all_broken(cluster: Server, directory: Path, app: str) -> None:
    """B24: one that cannot be reached has its own exit code, several have theirs."""
    _, said = backup(cluster, app, directory, code=3, BACKUP_DATABASES="missing")
    assert 'database "missing" does not exist' in said
    _, said = backup(cluster, app, directory, code=11, BACKUP_DATABASES="missing,gone")
    assert "2 of 2 databases failed: missing, gone" in said
    assert invoke.left_over(directory) == []


def test_what_the_server_refuses_where_nobody_expects_it(
    cluster: Server, directory: Path, disposables: Disposables
) -> None:
    """B25: no other database goes without its backup, and nobody sees a traceback."""
    bare, good = disposables.database(cluster), disposables.database(cluster)
    servers.sql(cluster, bare, "revoke execute on function pg_is_in_recovery() from public")
    servers.sql(cluster, good, "create table t as select 1 a")
    env = {"PGUSER": reader(cluster, disposables, good)}
    refused = "permission denied for function pg_is_in_recovery"
    document, _ = backup(
        cluster, bare, directory, code=11, BACKUP_DATABASES=f"{bare},{good}", **env
    )
    assert names(document) == [good]
    assert [one["error"] for one in document["failed"]] == [f"the server refused: {refused}"]
    _, said = backup(cluster, bare, directory, code=4, **env)
    assert said.startswith(f"error: the server refused: {refused}")
    variables = invoke.environment(cluster, bare, BACKUP_DIR=str(directory), **env)
    assert f"the server refused: {refused}" in invoke.run("doctor", env=variables, code=3)


def test_a_cluster_that_does_not_tell_its_identifier(
    cluster: Server, directory: Path, disposables: Disposables
) -> None:
    """A4.6: a managed service can revoke pg_control_system(); host and port identify the cluster.

    The substitute is the same each night, so that retention, drift and status go on.
    """
    name = disposables.database(cluster)
    servers.sql(cluster, name, "revoke execute on function pg_control_system() from public")
    servers.sql(cluster, name, "create table t as select 1 a")
    role = reader(cluster, disposables, name)
    run = (cluster, name, directory, DAILY)
    made = [backup(*run, PGUSER=role)[0]["backups"][0] for _ in range(2)]
    warning = "is not allowed to execute pg_control_system(): backups identify the cluster by host"
    assert [warning in str(one["warnings"]) for one in made] == [True, True]
    (identifier,) = {one["server"]["system_identifier"] for one in made}
    assert re.fullmatch("host-[0-9a-f]{16}", identifier)
    variables = invoke.environment(cluster, name, BACKUP_DIR=str(directory), PGUSER=role)
    remedy = f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO {role};"
    assert remedy in "".join(invoke.outputs("doctor", env=variables))
    assert "ok: 1 database is within the goals" in invoke.run("status", env=variables)
    artifact = directory / made[0]["artifact"]["name"]
    invoke.restore(cluster, artifact, disposables.name(cluster))
    servers.sql(cluster, name, remedy)
    (own,) = backup(*run, PGUSER=role)[0]["backups"]
    assert own["server"]["system_identifier"] == planted.cluster_of(cluster)
    assert warning not in str(own["warnings"])


def test_names_of_others_that_are_no_text(
    cluster: Server, directory: Path, app: str, disposables: Disposables
) -> None:
    """A3.14: made in a database of another encoding, they are nobody else's business."""
    latin = disposables.database(cluster, "encoding 'LATIN1' locale 'C'")
    servers.psql_bytes(cluster, latin, script=b'create role "b\xfcro"; create database "d\xfcb";')
    try:
        document, _ = backup(cluster, app, directory, code=11, BACKUP_DATABASES="*")
        assert document["failed"][0]["database"] != app, document["failed"]
        (artifact,) = directory.glob(f"{app}_*Z.sql.gz")
        target = disposables.name(cluster)
        invoke.restore(cluster, artifact, target)
        assert_same_database(cluster, app, cluster, target)
    finally:
        servers.psql_bytes(cluster, latin, script=b'drop role "b\xfcro"; drop database "d\xfcb";')
    assert {app, latin} <= set(names(document))


def test_every_database_is_found_again_each_night(
    cluster: Server, directory: Path, database: DatabaseFactory, disposables: Disposables
) -> None:
    """A3.15, A3.16: new ones; those that nobody excluded and nobody can read have failed.

    The hint of each either makes it readable or excludes it. Those that are gone are reported.
    """
    first, closed, denied, limited, invalid = (database(cluster) for _ in range(5))
    leaving, later = disposables.name(cluster), disposables.name(cluster)
    spare = database(cluster, name=f"scratch {first}")
    former = database(cluster, name=f"{first}__old_20260102T030405Z")
    drilled = database(cluster, name="pgkeep_drill_0123456789ab")
    copied = database(cluster, "is_template true")
    servers.sql(cluster, "postgres", f"create database {leaving}")
    for statement in (
        f"alter database {closed} allow_connections false",
        f"revoke connect on database {denied} from public",
        f"alter database {limited} connection limit 0",
        f"update pg_database set datconnlimit = -2 where datname = '{invalid}'",
    ):
        servers.sql(cluster, "postgres", statement)
    role = disposables.role(cluster)
    run = (cluster, "postgres", directory, DAILY)
    every: dict[str, Any] = {"PGUSER": role, "BACKUP_DATABASES": "*,!scratch*,temp_never*"}
    document, said = backup(*run, code=11, **every)
    assert set(names(document)) == {first, leaving, copied}
    failed = {one["database"]: (one["error"], one["hint"]) for one in document["failed"]}
    assert failed == {
        name: (problem, f"Run {remedy}; or exclude it with !{name} in BACKUP_DATABASES.")
        for name, problem, remedy in (
            (closed, f"database {closed} does not accept connections",
             f'ALTER DATABASE "{closed}" ALLOW_CONNECTIONS true'),
            (denied, f"role {role} has no CONNECT privilege on database {denied}",
             f'GRANT CONNECT ON DATABASE "{denied}" TO "{role}"'),
            (limited, f"database {limited} has connection limit 0",
             f'ALTER DATABASE "{limited}" CONNECTION LIMIT -1'),
            (invalid, f"database {invalid} is invalid: dropping it was interrupted",
             f'DROP DATABASE "{invalid}"'),
        )
    }  # fmt: skip
    assert {one["exit_code"] for one in document["failed"]} == {3}
    assert f"4 of 7 databases failed: {', '.join(sorted(failed))}" in said
    reasons = {one["database"]: one["reason"] for one in document["excluded"]}
    assert reasons == {
        spare: "excluded by !scratch*",
        former: "replaced by a restore",
        drilled: "used by a drill that runs or was interrupted",
        "postgres": "empty",
        "template0": "template of CREATE DATABASE",
        "template1": "template of CREATE DATABASE",
    }
    assert (document["dropped"], document["unmatched"]) == ([], ["temp_never*"])
    variables = invoke.environment(cluster, "postgres", BACKUP_DIR=str(directory), **every)
    code, out, err = invoke.complete("doctor", env=variables)
    assert code == 4, err
    for problem, remedy in failed.values():
        assert f"error: {problem}\n    {remedy}\n" in out
    assert "warning: no database matches temp_never*\n" in out
    assert "excluded   template0, template of CREATE DATABASE\n" in out
    # Where only one is selected, its own exit code and hint are those of the run.
    alone = variables | {"BACKUP_DATABASES": f"{limited[:-1]}?"}
    said = invoke.run("backup", env=alone, code=3)
    assert f"error: database {limited} has connection limit 0\nhint: Run ALTER" in said
    kept = invoke.left_over(directory)

    servers.sql(cluster, "postgres", f"drop database {leaving}")
    servers.sql(cluster, "postgres", f"create database {later}")
    servers.sql(cluster, "postgres", failed[denied][1].partition(";")[0].removeprefix("Run "))
    servers.sql(cluster, "postgres", f"update pg_database set datconnlimit = -1"
                               f" where datname = '{invalid}'")  # fmt: skip
    variables["BACKUP_DATABASES"] = f"*,!{closed},!{limited},!scratch*"
    code, out, err = invoke.complete("backup", DAILY, env=variables)
    assert code == 0, err
    for name in (later, denied, invalid):
        assert f"/{name}_daily_" in out
    assert f"/{leaving}_daily_" not in out
    assert f"warning: {leaving}: no longer on the server; its backups are kept" in err
    assert f"{closed} (excluded by !{closed})" in err
    assert {name for name in kept if name.startswith(leaving)} <= set(invoke.left_over(directory))
    servers.sql(cluster, "postgres", f"alter database {copied} is_template false")
    servers.sql(cluster, "postgres", f"revoke connect on database {denied} from {role}")


def test_postgres_is_backed_up_where_it_holds_anything(
    cluster: Server, directory: Path, app: str, disposables: Disposables
) -> None:
    """A3.16: an empty one is excluded, unless it is named or was backed up before."""
    role = disposables.role(cluster, "superuser")
    run = (cluster, app, directory, DAILY)
    every: dict[str, Any] = {"PGUSER": role, "BACKUP_DATABASES": f"{app[:-1]}?,p*s"}
    assert names(backup(*run, **every)[0]) == [app]
    servers.sql(cluster, "postgres", "create schema used")
    try:
        assert names(backup(*run, **every)[0]) == ["postgres", app]
    finally:
        servers.sql(cluster, "postgres", "drop schema used")
    # Otherwise its last backup would get old, and be missed.
    assert names(backup(*run, **every)[0]) == ["postgres", app]
    elsewhere = (*run[:2], directory / "b", DAILY)
    document, _ = backup(*elsewhere, "--database=postgres", f"--database={app}", **every)
    assert names(document) == ["postgres", app]
    assert document["excluded"] == []
    for selected, said in (
        ("template?", "every database that matches template? is excluded"),
        ("no*such,never?", "no database of the server matches no*such,never?"),
    ):
        _, err = backup(*run, code=2, BACKUP_DATABASES=selected)
        assert f"error: no database to back up: {said}\n" in err


def test_roles_are_dumped_once_a_run(cluster: Server, app: str, tmp_path: Path) -> None:
    """Each database's backup holds them all the same."""
    counter = tmp_path / "executions"
    path = faults.path_with(
        tmp_path / "bin", cluster, {"pg_dumpall": f'echo x >>{counter}; exec "$real" "$@"'}
    )
    backups = tmp_path / "backups"
    document, _ = backup(
        cluster, app, backups, PATH=path, BACKUP_DATABASES=f"{app},postgres,template1"
    )
    assert len(document["backups"]) == 3
    assert counter.read_text() == "x\n"
    dumps = {(backups / one["globals"]["name"]).read_bytes() for one in document["backups"]}
    assert len(dumps) == 1


def plant_years(directory: Path, cluster: Server, database: str) -> list[Manifest]:
    identifier = planted.cluster_of(cluster)
    return [
        planted.plant(
            directory,
            planted.manifest(NOW - age * DAY, database=database, cluster=identifier),
        )
        for age in (700, 701, 702, 703)
    ]


def test_a_massacre_is_refused(cluster: Server, directory: Path, app: str) -> None:
    """B6, B7: the backup is published, its exit code is retention's; a person may insist."""
    old = plant_years(directory, cluster, app)
    document, said = backup(cluster, app, directory, DAILY, code=7)
    assert said.startswith(
        f"error: 4 of 5 verified backups of database {app} would be removed at once: nothing is"
        " removed\nhint: Check with pgkeep prune --dry-run"
    )
    (refused,) = document["retention"]
    assert (refused["database"], refused["exit_code"]) == (app, 7)
    assert document["removed"] == []
    (new,) = document["backups"]
    assert len(invoke.left_over(directory)) == 5 * 4
    env = invoke.environment(BACKUP_DIR=str(directory))
    invoke.run("verify", str(directory / new["artifact"]["name"]), env=env)
    invoke.run("prune", env=env, code=7)
    shown = invoke.run("prune", "--dry-run", env=env)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("REMOVE  daily: older than 7 days") == len(old)
    assert re.search("keep    one of the 1 newest verified\n +daily: within 7 days\n", shown)
    assert shown.endswith("done: would remove 4 backups of 5\n")
    assert len(invoke.left_over(directory)) == 5 * 4
    invoke.run("prune", "--force", env=env)
    assert invoke.left_over(directory) == sorted(
        new["artifact"]["name"].removesuffix(".sql.gz") + ending
        for ending in (".sql.gz", ".sql.gz.sha256", ".globals.sql.gz", ".manifest.json")
    )


def test_a_backup_from_the_future_stops_retention(
    cluster: Server, directory: Path, app: str
) -> None:
    """B7: whose clock is wrong, nobody knows."""
    planted.plant(
        directory,
        planted.manifest(NOW + DAY, database=app, cluster=planted.cluster_of(cluster)),
    )
    document, said = backup(cluster, app, directory, DAILY, code=7)
    assert f"backup {app}_daily_" in said
    assert "is from the future (now " in said
    assert len(document["backups"]) == 1
    assert len(faults.published(directory)) == 2


def test_the_newest_backup_must_be_one_that_is_meant(
    cluster: Server, directory: Path, app: str
) -> None:
    """B7, C26: neither an old one that a wrong clock has dated, nor another cluster's."""
    env = invoke.environment(cluster, app, BACKUP_DIR=str(directory))
    latest = ("restore", "--latest", "--target-db=elsewhere", "--dry-run")
    ours = planted.cluster_of(cluster)
    planted.plant(directory, planted.manifest(NOW - 2 * DAY, database=app, cluster=ours))
    assert "warnings" not in backup(cluster, app, directory)[0]["backups"][0]
    invoke.run(*latest, env=env)

    ahead = planted.plant(directory, planted.manifest(NOW + DAY, database=app, cluster=ours))
    said = invoke.run(*latest, env=env, code=9)
    assert f"backup {ahead.name.stem} is from the future (now " in said
    for file in ahead.name.files:
        (directory / file).unlink()

    planted.plant(directory, planted.manifest(NOW - DAY, database=app))
    said = invoke.run(*latest, env=env, code=9)
    assert f"{directory} has backups of 2 clusters that have a database {app}" in said
    (made,) = backup(cluster, app, directory)[0]["backups"]
    (said,) = made["warnings"]
    assert f"2 clusters have backups of a database {app} in {directory}" in said
    invoke.run(
        "restore",
        f"--backup={made['artifact']['name']}",
        "--target-db=elsewhere",
        "--dry-run",
        env=env,
    )


def test_retention_is_for_one_database_after_its_success(
    cluster: Server, directory: Path, app: str
) -> None:
    """B5, B9: not for others' backups, not after a manual one, not with --no-prune."""
    identifier = planted.cluster_of(cluster)
    mine, *others = (
        [
            planted.plant(
                directory, planted.manifest(NOW - age * DAY, database=name, cluster=owner)
            )
            for age in (0.1, 1, 40)
        ]
        for name, owner in ((app, identifier), (app + "-2", identifier), (app + "_x", identifier),
                            (app + "_daily_20260101T000000Z", identifier), (app + "2", "7"))
    )  # fmt: skip
    stranger = planted.plant(
        directory, planted.manifest(NOW - 50 * DAY, database=app, cluster="another cluster")
    )
    foreign = directory / f"{app}_daily_20200101T000000Z.sql.gz"
    foreign.write_bytes(b"somebody's dump")
    before = set(invoke.left_over(directory))
    for args in (["--type=manual"], ["--type=auto", "--no-prune"], [DAILY, "--no-prune"]):
        document, _ = backup(cluster, app, directory, *args)
        assert document["removed"] == []
    assert before <= set(invoke.left_over(directory))
    document, _ = backup(cluster, app, directory, DAILY)
    assert document["removed"] == [mine[-1].name.stem]
    assert before - set(invoke.left_over(directory)) == set(mine[-1].name.files)
    assert set(stranger.name.files) <= set(invoke.left_over(directory))
    assert len(others) == 4


def test_tiers_are_verified_before_they_are_published(
    cluster: Server, directory: Path, app: str
) -> None:
    """B28: unless one says otherwise; and a month's first run is the monthly one."""
    kinds = []
    for args in (["--type=auto"], ["--type=auto"], ["--type=auto", "--no-verify"], [DAILY],
                 ["--type=weekly", "--no-verify"], [], ["--verify"]):  # fmt: skip
        document, _ = backup(cluster, app, directory, *args)
        (one,) = document["backups"]
        kinds.append((one["type"], "verified" in one))
    assert kinds == [
        ("monthly", True), ("daily", True), ("daily", False), ("daily", True),
        ("weekly", False), ("manual", False), ("manual", True),
    ]  # fmt: skip


def test_what_has_shrunk_is_told(cluster: Server, directory: Path, app: str) -> None:
    """F4, F5: an emptied table, fewer tables, a smaller file; once, and no row of them."""
    for n in range(8):
        servers.sql(cluster, app, f"create table extra{n} as select md5(g::text) from"
                            f" generate_series(1, 3000) g")  # fmt: skip
    document, said = backup(cluster, app, directory, DAILY)
    assert "drift" not in document["backups"][0]
    base = document["backups"][0]["artifact"]["name"].removesuffix(".sql.gz")
    servers.sql(
        cluster, app, "truncate t; drop table extra0, extra1, extra2, extra3, extra4, extra5"
    )
    # An unverified one is no measure of the next.
    backup(cluster, app, directory)
    env = invoke.environment(cluster, app, BACKUP_DIR=str(directory))
    code, _, said = invoke.complete("--log-format=json", "backup", DAILY, env=env)
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    warnings = [line["message"] for line in lines if line["level"] == "warning"]
    found = [json.loads((directory / one).read_bytes()) for one in faults.published(directory)]
    (manifest,) = (one for one in found if one["type"] == "daily" and "drift" in one)
    size = manifest["artifact"]["size"]
    assert warnings == [f"{app}: {one}" for one in manifest["drift"]]
    assert [re.sub(r"from \d+ to \d+ bytes", "", one) for one in manifest["drift"]] == [
        f"the backup shrank  since {base}",
        f"tables fell from 9 to 3 since {base}",
        f"rows of public.t fell from 1000 to 0 since {base}",
    ]
    assert f" to {size} bytes" in manifest["drift"][0]
    assert ROW not in said
    document, _ = backup(cluster, app, directory, DAILY)
    assert "drift" not in document["backups"][0]


def test_a_table_that_is_gone_is_told() -> None:
    """F5: unless it was a partition, of which others are there; small ones do as they like."""

    def of(**rows: int) -> Manifest:
        tables = [TableRows("s", name, count) for name, count in rows.items()]
        return msgspec.structs.replace(planted.manifest(NOW), tables=tables)

    before = of(a=1000, b=1000, c=1000, small=99, p_2026_01=1000, p_2026_02=1000, q1=1000)
    found = drift(before, of(a=1000, b=1000, p_2026_02=1000, p_2026_03=5), 0.9)
    since = f"since {before.name.stem}"
    assert found == [f"table s.{name} with 1000 rows is missing {since}" for name in ("c", "q1")]


def test_how_much_may_shrink_is_a_setting(cluster: Server, directory: Path, app: str) -> None:
    """F4: against the last verified backup; small tables do as they like."""
    servers.sql(cluster, app, "create table small as select generate_series(1, 99)")
    found = []
    for statement, share in (
        ("", "50"), ("delete from t where a > 501", "50"), ("delete from t where a > 201", "70"),
        ("delete from t where a > 150", "10"), ("truncate t", "100"), ("truncate small", "1"),
    ):  # fmt: skip
        servers.sql(cluster, app, statement or "select 1")
        document, _ = backup(cluster, app, directory, DAILY, BACKUP_DRIFT=share)
        drift = document["backups"][0].get("drift", [])
        found.append([one.split(" since")[0] for one in drift if one.startswith("rows")])
    assert found == [[], [], [], ["rows of public.t fell from 201 to 150"], [], []]


# What is run, and how it ends; {dir} is the directory, {app} a database.
ENDINGS: dict[str, tuple[list[str], dict[str, str], int]] = {
    "done": (["backup", DAILY], {}, 0),
    "done, JSON": (["backup", DAILY, "--json"], {}, 0),
    "several": (["backup"], {"BACKUP_DATABASES": "postgres,{app}"}, 0),
    "pruned": (["prune"], {}, 0),
    "dry run": (["prune", "--dry-run", "--json"], {}, 0),
    "no such command": (["bakcup"], {}, 2),
    "no such option": (["backup", "--typ"], {}, 2),
    "no such type": (["backup", "--type=hourly"], {}, 2),
    "seven": (["backup"], {"BACKUP_RETENTION_DAILY": "seven"}, 2),
    "bad URL": (["backup"], {"DATABASE_URL": "postgresql://u:s3cret@[x"}, 2),
    "no server": (["backup"], {"DATABASE_URL": "postgresql://u:s3cret@127.0.0.1:1/x"}, 3),
    "no database": (["backup", "--database=missing"], {}, 3),
    "dump": (["backup"], {"PATH": "{liars}"}, 4),
    "damaged": (["verify", "{dir}/cut.sql.gz"], {}, 5),
    "no file": (["verify", "{dir}/none.sql.gz"], {}, 6),
    "refused": (["release", "0000abcd"], {}, 9),
    "nothing there": (["restore", "--latest"], {}, 9),
    "some": (["backup", "--json"], {"BACKUP_DATABASES": "{app},missing"}, 11),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_log_is_json_and_ends_with_the_outcome(
    cluster: Server, directory: Path, app: str, tmp_path: Path, ending: str
) -> None:
    """F17, B24, A7.2: every line; no secret, no row."""
    args, extra, code = ENDINGS[ending]
    directory.mkdir()
    (directory / "cut.sql.gz").write_bytes(b"\x1f\x8b\x08")
    said = f"""
        echo 'pg_dump: error: Dumping the contents of table "t" failed' >&2
        echo 'CONTEXT:  COPY t, line 1: "{ROW.replace("'", "")}"' >&2; exit 1"""
    liars = faults.path_with(tmp_path / "bin", cluster, {"pg_dump": said})
    places = {"dir": str(directory), "app": app, "liars": liars}
    env = invoke.environment(
        cluster, app, BACKUP_DIR=str(directory), PGPASSWORD="s3cret",
        **{name: value.format(**places) for name, value in extra.items()},
    )  # fmt: skip
    given = ["--log-format=json", *(argument.format(**places) for argument in args)]
    status, out, err = invoke.complete(*given, env=env, seconds=60)
    assert status == code, out + err
    records = [json.loads(line) for line in err.splitlines()]
    for record in records:
        assert {"time", "level", "message"} <= record.keys()
        assert datetime.fromisoformat(record["time"]).tzinfo is not None
    last = records[-1]
    assert last["exit_code"] == code
    assert last["level"] == ("error" if code else "info")
    assert [record for record in records if "exit_code" in record] == [last]
    for secret in ("s3cret", ROW, ROW.replace("'", "")):
        assert secret not in out + err
    if "--json" in args:
        json.loads(out)


def test_files_of_lost_manifests_are_adopted(cluster: Server, directory: Path, app: str) -> None:
    """Verified to the end first; what is not whole, or not what it is called, stays out."""
    artifact = invoke.backup(cluster, app, directory, DAILY)
    env = invoke.environment(BACKUP_DIR=str(directory))
    manifest = directory / artifact.name.replace(".sql.gz", ".manifest.json")
    before = decode(manifest.read_bytes(), "before")
    assert "has a manifest already" in invoke.run("adopt", str(artifact), env=env, code=9)
    manifest.unlink()
    assert invoke.run("list", env=env) == f"no backups in {directory}\n"
    invoke.run("adopt", artifact.name, env=env)
    after = decode(manifest.read_bytes(), "after")
    for field in ("database", "server", "type", "taken", "snapshot", "artifact", "tables", "roles"):
        assert getattr(after, field) == getattr(before, field), field
    assert after.verified is not None
    assert invoke.run("restore", "--latest", "--verify-only", env=env)

    manifest.unlink()
    for name, code, reason in (
        ("precious.sql.gz", 9, "does not have the name of a backup file"),
        (artifact.name.replace("daily", "hourly"), 9, "does not have the name of a backup file"),
        (
            artifact.name.replace(app, "app"),
            5,
            f"contains database {app}, expected app according to its name",
        ),
        (artifact.name.replace(".sql.gz", "_schema.sql.gz"), 5, "expected definitions only"),
    ):
        shutil.copy(artifact, directory / name)
        assert reason in invoke.run("adopt", str(directory / name), env=env, code=code)
        (directory / name).unlink()
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    invoke.run("adopt", str(artifact), env=env, code=5)
    artifact.write_bytes(data[:-10])
    invoke.run("adopt", str(artifact), env=env, code=5)
    assert not manifest.exists()


def test_what_is_missing_is_shown(cluster: Server, directory: Path, app: str) -> None:
    """C30, E5: a file that is gone or cut; the newest whole one is the latest."""
    whole = invoke.backup(cluster, app, directory)
    gone, cut = (invoke.backup(cluster, app, directory, "--verify") for _ in range(2))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    env = invoke.environment(BACKUP_DIR=str(directory))
    lines = invoke.run("list", env=env).splitlines()
    assert [line[60:] for line in lines[2:]] == ["not verified", "missing", "missing"]
    assert max(map(len, lines)) <= 80
    listed = json.loads(invoke.run("list", "--json", env=env))
    assert [one["missing"] for one in listed] == [False, True, True]
    assert whole.name in invoke.run("restore", "--latest", "--verify-only", env=env)


def test_the_list_fits_a_terminal(tmp_path: Path) -> None:
    """80 columns, whatever the numbers, and a space between any two."""
    size = 999_940_000_000
    for age, kind, verified, schema in ((3000, "monthly", False, True), (0, "daily", True, False)):
        one = planted.manifest(NOW - age * DAY, kind, verified=verified, schema=schema)
        one = msgspec.structs.replace(
            one,
            artifact=FileFacts(one.name.artifact, size, "0"),
            tables=[TableRows("public", "t", 12_345_678_901)],
        )
        planted.plant(tmp_path, one)
        os.truncate(tmp_path / one.name.artifact, size)
    lines = invoke.run("list", env=invoke.environment(BACKUP_DIR=str(tmp_path))).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split()[3:] == [
        "3000", "d", "monthly", "999.9", "GB", "12.3", "G", "schema,", "not", "verified",
    ]  # fmt: skip


def test_times_of_files_mean_nothing(tmp_path: Path) -> None:
    """B8: a copy to another disk changes no decision."""
    for age in range(40):
        planted.plant(tmp_path, planted.manifest(NOW - age * DAY, policy=Policy()))
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    looks = (["prune", "--dry-run", "--json"], ["list", "--json"])
    before = [invoke.run(*args, env=env) for args in looks]
    planted.touch_all(tmp_path)
    assert [invoke.run(*args, env=env) for args in looks] == before
    invoke.run("prune", env=env)
    assert len(faults.published(tmp_path)) == 7


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/Adak"])
def test_names_are_in_utc(cluster: Server, directory: Path, app: str, zone: str) -> None:
    """B13: whatever the machine's and pgkeep's time zones are."""
    before = datetime.now(UTC).replace(microsecond=0)
    artifact = invoke.backup(cluster, app, directory, TZ=zone, BACKUP_TIMEZONE=zone)
    parsed = naming.parse(artifact.name)
    assert parsed is not None
    assert before <= parsed.taken <= datetime.now(UTC)


@pytest.mark.parametrize("place", ["one directory", "two directories"])
def test_of_two_runs_one_works(cluster: Server, app: str, tmp_path: Path, place: str) -> None:
    """B11, B12: started together five times; the other ends at once with its own code.

    The one that works is killed each time, and in nobody's way the next time.
    """
    path = faults.path_with(tmp_path / "bin", cluster, {"pg_dump": faults.gate(tmp_path / "gate")})
    tries = []
    for n in range(5):
        logged = cluster.log.stat().st_size
        env = [
            {
                "BACKUP_DIR": str(tmp_path / one),
                "PATH": path,
                "PGOPTIONS": "-c log_statement=all",
            }
            for one in ("ab" if place == "two directories" else "aa")
        ]
        with (
            Run(cluster, app, "backup", env=env[n % 2]) as first,
            Run(cluster, app, "backup", env=env[1 - n % 2]) as second,
        ):
            runs = [first, second]
            loser, winner = faults.eventually(partial(by_ending, runs), "a refusal")
            said = loser.ends(10)
            held = f"{tmp_path}/a" if place == "one directory" else "another host or directory"
            assert f"backup of database {app} is already running (lock held from {held})" in said
            faults.eventually(lambda: faults.waiting_at(tmp_path / "gate"), "the dump")
            assert winner.process.poll() is None
        for marker in faults.waiting_at(tmp_path / "gate"):
            marker.unlink()
        tries.append(cluster.log.read_bytes()[logged:].count(b"pg_try_advisory_lock"))
    # Ten a second until LOCK_PATIENCE, unless it sees that the holder is alive.
    assert 0 < min(tries) < 10, tries
    invoke.backup(cluster, app, tmp_path / "a")
    assert len(faults.published(tmp_path / "a")) == 1


def by_ending(runs: list[Run]) -> list[Run]:
    """Once one has ended: that one first."""
    ended = [run for run in runs if run.process.poll() is not None]
    return ended + [run for run in runs if run not in ended] if ended else []


def test_of_two_runs_over_all_databases_one_works(
    cluster: Server, app: str, tmp_path: Path
) -> None:
    """B11, B12: not each a part of them; and one that was killed is in nobody's way."""
    gate = tmp_path / "gate"
    path = faults.path_with(tmp_path / "bin", cluster, {"pg_dump": faults.gate(gate)})

    def env(directory: str, **extra: str) -> dict[str, str]:
        return invoke.environment(
            cluster, app, BACKUP_DIR=str(tmp_path / directory),
            BACKUP_DATABASES=f"postgres,{app}", **extra,
        )  # fmt: skip

    first = launcher.start(["backup"], env("a", PATH=path))
    try:
        faults.eventually(lambda: faults.waiting_at(gate), "the first dump")
        for directory in ("a", "b"):
            said = invoke.run("backup", env=env(directory), code=10)
            assert "a backup of several databases of this server is already running" in said
        # Others may go on: one alone that is not being backed up.
        invoke.run("backup", f"--database={app}", env=env("c"))
    finally:
        first.kill()
        first.communicate()
    assert faults.published(tmp_path / "a") == []
    document = report(invoke.run("backup", "--json", env=env("a")))
    shutil.rmtree(gate)
    assert names(document) == ["postgres", app]
    assert len(faults.published(tmp_path / "a")) == 2


def test_a_damaged_manifest_does_not_stop_the_night(
    cluster: Server, directory: Path, app: str
) -> None:
    """B4: told in each run of its database and by list, touched by none."""
    mine = planted.plant(directory, planted.manifest(NOW - 100 * DAY, database=app))
    other = planted.plant(directory, planted.manifest(NOW - 100 * DAY, database="other"))
    (directory / mine.name.manifest).write_bytes(b"")
    (directory / other.name.manifest).write_bytes(b'{"format": 99}')
    env = invoke.environment(cluster, app, BACKUP_DIR=str(directory))
    code, _, said = invoke.complete("backup", "--type=auto", env=env)
    assert code == 0, said
    assert f"warning: {mine.name.manifest} is not a manifest of pgkeep" in said
    assert said.count("warning: ") == 1
    _, out, said = invoke.complete("list", env=env)
    assert f"warning: {other.name.manifest} has format 99" in said
    assert said.count("warning: ") == 2
    assert out.count("monthly") == 1
    for one in (mine, other):
        assert set(one.name.files) <= set(invoke.left_over(directory))


def test_another_run_may_prune_while_we_look(tmp_path: Path) -> None:
    """B10: what vanishes between listing and reading is simply gone."""
    for age in range(150):
        planted.plant(tmp_path, planted.manifest(NOW - age * DAY))
    catalog = Catalog(LocalStore(tmp_path))
    decisions = retention.decide(
        [one.manifest for one in catalog.backups()], Policy(), NOW, largest_share=1.0
    )
    thread = threading.Thread(target=prune.prune, args=(catalog, decisions))
    thread.start()
    looks = []
    reader = Catalog(LocalStore(tmp_path))
    while thread.is_alive():
        looks.append(len(reader.backups()))
        assert reader.unreadable == []
    thread.join()
    assert looks == sorted(looks, reverse=True)
    assert len(reader.backups()) == 7


def test_of_many_databases_only_the_manifests_of_one_are_read(tmp_path: Path) -> None:
    """Or a run over all of them would read everything as often as there are databases."""
    opened: list[str] = []

    class Watched(LocalStore):
        def open(self, name: str) -> LocalSource:
            opened.append(name)
            return super().open(name)

    ours = planted.plant(tmp_path, planted.manifest(NOW))
    for name in ("app-2", "ap", "app_daily"):
        planted.plant(tmp_path, planted.manifest(NOW, database=name))
    (tmp_path / "other_daily_20260101T000000Z.manifest.json").write_text("{")
    catalog = Catalog(Watched(tmp_path))
    assert catalog.of("1", "app") == [ours]
    assert opened == [ours.name.manifest]
    assert catalog.unreadable == []


def test_artifacts_without_a_manifest_are_told(tmp_path: Path) -> None:
    """C: a colleague has copied only the files that look like backups."""
    one = planted.plant(tmp_path, planted.manifest(NOW))
    (tmp_path / one.name.manifest).unlink()
    env = invoke.environment(BACKUP_DIR=str(tmp_path))
    _, _, err = invoke.complete("list", env=env)
    assert err == f"warning: {one.artifact.name} has no manifest: pgkeep adopt FILE recreates it\n"
    said = invoke.run("restore", "--latest", "--target-db=x", env=env, code=9)
    assert (
        f"hint: The manifest of {one.artifact.name} is missing. Recreate it with: pgkeep adopt"
        in said
    )


def test_thousands_are_listed(tmp_path: Path) -> None:
    """One line for each and no more work than that."""
    for n in range(2000):
        one = planted.manifest(NOW - n * timedelta(hours=6), database=f"db{n % 5}")
        (tmp_path / one.name.manifest).write_bytes(encode(one))
    done = subprocess.run(
        [invoke.PGKEEP, "list", f"--dir={tmp_path}"],
        capture_output=True, check=True, timeout=30, env=invoke.environment(),
    )  # fmt: skip
    assert done.stdout.count(b"\n") == 2000 + 5 + 1
