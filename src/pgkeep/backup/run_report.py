"""The result of a backup run, for each database."""

from collections.abc import Iterable
from typing import Any

import msgspec

from .. import errors as e
from ..model.database_patterns import Excluded
from ..model.manifest import Manifest


class Failure(msgspec.Struct, frozen=True):
    """A failure for one database."""

    database: str
    error: str
    hint: str | None
    exit_code: int

    @classmethod
    def of(cls, database: str, error: e.PgkeepError) -> "Failure":
        """Record an error."""
        return cls(database, error.message, error.hint, error.exit_code)

    def as_error(self) -> e.PgkeepError:
        """Return an error with the same message, hint and exit code."""
        return e.PgkeepError(self.error, hint=self.hint, exit_code=self.exit_code)


class DatabaseOutcome(msgspec.Struct, kw_only=True):
    """The result of a run for one database."""

    database: str
    backup: Manifest | None = None
    failed: Failure | None = None  # why no backup was published
    copied: list[str] = []  # earlier backups whose pending copy was uploaded
    copies: list[Failure] = []  # failures of copies
    copies_required: bool = False  # a copy that fails makes the run fail
    removed: list[str] = []  # backups that retention removed
    copies_removed: list[str] = []
    retention: Failure | None = None  # why retention refused or failed
    retained: list[str] = []  # backups that the store keeps longer than the policy
    unreadable: list[str] = []  # manifests that cannot be read, and why


class RunReport(msgspec.Struct, kw_only=True):
    """The result of a run for one target or several."""

    outcomes: list[DatabaseOutcome] = []
    excluded: list[Excluded] = []
    unmatched: list[str] = []  # patterns that match no database
    dropped: list[str] = []  # databases that have backups but no longer exist on the server

    @classmethod
    def of_failure(cls, failure: Failure) -> "RunReport":
        """Return the report of a run that failed before it reached any database."""
        return cls(outcomes=[DatabaseOutcome(database=failure.database, failed=failure)])

    @classmethod
    def combined(cls, reports: Iterable["RunReport"]) -> "RunReport":
        """Return one report of several runs."""
        total = cls()
        for report in reports:
            total.outcomes += report.outcomes
            total.excluded += report.excluded
            total.unmatched += report.unmatched
            total.dropped += report.dropped
        return total

    @property
    def backups(self) -> list[Manifest]:
        """The published backups."""
        return [outcome.backup for outcome in self.outcomes if outcome.backup is not None]

    @property
    def failed(self) -> list[Failure]:
        """The databases without a new backup."""
        return [outcome.failed for outcome in self.outcomes if outcome.failed is not None]

    @property
    def retention(self) -> list[Failure]:
        """The databases for which retention refused or failed."""
        return [outcome.retention for outcome in self.outcomes if outcome.retention is not None]

    @property
    def copies(self) -> list[Failure]:
        """Failures of copies."""
        return [failure for outcome in self.outcomes for failure in outcome.copies]

    @property
    def copies_missed(self) -> list[Failure]:
        """Failures of required copies."""
        return [
            failure
            for outcome in self.outcomes
            if outcome.copies_required
            for failure in outcome.copies
        ]

    @property
    def copied(self) -> list[str]:
        """Earlier backups whose pending copy was uploaded."""
        return [stem for outcome in self.outcomes for stem in outcome.copied]

    @property
    def removed(self) -> list[str]:
        """Backups that retention removed."""
        return [stem for outcome in self.outcomes for stem in outcome.removed]

    @property
    def copies_removed(self) -> list[str]:
        """Copies that retention removed."""
        return [stem for outcome in self.outcomes for stem in outcome.copies_removed]

    @property
    def retained(self) -> list[str]:
        """Backups that a store keeps longer than the policy, as text."""
        return [text for outcome in self.outcomes for text in outcome.retained]

    @property
    def unreadable(self) -> list[str]:
        """Manifests that cannot be read, and why."""
        return [text for outcome in self.outcomes for text in outcome.unreadable]

    def failure(self) -> e.PgkeepError | None:
        """Return the error that the run ends with, None after a success."""
        failed, backups = self.failed, self.backups
        if len(failed) == 1 and not backups:
            return failed[0].as_error()
        if failed:
            names = ", ".join(failure.database for failure in failed)
            return e.SomeFailed(
                f"{len(failed)} of {len(failed) + len(backups)} databases failed: {names}",
                hint=failed[0].hint,
            )
        for failure in (*self.copies_missed, *self.retention):
            return failure.as_error()
        return None

    def document(self) -> dict[str, Any]:
        """Return the JSON document of `pgkeep backup --json`."""
        fields = (
            "backups", "failed", "excluded", "unmatched", "dropped", "removed", "retention",
            "unreadable", "copied", "copies", "copies_missed", "copies_removed", "retained",
        )  # fmt: skip
        return {field: getattr(self, field) for field in fields}
