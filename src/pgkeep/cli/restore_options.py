"""The options of pgkeep restore: in groups, with the rules between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import click

from ..restore.search_path import SearchPath
from ..restore.swap_plan import MAX_OUTAGE
from ..restore.tables.plan import Conflict
from .command import Option
from .common import complete_files
from .rules import AtMostOne, OneOf, Requires, Rule, each_with

RULES: tuple[Rule, ...] = (
    OneOf(("--backup", "--latest")),
    AtMostOne(
        ("--backup", "--database"), "--target-db is the name of the database to restore into"
    ),
    Requires("--discard-old", ("--drop-existing",)),
    Requires("--accept-replication-loss", ("--drop-existing",)),
    Requires("--max-outage", ("--drop-existing",)),
    Requires("--disable-triggers", ("--data-only", "--where")),
    Requires("--as", ("--table",)),
    Requires("--lock-timeout", ("--table",)),
    Requires("--where", ("--table",)),
    Requires("--on-conflict", ("--where",)),
    AtMostOne(("--in-place", "--drop-existing", "--data-only")),
    AtMostOne(("--schema-only", "--data-only")),
    *each_with(
        "--vacuum", ("--no-analyze", "--schema-only", "--data-only", "--in-place", "--table")
    ),
    *each_with(
        "--no-swap",
        (
            "--discard-old", "--in-place", "--data-only", "--table", "--max-outage",
            "--accept-replication-loss",
        ),
    ),
    *each_with("--keep-going", ("--in-place", "--data-only", "--table")),
    *each_with(
        "--table",
        (
            "--schema-only", "--data-only", "--in-place", "--portable", "--allow-statements",
            "--discard-old", "--create-roles", "--skip", "--accept-replication-loss",
            "--max-outage",
        ),
    ),
    AtMostOne(("--as", "--where", "--drop-existing")),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions:
    """Which backup, into which database, and how."""

    file: str | None
    latest: bool
    database: str | None
    target_db: str | None
    drop_existing: bool
    no_owner: bool
    no_privileges: bool
    no_analyze: bool
    no_tablespaces: bool
    disable_triggers: bool
    search_path: str
    verify_only: bool
    dry_run: bool
    yes: bool
    dsn: str | None
    target: str | None
    directory: str | None
    jobs: str | None
    lock_timeout: str | None
    identity: str | None
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseOptions:
    """How to restore a whole database."""

    discard_old: bool
    no_swap: bool
    accept_replication_loss: bool
    max_outage: float
    in_place: bool
    schema_only: bool
    data_only: bool
    portable: bool
    skip: tuple[str, ...]
    keep_going: bool
    create_roles: bool
    vacuum: bool
    allow_statements: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """Which tables to restore."""

    tables: tuple[str, ...]
    new_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """Which rows of a table to restore."""

    where: str | None
    on_conflict: str | None


Options = TypeVar("Options", CommonOptions, DatabaseOptions, TableOptions, RowOptions)

_source = partial(click.option, cls=Option, section="What to restore")
_whole = partial(click.option, cls=Option, section="A whole database")
_table = partial(click.option, cls=Option, section="Tables, into an existing database")
_rows = partial(click.option, cls=Option, section="Rows of a table")
_how = partial(click.option, cls=Option, section="How to restore")

_DECORATORS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    _source(
        "--backup",
        "file",
        metavar="FILE",
        shell_complete=complete_files,
        help="This backup, by its id, name or file, or any plain dump made by pg_dump.",
    ),
    _source("--latest", is_flag=True, help="The newest complete backup (of --database)."),
    _whole("--target-db", metavar="NAME", help="Restore under this name."),
    _whole(
        "--drop-existing",
        is_flag=True,
        help="Replace an existing database: restore under a temporary name, then swap the two by"
        " renaming. With --table: replace the table.",
    ),
    _whole("--discard-old", is_flag=True, help="Drop the replaced database after the swap."),
    _whole(
        "--no-swap",
        is_flag=True,
        help="Keep the new database as NAME__restored_TIME. pgkeep swap NAME swaps it in.",
    ),
    _whole(
        "--accept-replication-loss",
        is_flag=True,
        help="Swap although logical replication slots or subscriptions stay with the old database.",
    ),
    _whole(
        "--max-outage",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        default=MAX_OUTAGE,
        show_default=True,
        help="Maximum time for which a swap refuses sessions of the existing database.",
    ),
    _whole("--in-place", is_flag=True, help="Restore into an existing, empty database."),
    _whole("--schema-only", is_flag=True, help="Restore definitions without rows."),
    _whole("--data-only", is_flag=True, help="Restore rows only, into existing, empty tables."),
    _whole(
        "--portable",
        is_flag=True,
        help="Skip, and list, objects that the server or the role does not support. Allows an older"
        " server.",
    ),
    _whole(
        "--skip",
        metavar="TYPE:NAME",
        multiple=True,
        help="Skip this object, named as in pgkeep show --objects, and all that depend on it. Can"
        " be repeated.",
    ),
    _whole(
        "--keep-going",
        is_flag=True,
        help="Continue when objects fail, list them at the end, and keep the database under another"
        " name.",
    ),
    _whole("--vacuum", is_flag=True, help="VACUUM (FREEZE) before ANALYZE."),
    _whole("--create-roles", is_flag=True, help="Create missing roles, without login."),
    _whole(
        "--allow-statements",
        is_flag=True,
        help="Execute statements of a plain dump even if pg_dump does not write such statements.",
    ),
    _table(
        "--table",
        "tables",
        metavar="PATTERN",
        multiple=True,
        help="Restore only this table, with its indexes, constraints and triggers. SCHEMA.NAME with"
        " * and ? as in pg_dump. Can be repeated.",
    ),
    _table(
        "--as",
        "new_name",
        metavar="NAME",
        help="With --table: restore under this name, next to the existing table.",
    ),
    _table(
        "--lock-timeout",
        metavar="SECONDS",
        help="Maximum time to wait for locks on existing tables (BACKUP_LOCK_TIMEOUT).",
    ),
    _rows(
        "--where",
        metavar="CONDITION",
        help="With --table: restore only the rows that match, into the existing table.",
    ),
    _rows(
        "--on-conflict",
        type=click.Choice([conflict.value for conflict in Conflict]),
        help="With --where, for rows that exist: skip them (the default), update them by primary"
        " key, or fail and change nothing.",
    ),
    _how(
        "--disable-triggers",
        is_flag=True,
        help="With --data-only or --where: fire no triggers and check no foreign keys.",
    ),
    _how("--no-owner", is_flag=True, help="Make the restoring role the owner of all objects."),
    _how("--no-privileges", is_flag=True, help="Skip GRANT and REVOKE."),
    _how("--no-analyze", is_flag=True, help="Do not collect statistics afterwards."),
    _how("--no-tablespaces", is_flag=True, help="Use the default tablespace for everything."),
    _how(
        "--search-path",
        type=click.Choice([path.value for path in SearchPath]),
        default=SearchPath.EMPTY.value,
        show_default=True,
        help="database: create objects with the database's own search_path, for operators of"
        " extensions that SQL cannot name.",
    ),
    _how("--verify-only", is_flag=True, help="Only verify the backup, like pgkeep verify."),
    _how("--dry-run", is_flag=True, help="Print the plan, check the file, and stop."),
    _how("--yes", is_flag=True, help="Do not ask before an existing database is changed."),
)


def restore_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of pgkeep restore to its function."""
    for decorator in reversed(_DECORATORS):
        function = decorator(function)
    return function


def group(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Return the options of a group."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})
