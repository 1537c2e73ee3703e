"""Check every database against its backup goals: decisions from manifests."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo

import msgspec

from ..catalog.catalog import Backup, several_clusters
from ..crypt import opening
from ..model import manifest
from ..model.manifest import Manifest
from . import files, overview, point_in_time
from .attempts import BACKUP, Attempt, Attempts, Failure, Runs, failures, last_attempt
from .attempts import gaps as gaps_of
from .files import Lost
from .pgbackrest import StanzaState
from .point_in_time import Cluster
from .spans import span

_BARE = "no backup, and no database is configured by name"
WEEKS = 9  # shown in the calendar, including the current week
_HIGHEST = ("monthly", "weekly", "daily", "manual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Maximum ages of backups and drills, and the maximum recovery time, in seconds."""

    max_age: float
    drill_max_age: float | None = None  # None: not checked
    rto: float | None = None
    encrypted: bool = False  # every backup has to be


class Drill(msgspec.Struct, frozen=True):
    """A database's last drill."""

    when: datetime
    passed: bool
    findings: int
    recovery_seconds: float


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one database."""

    database: str
    cluster: str  # its name; empty if unknown
    target: str | None
    expected: bool  # databases that are not expected are shown, but not checked
    newest: str | None  # the backup's name
    newest_id: str | None
    snapshot: datetime | None  # the time as of which it restores data
    age_seconds: float | None
    lag_unknown: bool  # of the standby: the data can be older
    type: str | None
    verified: bool
    verified_level: str  # contents, or ciphertext: without a private key
    cipher: str | None  # of the newest backup
    unencrypted: int  # backups of any kind
    size: int | None
    rows: int | None
    backups: int
    pending_copies: int
    drill: Drill | None
    last_passed_drill: datetime | None
    problems: list[str]  # goals that are not met
    critical: bool  # whether one of them endangers a restore now: no recent backup, a failed drill
    notes: list[str]  # what is unusual, but is no missed goal
    days: dict[str, str]  # for each day with a backup, its highest tier
    gaps: dict[str, str] = {}  # for other days of which records are known: removed, gone, failed
    last_attempt: Attempt | None = None
    last_failure: Failure | None = None  # of the last run, if it failed
    failures: list[Failure] = []  # the last one of each command, also if a later run succeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """A target and the state of its databases; unknown if no store was read."""

    name: str | None
    target: overview.Target
    zone: tzinfo
    goals: Goals
    readable: bool
    databases: list[Database]
    failed_prune: Failure | None = None  # the last run of `pgkeep prune`, if no later one succeeded
    options: Sequence[str] = ()  # with which a command in a shell uses the same stores
    clusters: Sequence[Cluster] = ()  # with point in time
    stanzas: Sequence[StanzaState] = ()  # of pgBackRest
    cluster_goals: point_in_time.Goals | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of all targets at one time."""

    now: datetime
    places: list[TargetState]
    contents: overview.Contents
    problems: list[str]  # stores that could not be read
    unreadable: list[str] = field(default_factory=list)  # manifests that could not be read
    attempts: Attempts = field(default_factory=dict)

    @property
    def databases(self) -> list[Database]:
        """The databases of all targets."""
        return [database for place in self.places for database in place.databases]

    @property
    def clusters(self) -> list[Cluster]:
        """The clusters of all targets with point in time."""
        return [cluster for place in self.places for cluster in place.clusters]

    @property
    def stanzas(self) -> list[StanzaState]:
        """The stanzas of pgBackRest of all targets."""
        return [stanza for place in self.places for stanza in place.stanzas]

    @property
    def readable(self) -> bool:
        """Whether at least one store of every target was read."""
        return all(place.readable for place in self.places)

    @property
    def reasons(self) -> list[str]:
        """Goals that are not met, with one sentence for each database."""
        if not self.readable:
            return list(self.problems)
        title = titles(self.databases)
        return [
            *(f"{'' if target is None else f'target {target}: '}{_BARE}" for target in self.bare),
            *(
                f"{title(database)}: {'; '.join(database.problems)}"
                for database in self.databases
                if database.problems
            ),
            *(
                f"point in time of {cluster.title}: {'; '.join(cluster.problems)}"
                for cluster in self.clusters
                if cluster.problems
            ),
            *(
                f"stanza {stanza.stanza}: {'; '.join(stanza.problems)}"
                for stanza in self.stanzas
                if stanza.problems
            ),
            *self.unreadable,
        ]

    @property
    def bare(self) -> list[str | None]:
        """The targets without any backup or expected database."""
        return [
            place.name
            for place in self.places
            if not any(found.expected for found in place.databases)
            and not any(found.expected for found in place.clusters)
            and not place.stanzas
        ]

    @property
    def ok(self) -> bool:
        """Whether every database meets its goals."""
        return not self.reasons

    @property
    def summary(self) -> str:
        """One line for people and for Nagios."""
        if not self.readable:
            return "not ok: no store of a target can be read"
        if self.ok and not any(database.expected for database in self.databases):
            return f"ok: {', '.join(self._others(bad=False))}"
        if self.ok or any(database.problems for database in self.databases) or self.bare == [None]:
            return summary(self.databases)
        if self.bare:
            return f"not ok: no backup of target {', '.join(map(str, self.bare))}"
        if bad := self._others(bad=True):
            return f"not ok: {', '.join(bad)}"
        count = len(self.unreadable)
        return f"not ok: {count} {'manifest' if count == 1 else 'manifests'} cannot be read"

    def _others(self, *, bad: bool) -> list[str]:
        """Name clusters and stanzas, all of them or those with problems."""
        clusters = [c.title for c in self.clusters if c.expected and (c.problems or not bad)]
        stanzas = [s.stanza for s in self.stanzas if s.problems or not bad]
        found = {"point in time of": clusters, "pgBackRest": stanzas}
        return [f"{what} {', '.join(names)}" for what, names in found.items() if names]


