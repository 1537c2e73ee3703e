"""What a command reports of its run, for the record that it leaves in the stores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from .. import errors as e
from ..config import Config
from ..model.record import DatabaseResult

_KEY = "pgkeep.run_log"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOutcome:
    """How the run of one target ended."""

    results: Sequence[DatabaseResult] = ()
    removed: Sequence[str] = ()  # names of backups
    error: e.PgkeepError | None = None
    type: str | None = None  # the requested type of a backup
    cluster: str | None = None


class RunLog:
    """The targets of a command, and what it did for each."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.configs: Sequence[Config] = ()  # whose stores get the record
        self._outcomes: list[tuple[Config, TargetOutcome]] = []

    def ended(self, config: Config, outcome: TargetOutcome) -> None:
        """Note how the run of a target ended; what is not noted ends as the command does."""
        self._outcomes.append((config, outcome))

    def used(self, config: Config, database: str, backups: Iterable[str] = ()) -> None:
        """Note a database and the backups that were made or used, of a command without failures."""
        names: list[str | None] = [*backups]
        results = [DatabaseResult(database=database, backup=backup) for backup in names or [None]]
        self.ended(config, TargetOutcome(results=results))

    def outcome_of(self, config: Config) -> TargetOutcome | None:
        """Return what was noted for a target."""
        return next((outcome for found, outcome in self._outcomes if found is config), None)


def current() -> RunLog:
    """Return the log of the running command."""
    log: RunLog = click.get_current_context().meta.setdefault(_KEY, RunLog())
    return log
