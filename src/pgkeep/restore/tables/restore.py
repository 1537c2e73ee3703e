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
    """Do what the plan says; `confirm` is asked with the rows that match and were written.

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
            connection.execute("BEGIN")
            if plan.options.where is not None:
                rows, written = RowMerge(plan, session).restore(progress, confirm)
            else:
                whole = WholeTables(plan, session)
                rows = written = whole.restore(progress)
                warnings += whole.warnings
            progress.step("committing")
            with interrupts.held():
                connection.execute("COMMIT")
                interrupts.completed(f"{listed(tables.names)} committed")
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
