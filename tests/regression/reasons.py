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
        "The tests made the child with its own order of columns and attached it by"
        " `ALTER TABLE ... INHERIT`. pg_dump writes `CREATE TABLE ... INHERITS`, and PostgreSQL"
        " then puts the parent's columns first. The rows are the same, column by column.",
    ),
    Reason(
        r"rows of public\.mvtest_bb:|drill: warning materialized view public\.mvtest_bb:",
        POSTGRESQL,
        "The materialized view was stale in the source: its base changed after the last refresh."
        " A restore refreshes it, as pg_dump writes it.",
    ),
    Reason(
        r"number of operators",
        POSTGRESQL,
        "The operator `!==` is a shell: a commutator or negator that was named and never defined."
        " pg_dump writes no shells.",
    ),
    Reason(
        r"number of comments",
        POSTGRESQL,
        "PostgreSQL 15 keeps the comment of a subscription that was dropped, without its object.",
    ),
    Reason(
        r"^(zcat and psql|index of .*|restore of a plain dump): setting of \(all roles\)",
        DESIGN,
        "Settings of the database (`ALTER DATABASE ... SET`) are not in a plain dump. pgkeep"
        " keeps them in the manifest, where `pgkeep restore` finds them.",
    ),
    Reason(
        r"^drill: .*(is behind|\d+ findings, the first: sequence)",
        TESTS,
        "The tests insert values without the sequence, so that it is behind its column in the"
        " source too. The drill reports it because the next INSERT would fail: a finding where the"
        " column is unique, else a warning.",
    ),
    Reason(
        r"--as=twin.*\d+ partitions: --as takes one of them",
        DESIGN,
        "A partitioned table is not restored under another name. Its partitions would need new"
        " names too. Use another database.",
    ),
    Reason(
        r"check_con_tbl --as=twin",
        POSTGRESQL,
        "The CHECK constraint calls a function whose argument is the row type of this table."
        " A table of another name has another row type.",
    ),
    Reason(
        r"--drop-existing.*9: error: .*(depends? on a table|is a part of a table)",
        DESIGN,
        "Something else needs the table: a view, a child table, a function over its row type."
        " pgkeep refuses; it never drops what it was not asked to drop.",
    ),
    Reason(
        r"--where.*(public\.gtest20b)",
        DESIGN,
        "The constraint is NOT VALID in the source, and the row violates it. The existing table"
        " refuses it. `--data-only` loads such rows as they were.",
    ),
    Reason(
        r"then --data-only: exit code .*rows of public\.hslot",
        TESTS,
        "Triggers fire with `--data-only`, and the one of this table refuses rows whose hub is not"
        " loaded yet. `pg_dump --data-only` and psql fail there too. Use `--disable-triggers`.",
    ),
    Reason(
        r"--where.*(rows of public\.(testjsonb|mcv_lists_arrays|main_table)|warning triggers of)",
        DESIGN,
        "A table without a unique index is compared by all columns: a row that equals an existing"
        " one is not inserted again. Triggers fire, as the warning says.",
    ),
    Reason(
        r"^restore into 1[78].*definition of (VIEW|MATERIALIZED VIEW|RULE) (?!.*\(missing\)$)",
        POSTGRESQL,
        "Since 16 PostgreSQL writes a view over one table without the table's name before each"
        " column. The view is the same.",
    ),
    Reason(
        r"--data-only.*: warning (triggers fire|constraint .* is NOT VALID)",
        DESIGN,
        "Warnings that are printed before rows are loaded into existing tables.",
    ),
    Reason(
        r"^restore into 17.*: failed ",
        SERVER,
        "The server cannot load a library of another major version; it refuses columns that only a"
        " child table generates (since 16). What needs these objects fails with them.",
    ),
    Reason(
        r"^restore into 1[78].*definition of ACL public\.TABLE datdba_only",
        POSTGRESQL,
        "The owner has revoked DELETE from itself. pg_dump 15 writes REVOKE ALL and grants the"
        " rest, without MAINTAIN, which 17 has in addition. pg_dump 17 revokes what 15 knows.",
    ),
    Reason(
        r"^--portable.*(heap2|exit code)",
        DEFECT,
        "Tables of an access method that was left out are not created: the setting"
        " `default_table_access_method` still names it.",
    ),
)

# What pg_dump | psql lacks there too.
SERVER_LACKS = Reason(
    "^$",
    SERVER,
    "The server has no ICU, no libxml and no library of the tests. A database that"
    " `pg_dump | psql` restores there, ignoring errors, has the same differences.",
)


def reason(what: str) -> Reason | None:
    """Return the reason of a difference."""
    return next((one for one in REASONS if one.fits(what)), None)
