"""Check that each sequence is where the backup has it, and ahead of the column that it fills."""

from typing import NamedTuple

from ..sql.statements import Name
from .checks import DrillCheck
from .expected import ExpectedObjects, dotted, one_line
from .restored import RestoredDatabase


class _Sequence(NamedTuple):
    """A sequence, and the column that takes its values from it."""

    schema: str
    name: str
    increment: int
    cycles: bool
    column: str | None  # with its table
    unique: bool  # an existing value would be refused
    sql: bytes
    extreme: bytes | None  # the query for the value that must have been passed

    @property
    def key(self) -> Name:
        return one_line(self.schema), one_line(self.name)

    def is_behind(self, last: int, called: bool, extreme: int) -> bool:
        """Whether the sequence will return a value that exists already."""
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


def check(expected: ExpectedObjects, database: RestoredDatabase, warnings: list[str]) -> DrillCheck:
    """Check that every sequence is as in the backup, and ahead of its column (trap A5.23).

    A source may have put larger values beside its sequence. Where nothing is unique that does no
    harm, and is a warning, not a finding.
    """
    findings: list[str] = []
    there = set()
    sequences = [_Sequence(*row) for row in database.ask(_SEQUENCES, "nnvvnvss")]
    for sequence in sequences:
        there.add(sequence.key)
        last, called = database.row(b"SELECT last_value, is_called FROM " + sequence.sql)
        wanted = expected.sequences.get(sequence.key)
        differs = wanted is not None and wanted != (last, called)
        behind = None
        if sequence.extreme is not None and not sequence.cycles and not expected.schema_only:
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
        elif differs and wanted is not None:
            findings.append(
                f"sequence {sequence.schema}.{sequence.name} is at {last},"
                f" the backup has {wanted[0]}"
            )
    findings += [f"sequence {dotted(key)} is missing" for key in expected.sequences.keys() - there]
    return DrillCheck(name="sequences", checked=len(sequences), findings=findings)
