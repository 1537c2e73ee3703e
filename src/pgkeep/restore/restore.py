"""Restore a whole database: execute a plan, and leave an existing database as it was."""

import contextlib
import time
from collections.abc import Iterator

import msgspec

from .. import errors as e
from ..progress import Progress
from . import database_settings, file_check, run
from .fill import fill
from .new_database import NewDatabase, Restored
from .plan import Mode, Plan
from .planning import at_once_warning
from .run import Run
from .swap_plan import command
from .target import role_creation


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore has done."""

    database: str
    rows: int | None
    tables: int | None
    seconds: float
    old_database: str | None = None  # where the former one is kept
    outage: float | None = None  # seconds for which sessions were refused
    swap: str | None = None  # the command that swaps the database in, with --no-swap
    warnings: list[str] = []


def execute(plan: Plan, progress: Progress) -> Result:
    """Do what the plan says.

    Raises:
        Refused: the plan has problems.
        VerificationFailed: the file is damaged; the server was not changed.
        RestoreFailed: the target is as it was before.

    """
    summary = plan.summary
    if summary.problems:
        raise e.Refused("; ".join(summary.problems), hint="\n".join(summary.remedies) or None)
    started = time.monotonic()
    sha256 = file_check.check(plan, progress)
    current = run.start(plan)
    if plan.name_dependence is not None:
        current.warnings.append(at_once_warning(plan.name_dependence))
    with _created_roles(current):
        restored = _restore(current, sha256, progress)
    loaded, swapped = restored.loaded, restored.swapped
    return Result(
        database=restored.database,
        rows=sum(loaded.rows.values()) if loaded is not None else current.plain_rows,
        tables=len(loaded.rows) if loaded is not None else None,
        warnings=[
            *(current.selection.lines() if current.selection is not None else ()),
            *current.warnings,
            *(loaded.warnings if loaded is not None else ()),
            *(swapped.warnings if swapped is not None else ()),
        ],
        seconds=round(time.monotonic() - started, 3),
        old_database=restored.old,
        outage=swapped.outage if swapped is not None else None,
        swap=command(plan.target, restored.database) if plan.mode == Mode.ASIDE else None,
    )


def _restore(current: Run, sha256: str | None, progress: Progress) -> Restored:
    """Restore, and return what was loaded."""
    plan = current.plan
    if plan.mode.creates:
        return NewDatabase(current, sha256, progress).restore()
    loaded = fill(current, plan.endpoint.to(plan.target), sha256, progress)
    if plan.mode == Mode.IN_PLACE and plan.meta is not None:
        database_settings.apply_in_place(current, plan.meta.database)
    return Restored(loaded=loaded, database=plan.target)


@contextlib.contextmanager
def _created_roles(current: Run) -> Iterator[None]:
    """Create the roles that are missing, if that was asked for; drop them after a failure."""
    missing = current.plan.missing_roles
    if not (missing and current.plan.options.create_roles):
        yield
        return
    with current.maintenance() as connection:
        role_creation.create(connection, missing)
    try:
        yield
    except BaseException:
        with contextlib.suppress(e.PgkeepError), current.maintenance() as connection:
            role_creation.drop(connection, missing)
        raise
