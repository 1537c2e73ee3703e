"""What two databases have in common, and every difference between them by name."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from pgkeep.postgres.server import Server
from tests.support import compare, servers

Connection = psycopg.Connection[tuple[Any, ...]]

_ANNOUNCEMENT = re.compile(
    r"^-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>.*?);"
)

_USER = "SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"

_RELATIONS = {
    "r": "tables",
    "p": "partitioned tables",
    "i": "indexes",
    "I": "partitioned indexes",
    "S": "sequences",
    "v": "views",
    "m": "materialized views",
    "f": "foreign tables",
    "c": "composite types",
}

# Name of a kind, its catalog, the column with the schema (none: all of it), a condition.
_COUNTS = (
    ("partitions", "pg_class", "relnamespace", "relispartition AND relkind IN ('r', 'p')"),
    ("inherited tables", "pg_class", "relnamespace",
     "relkind = 'r' AND NOT relispartition AND oid IN (SELECT inhrelid FROM pg_inherits)"),
    ("columns", "pg_attribute JOIN pg_class c ON c.oid = attrelid", "relnamespace",
     "attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v', 'm', 'f', 'c')"),
    ("column defaults", "pg_attrdef JOIN pg_class c ON c.oid = adrelid", "relnamespace", "true"),
    ("domains", "pg_type", "typnamespace", "typtype = 'd'"),
    ("enums", "pg_type", "typnamespace", "typtype = 'e'"),
    ("ranges and multiranges", "pg_type", "typnamespace", "typtype IN ('r', 'm')"),
    ("base types", "pg_type", "typnamespace", "typtype = 'b' AND typcategory <> 'A'"),
    ("functions", "pg_proc", "pronamespace", "prokind IN ('f', 'w')"),
    ("functions in C", "pg_proc", "pronamespace", "prolang = 13"),
    ("procedures", "pg_proc", "pronamespace", "prokind = 'p'"),
    ("aggregates", "pg_proc", "pronamespace", "prokind = 'a'"),
    ("operators", "pg_operator", "oprnamespace", "true"),
    ("operator classes", "pg_opclass", "opcnamespace", "true"),
    ("operator families", "pg_opfamily", "opfnamespace", "true"),
    ("collations", "pg_collation", "collnamespace", "true"),
    ("conversions", "pg_conversion", "connamespace", "true"),
    ("text search configurations", "pg_ts_config", "cfgnamespace", "true"),
    ("text search dictionaries", "pg_ts_dict", "dictnamespace", "true"),
    ("casts", "pg_cast", "", "oid >= 16384"),
    ("transforms", "pg_transform", "", "true"),
    ("access methods", "pg_am", "", "oid >= 16384"),
    ("check constraints", "pg_constraint", "connamespace", "contype = 'c'"),
    ("constraints that are not valid", "pg_constraint", "connamespace", "NOT convalidated"),
    ("primary keys and unique constraints", "pg_constraint", "connamespace",
     "contype IN ('p', 'u')"),
    ("exclusion constraints", "pg_constraint", "connamespace", "contype = 'x'"),
    ("foreign keys", "pg_constraint", "connamespace", "contype = 'f'"),
    ("triggers", "pg_trigger", "", "NOT tgisinternal"),
    ("rules", "pg_rewrite JOIN pg_class c ON c.oid = ev_class", "relnamespace",
     "rulename <> '_RETURN'"),
    ("policies", "pg_policy", "", "true"),
    ("extended statistics", "pg_statistic_ext", "", "true"),
    ("event triggers", "pg_event_trigger", "", "true"),
    ("publications", "pg_publication", "", "true"),
    ("foreign servers", "pg_foreign_server", "", "true"),
    ("default privileges", "pg_default_acl", "", "true"),
    ("comments", "pg_description", "", "objoid >= 16384"),
    ("schemas", "pg_namespace", "oid", "true"),
    ("large objects", "pg_largeobject_metadata", "", "true"),
)  # fmt: skip

_PART_NAMES = (
    "columns", "defaults", "indexes", "check constraints", "foreign keys", "triggers", "rules",
    "policies", "statistics", "comments", "grants",
)  # fmt: skip
_PARTS = """
WITH t AS (SELECT %(table)s::regclass::oid AS oid)
SELECT (SELECT count(*) FROM pg_attribute
        WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped),
       (SELECT count(*) FROM pg_attrdef WHERE adrelid = t.oid),
       (SELECT count(*) FROM pg_index WHERE indrelid = t.oid),
       (SELECT count(*) FROM pg_constraint WHERE conrelid = t.oid AND contype = 'c'),
       (SELECT count(*) FROM pg_constraint WHERE conrelid = t.oid AND contype = 'f'),
       (SELECT count(*) FROM pg_trigger WHERE tgrelid = t.oid AND NOT tgisinternal),
       (SELECT count(*) FROM pg_rewrite WHERE ev_class = t.oid),
       (SELECT count(*) FROM pg_policy WHERE polrelid = t.oid),
       (SELECT count(*) FROM pg_statistic_ext WHERE stxrelid = t.oid),
       (SELECT count(*) FROM pg_description
        WHERE classoid = 'pg_class'::regclass AND objoid = t.oid),
       (SELECT count(*) FROM pg_class CROSS JOIN unnest(relacl) WHERE pg_class.oid = t.oid)
