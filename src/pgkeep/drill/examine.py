"""Hold a restored database against the artifact it came from; collect everything that is wrong.

Rows are compared by rows.py, large objects by large_objects.py. What these do not show, such as
whether an index is valid, is asked from the catalogs and compared with what the dump's own
statements say: what was not valid in the source may stay so. Names are bytes of the database's
encoding, decoded as those of the artifact are.
"""

import re
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import msgspec

from ..artifact.file import Artifact, Object
from ..model.manifest import Extension, Manifest
from ..postgres.connection import Connection, Endpoint
from ..progress import Progress
from ..sql.encodings import codec, shared_text
from . import assertions as assertions_module
from . import large_objects, recomputed
from .assertions import Assertion
from .rows import Check, Key, compare, uncounted

ENFORCED_SINCE = 180000

_CONSTRAINTS = frozenset({"CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT"})
_WITH_TEXT = _CONSTRAINTS | {"SEQUENCE SET"}
_SETVAL = re.compile(rb", (-?\d+), (true|false)\);\s*\Z")
_NOT_VALID = re.compile(rb" NOT VALID;\s*\Z")
_LINE_END = re.compile(r"[\r\n]")

# They work by themselves where a server has loaded them (trap E8).
ACTING = frozenset({
    "bdr", "citus", "pg_cron", "pg_net", "pg_partman", "pg_partman_bgw", "pg_squeeze", "pg_task",
    "pgagent", "pglogical", "timescaledb",
})  # fmt: skip


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What was proved, and what was found wrong."""

    checks: list[Check]
    warnings: list[str] = []

    @property
    def findings(self) -> list[str]:
        """Everything that is wrong."""
        return [finding for check in self.checks for finding in check.findings]


def examine(
    endpoint: Endpoint,
    artifact: Artifact,
    manifest: Manifest | None,
    assertions: Sequence[Assertion] = (),
    *,
    jobs: int,
    timeout: float,
    progress: Progress,
    unproved: Set[tuple[str, str, str]] = frozenset(),
) -> Examined:
    """Compare a restored database with its artifact, then ask the user's own questions.

    What the artifact has of some types, schemas and names was not restored, which is known.

    Raises:
        VerificationFailed: the artifact is damaged.
        ConnectionFailed, DumpFailed: the database cannot be read.

    """
    meta = artifact.index.meta
    checks: list[Check] = []
    warnings: list[str] = []
    rows = {(schema, name) for kind, schema, name in unproved if kind == "TABLE DATA"}
    if manifest is not None:
        checks.append(_check_manifest(artifact, manifest))
    if not meta.schema_only:
        progress.step("comparing rows")
        checks.append(
            compare(
                endpoint, artifact, zone=meta.timezone, jobs=jobs, progress=progress,
                unproved=rows,
            )
        )  # fmt: skip
        if inserted := uncounted(artifact):
            warnings.append(
                f"the rows of {len(inserted)} tables are INSERT statements: they were restored"
                " without an error, and not compared"
            )
    progress.step("checking objects")
    with endpoint.connect() as connection:
        database = _Database(connection)
        dump = _Dump(artifact, unproved)
        checks += [
            _check_constraints(dump, database),
            _check_indexes(dump, database),
            _check_sequences(dump, database, warnings),
            _check_views(dump, database),
            recomputed.check_operators(endpoint, meta.resolutions),
            _check_extensions(meta.extensions, database, warnings),
            _check_roles(artifact, database),
            _check_subscriptions(database),
        ]
        if not meta.schema_only:
            progress.step("comparing large objects")
            checks.append(large_objects.compare(connection, artifact))
    if not meta.schema_only:
        progress.step("comparing computed values")
        checks.append(recomputed.check_values(endpoint, meta.computed, meta.timezone, warnings))
    if assertions:
        progress.step("asking assertions")
        checks.append(assertions_module.check(endpoint, assertions, timeout))
    return Examined(checks=checks, warnings=warnings)


class _Dump:
    """What the artifact's own statements say."""

    def __init__(self, artifact: Artifact, unproved: Set[tuple[str, str, str]]) -> None:
        self._unproved = unproved
        self.objects = [entry for entry in artifact.index.objects if self._is_expected(entry)]
        self.constraints: dict[Key, bool] = {}  # whether valid
        self.sequences: dict[Key, tuple[int, bool]] = {}  # as setval has it
        self.schema_only = artifact.index.meta.schema_only
        by_member = artifact.index.objects_by_member()
        for number, objects in enumerate(by_member):
            wanted = [
                entry for entry in objects if entry.type in _WITH_TEXT and self._is_expected(entry)
            ]
            if wanted:
                data = artifact.read(number)
                for one in wanted:
                    self._take(one, data[one.start : one.start + one.length])

    def names(self, *types: str) -> set[Key]:
        """Return which objects of some types there are."""
        return {(entry.schema, entry.name) for entry in self.objects if entry.type in types}

    def _is_expected(self, entry: Object) -> bool:
        return (entry.type, entry.schema, entry.name) not in self._unproved

    def _take(self, entry: Object, text: bytes) -> None:
        key = (entry.schema, entry.name)
        if entry.type in _CONSTRAINTS:
            self.constraints[key] = not _NOT_VALID.search(text)
        elif match := _SETVAL.search(text):
            self.sequences[key] = (int(match[1]), match[2] == b"true")


