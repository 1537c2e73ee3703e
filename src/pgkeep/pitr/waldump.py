"""What happened in segments of the WAL, as pg_waldump of the same major version prints it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from .. import errors as e
from .. import processes
from ..model.wal import Lsn

_RECORD = re.compile(
    r"^rmgr: (?P<manager>\w+)\s.* tx:\s+(?P<tx>[0-9]{1,10}),"
    r" lsn: (?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8}),.*?"
    r" desc: (?P<kind>[A-Z_]+)\s?(?P<rest>.*)$",
    re.MULTILINE,
)
_MANAGERS = ("Transaction", "XLOG", "Tablespace")
_TOTAL = re.compile(r"^Total\s+([0-9]{1,18})\s", re.MULTILINE)
_COMMIT = re.compile(
    r"(?:(?P<prepared>[0-9]{1,10}): )?"
    r"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?) UTC"
)
_SUBTRANSACTIONS = re.compile(r"; subxacts: ([0-9 ]+)")
_PARAMETER = re.compile(r"\b(max_\w+|max_locks_per_xact)=([0-9]{1,10})")
_CREATED = re.compile(r'(?P<oid>\d+) "(?P<location>.*)"')
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


class RestorePoint(NamedTuple):
    """A named position."""

    name: str
    lsn: Lsn


@dataclass(slots=True)
class WalContents:
    """The commits, restore points, new tablespaces and changed settings of some segments."""

    commits: list[Commit] = field(default_factory=list)  # in their order
    restore_points: list[RestorePoint] = field(default_factory=list)
    settings: dict[str, int] = field(default_factory=dict)  # the highest values
    tablespaces: dict[str, Lsn] = field(default_factory=dict)  # location -> the last creation
    other_xids: dict[int, str] = field(default_factory=dict)  # why they are no target

    def add(self, later: "WalContents") -> None:
        """Append what later segments contain; they can overlap."""
        last = self.commits[-1].lsn if self.commits else -1
        self.commits.extend(commit for commit in later.commits if commit.lsn > last)
        last = self.restore_points[-1].lsn if self.restore_points else -1
        self.restore_points.extend(found for found in later.restore_points if found.lsn > last)
        self.tablespaces.update(later.tablespaces)
        self.other_xids.update(later.other_xids)
        for name, value in later.settings.items():
            self.settings[name] = max(self.settings.get(name, 0), value)


def read(
    programs: Path, folder: Path, names: Sequence[str], wanted: int | None = None
) -> WalContents:
    """Read segments that follow each other, in a folder; a timeline is read by itself.

    A record that continues in a segment that is not there ends the output. A partial segment must
    be padded to the size of a segment. Of a wanted transaction that is no commit, the reason is
    recorded.

    Raises:
        VerificationFailed: pg_waldump printed nothing, or something unexpected.

    """
    found = WalContents()
    for timeline in dict.fromkeys(name[:8] for name in names):
        own = [name for name in names if name.startswith(timeline)]
        found.add(contents_of(_records(programs, folder, own), own[0], wanted))
    return found


def contents_of(
    records: Iterable["re.Match[str]"], name: str, wanted: int | None = None
) -> WalContents:
    """Return what records of one timeline contain; `name` is for messages.

    Raises:
        VerificationFailed: a record has an unexpected form.

    """
    found = WalContents()
    for match in records:
        lsn = Lsn.parse(match["lsn"])
        kind, rest = match["kind"], match["rest"]
        if match["manager"] == "Transaction":
            _add_transaction(found, match, lsn, wanted)
        elif kind == "PARAMETER_CHANGE":
            for parameter, value in _PARAMETER.findall(rest):
                known = setting_name(parameter)
                found.settings[known] = max(found.settings.get(known, 0), int(value))
        elif kind == "RESTORE_POINT":
            found.restore_points.append(RestorePoint(rest, lsn))
        elif match["manager"] == "Tablespace" and kind == "CREATE":
            created = _CREATED.fullmatch(rest)
            if created is None:
                raise e.VerificationFailed(f"{name}: unreadable record at {lsn}: {rest[:80]}")
            if created["location"]:  # else it is in the data directory
                found.tablespaces[created["location"]] = lsn
    return found


def _records(programs: Path, folder: Path, names: Sequence[str]) -> list["re.Match[str]"]:
    """Return the records that pg_waldump prints, and not what only looks like one.

    The identifier of a prepared transaction can have line ends: any user could write lines that
    look like commits. If there are more lines than records, those after such an identifier are
    compared with the record at their position.
    """
    found = [*_RECORD.finditer(_output(programs, folder, names))]
    if not any(match["kind"] == "PREPARE" for match in found):
        return found
    total = _TOTAL.search(_output(programs, folder, names, "--stats"))
    if total is not None and int(total[1]) == len(found):
        return found
    genuine: list[re.Match[str]] = []
    for match in found:
        doubtful = bool(genuine) and genuine[-1]["kind"] == "PREPARE"
        if not doubtful or _is_genuine(programs, folder, names, match):
            genuine.append(match)
    return genuine


def _is_genuine(programs: Path, folder: Path, names: Sequence[str], match: "re.Match[str]") -> bool:
    """Whether the WAL has this record; nobody can write what stands before the first record."""
    try:
        text = _output(programs, folder, names, f"--start={match['lsn']}", "--limit=1")
    except e.VerificationFailed:  # the position is not in these segments
        return False
    first = _RECORD.match(text)
    return first is not None and first[0] == match[0]


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:  # digits that are no time
        return None


def _add_transaction(
    found: WalContents, match: "re.Match[str]", lsn: Lsn, wanted: int | None
) -> None:
    kind, rest, xid = match["kind"], match["rest"], int(match["tx"])
    if kind in ("COMMIT", "COMMIT_PREPARED"):
        commit = _COMMIT.match(rest)
        time = None if commit is None else _time(commit["time"])
        if commit is None or time is None:
            raise e.VerificationFailed(f"unreadable commit record at {lsn}: {rest[:80]}")
        xid = int(commit["prepared"] or xid)
        found.commits.append(Commit(lsn, xid, time))
        below = f"it is a subtransaction of {xid}"
    elif kind in ("ABORT", "ABORT_PREPARED"):
        aborted = _COMMIT.match(rest)
        xid = int(aborted["prepared"] or xid) if aborted else xid
        below = "it was rolled back"
        if xid == wanted:
            found.other_xids[xid] = below
    elif kind == "PREPARE":
        if xid == wanted:
            found.other_xids[xid] = "it was prepared, and not committed"
        return
    else:
        return
    parts = None if wanted is None else _SUBTRANSACTIONS.search(rest)
    if wanted is not None and parts is not None and str(wanted) in parts[1].split():
        found.other_xids[wanted] = below


def setting_name(recorded: str) -> str:
    """Return the name of a setting, as WAL records and pg_controldata name it."""
    return _SETTINGS.get(recorded, recorded)


def _output(programs: Path, folder: Path, names: Sequence[str], *options: str) -> str:
    command = [str(programs / "pg_waldump"), *(f"--rmgr={name}" for name in _MANAGERS), *options]
    command += [f"--path={folder}", str(folder / names[0])]
    command += [str(folder / names[-1])] if len(names) > 1 else []
    environment = processes.environment({"TZ": "UTC"})
    with processes.Child(command, environment) as child:
        output = b"".join(iter(child.read, b""))
        try:
            child.finish()
        except e.ProgramFailed as error:
            if not output and not any(text in error.message for text in _ENDS):
                raise e.VerificationFailed(f"{names[0]}: {error.message}") from error
    return output.decode("utf-8", "replace")
