"""Rules between options: a table of values, checked by one function."""

import pytest

from pgkeep.cli.restore_options import RULES
from pgkeep.cli.rules import AtMostOne, OneOf, Requires, problem

EITHER = "either --backup or --latest is required"

RESTORE: dict[str, str | None] = {
    "": EITHER,
    "--backup --latest": EITHER,
    "--backup": None,
    "--latest --database": None,
    "--backup --database": "--backup and --database cannot be used together: --target-db is the"
    " name of the database to restore into",
    "--latest --discard-old": "--discard-old requires --drop-existing",
    "--latest --discard-old --drop-existing": None,
    "--latest --disable-triggers": "--disable-triggers requires --data-only or --where",
    "--latest --disable-triggers --data-only": None,
    "--latest --disable-triggers --where --table": None,
    "--latest --as": "--as requires --table",
    "--latest --where": "--where requires --table",
    "--latest --on-conflict --table": "--on-conflict requires --where",
    "--latest --in-place --drop-existing": "--in-place and --drop-existing cannot be used together",
    "--latest --in-place --drop-existing --data-only": "--in-place and --drop-existing and"
    " --data-only cannot be used together",
    "--latest --schema-only --data-only": "--schema-only and --data-only cannot be used together",
    "--latest --schema-only --in-place": None,
    "--latest --keep-going --in-place": "--keep-going and --in-place cannot be used together",
    "--latest --keep-going --data-only": "--keep-going and --data-only cannot be used together",
    "--latest --keep-going --table": "--keep-going and --table cannot be used together",
    "--latest --keep-going --schema-only": None,
    "--latest --table --as": None,
    "--latest --table --drop-existing --dry-run": None,
    "--latest --table --as --where": "--as and --where cannot be used together",
    "--latest --table --where --drop-existing": "--where and --drop-existing cannot be used"
    " together",
    **{
        f"--latest --drop-existing --table {option}": f"--table and {option} cannot be used"
        " together"
        for option in ("--schema-only", "--portable", "--allow-statements", "--discard-old",
                       "--create-roles", "--skip")
    },
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), RESTORE.items(), ids=RESTORE.keys())
def test_rules_of_restore(options: str, message: str | None) -> None:
    assert problem(RULES, frozenset(options.split())) == message


def test_the_first_problem_is_reported() -> None:
    rules = (Requires("--a", ("--b", "--c")), AtMostOne(("--a", "--d")), OneOf(("--e", "--f")))
    assert problem(rules, frozenset({"--a", "--d"})) == "--a requires --b or --c"
    assert problem(rules, frozenset({"--a", "--c", "--d"})) == "--a and --d cannot be used together"
    assert problem(rules, frozenset()) == "either --e or --f is required"
    assert problem(rules, frozenset({"--f"})) is None