class _Database:
    """The restored database's catalogs; text is given back as the artifact has it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.version = connection.info.server_version
        encoding = connection.info.parameter_status("server_encoding") or "UTF8"
        self.codec = codec(encoding)
        # Names are fetched as bytes, and go back as they are.
        connection.execute(f"SET client_encoding = '{encoding}'".encode())

    def ask(self, query: str, kinds: str) -> list[tuple[Any, ...]]:
        """Run a query; of its columns some are (n)ames, some (s)ql as bytes, some (v)alues."""
        names = [f"c{number}" for number in range(len(kinds))]
        columns = [
            name if kind == "v" else f"pg_catalog.convert_to({name}::pg_catalog.text, e.name)"
            for name, kind in zip(names, kinds, strict=True)
        ]
        rows = self.connection.execute(
            f"SELECT {', '.join(columns)} FROM ({query}) AS q({', '.join(names)}),"
            " pg_catalog.getdatabaseencoding() AS e(name)".encode()
        )
        return [
            tuple(
                value.decode(self.codec, "backslashreplace") if kind == "n" and value else value
                for value, kind in zip(row, kinds, strict=True)
            )
            for row in rows
        ]

    def row(self, query: bytes) -> tuple[Any, ...]:
        """Run a query of bytes that gives one row."""
        row = self.connection.execute(query).fetchone()
        assert row is not None  # noqa: S101 - an aggregate, or a sequence, gives a row
        return row


def _one_line(name: str) -> str:
    """Return a name as pg_dump announces it: a line end would end the comment."""
    return _LINE_END.sub(" ", name)


def _dotted(key: Key) -> str:
    return ".".join(filter(None, key))


def _check_manifest(artifact: Artifact, manifest: Manifest) -> Check:
    mine = {(row.schema, row.name): row.rows for row in artifact.index.table_rows()}
    theirs = {(table.schema, table.name): table.rows for table in manifest.tables}
    return Check(
        name="manifest",
        checked=len(theirs),
        findings=[
            f"table {_dotted(key)} has {mine.get(key, 'no')} rows in the artifact, its manifest"
            f" says {theirs.get(key, 'none')}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ],
    )


def _check_constraints(dump: _Dump, database: _Database) -> Check:
    """Every constraint of the dump is there, and valid unless the dump has it NOT VALID.

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
        (_one_line(schema), _one_line(f"{owner} {name}")): valid
        for schema, owner, name, valid in rows
    }
    findings = [
        f"constraint {_dotted(key)} is missing" for key in dump.constraints if key not in found
    ]
    findings += [
        f"constraint {_dotted(key)} is not valid, in the backup it is"
        for key, valid in found.items()
        if not valid and dump.constraints.get(key, True)
    ]
    return Check(name="constraints", checked=len(found), findings=findings)


def _check_indexes(dump: _Dump, database: _Database) -> Check:
    """Every index of the dump is there and usable; one on a root waits for those on its leaves."""
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
    names = {(_one_line(schema), _one_line(name)) for schema, name, *_ in rows}
    findings = [f"index {_dotted(key)} is missing" for key in sorted(dump.names("INDEX") - names)]
    findings += [
        f"index {schema}.{name} is invalid"
        for schema, name, usable, waiting in rows
        if not usable and not waiting
    ]
    return Check(name="indexes", checked=len(rows), findings=findings)


class _Sequence(NamedTuple):
    """A sequence, and the column that takes its values from it."""

    schema: str
    name: str
    increment: int
    cycles: bool
    column: str | None  # with its table
    unique: bool  # a value that is there already would be refused
    sql: bytes
    extreme: bytes | None  # the query for the value that must have been passed

    @property
    def key(self) -> Key:
        return _one_line(self.schema), _one_line(self.name)

    def is_behind(self, last: int, called: bool, extreme: int) -> bool:
        """Whether a value that is there is still to come."""
        following = last + self.increment if called else last
        return following <= extreme if self.increment > 0 else following >= extreme


