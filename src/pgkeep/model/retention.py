"""Decide which backups can be removed: a pure function of manifests, with reasons.

Only verified full backups count. Ages are measured from the newest verified backup of the same
database, not from the current time: while no good backup arrives, nothing expires (trap B6).
"""

import calendar
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import groupby

from .. import errors as e
from .manifest import Hold, Manifest
from .naming import BackupType

FUTURE_TOLERANCE = timedelta(hours=1)  # clocks of two hosts can differ by some minutes
LARGEST_SHARE = 0.5  # of a database's verified backups that one run removes at most
PATIENCE = 7  # runs that refuse to remove more, before the removal is considered intended


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long backups of each tier are kept, and how many are always kept."""

    daily: int = 7  # days
    weekly: int = 4  # weeks
    monthly: int = 12  # calendar months
    min_keep: int = 1  # newest verified full backups of each database

    def __str__(self) -> str:
        return f"{self.daily}d {self.weekly}w {self.monthly}m min {self.min_keep}"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a backup is kept, and why."""

    manifest: Manifest
    keep: bool
    reasons: tuple[str, ...]


def decide(
    manifests: Iterable[Manifest],
    policy: Policy,
    now: datetime,
    largest_share: float | None = None,
) -> list[Decision]:
    """Return a decision for every backup, by cluster and database, newest first.

    `largest_share` is the part of a database's verified backups that can be removed at once, by
    default half of them.

    Raises:
        RetentionFailed: a backup is from the future, so that the clock cannot be trusted, or more
            than half of a database's verified backups would be removed at once. The latter is
            repeated for PATIENCE runs; backups that were due all that time are then removed.
            Otherwise retention would never work again after one outage.

    """
    # Also by name: with equal times the result must not depend on the order of the store's list.
    ordered = sorted(
        manifests,
        key=lambda manifest: (*_owner(manifest), manifest.taken, manifest.artifact.name),
        reverse=True,
    )
    decisions: list[Decision] = []
    for _, group in groupby(ordered, key=_owner):
        backups = list(group)
        _check_clock(backups, now)
        decided = list(_decide(backups, policy))
        _check_share(decided, policy, LARGEST_SHARE if largest_share is None else largest_share)
        decisions += decided
    return decisions


def _owner(manifest: Manifest) -> tuple[str, str]:
    """Clusters that share a store decide only about their own backups (trap C26)."""
    return manifest.server.system_identifier, manifest.database.name


def _decide(backups: Sequence[Manifest], policy: Policy) -> Iterator[Decision]:
    """Decide about one database's backups, given newest first."""
    good = [backup for backup in backups if backup.verified is not None and backup.full]
    if not good:
        for backup in backups:
            yield Decision(backup, True, ("the database has no verified full backup",))
        return
    # A held backup does not take the place of another one: it can be released at any time.
    free = [backup for backup in good if backup.hold is None]
    untouchable = {id(backup) for backup in free[: policy.min_keep]}
    for backup in backups:
        reasons = list(_reasons_to_keep(backup, policy, good[0].taken))
        if backup.hold is not None:
            reasons.insert(0, held_reason(backup.hold))
        if id(backup) in untouchable:
            reasons.insert(0, f"one of the {policy.min_keep} newest verified")
        if reasons:
            yield Decision(backup, True, tuple(reasons))
        else:
            yield Decision(
                backup, False, (f"{backup.type}: older than {_span(backup.type, policy)}",)
            )


def held_reason(hold: Hold) -> str:
    """Return the reason to keep a backup that is held."""
    return f"held since {hold.since:%Y-%m-%d} by {hold.by}: {hold.reason}"


def _reasons_to_keep(manifest: Manifest, policy: Policy, newest: datetime) -> Iterator[str]:
    if manifest.type == BackupType.MANUAL:
        yield "manual backups are removed by hand"
    elif manifest.taken > _oldest(manifest.type, policy, newest):
        yield f"{manifest.type}: within {_span(manifest.type, policy)}"