FROM t
"""


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that is not the same; before is the source's."""

    kind: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def counts(server: Server, database: str) -> dict[str, int]:
    """Count the objects of every kind, and all rows."""
    with compare._connect(server, database) as connection:
        relations = dict(
            compare._all(
                connection,
                "SELECT relkind::text, count(*) FROM pg_class"
                f" WHERE relnamespace IN ({_USER}) GROUP BY 1",
            )
        )
        found = {name: int(relations.get(kind, 0)) for kind, name in _RELATIONS.items()}
        for name, catalog, schema, condition in _COUNTS:
            own = f"{schema} IN ({_USER}) AND" if schema else ""
            query = f"SELECT count(*) FROM {catalog} WHERE {own} {condition}"
            found[name] = int(compare._one(connection, query)[0])
        rows = _rows(connection).values()
        found["rows"] = sum(int(row.split()[0]) for row in rows if row[0].isdigit())
    return {name: count for name, count in found.items() if count}


def differences(
    source: tuple[Server, str], target: tuple[Server, str], *, database: bool = True
) -> list[Difference]:
    """Compare two databases: definitions, rows, sequences, large objects and settings."""
    found = list(_definitions(source, target))
    before, after = _facts(*source, database=database), _facts(*target, database=database)
    for kind in before:
        found += _changed(kind, before[kind], after[kind])
    return sorted(found)


def rows_of(server: Server, database: str, table: str) -> str:
    """Return the count and the hash of a table's own rows; the order of columns does not matter."""
    with compare._connect(server, database) as connection:
        return _hash(connection, table, only=True)


def _facts(server: Server, name: str, *, database: bool) -> dict[str, Mapping[str, Any]]:
    found = dict(compare.facts(server, name, database=database))
    with compare._connect(server, name) as connection:
        found["rows of"] = _rows(connection)
    return found


def _rows(connection: Connection) -> dict[str, str]:
    return {
        name: _hash(connection, name, only=kind == "r") if populated else "not populated"
        for name, kind, populated in compare._all(connection, compare.TABLES)
    }


def _hash(connection: Connection, table: str, *, only: bool) -> str:
    columns = connection.execute(
        "SELECT coalesce(string_agg(quote_ident(attname), ', ' ORDER BY attname), '')"
        " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [table],
    ).fetchall()[0][0]
    source = f"ONLY {table}" if only else table
    query = (
        f"SELECT count(*), sum(hashtextextended(ROW({columns})::text, 0)::numeric) FROM {source}"
    )
    count, total = compare._one(connection, query)
    return f"{count} rows, hash {total}"


def _definitions(source: tuple[Server, str], target: tuple[Server, str]) -> Iterator[Difference]:
    major = max(servers.major_of(source[0]), servers.major_of(target[0]))
    before = entries(compare.schema(*source, major))
    after = entries(compare.schema(*target, major))
    yield from _changed("definition of", before, after)


def entries(lines: list[str]) -> dict[str, str]:
    """Return the statements of a dump by the announcement that pg_dump writes before each."""
    found: dict[str, list[str]] = {}
    name = "(header)"
    for line in lines:
        announced = _ANNOUNCEMENT.match(line)
        if announced:
            schema = "" if announced["schema"] == "-" else f"{announced['schema']}."
            name = f"{announced['type']} {schema}{announced['name']}"
        elif line and line != "--" and not line.startswith("SET default_"):
            found.setdefault(name, []).append(line)
    return {name: "\n".join(body) for name, body in found.items()}


def _changed(
    kind: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Difference]:
    for name in before.keys() | after.keys():
        first, second = (str(one.get(name, "(missing)")) for one in (before, after))
        if first != second:
            yield Difference(kind, name, first, second)


def parts_of(server: Server, database: str, table: str) -> str:
    """Count what belongs to a table: columns, indexes, constraints, triggers, rules, policies."""
    (row,) = servers.sql(server, database, _PARTS, table=table)
    return ", ".join(f"{count} {name}" for name, count in zip(_PART_NAMES, row, strict=True))
