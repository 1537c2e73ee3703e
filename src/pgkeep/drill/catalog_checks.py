"""Check what rows do not show, such as whether an index is valid, in the catalogs.

It is compared with what the dump's own statements say: what was not valid in the source may stay
so.
"""

from collections.abc import Sequence

from ..artifact.file import Artifact
from ..model.manifest import Extension, Manifest
from ..sql.encodings import shared_text
from .checks import DrillCheck
from .expected import ExpectedObjects, dotted, one_line
from .restored import RestoredDatabase

ENFORCED_SINCE = 180000

# They work by themselves where a server has loaded them (trap E8).
ACTING = frozenset({
    "bdr", "citus", "pg_cron", "pg_net", "pg_partman", "pg_partman_bgw", "pg_squeeze", "pg_task",
    "pgagent", "pglogical", "timescaledb",
})  # fmt: skip


def check_manifest(artifact: Artifact, manifest: Manifest) -> DrillCheck:
    """Check that index and manifest agree on the rows of every table."""
    mine = {(row.schema, row.name): row.rows for row in artifact.index.table_rows()}
    theirs = {(table.schema, table.name): table.rows for table in manifest.tables}
    return DrillCheck(
        name="manifest",
        checked=len(theirs),
        findings=[
            f"table {dotted(key)} has {mine.get(key, 'no')} rows in the artifact, its manifest"
            f" says {theirs.get(key, 'none')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ],
    )


def check_constraints(expected: ExpectedObjects, database: RestoredDatabase) -> DrillCheck:
    """Check that every constraint of the dump is there, and valid unless the dump has it NOT VALID.

    A child's that was made after its parent's is valid; in a restore, which adds the parent's last,
    it inherits that it is not. pg_dump cannot say so, and what holds for the child is the same.
    """
    enforced = "c.conenforced" if database.version >= ENFORCED_SINCE else "true"
    rows = database.ask(
        f"""
        SELECT n.nspname, coalesce(r.relname, t.typname), c.conname,
               c.convalidated OR NOT {enforced} OR EXISTS (
                   SELECT FROM pg_catalog.pg_inherits h
                   JOIN pg_catalog.pg_constraint p ON p.conrelid = h.inhparent
                   WHERE h.inhrelid = c.conrelid AND p.conname = c.conname AND NOT p.convalidated
               )
        FROM pg_catalog.pg_constraint c
        LEFT JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
        LEFT JOIN pg_catalog.pg_type t ON t.oid = c.contypid
        JOIN pg_catalog.pg_namespace n ON n.oid = coalesce(r.relnamespace, t.typnamespace)
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    """,
        "nnnv",
    )
    found = {
        (one_line(schema), one_line(f"{owner} {name}")): valid
        for schema, owner, name, valid in rows
    }
    findings = [
        f"constraint {dotted(key)} is missing" for key in expected.constraints if key not in found
    ]
    findings += [
        f"constraint {dotted(key)} is not valid, in the backup it is"
        for key, valid in found.items()
        if not valid and expected.constraints.get(key, True)
    ]
    return DrillCheck(name="constraints", checked=len(found), findings=findings)


def check_indexes(expected: ExpectedObjects, database: RestoredDatabase) -> DrillCheck:
    """Check that every index of the dump exists and is usable.

    One on a partitioned table waits for those on its partitions.
    """
    rows = database.ask(
        """
        SELECT n.nspname, c.relname, i.indisvalid AND i.indisready AND i.indislive,
               c.relkind = 'I' AND
               (SELECT count(*) FROM pg_catalog.pg_inherits h WHERE h.inhparent = i.indrelid) >
               (SELECT count(*) FROM pg_catalog.pg_inherits h
                JOIN pg_catalog.pg_index p ON p.indexrelid = h.inhrelid
                WHERE h.inhparent = c.oid AND p.indisvalid)
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    """,
        "nnvv",
    )
    names = {(one_line(schema), one_line(name)) for schema, name, *_ in rows}
    findings = [
        f"index {dotted(key)} is missing" for key in sorted(expected.names("INDEX") - names)
    ]
    findings += [
        f"index {schema}.{name} is invalid"
        for schema, name, usable, waiting in rows
        if not usable and not waiting
    ]
    return DrillCheck(name="indexes", checked=len(rows), findings=findings)


def check_views(expected: ExpectedObjects, database: RestoredDatabase) -> DrillCheck:
    """Check that materialized views are populated where the dump fills them, and only there."""
    rows = database.ask(
        """
        SELECT n.nspname, c.relname, c.relispopulated
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'm' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    """,
        "nnv",
    )
    found = {(one_line(schema), one_line(name)): populated for schema, name, populated in rows}
    filled = expected.names("MATERIALIZED VIEW DATA")
    findings = [
        f"materialized view {dotted(key)} is missing"
        for key in sorted((expected.names("MATERIALIZED VIEW") | filled) - found.keys())
    ]
    findings += [
        f"materialized view {dotted(key)} is {'' if populated else 'not '}populated, in the"
        f" backup it is{' not' if populated else ''}"
        for key, populated in found.items()
        if populated != (key in filled) and not expected.schema_only
    ]
    return DrillCheck(name="materialized views", checked=len(found), findings=findings)


def check_extensions(
    expected: Sequence[Extension], database: RestoredDatabase, warnings: list[str]
) -> DrillCheck:
    """Check that every extension is there; another version is a warning."""
    there = dict(database.ask("SELECT extname, extversion FROM pg_catalog.pg_extension", "nn"))
    for extension in expected:
        version = there.get(extension.name, extension.version)
        if extension.version and version != extension.version:  # a plain dump does not say it
            warnings.append(
                f"extension {extension.name} has version {version},"
                f" {extension.version} in the backup"
            )
    warnings += [
        f"extension {name} runs jobs on any server that loads it: its jobs were restored too"
        for name in sorted(there.keys() & ACTING)
    ]
    return DrillCheck(
        name="extensions",
        checked=len(expected),
        findings=[
            f"extension {extension.name} is missing, the backup has version {extension.version}"
            for extension in expected
            if extension.name not in there
        ],
    )


def check_roles(artifact: Artifact, database: RestoredDatabase) -> DrillCheck:
    """Check that every owner and grantee exists."""
    rows = database.ask("SELECT rolname FROM pg_catalog.pg_roles", "s")
    there = {shared_text(name, database.codec) for (name,) in rows}
    needed = {entry.owner for entry in artifact.index.objects if entry.owner}
    needed.update(artifact.index.meta.roles)
    return DrillCheck(
        name="roles",
        checked=len(needed),
        findings=[f"role {name} is missing" for name in sorted(needed - there)],
    )


def check_subscriptions(database: RestoredDatabase) -> DrillCheck:
    """Check that none may connect: the publisher would send the original's changes here."""
    rows = database.ask(
        """
        SELECT subname, subenabled FROM pg_catalog.pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database
                         WHERE datname = pg_catalog.current_database())
    """,
        "nv",
    )
    findings = [f"subscription {name} is enabled" for name, enabled in rows if enabled]
    return DrillCheck(name="subscriptions", checked=len(rows), findings=findings)
