"""The ways back that are tried, each a function that returns what it has shown."""

import gzip
import json
import re
from collections.abc import Callable

from pgkeep.postgres.server import Server
from tests.support import servers

from . import facts
from .lab import Lab, Step
from .source import DATABASE, settings

# Chosen over many kinds.
TABLES = {
    "public.tenk1": "10,000 rows, four indexes",
    "public.cmdata1": "large values (TOAST), compression by column",
    "public.tab_core_types": "a column of every built-in type, domains",
    "public.arrtest": "arrays of several dimensions",
    "public.textrange_test": "a range type of the database",
    "public.test_tbl3": "a composite type",
    "public.persons": "a typed table (OF)",
    "public.spgist_domain_tbl": "SP-GiST over a domain",
    "public.brintest": "BRIN over 30 columns",
    "public.testjsonb": "jsonb with GIN",
    "public.mcv_lists_arrays": "extended statistics",
    "public.test_range_excl": "exclusion constraints",
    "public.gtest25": "generated columns",
    "public.gtest20b": "a NOT VALID constraint that rows violate",
    "public.itest13": "two identity columns",
    "public.itest17": "unlogged, identity columns",
    "public.main_table": "row, statement and column triggers",
    "public.pslot": "triggers that name tables without schema",
    "public.rtest_emp": "rules",
    "regress_rls_schema.rls_tbl_force": "policies, forced row security",
    "public.clstr_tst": "CLUSTER ON, a foreign key, a child table",
    "public.stud_emp": "several parents (INHERITS)",
    "public.check_con_tbl": "CHECK by a function over the row type",
    "public.mlparted": "partitions on two levels",
    "public.fk_partitioned_fk": "partitions with foreign keys",
    "public.pht1": "hash partitions",
}

# The server of the wheel has neither ICU nor libxml nor lz4, and finds a library without a folder.
# Since 16 a column cannot be generated in a child table alone.
MOVABLE = """
DROP TABLE gtest_normal_child, gtest_normal_child2;
DROP COLLATION coll_icu_upgrade;
UPDATE pg_proc SET probin = regexp_replace(probin, '^.*/', '') WHERE probin ~ '/regress';
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT oid::regclass::text AS "table", relkind FROM pg_class
        WHERE relnamespace >= 2200 AND (relkind = 'v' AND pg_get_viewdef(oid) ~* 'xml'
            OR relkind = 'r' AND EXISTS (
                SELECT FROM pg_attribute WHERE attrelid = oid AND atttypid = 'xml'::regtype))
    LOOP
        IF to_regclass(one.table) IS NOT NULL THEN
            EXECUTE format('DROP %s %s CASCADE',
                CASE one.relkind WHEN 'r' THEN 'TABLE' ELSE 'VIEW' END, one.table);
        END IF;
    END LOOP;
    FOR one IN SELECT attrelid::regclass AS "table", attname FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid
        WHERE attcompression = 'l' AND relkind IN ('r', 'p', 'm')
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER %I SET COMPRESSION pglz', one.table, one.attname);
    END LOOP;
END $$;
"""


def backup(lab: Lab) -> Step:
    """Back up, and verify the file."""
    step = Step("backup")
    said = lab.pgkeep(step, "backup", f"--database={DATABASE}", "--verify", "--json")
    name = json.loads(said)["backups"][0]["artifact"]["name"]
    lab.artifact = lab.folder / "backups" / name
    lab.pgkeep(step, "verify", str(lab.artifact))
    return step


def restore(lab: Lab) -> Step:
    """Restore under another name."""
    step = Step("restore")
    before = facts.counts(lab.server, DATABASE)
    lab.pgkeep(step, "restore", f"--backup={lab.artifact}", "--target-db=restored")
    lab.compare(step, "restored")
    after = facts.counts(lab.server, "restored")
    for kind, count in before.items():
        if count != after.get(kind, 0):
            step.add("number of", kind, str(count), str(after.get(kind, 0)))
    return step


def by_hand(lab: Lab) -> Step:
    """Restore without pgkeep, as the file itself says."""
    step = Step("zcat and psql", ["zcat FILE | psql -X -v ON_ERROR_STOP=1 -d by_hand"])
    name = lab.create(lab.server, "by_hand")
    lab.psql(step, lab.server, name, gzip.decompress(lab.artifact.read_bytes()), stop=True)
    lab.compare(step, name)
    return step


def drill(lab: Lab) -> Step:
    """Drill in a temporary server."""
    step = Step("drill")
    said = lab.pgkeep(step, "drill", f"--backup={lab.artifact}", "--json")
    outcome = json.loads(said) if said else {"findings": []}
    for finding in outcome["findings"]:
        step.add("finding", finding, "", "")
    return step


def data_only(lab: Lab) -> Step:
    """Definitions first, rows afterwards."""
    return _data_only(lab, "--data-only", "in_two", [])


