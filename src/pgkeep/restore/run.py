"""The state of a restore that executes its plan: warnings, and objects that failed."""

import contextlib
from dataclasses import dataclass, field

from ..model.manifest import TableRows
from ..postgres.connection import Connection
from ..sql.encodings import codec
from ..sql.statements import Name
from . import maintenance, plan
from .failed_objects import FailedObjects
from .object_selection import ObjectSelection, SelectionWhileLoading
from .plan import Plan


@dataclass(slots=True)
class Run:
    """One execution of a plan."""

    plan: Plan
    while_loading: SelectionWhileLoading | None
    failed: FailedObjects | None  # with --keep-going
    plain_rows: int | None = None  # of a plain dump, which does not say it beforehand
    warnings: list[str] = field(default_factory=list)

    @property
    def selection(self) -> ObjectSelection | None:
        """What is restored, as it is known by now."""
        return self.while_loading.selection if self.while_loading is not None else None

    def maintenance(self) -> contextlib.AbstractContextManager[Connection]:
        """Connect to a database that is not the target."""
        stays = self.plan.mode in (plan.Mode.IN_PLACE, plan.Mode.DATA_ONLY)
        return maintenance.connection(self.plan.endpoint, self.plan.target, stays=stays)

    def tables(self) -> list[TableRows]:
        """Return the tables whose rows are restored."""
        return plan.tables(self.plan.artifact, self.skips_rows)

    def skips_rows(self, table: Name) -> bool:
        """Tell whether a table is skipped, or has failed."""
        if self.selection is not None and self.selection.skips_rows(table):
            return True
        return self.failed is not None and self.failed.lacks(table)


def start(restore: Plan) -> Run:
    """Begin to execute a plan."""
    while_loading = (
        SelectionWhileLoading(restore.selection) if restore.selection is not None else None
    )
    failed = None
    if restore.options.keep_going and restore.meta is not None:
        failed = FailedObjects(codec(restore.meta.database.encoding))
    return Run(restore, while_loading, failed)
