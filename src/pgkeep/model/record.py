"""The record of a run: who ran which command, from where, on which databases, and its outcome.

The name of its file says when the run ended, its command and its exit code, so that a list of names
is enough to find the failed ones. Unknown fields are ignored, as in manifests.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from .. import errors as e
from .manifest import EARLIEST, LATEST, Moment
from .unreadable import UNREADABLE

FORMAT = 1
FOLDER = "records/"  # of a store
KEPT = timedelta(days=400)  # a year, and the month in which it is reviewed
LARGEST = 1 << 20  # bytes
_DATABASE = "--database="
_TIMESTAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(
    FOLDER + r"(?P<finished>[0-9]{8}T[0-9]{6}Z)_(?P<command>[a-z][a-z-]{0,30})"
    r"_(?P<code>[0-9]{1,3})_(?P<id>[0-9a-f]{8})\.json"
)


class RecordName(NamedTuple):
    """The parts of a record's file name; they sort by time."""

    finished: datetime
    command: str
    exit_code: int
    id: str  # random, so that two runs never write the same file

    @property
    def file(self) -> str:
        """The name of the file in a store."""
        moment = self.finished.astimezone(UTC).strftime(_TIMESTAMP)
        return f"{FOLDER}{moment}_{self.command}_{self.exit_code}_{self.id}.json"


class DatabaseResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome for one database of a run."""

    database: str
    backup: str | None = None  # the name of the backup that was made or used
    exit_code: int = 0
    error: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of a command."""

    format: int = FORMAT
    command: str
    options: list[str] = []  # as given, without values that can be secret
    pgkeep: str
    user: str  # of the operating system
    login: str | None = None  # the user who became it with sudo
    host: str
    client: str | None = None  # the address from which the user was logged in
    target: str | None = None
    cluster: str | None = None
    type: str | None = None  # that was requested, of a backup
    started: Moment
    finished: Moment
    exit_code: int
    error: str | None = None
    results: list[DatabaseResult] = []
    removed: list[str] = []  # names of backups

    def of(self, database: str) -> DatabaseResult | None:
        """Return the outcome for a database, None if the run did not concern it.

        A run that failed before it had a result concerns every database, or those that its options
        name.
        """
        found = next((result for result in self.results if result.database == database), None)
        options = (option for option in self.options if option.startswith(_DATABASE))
        named = {option.removeprefix(_DATABASE) for option in options} or {database}
        if found is None and not self.results and self.exit_code and database in named:
            return DatabaseResult(database=database, exit_code=self.exit_code, error=self.error)
        return found


def name_of(written: Record, number: int) -> RecordName:
    """Return the name of a record, with a random number."""
    return RecordName(written.finished, written.command, written.exit_code, f"{number:08x}")


# Examined now and not in several threads at once, as the manifest is.
_DECODER = msgspec.json.Decoder(Record)


def parse(file: str) -> RecordName | None:
    """Return the parts of the name of a record, None for any other file."""
    match = _NAME.fullmatch(file)
    if match is None:
        return None
    try:
        finished = datetime.fromisoformat(match["finished"])
    except ValueError:
        return None
    if not EARLIEST <= finished.year <= LATEST:  # strftime writes fewer digits of early years
        return None
    return RecordName(finished, match["command"], int(match["code"]), match["id"])


def names(files: Iterable[str]) -> list[RecordName]:
    """Return the records among these files, oldest first."""
    return sorted(found for found in map(parse, files) if found is not None)


def expired(found: Iterable[RecordName], now: datetime) -> list[RecordName]:
    """Return the records that are no longer kept."""
    return [name for name in found if name.finished < now - KEPT]


def decode(data: bytes, file: str) -> Record:
    """Read a record.

    Raises:
        VerificationFailed: it is not a record, or has a newer format.

    """
    try:
        found = _DECODER.decode(data)
    except UNREADABLE as error:
        raise e.VerificationFailed(f"{file} is not a record of pgkeep: {error}") from error
    if found.format > FORMAT:
        raise e.VerificationFailed(
            f"{file} has format {found.format}, this pgkeep reads up to {FORMAT}",
            hint="Use the version of pgkeep that wrote it, or a newer one.",
        )
    if not all(EARLIEST <= time.year <= LATEST for time in (found.started, found.finished)):
        raise e.VerificationFailed(
            f"{file} is not a record of pgkeep: its time is {found.finished}"
        )
    return found