def judge(
    target: overview.Target,
    contents: overview.Contents,
    goals: Goals,
    now: datetime,
    zone: tzinfo,
    name: str | None = None,
    lost: Lost | None = None,
) -> list[Database]:
    """Return the state of every database that has or should have backups."""
    wanted = overview.expected(target, contents)
    everybody = sorted({*wanted, *overview.databases(target, contents)})
    names = overview.clusters(target, contents, wanted)
    parts = overview.ByDatabase(contents)
    judgement = _Judgement(
        target, goals, now, zone, name, names, files.lost_of_databases(lost or {})
    )
    expected_here = set(wanted)
    return [
        judgement.of(database, parts.of(database), expected=database in expected_here)
        for database in everybody
    ]


@dataclass(frozen=True, slots=True)
class _Judgement:
    """Checks the databases of one target."""

    target: overview.Target
    goals: Goals
    now: datetime
    zone: tzinfo
    name: str | None  # of the target
    clusters: overview.Clusters
    lost: Mapping[str, Lost]  # by database

    def of(self, database: str, contents: overview.Contents, *, expected: bool) -> Database:
        """Check one database with its backups; problems count only if they are expected."""
        copies = [copy for store in self.target.stores for copy in contents.get(store.url, ())]
        complete = _whole(copies)
        whole = overview.past(complete, self.now)
        newest = max(
            overview.counted(complete, self.now),
            key=lambda manifest: manifest.as_of,
            default=None,
        )
        drills = overview.past((copy.manifest for copy in copies), self.now)
        last = overview.last_drill(drills)
        passed = max(
            (drill.when for each in drills for drill in each.drills if drill.passed), default=None
        )
        age = None if newest is None else (self.now - newest.as_of).total_seconds()
        problems = [
            *_of_backup(age, self.goals),
            *files.problems(self.target, contents, newest, self.now),
            *_of_clock(len(complete) - len(whole)),
            *_of_clusters(several_clusters(whole)),
            *_of_encryption(copies, self.goals),
            *_of_copies(self.target, copies, self.goals, self.now),
            *_of_drill(last, passed, self.goals, self.now),
        ]
        return Database(
            database=database,
            cluster=self.clusters.of(database),
            target=self.name,
            expected=expected,
            newest=None if newest is None else newest.name.stem,
            newest_id=None if newest is None else newest.name.id,
            snapshot=None if newest is None else newest.as_of,
            age_seconds=age,
            lag_unknown=newest is not None and newest.lag_unknown,
            type=None if newest is None else str(newest.type),
            verified=newest is not None and newest.verified is not None,
            verified_level=opening.CONTENTS if newest is None else newest.verified_level,
            cipher=None if newest is None else newest.cipher,
            unencrypted=len(overview.unencrypted(copies)),
            size=None if newest is None else newest.artifact.size,
            rows=None if newest is None else newest.rows,
            backups=len(whole),
            pending_copies=_pending_copies(self.target, copies),
            drill=None if last is None else _shown(last),
            last_passed_drill=passed,
            problems=problems if expected else [],
            critical=expected
            and (bool(_of_backup(age, self.goals)) or (last is not None and not last.passed)),
            notes=list(files.notes(self.target, self.lost.get(database, {}))),
            days=_days(whole, self.zone),
        )


