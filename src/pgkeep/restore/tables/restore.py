"""Execute a plan for tables: everything in one transaction of the target database."""

import contextlib
import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from ... import errors as e
from ... import interrupts
from ...postgres.connection import Connection
from ...postgres.messages import restore_error
from ...progress import Progress
from ...sql.statements import Name
from .. import search_path
from ..load import settings
from ..load.session import Session, Statement
from ..search_path import SearchPath
from . import definitions
from .plan import TablesPlan, TablesResult
from .row_merge import Confirm, RowMerge
from .selected import dotted, listed
from .whole_tables import WholeTables


def execute(plan: TablesPlan, progress: Progress, confirm: Confirm) -> TablesResult:
    """Do what the plan says; `confirm` is asked before rows are written.

    Raises:
        Refused: the plan has problems, or `confirm` says no.
        VerificationFailed: the file is damaged.
        RestoreFailed: the database is as it was before.

    """
    summary, tables = plan.summary, plan.tables
    if summary.problems:
        raise e.Refused("; ".join(summary.problems), hint="\n".join(summary.remedies) or None)
    started = time.monotonic()
    new = definitions.new_name(tables, plan.options)
    restored = [new] if new is not None else tables.names
    warnings = list(summary.warnings)
    progress.total(tables.raw_bytes())
    with plan.endpoint.connect() as connection:
        session = Session(connection, _header(plan, connection))
        connection.execute("SET synchronous_commit = on")
        try:
            if plan.options.where is not None:
                rows, written = _merge(plan, session, progress, confirm, warnings)
            else:
                rows = written = _restore(plan, session, progress, warnings)
            if plan.options.analyze and plan.options.where is None:
                _analyze(connection, restored)
        except psycopg.Error as error:
            raise restore_error(error, f"restoring {listed(tables.names)}") from error
    return TablesResult(
        database=plan.target,
        tables=[dotted(name) for name in restored],
        rows=rows,
        written=written,
        seconds=round(time.monotonic() - started, 3),
        warnings=warnings,
    )


def check(plan: TablesPlan, progress: Progress) -> list[str]:
    """Check what a restore would read of the file; return the names of the checks.

    In a bucket, the rows are not read: a restore checks each member when it loads it, and commits
    only after the last one.

    Raises:
        VerificationFailed: the file is damaged.

    """
    progress.step("checking the file")
    if plan.tables.artifact.source.remote:
        return ["end marker", "index"]
    plan.tables.check_rows(progress)
    return ["end marker", "index", "hashes of the members of these tables"]


def _restore(plan: TablesPlan, session: Session, progress: Progress, warnings: list[str]) -> int:
    session.connection.execute("BEGIN")
    whole = WholeTables(plan, session)
    rows = whole.restore(progress)
    _commit(plan, session, progress)
    progress.step("validating foreign keys")
    whole.validate()
    warnings += whole.warnings
    return rows


def _merge(
    plan: TablesPlan, session: Session, progress: Progress, confirm: Confirm, warnings: list[str]
) -> tuple[int, int]:
    merge = RowMerge(plan, session)
    merge.load(progress)
    expected = merge.count()
    # Nothing is open and nothing locked while somebody thinks about the answer.
    if not confirm(expected):
        raise e.Refused("cancelled: nothing was changed")
    session.connection.execute("BEGIN")
    written = merge.write(progress, expected)
    _commit(plan, session, progress)
    if written < expected.written:
        warnings.append(f"{written} rows were written, {expected.written} were expected")
    return expected.chosen, written


def _commit(plan: TablesPlan, session: Session, progress: Progress) -> None:
    progress.step("committing")
    with interrupts.held():
        session.connection.execute("COMMIT")
        interrupts.completed(f"{listed(plan.tables.names)} committed")


def _header(plan: TablesPlan, connection: Connection) -> list[Statement]:
    definitions = plan.options.where is None
    header = settings.header(connection, plan.tables.artifact, definitions=definitions)
    if plan.options.search_path != SearchPath.EMPTY:
        header.append(search_path.existing(plan.tables.meta))
    return header


def _analyze(connection: Connection, names: Sequence[Name]) -> None:
    with contextlib.suppress(psycopg.Error):  # statistics are no reason to fail
        for name in names:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(*name)))
