"""Tell whether two databases are the same: schema, rows, sequences, large objects, settings."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from pgkeep.postgres.server import Server
from tests.support import servers

Facts = Mapping[str, Any]
Connection = psycopg.Connection[tuple[Any, ...]]

# How values look must depend on nothing but the values.
PINNED = {
    "search_path": "",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "row_security": "off",
    "statement_timeout": "0",
}

# The key is random, and of two majors the versions differ too.
# The last one is a mark that newer minor releases set, and only an older pg_dump writes down.
NOISE = re.compile(rb"^(\\(un)?restrict |-- Dumped (from|by) |ALTER .* SET \(pg_attver=[0-9]+\);$)")

SHOWN_LINES = 120

USER_SCHEMAS = r"n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

# Leaves below a hash partition over an enum hold other rows in every database (trap A5.15), so
# they are compared at their root; no other root is read, as a foreign table may lie below it.
TABLES = f"""
WITH unsafe AS (
    SELECT partrelid AS oid FROM pg_partitioned_table
    WHERE partstrat = 'h' AND partclass::oid[] && ARRAY(SELECT oid FROM pg_opclass WHERE opcname = 'enum_ops')
), below AS (
    SELECT relid AS oid FROM unsafe, pg_partition_tree(oid)
), roots AS (
    SELECT pg_partition_root(oid)::oid AS oid FROM unsafe
)
SELECT format('%I.%I', n.nspname, c.relname), c.relkind, c.relispopulated
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE {USER_SCHEMAS}
  AND (c.relkind IN ('r', 'm') AND c.oid NOT IN (SELECT oid FROM below) OR c.oid IN (SELECT oid FROM roots))
ORDER BY 1
"""  # noqa: E501

SEQUENCES = f"""
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND {USER_SCHEMAS} ORDER BY 1
"""

LARGE_OBJECTS = """
SELECT oid, md5(lo_get(oid)), obj_description(oid, 'pg_largeobject'), pg_get_userbyid(lomowner),
       ARRAY(SELECT a::text
             FROM unnest(coalesce(lomacl, acldefault('L', lomowner))) AS a ORDER BY 1)
FROM pg_largeobject_metadata
"""

DATABASE = """
SELECT to_jsonb(d), pg_encoding_to_char(encoding), shobj_description(oid, 'pg_database'),
       pg_get_userbyid(datdba),
       ARRAY(SELECT a::text FROM unnest(coalesce(datacl, acldefault('d', datdba))) AS a ORDER BY 1)
FROM pg_database AS d WHERE datname = current_database()
"""

SETTINGS = """
SELECT coalesce(r.rolname, '(all roles)'), c.setting
FROM pg_db_role_setting AS s CROSS JOIN unnest(s.setconfig) AS c (setting)
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def assert_same_database(
    source_server: Server,
    source_db: str,
    target_server: Server,
    target_db: str,
    *,
    ignore_owner: bool = False,
    ignore_database: bool = False,
) -> None:
    """Fail with a readable difference unless both databases are the same but for their names.

    ignore_owner leaves out owners and, as these name owners, privileges. ignore_database leaves
    out what belongs to the database itself and is not in a plain dump: settings, owner,
    privileges, comment, connection limit, encoding and locale.
    """
    found = [
        *_schema_differences(
            (source_server, source_db), (target_server, target_db), ignore_owner=ignore_owner
        )
    ]
    options = {"owner": not ignore_owner, "database": not ignore_database}
    source = facts(source_server, source_db, **options)
    target = facts(target_server, target_db, **options)
    for kind, of_source in source.items():
        found += _differences(kind, of_source, target[kind])
    if found:
        where = f"{target_db!r} is not the same as {source_db!r}"
        raise AssertionError("\n".join([f"{where}: (- source, + target)", *found]))


def facts(
    server: Server, dbname: str, *, owner: bool = True, database: bool = True
) -> dict[str, Facts]:
    """Return everything but the schema, by kind and name."""
    with _connect(server, dbname) as connection:
        found = {
            "rows of": _rows(connection),
            "sequence": _sequences(connection),
            "large object": _large_objects(connection, owner=owner),
            "extension": dict(_all(connection, "SELECT extname, extversion FROM pg_extension")),
        }
        if database:
            found["database's"] = _database(connection, owner=owner)
            found["setting of"] = _settings(connection)
    return found


