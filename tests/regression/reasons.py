"""Why something differs: the first reason whose pattern fits. What has none is unexplained."""

import re
from dataclasses import dataclass

POSTGRESQL = "PostgreSQL"
TESTS = "the regression tests"
DESIGN = "pgkeep, by design"
DEFECT = "pgkeep, a defect"
SERVER = "the target server"


@dataclass(frozen=True, slots=True)
class Reason:
    """An explanation of differences; the pattern is searched in "step: kind name: after"."""

    pattern: str
    whose: str
    text: str

    def fits(self, what: str) -> bool:
        """Tell whether this explains a difference."""
        return re.search(self.pattern, what) is not None


REASONS: tuple[Reason, ...] = (
    Reason(
        r"definition of TABLE public\.(gtestxx_4|test_type_diff2_c[12]):",
        POSTGRESQL,
        "The tests created the child table with another order of columns and attached it with"
        " `ALTER TABLE ... INHERIT`. pg_dump writes `CREATE TABLE ... INHERITS`, and PostgreSQL"
        " then puts the parent's columns first. The rows are the same, column by column.",
    ),
    Reason(
        r"rows of public\.mvtest_bb:|drill: warning materialized view public\.mvtest_bb:",
        POSTGRESQL,
        "The materialized view was out of date in the source: its base table changed after the"
        " last refresh. A restore refreshes it, because pg_dump writes REFRESH.",
    ),
    Reason(
        r"number of operators",
        POSTGRESQL,
        "The operator `!==` is a shell: it was named as a commutator or negator and never"
        " defined. pg_dump does not write shell operators.",
    ),
    Reason(
        r"number of comments",
        POSTGRESQL,
        "PostgreSQL 15 keeps the comment of a dropped subscription.",
    ),
    Reason(
        r"^(zcat and psql|index of .*|restore of a plain dump): setting of \(all roles\)",
        DESIGN,
        "Settings of the database (`ALTER DATABASE ... SET`) are not in a plain dump. pgkeep"
        " records them in the manifest, and only `pgkeep restore` restores them.",
    ),
    Reason(
        r"^drill: .*(is behind|\d+ findings, the first: sequence)",
        TESTS,
        "The tests insert values without the sequence. Therefore the sequence is behind its"
        " column in the source too. The drill reports it because the next INSERT would fail. It"
        " is a finding if the column is unique, else a warning.",
    ),
    Reason(
        r"--as=twin.*\d+ partitions: --as takes one of them",
        DESIGN,
        "pgkeep does not restore a partitioned table under another name, because its partitions"
        " would also require new names. Restore it into another database.",
    ),
    Reason(
        r"check_con_tbl --as=twin",
        POSTGRESQL,
        "The CHECK constraint calls a function whose argument is the row type of this table. A"
        " table with another name has another row type.",
    ),
    Reason(
        r"--drop-existing.*9: error: .*(depends? on a table|is a part of a table)",
        DESIGN,
        "Another object depends on the table: a view, a child table, or a function with its row"
        " type. pgkeep refuses, because it drops only the named table.",
    ),
    Reason(
        r"--where.*(public\.gtest20b)",
        DESIGN,
        "The constraint is NOT VALID in the source, and the row violates it. The existing table"
        " does not accept the row. `--data-only` loads such rows.",
    ),
    Reason(
        r"then --data-only: exit code .*rows of public\.hslot",
        TESTS,
        "Triggers fire with `--data-only`. The trigger of this table rejects a row if its hub is"
        " not loaded yet. `pg_dump --data-only` with psql fails in the same way. Use `--disable-"
        " triggers`.",
    ),
    Reason(
        r"--where.*(rows of public\.(testjsonb|mcv_lists_arrays|main_table)|warning triggers of)",
        DESIGN,
        "In a table without a unique index pgkeep compares all columns. It does not insert a row"
        " that equals an existing one. Triggers fire, and a warning names them.",
    ),
    Reason(
        r"^restore into 1[78].*definition of (VIEW|MATERIALIZED VIEW|RULE) (?!.*\(missing\)$)",
        POSTGRESQL,
        "Since version 16 PostgreSQL prints a view of one table without the table name before"
        " each column. The view is the same.",
    ),
    Reason(
        r"--data-only.*: warning (triggers fire|constraint .* is NOT VALID)",
        DESIGN,
        "pgkeep prints these warnings before it loads rows into existing tables.",
    ),
    Reason(
        r"^restore into 17.*: failed ",
        SERVER,
        "The server cannot load a library of another major version. Since version 16 it does not"
        " accept columns that only a child table generates. Objects that depend on these also"
        " fail.",
    ),
    Reason(
        r"^restore into 1[78].*definition of ACL public\.TABLE datdba_only",
        POSTGRESQL,
        "The owner has revoked DELETE from itself. pg_dump 15 writes REVOKE ALL and grants the"
        " other privileges, without MAINTAIN, which version 17 adds. pg_dump 17 revokes the"
        " privileges that version 15 knows.",
    ),
    Reason(
        r"^--portable.*(heap2|exit code)",
        DEFECT,
        "Tables of a skipped access method are not created, because the setting"
        " `default_table_access_method` still names it.",
    ),
)

# What pg_dump | psql lacks there too.
SERVER_LACKS = Reason(
    "^$",
    SERVER,
    "The server has no ICU, no libxml and no library of the tests. If `pg_dump | psql` restores"
    " the database there and ignores errors, the result has the same differences.",
)


def reason(what: str) -> Reason | None:
    """Return the reason of a difference."""
    return next((one for one in REASONS if one.fits(what)), None)