# Of integer columns that take their values from a sequence that they own. A parent's rows without
# its children's, which may lie elsewhere; a partitioned table's with those of its partitions,
# unless one is foreign.
_SEQUENCES = """
SELECT n.nspname, c.relname, s.seqincrement, s.seqcycle,
       tn.nspname || '.' || t.relname || '.' || a.attname,
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = t.oid AND i.indisunique
               AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum AND i.indpred IS NULL),
       pg_catalog.format('%I.%I', n.nspname, c.relname),
       CASE WHEN a.atttypid IN ('pg_catalog.int2'::pg_catalog.regtype,
               'pg_catalog.int4'::pg_catalog.regtype, 'pg_catalog.int8'::pg_catalog.regtype)
           AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_partition_tree(t.oid) p
               JOIN pg_catalog.pg_class f ON f.oid = p.relid WHERE f.relkind = 'f')
           AND (d.deptype = 'i' OR EXISTS (
               SELECT FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_depend u ON u.objid = f.oid
                   AND u.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                   AND u.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
               WHERE f.adrelid = t.oid AND f.adnum = a.attnum AND u.refobjid = c.oid))
       THEN pg_catalog.format('SELECT %s(%I) FROM %s %I.%I',
           CASE WHEN s.seqincrement > 0 THEN 'pg_catalog.max' ELSE 'pg_catalog.min' END,
           a.attname, CASE t.relkind WHEN 'r' THEN 'ONLY' ELSE '' END, tn.nspname, t.relname) END
FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
    AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND t.relkind IN ('r', 'p')
LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""


def _check_sequences(dump: _Dump, database: _Database, warnings: list[str]) -> Check:
    """Every sequence is where the dump has it, and ahead of the column that it fills (trap A5.23).

    A source may have put larger values beside its sequence. Where nothing is unique that does no
    harm, and is told without being a failure of the restore.
    """
    findings: list[str] = []
    there = set()
    sequences = [_Sequence(*row) for row in database.ask(_SEQUENCES, "nnvvnvss")]
    for sequence in sequences:
        there.add(sequence.key)
        last, called = database.row(b"SELECT last_value, is_called FROM " + sequence.sql)
        expected = dump.sequences.get(sequence.key)
        differs = expected is not None and expected != (last, called)
        behind = None
        if sequence.extreme is not None and not sequence.cycles and not dump.schema_only:
            (extreme,) = database.row(sequence.extreme)
            if extreme is not None and sequence.is_behind(last, called, extreme):
                behind = (
                    f"sequence {sequence.schema}.{sequence.name} is behind {sequence.column}:"
                    f" at {last}, the column is at {extreme}"
                )
        if behind is not None and not differs:
            behind += "; so it is in the backup"
        if behind is not None:
            (findings if differs or sequence.unique else warnings).append(behind)
        elif differs and expected is not None:
            findings.append(
                f"sequence {sequence.schema}.{sequence.name} is at {last},"
                f" the backup has {expected[0]}"
            )
    findings += [f"sequence {_dotted(key)} is missing" for key in dump.sequences.keys() - there]
    return Check(name="sequences", checked=len(sequences), findings=findings)


def _check_views(dump: _Dump, database: _Database) -> Check:
    """Materialized views are populated where the dump fills them, and only there."""
    rows = database.ask(
        """
        SELECT n.nspname, c.relname, c.relispopulated
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'm' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    """,
        "nnv",
    )
    found = {(_one_line(schema), _one_line(name)): populated for schema, name, populated in rows}
    filled = dump.names("MATERIALIZED VIEW DATA")
    findings = [
        f"materialized view {_dotted(key)} is missing"
        for key in sorted((dump.names("MATERIALIZED VIEW") | filled) - found.keys())
    ]
    findings += [
        f"materialized view {_dotted(key)} is {'' if populated else 'not '}populated, in the"
        f" backup it is{' not' if populated else ''}"
        for key, populated in found.items()
        if populated != (key in filled) and not dump.schema_only
    ]
    return Check(name="materialized views", checked=len(found), findings=findings)


def _check_extensions(
    expected: Sequence[Extension], database: _Database, warnings: list[str]
) -> Check:
    there = dict(database.ask("SELECT extname, extversion FROM pg_catalog.pg_extension", "nn"))
    for one in expected:
        version = there.get(one.name, one.version)
        if one.version and version != one.version:  # a plain dump does not say it
            warnings.append(
                f"extension {one.name} has version {version}, {one.version} in the backup"
            )
    warnings += [
        f"extension {name} acts by itself on a server that loads it: its jobs are restored too"
        for name in sorted(there.keys() & ACTING)
    ]
    return Check(
        name="extensions",
        checked=len(expected),
        findings=[
            f"extension {one.name} is missing, the backup has version {one.version}"
            for one in expected
            if one.name not in there
        ],
    )


def _check_roles(artifact: Artifact, database: _Database) -> Check:
    rows = database.ask("SELECT rolname FROM pg_catalog.pg_roles", "s")
    there = {shared_text(name, database.codec) for (name,) in rows}
    needed = {entry.owner for entry in artifact.index.objects if entry.owner}
    needed.update(artifact.index.meta.roles)
    return Check(
        name="roles",
        checked=len(needed),
        findings=[f"role {name} is missing" for name in sorted(needed - there)],
    )


def _check_subscriptions(database: _Database) -> Check:
    """None may connect: the publisher would send to this copy what belongs to the original."""
    rows = database.ask(
        """
        SELECT subname, subenabled FROM pg_catalog.pg_subscription
        WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database
                         WHERE datname = pg_catalog.current_database())
    """,
        "nv",
    )
    findings = [f"subscription {name} is enabled" for name, enabled in rows if enabled]
    return Check(name="subscriptions", checked=len(rows), findings=findings)