def data_only_quiet(lab: Lab) -> Step:
    """Do the same without triggers."""
    return _data_only(lab, "--data-only --disable-triggers", "quiet", ["--disable-triggers"])


def _data_only(lab: Lab, title: str, name: str, options: list[str]) -> Step:
    step = Step(f"--schema-only, then {title}")
    common = ["restore", f"--backup={lab.artifact}", f"--target-db={name}"]
    lab.pgkeep(step, *common, "--schema-only")
    lab.pgkeep(step, *common, "--data-only", *options, "--yes")
    lab.compare(step, name)
    return step


def in_place(lab: Lab) -> Step:
    """Restore into an empty database, in one transaction."""
    step = Step("--in-place")
    name = lab.create(lab.server, "in_place")
    lab.pgkeep(
        step, "restore", f"--backup={lab.artifact}", f"--target-db={name}", "--in-place", "--yes"
    )
    lab.compare(step, name)
    return step


def tables_beside(lab: Lab) -> Step:
    """Restore single tables beside those that exist, and compare their rows."""
    name = lab.create(lab.server, "beside", "restored")
    step = Step("--table ... --as", ["pgkeep restore --backup=FILE --table=TABLE --as=twin"])
    for table in TABLES:
        single = Step(table)
        lab.pgkeep(
            single, "restore", f"--backup={lab.artifact}", f"--target-db={name}",
            f"--table={table}", "--as=twin", "--yes",
        )  # fmt: skip
        step.seconds += single.seconds
        step.differences += single.differences
        if single.has_failed:
            continue
        twin = f"{table.split('.', maxsplit=1)[0]}.twin"
        for kind, ask in (("rows of", facts.rows_of), ("parts of", facts.parts_of)):
            before, after = ask(lab.server, name, table), ask(lab.server, name, twin)
            if before != after:
                step.add(f"{kind} twin of", table, before, after)
        servers.sql(lab.server, name, f"drop table {twin} cascade")
    return step


def tables_instead(lab: Lab) -> Step:
    """Replace single tables, and compare the whole database with what it was before."""
    name = lab.create(lab.server, "instead", "restored")
    step = Step(
        "--table ... --drop-existing",
        ["pgkeep restore --backup=FILE --table=TABLE --drop-existing"],
    )
    for table in TABLES:
        lab.pgkeep(
            step, "restore", f"--backup={lab.artifact}", f"--target-db={name}",
            f"--table={table}", "--drop-existing", "--yes", shown=False,
        )  # fmt: skip
    step.differences += facts.differences(
        (lab.server, "restored"), (lab.server, name), database=False
    )
    return step


def some_rows(lab: Lab) -> Step:
    """Delete every second row of single tables, and restore the missing ones."""
    name = lab.create(lab.server, "some_rows", "restored")
    step = Step("--table ... --where", ["pgkeep restore --backup=FILE --table=TABLE --where=true"])
    for table in TABLES:
        before = facts.rows_of(lab.server, name, table)
        servers.sql(
            lab.server, name,
            "set session_replication_role = replica;"
            f" delete from only {table} where (ctid::text::point)[1]::int % 2 = 0",
        )  # fmt: skip
        lab.pgkeep(
            step, "restore", f"--backup={lab.artifact}", f"--target-db={name}",
            f"--table={table}", "--where=true", "--yes", shown=False,
        )  # fmt: skip
        after = facts.rows_of(lab.server, name, table)
        if before != after:
            step.add("rows of", table, before, after)
    return step


def read(lab: Lab) -> Step:
    """Read the file by show and cat."""
    step = Step("show and cat")
    shown = json.loads(lab.pgkeep(step, "show", str(lab.artifact), "--json"))
    tables = servers.sql(
        lab.server, DATABASE,
        "select count(*) from pg_class where relkind = 'r' and relnamespace >= 2200"
        " and relnamespace <> 'information_schema'::regnamespace",
    )  # fmt: skip
    _same(step, "tables of", "show", str(tables[0][0]), str(len(shown["tables"])))
    whole = gzip.decompress(lab.artifact.read_bytes())
    written = lab.pgkeep(step, "cat", str(lab.artifact))
    _same(step, "SQL of", "cat", "as zcat", "as zcat" if whole.startswith(written) else "other")
    rows = re.findall(
        rb"^\d+\t", lab.pgkeep(step, "cat", str(lab.artifact), "--table=public.tenk1"), re.M
    )
    _same(step, "rows of", "cat --table", "10000", str(len(rows)))
    head = lab.pgkeep(step, "show", str(lab.artifact), "--table=public.tenk1", "--head=5")
    _same(step, "rows of", "show --head", "6", str(len(head.splitlines())))
    return step


def _same(step: Step, kind: str, name: str, before: str, after: str) -> None:
    if before != after:
        step.add(kind, name, before, after)