def titles(databases: Sequence[Database]) -> Callable[[Database], str]:
    """Return the function that names a database: with its cluster where others have its name."""
    count = Counter(database.database for database in databases)

    def title(database: Database) -> str:
        if count[database.database] == 1:
            return database.database
        found = {"target": database.target, "cluster": database.cluster}
        more = ", ".join(f"{noun} {name}" for noun, name in found.items() if name)
        return f"{database.database} ({more})" if more else database.database

    return title


def _shown(drill: manifest.Drill) -> Drill:
    return Drill(drill.when, drill.passed, drill.findings, drill.recovery_seconds)


def _whole(copies: Iterable[Backup]) -> list[Manifest]:
    """Return the backups that can be restored from any store, without duplicates."""
    found = {
        copy.manifest.artifact.name: copy.manifest
        for copy in copies
        if not copy.missing and copy.manifest.full
    }
    return list(found.values())


def _pending_copies(target: overview.Target, copies: Iterable[Backup]) -> int:
    if target.copy is None:
        return 0
    return len({b.manifest.artifact.name for b in copies if target.copy.url in b.manifest.pending})


def _of_backup(age: float | None, goals: Goals) -> list[str]:
    if age is None:
        return ["no backup"]
    if age > goals.max_age:
        return [f"its newest backup is {span(age)} old, BACKUP_MAX_AGE is {span(goals.max_age)}"]
    return []


def _of_copies(
    target: overview.Target, copies: Iterable[Backup], goals: Goals, now: datetime
) -> list[str]:
    """Report a copy that has been pending for longer than the maximum age of a backup."""
    url = "" if target.copy is None else target.copy.url
    pending = [copy.manifest.finished for copy in copies if url in copy.manifest.pending]
    age = max(((now - since).total_seconds() for since in pending), default=0.0)
    if age > goals.max_age:
        return [f"the copy to {url} has been pending for {span(age)}"]
    return []


def _of_clock(count: int) -> list[str]:
    if not count:
        return []
    are = "1 backup is" if count == 1 else f"{count} backups are"
    return [f"{are} from the future: a clock is wrong, or was"]


def _of_clusters(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count} clusters back it up to the same store: use a separate BACKUP_DIR for each"]


def _of_encryption(copies: Sequence[Backup], goals: Goals) -> list[str]:
    """Report backups that are not encrypted, also old ones: they contain as much (design.md)."""
    plain = overview.unencrypted(copies)
    if not plain or not goals.encrypted:
        return []
    count = len({copy.manifest.name.stem for copy in copies})
    are = "its only backup is" if count == 1 else f"{len(plain)} of its {count} backups are"
    newest = f", the newest: {plain[-1].name.stem}" if count > 1 else ""
    return [f"{are} not encrypted{newest}: pgkeep rekey encrypts them"]


def _of_drill(
    last: manifest.Drill | None, passed: datetime | None, goals: Goals, now: datetime
) -> list[str]:
    problems = []
    if goals.drill_max_age is not None:
        if passed is None:
            problems.append("no drill has passed")
        elif (age := (now - passed).total_seconds()) > goals.drill_max_age:
            limit = span(goals.drill_max_age)
            problems.append(
                f"its last passed drill was {span(age)} ago, BACKUP_DRILL_MAX_AGE is {limit}"
            )
    if last is not None and not last.passed:
        problems.append(f"its last drill failed (findings: {last.findings})")
    if goals.rto is not None:
        if last is None or not last.passed:
            problems.append("no drill has measured the recovery time (BACKUP_RTO)")
        elif (took := last.recovery_seconds) > goals.rto:
            problems.append(f"its recovery took {span(took)}, BACKUP_RTO is {span(goals.rto)}")
    return problems


