"""Databases of many tables, partitions, columns or large objects, and of large values."""

from .subject import RESTORED, Command, Stage, Subject

FILE = "$(ls $BACKUP_DIR/*.sql.gz | grep -v '[.]globals[.]' | tail -n 1)"
BACKUP = Command(name="pgkeep backup", line="pgkeep -q backup --verify")
VERIFY = Command(name="pgkeep verify", line=f"pgkeep -q verify {FILE}")
SHOW = Command(name="pgkeep show", line=f"pgkeep show {FILE}")
OBJECTS = Command(name="pgkeep show --objects", line=f"pgkeep show {FILE} --objects")
RESTORE = Command(
    name="pgkeep restore",
    line=f"pgkeep -q restore --latest --target-db={RESTORED}",
    restores=True,
)
DRY_RUN = Command(
    name="pgkeep restore --dry-run",
    line=f"pgkeep -q restore --latest --target-db={RESTORED} --dry-run",
)
DRILL = Command(name="pgkeep drill", line="pgkeep -q drill")


def cat(table: str) -> Command:
    """Return the command that prints one table."""
    return Command(name="pgkeep cat --table", line=f"pgkeep cat {FILE} --table={table}")


def head(table: str) -> Command:
    """Return the command that prints the first rows of one table."""
    return Command(
        name="pgkeep show --table --head", line=f"pgkeep show {FILE} --table={table} --head=10"
    )


def one_table(table: str) -> tuple[Command, Command]:
    """Return the commands that restore one table: into its database, and into an empty one."""
    return (
        Command(
            name="pgkeep restore --table --drop-existing",
            line=f"pgkeep -q restore --latest --table={table} --drop-existing --yes",
        ),
        Command(
            name="pgkeep restore --table, into an empty database",
            line=f"createdb -T template0 {RESTORED}"
            f" && pgkeep -q restore --backup={FILE} --table={table} --target-db={RESTORED} --yes",
        ),
    )


# Rows of all tables, without a transaction for each of them.
SUMS = """
SELECT count(*), sum((xpath('//c/text()', counted))[1]::text::bigint),
    sum((xpath('//s/text()', counted))[1]::text::numeric)
FROM (SELECT query_to_xml(format(
    'SELECT count(*) AS c, coalesce(sum(hashtext(t::text)::bigint), 0) AS s FROM %s AS t',
    oid::regclass), false, true, '') AS counted
    FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text !~ '^(pg_|info)') AS x
"""

_TABLES = """
DO $$ BEGIN
    FOR n IN {first}..{last} LOOP
        EXECUTE format('CREATE TABLE s%s.t%s (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,'
            ' name text NOT NULL, other int)', n % 10, n);
        EXECUTE format('INSERT INTO s%s.t%s (name, other) VALUES (md5(%L), 1)', n % 10, n, n);
        EXECUTE format('CREATE INDEX ON s%s.t%s (name)', n % 10, n);
        IF n % 10 = 0 THEN
            EXECUTE format('ALTER TABLE s0.t%s ADD FOREIGN KEY (other) REFERENCES s1.t%s',
                n, n - 9);
        END IF;
    END LOOP;
END $$;
"""


def _tables(stage: Stage, count: int) -> None:
    schemas = "".join(f"CREATE SCHEMA s{n};\n" for n in range(10))
    step = 2500  # in one transaction, which locks all of them
    parts = (
        _TABLES.format(first=first, last=min(first + step - 1, count))
        for first in range(1, count + 1, step)
    )
    stage.create(schemas + "".join(parts))


def _partitions(stage: Stage, count: int) -> None:
    stage.create(f"""
        CREATE TABLE events (id bigint, day int, body text, PRIMARY KEY (id, day))
            PARTITION BY RANGE (day);
        CREATE INDEX ON events (body);
        DO $$ BEGIN
            FOR n IN 1..{count} LOOP
                EXECUTE format('CREATE TABLE events_%s PARTITION OF events'
                    ' FOR VALUES FROM (%s) TO (%s)', n, n, n + 1);
            END LOOP;
        END $$;
        INSERT INTO events SELECT i, 1 + i % {count}, md5(i::text)
            FROM generate_series(1, {count} * 100) AS i""")


def _columns(stage: Stage, count: int) -> None:
    names = ", ".join(f"c{n} int" for n in range(count))
    values = ", ".join(f"i + {n}" for n in range(count))
    stage.create(f"""
        CREATE TABLE wide (id int PRIMARY KEY, {names.partition(", ")[2]});
        INSERT INTO wide SELECT {values} FROM generate_series(1, 5000) AS i""")


def _large_objects(stage: Stage, count: int) -> None:
    stage.create(f"""
        SELECT count(lo_from_bytea(0, decode(repeat(md5(i::text), 64), 'hex')))
            FROM generate_series(1, {count}) AS i""")


def _value(stage: Stage, megabytes: int) -> None:
    stage.create(f"""
        CREATE TABLE documents (id int PRIMARY KEY, body text);
        ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
        INSERT INTO documents SELECT 1, string_agg(md5(i::text), '')
            FROM generate_series(1, {megabytes} * 1000000 / 32) AS i;
        INSERT INTO documents SELECT i, md5(i::text) FROM generate_series(2, 1000) AS i""")


TABLES = Subject(
    title="Tables",
    text="Each table has one row, an identity column, an index, and every tenth a foreign key.",
    sizes=(2500, 5000, 10_000),
    larger=(50_000,),
    build=_tables,
    commands=(
        BACKUP, VERIFY, SHOW, OBJECTS, head("s1.t1"), cat("s1.t1"), *one_table("s1.t1"),
        DRY_RUN, RESTORE, DRILL,
    ),
    sums=SUMS,
    needs=16 << 30,
)  # fmt: skip
PARTITIONS = Subject(
    title="Partitions",
    text="One table, with two indexes and 100 rows in each partition.",
    sizes=(375, 750, 1500),
    build=_partitions,
    commands=(BACKUP, VERIFY, SHOW, cat("public.events_1"), *one_table("public.events_1")[1:],
              RESTORE, DRILL),
    sums=SUMS,
)  # fmt: skip
COLUMNS = Subject(
    title="Columns",
    text="One table with 5,000 rows of integers.",
    sizes=(400, 800, 1600),
    build=_columns,
    commands=(BACKUP, VERIFY, SHOW, cat("public.wide"), *one_table("public.wide"), RESTORE, DRILL),
    sums=SUMS,
)
LARGE_OBJECTS = Subject(
    title="Large objects",
    text="Each has 1,024 bytes.",
    sizes=(5000, 10_000, 20_000),
    build=_large_objects,
    commands=(BACKUP, VERIFY, SHOW, RESTORE, DRILL),
    sums="SELECT count(*), sum(hashtext(lo_get(oid)::text)::bigint) FROM pg_largeobject_metadata",
)
VALUE = Subject(
    title="A large value",
    text="One value of n MB in a text column.",
    sizes=(150, 300, 600),
    build=_value,
    commands=(BACKUP, VERIFY, SHOW, head("public.documents"), cat("public.documents"), RESTORE,
              DRILL),
    sums="SELECT count(*), sum(length(body)), min(md5(body)), max(md5(body)) FROM documents",
)  # fmt: skip