def index(lab: Lab) -> Step:
    """Index a plain dump of pg_dump, and restore that."""
    return _index(lab, [])


def index_clean(lab: Lab) -> Step:
    """Index a dump that names, creates and cleans its database."""
    return _index(lab, ["--create", "--clean", "--if-exists"])


def index_inserts(lab: Lab) -> Step:
    """Index a dump of INSERT statements."""
    return _index(lab, ["--column-inserts", "--rows-per-insert=500"])


def _index(lab: Lab, options: list[str]) -> Step:
    title = " ".join(["pg_dump", *options])
    step = Step(f"index of {title}", [f"{title} >FILE.sql"])
    name = "indexed" + str(len(options))
    dump = lab.folder / f"{name}.sql"
    dump.write_bytes(servers.dump(lab.server, DATABASE, *options))
    output = lab.folder / name
    arguments = [] if "--create" in options else [f"--database={DATABASE}"]
    lab.pgkeep(step, "index", str(dump), f"--output={output}", *arguments)
    (made,) = [path for path in output.glob("*.sql.gz") if ".globals." not in path.name] or [dump]
    lab.pgkeep(step, "verify", str(made))
    lab.pgkeep(step, "restore", f"--backup={made}", f"--target-db={name}")
    if not servers.sql(
        lab.server, "postgres", f"select 1 from pg_database where datname = '{DATABASE}'"
    ):
        raise AssertionError("restoring an indexed dump dropped the live database")
    lab.compare(step, name)
    return step


def plain(lab: Lab) -> Step:
    """Restore a plain dump that was not indexed."""
    step = Step("restore of a plain dump", ["pg_dump >FILE.sql"])
    dump = lab.folder / "plain.sql"
    dump.write_bytes(servers.dump(lab.server, DATABASE))
    lab.pgkeep(step, "restore", f"--backup={dump}", "--target-db=from_plain")
    lab.compare(step, "from_plain")
    return step


def newest_programs(lab: Lab) -> Step:
    """Back up by the newest pg_dump, and restore that into the same old server."""
    step = Step("backup by pg_dump of 18")
    folder = lab.folder / "newest"
    said = lab.pgkeep(
        step, "backup", f"--database={DATABASE}", f"--dir={folder}", "--verify", "--json",
        newest=True,
    )  # fmt: skip
    if not step.has_failed:
        made = folder / json.loads(said)["backups"][0]["artifact"]["name"]
        lab.pgkeep(step, "restore", f"--backup={made}", "--target-db=by_newest", newest=True)
    lab.compare(step, "by_newest")
    return step


def to_17(lab: Lab) -> Step:
    """Restore into a newer server, which has neither ICU nor the tests' library."""
    step = Step("restore into 17, unsupported objects skipped")
    target = lab.servers(17)
    said = lab.pgkeep(
        step, "restore", f"--backup={lab.artifact}", "--target-db=newer", "--portable",
        "--keep-going", "--json", server=target, code=8,
    )  # fmt: skip
    report = json.loads(said)
    for detail in report.get("details", ()):
        step.add("failed", detail, "", "")
    kept = re.search(r"kept as (\S+)", report["error"])
    assert kept is not None, report
    lab.compare(step, kept[1], target)
    return step


def portable(lab: Lab) -> Step:
    """Restore as a role without any rights but that to create a database."""
    step = Step("--portable as an ordinary role")
    servers.sql(lab.server, "postgres", "create role ordinary login createdb")
    said = lab.pgkeep(
        step, "restore", f"--backup={lab.artifact}", "--target-db=portable", "--portable",
        "--keep-going", "--json", user="ordinary",
    )  # fmt: skip
    for detail in json.loads(said).get("details", ()):
        step.add("failed", detail, "", "")
    return step


def to_18(lab: Lab) -> Step:
    """Restore a copy into a newer server that finds its own library of the tests."""
    step = Step("restore into 18, with its own regress.so")
    name, folder = lab.create(lab.server, "movable", DATABASE), lab.folder / "movable"
    servers.sql(lab.server, name, MOVABLE)
    said = lab.pgkeep(step, "backup", f"--database={name}", f"--dir={folder}", "--json")
    made = folder / json.loads(said)["backups"][0]["artifact"]["name"]
    with Server(servers.bin_folder(18), settings=settings(18)) as target:
        lab.pgkeep(step, "restore", f"--backup={made}", f"--target-db={name}", server=target)
        lab.compare(step, name, target, source=name)
    return step


STEPS: tuple[Callable[[Lab], Step], ...] = (
    backup,
    restore,
    by_hand,
    drill,
    data_only,
    data_only_quiet,
    in_place,
    tables_beside,
    tables_instead,
    some_rows,
    read,
    index,
    index_inserts,
    plain,
    newest_programs,
    portable,
    to_17,
    to_18,
    index_clean,  # the last one: its dump drops the source's name
)