def _days(manifests: Iterable[Manifest], zone: tzinfo) -> dict[str, str]:
    days: dict[str, str] = {}
    for backup in manifests:
        day = backup.taken.astimezone(zone).date().isoformat()
        before = days.get(day, _HIGHEST[-1])
        days[day] = min(before, str(backup.type), key=_HIGHEST.index)
    return dict(sorted(days.items()))


def calendar(days: Mapping[str, str], today: date, weeks: int = WEEKS) -> list[list[str | None]]:
    """Return the state of each day of the last weeks, from Monday; the last week ends today."""
    monday = today - timedelta(days=today.weekday() + 7 * (weeks - 1))
    shown = [monday + timedelta(days=n) for n in range((today - monday).days + 1)]
    tiers = [days.get(day.isoformat()) for day in shown]
    return [tiers[start : start + 7] for start in range(0, len(tiers), 7)]


def summary(databases: Sequence[Database]) -> str:
    """Return a one-line summary of the goals that are not met, if any."""
    judged = [database for database in databases if database.expected]
    if not judged:
        return "not ok: no backup"
    bad = [database for database in judged if database.problems]
    if not bad:
        noun = "database is" if len(judged) == 1 else "databases are"
        text = f"ok: {len(judged)} {noun} within the goals"
        failed = [database for database in judged if database.last_failure is not None]
        if failed:
            text += f"; last run failed: {', '.join(map(titles(databases), failed))}"
    else:
        names = ", ".join(map(titles(databases), bad))
        text = f"not ok: {len(bad)} of {len(judged)} databases: {names}"
    return text if len(text) <= 80 else f"{text[:77]}..."


_TITLES = {"backup": "run", "drill": "drill", "restore": "restore", "prune": "prune"}


def failure_texts(failure: Failure, now: datetime) -> list[str]:
    """Describe a failed run: when, where and why, since when all have failed, what followed."""
    title = _TITLES[failure.command]
    how = (
        f"failed {_ago(failure.when, now)} ({_moment(failure.when)}) on {failure.host}, exit code"
        f" {failure.exit_code}: {failure.error}"
    )
    if failure.succeeded is not None:
        return [f"a {title} {how}; another succeeded {_ago(failure.succeeded, now)}"]
    texts = [f"last {title} {how}"]
    if failure.runs > 1:
        texts.append(
            f"{failure.runs} runs in a row have failed, the first at {_moment(failure.since)}"
        )
    return texts


def _ago(when: datetime, now: datetime) -> str:
    return f"{span(max(0.0, (now - when).total_seconds()))} ago"


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def with_runs(
    databases: Iterable[Database], target: overview.Target, contents: overview.Contents,
    attempts: Attempts, now: datetime, zone: tzinfo,
) -> list[Database]:  # fmt: skip
    """Return the states of databases with what the records of their runs say."""
    judged = list(databases)
    runs = Runs(target, attempts, [database.database for database in judged])
    parts = overview.ByDatabase(contents)
    return [
        _with_runs(database, target, parts.of(database.database), runs, now, zone)
        for database in judged
    ]


def _with_runs(
    database: Database, target: overview.Target, contents: overview.Contents, runs: Runs,
    now: datetime, zone: tzinfo,
) -> Database:  # fmt: skip
    name = database.database
    failed = failures(target, contents, runs, name, now)
    unresolved = [failure for failure in failed if failure.succeeded is None]
    gaps = gaps_of(target, contents, runs, name, zone)
    return msgspec.structs.replace(
        database,
        gaps={day: state for day, state in gaps.items() if day not in database.days},
        last_attempt=last_attempt(runs, name),
        last_failure=next((found for found in unresolved if found.command == BACKUP), None),
        failures=failed,
    )