def _oldest(kind: BackupType, policy: Policy, newest: datetime) -> datetime:
    """Return the time after which a backup of this tier must have been taken to be kept."""
    try:
        match kind:
            case BackupType.DAILY:
                return newest - timedelta(days=policy.daily)
            case BackupType.WEEKLY:
                return newest - timedelta(weeks=policy.weekly)
            case _:
                return months_before(newest, policy.monthly)
    except (OverflowError, ValueError):  # before year 1: keep forever
        return datetime.min.replace(tzinfo=UTC)


def months_before(moment: datetime, months: int) -> datetime:
    """Return the time `months` calendar months earlier, on the last day of that month at most."""
    number = moment.year * 12 + moment.month - 1 - months
    year, month = divmod(number, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return moment.replace(year=year, month=month + 1, day=min(moment.day, last))


def _span(kind: BackupType, policy: Policy) -> str:
    match kind:
        case BackupType.DAILY:
            return f"{policy.daily} days"
        case BackupType.WEEKLY:
            return f"{policy.weekly} weeks"
        case _:
            return f"{policy.monthly} months"


def _check_clock(backups: Sequence[Manifest], now: datetime) -> None:
    newest = backups[0]
    if newest.taken > now + FUTURE_TOLERANCE:
        raise e.RetentionFailed(
            f"backup {newest.name.stem} is from the future (now {now:%Y-%m-%d %H:%M:%S} UTC):"
            " nothing is removed",
            hint="Correct the clock, or remove that backup manually if its time is wrong.",
        )


def _check_share(decisions: Sequence[Decision], policy: Policy, largest: float) -> None:
    verified = [
        decision for decision in decisions if decision.manifest.verified and decision.manifest.full
    ]
    going = [decision.manifest for decision in verified if not decision.keep]
    then = _refused_since(verified, policy)
    sudden = [
        manifest
        for manifest in going
        if then is None or any(_reasons_to_keep(manifest, policy, then))
    ]
    # Held backups are never removed, so they do not allow the removal of others.
    removable = sum(decision.manifest.hold is None for decision in verified)
    if len(sudden) > largest * removable:
        raise e.RetentionFailed(
            f"{len(going)} of {removable} verified backups of database"
            f" {verified[0].manifest.database.name} would be removed at once: nothing is removed",
            hint="Check with pgkeep prune --dry-run. If the removal is intended, run pgkeep prune"
            " --force.",
        )


def _refused_since(verified: Sequence[Decision], policy: Policy) -> datetime | None:
    """Return the time of the first of the last runs, if all of them used the same policy.

    Backups that were due then have been due since then, and each run has reported it. This excludes
    a clock that was wrong for one night, and a policy that was changed today.
    """
    runs = [decision.manifest for decision in verified if decision.manifest.policy is not None][
        :PATIENCE
    ]
    if len(runs) < PATIENCE or any(run.policy != str(policy) for run in runs):
        return None
    return runs[-1].taken


def choose_type(
    manifests: Iterable[Manifest],
    now: datetime,
    zone: tzinfo,
    policy: Policy | None = None,
    *,
    schema_only: bool = False,
) -> BackupType:
    """Return the tier that is due: the first backup of a month, of an ISO week, or any other.

    The manifests are those of one database. The first backup of a month also counts for its week.
    Schema-only backups are counted separately. A tier that the policy keeps for no time is not
    chosen: its backup would be removed the next night, and the tier would be due again.
    """
    policy = policy or Policy()
    local = now.astimezone(zone)
    monthly, weekly = policy.monthly == 0, policy.weekly == 0
    tiers = (BackupType.MONTHLY, BackupType.WEEKLY)
    for manifest in manifests:
        if manifest.type not in tiers or manifest.schema_only != schema_only:
            continue
        taken = manifest.taken.astimezone(zone)
        if manifest.type == BackupType.MONTHLY and (taken.year, taken.month) == (
            local.year,
            local.month,
        ):
            monthly = True
        # The ISO year, which differs from the calendar year around New Year (trap B14).
        if taken.isocalendar()[:2] == local.isocalendar()[:2]:
            weekly = True
    if not monthly:
        return BackupType.MONTHLY
    return BackupType.DAILY if weekly else BackupType.WEEKLY