def _connect(server: Server, dbname: str) -> Connection:
    connection = servers.connect(server, dbname)
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        # Any byte is a character of LATIN1, and the server converts nothing.
        connection.execute("SET client_encoding = 'latin1'")
    for name, value in PINNED.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    return connection


def _all(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    (row,) = _all(connection, query)
    return row


def _rows(connection: Connection) -> Facts:
    """Return a count and an order-independent hash of each table's rows."""
    found: dict[str, str] = {}
    for name, kind, populated in _all(connection, TABLES):
        if not populated:
            found[name] = "not populated"
            continue
        source = f"ONLY {name}" if kind == "r" else name
        count, total = _one(
            connection,
            'SELECT count(*), sum(hashtextextended("the row"::text, 0)::numeric)'
            f' FROM {source} AS "the row"',
        )
        found[name] = f"{count} rows, hash {total}"
    return found


def _sequences(connection: Connection) -> Facts:
    return {
        name: "last value {}, is called {}".format(
            *_one(connection, f"SELECT last_value, is_called FROM {name}")
        )
        for (name,) in _all(connection, SEQUENCES)
    }


def _large_objects(connection: Connection, *, owner: bool) -> Facts:
    return {
        str(oid): f"md5 {content}, comment {comment!r}" + (f", {role}, {acl}" if owner else "")
        for oid, content, comment, role, acl in _all(connection, LARGE_OBJECTS)
    }


def _database(connection: Connection, *, owner: bool) -> Facts:
    row, encoding, comment, role, acl = _one(connection, DATABASE)
    found = {
        "encoding": encoding,
        "comment": comment,
        "connection limit": row["datconnlimit"],
        "is template": row["datistemplate"],
        "collate": row["datcollate"],
        "ctype": row["datctype"],
        "provider": row.get("datlocprovider", "c"),
        "locale": row.get("datlocale") or row.get("daticulocale"),
        "rules": row.get("daticurules"),
    }
    return found | ({"owner": role, "privileges": acl} if owner else {})


def _settings(connection: Connection) -> Facts:
    found: dict[str, list[str]] = {}
    for role, setting in _all(connection, SETTINGS):
        found.setdefault(role, []).append(setting)
    return {role: sorted(settings) for role, settings in found.items()}


def _differences(kind: str, source: Facts, target: Facts) -> Iterator[str]:
    for name in sorted(source.keys() | target.keys()):
        before, after = source.get(name, "(missing)"), target.get(name, "(missing)")
        if before != after:
            yield f"{kind} {name}:\n  - {before}\n  + {after}"


def _schema_differences(
    source: tuple[Server, str], target: tuple[Server, str], *, ignore_owner: bool
) -> Iterator[str]:
    # Of two majors the newer program reads both, and writes them in the same way.
    major = max(servers.major_of(source[0]), servers.major_of(target[0]))
    before = schema(*source, major, ignore_owner=ignore_owner)
    after = schema(*target, major, ignore_owner=ignore_owner)
    if before != after:
        lines = [*difflib.unified_diff(before, after, "source", "target", lineterm="", n=4)]
        yield from ["schema:", *lines[:SHOWN_LINES]]
        if len(lines) > SHOWN_LINES:
            yield f"... and {len(lines) - SHOWN_LINES} lines more"


def schema(server: Server, dbname: str, major: int, *, ignore_owner: bool = False) -> list[str]:
    """Return the lines of pg_dump --schema-only, without those that differ in every dump."""
    options = ["--no-owner", "--no-acl"] if ignore_owner else []
    command = ["pg_dump", "--schema-only", *options]
    # pg_dump pins the styles, but not the time zone that defaults and bounds are written in.
    written = servers.run(server, dbname, command, major=major, environment={"PGTZ": "UTC"})
    lines = [line for line in written.split(b"\n") if not NOISE.match(line)]
    return [line.decode(errors="backslashreplace") for line in lines]
