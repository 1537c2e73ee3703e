"""What happened in segments of the WAL, as pg_waldump of the same major version prints it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from .. import errors as e
from .. import processes
from ..model.wal import Lsn

_COMMIT = re.compile(
    r"^rmgr: Transaction\s.* tx:\s+(?P<tx>\d+), lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+),.*"
    r" desc: COMMIT(?:_PREPARED (?P<prepared>\d+):)? (?P<time>[-0-9]{10} [:.0-9]{8,15}) UTC",
    re.MULTILINE,
)
_PARAMETERS = re.compile(r"^rmgr: XLOG\s.* desc: PARAMETER_CHANGE (.*)$", re.MULTILINE)
_PARAMETER = re.compile(r"\b(max_\w+|max_locks_per_xact)=(\d+)")
_RESTORE_POINT = re.compile(
    r"^rmgr: XLOG\s.* lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+),.* desc: RESTORE_POINT (?P<name>.*)$",
    re.MULTILINE,
)
# As the record names it, and as the setting is named.
_SETTINGS = {
    "max_locks_per_xact": "max_locks_per_transaction",
    "max_prepared_xacts": "max_prepared_transactions",
}
# How pg_waldump ends where the WAL ends.
_ENDS = ("invalid record length", "could not find a valid record", "out of range")


class Commit(NamedTuple):
    """One committed transaction."""

    lsn: Lsn  # of its record; commits in this order are not sorted by time
    xid: int
    time: datetime  # UTC


@dataclass(frozen=True, slots=True)
class WalContents:
    """The commits, restore points and changed settings of some segments, in their order."""

    commits: list[Commit]
    restore_points: list[tuple[str, Lsn]]
    settings: dict[str, int]  # the highest values


def read(programs: Path, folder: Path, names: Sequence[str]) -> WalContents:
    """Read segments that follow each other, in a folder.

    A record that continues in a segment that is not there ends the output. A partial segment must
    be padded to the size of a segment.

    Raises:
        VerificationFailed: pg_waldump printed nothing.

    """
    text = _output(programs, folder, names, "Transaction")
    commits = [
        Commit(Lsn.parse(m["lsn"]), int(m["prepared"] or m["tx"]), _time(m["time"]))
        for m in _COMMIT.finditer(text)
    ]
    xlog = _output(programs, folder, names, "XLOG")
    settings: dict[str, int] = {}
    for change in _PARAMETERS.findall(xlog):
        for name, value in _PARAMETER.findall(change):
            known = setting_name(name)
            settings[known] = max(settings.get(known, 0), int(value))
    points = [(m["name"], Lsn.parse(m["lsn"])) for m in _RESTORE_POINT.finditer(xlog)]
    return WalContents(commits, points, settings)


def setting_name(recorded: str) -> str:
    """Return the name of a setting, as WAL records and pg_controldata name it."""
    return _SETTINGS.get(recorded, recorded)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _output(programs: Path, folder: Path, names: Sequence[str], manager: str) -> str:
    command = [str(programs / "pg_waldump"), f"--rmgr={manager}", f"--path={folder}"]
    command += [str(folder / names[0]), *([str(folder / names[-1])] if len(names) > 1 else [])]
    environment = processes.environment({"TZ": "UTC"})
    with processes.Child(command, environment) as child:
        output = b"".join(iter(child.read, b""))
        try:
            child.finish()
        except e.ProgramFailed as error:
            if not output and not any(text in error.message for text in _ENDS):
                raise e.VerificationFailed(f"{names[0]}: {error.message}") from error
    return output.decode("utf-8", "replace")
