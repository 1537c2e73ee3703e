"""Retention over random histories, and over three years of nights: what must stay always stays."""

import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pgkeep import errors as e
from pgkeep.catalog import prune
from pgkeep.catalog.catalog import Catalog
from pgkeep.model import naming, retention
from pgkeep.model.manifest import Manifest, encode
from pgkeep.model.retention import Policy, choose_type, decide
from pgkeep.stores.memory import MemoryStore
from tests.support.planted import manifest

BERLIN = ZoneInfo("Europe/Berlin")
DAY = timedelta(days=1)
START = datetime(2026, 1, 15, 2, tzinfo=UTC)

many = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def put(store: MemoryStore, one: Manifest) -> None:
    for name in one.name.files:
        store.files[name] = b"x"
    store.files[one.name.manifest] = encode(one)


policies = st.builds(
    Policy,
    daily=st.integers(0, 10),
    weekly=st.integers(0, 5),
    monthly=st.integers(0, 13),
    min_keep=st.integers(1, 4),
)
# Nightly runs, several in a night, an outage, a clock set forward or back.
gaps = st.one_of(
    st.just(24.0),
    st.floats(0, 30),
    st.floats(24 * 20, 24 * 500),
    st.floats(-24 * 30, 0),
)
runs = st.tuples(
    gaps,
    st.sampled_from(["daily", "daily", "daily", "weekly", "monthly", "manual"]),
    st.sampled_from([True, True, True, False]),  # verified
    st.sampled_from([False, False, False, False, True]),  # schema only
    st.sampled_from(["app", "app", "app-2", "app_x", "app_daily_20260101T000000Z"]),
    st.sampled_from(["1", "1", "2"]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Manifest]:
    found: dict[str, Manifest] = {}
    now = START
    for hours, kind, verified, schema, database, cluster in draw(st.lists(runs, max_size=40)):
        now = (now + timedelta(hours=hours)).replace(microsecond=0)
        one = manifest(
            now, kind, database=database, cluster=cluster, verified=verified, schema=schema
        )
        found.setdefault(one.name.stem, one)
    return list(found.values())


def owner(one: Manifest) -> tuple[str, str]:
    return one.server.system_identifier, one.database.name


def by_owner(manifests: Sequence[Manifest]) -> dict[tuple[str, str], list[Manifest]]:
    owners: dict[tuple[str, str], list[Manifest]] = {}
    for one in manifests:
        owners.setdefault(owner(one), []).append(one)
    return owners


def good(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Verified full backups, the newest first."""
    found = [one for one in manifests if one.verified and not one.schema_only]
    return sorted(found, key=lambda one: (one.taken, one.artifact.name), reverse=True)


def is_within(one: Manifest, policy: Policy, newest: datetime) -> bool:
    """Whether the policy keeps a backup: said once more, in another way."""
    if one.type == "manual":
        return True
    if one.type == "monthly":
        month = newest.year * 12 + newest.month - policy.monthly
        theirs = one.taken.year * 12 + one.taken.month
        short = (datetime(month // 12, month % 12 + 1, 1) - DAY).day  # noqa: DTZ001
        day = min(newest.day, short)
        return (theirs, one.taken.day, one.taken.time()) > (month, day, newest.time())
    days = policy.daily if one.type == "daily" else policy.weekly * 7
    return newest - one.taken < timedelta(days=days)


def told(decisions: Sequence[retention.Decision]) -> list[tuple[object, ...]]:
    return sorted(
        (id(decision.manifest), decision.keep, decision.reasons) for decision in decisions
    )


@given(histories(), policies, st.randoms(use_true_random=False))
@settings(many, max_examples=300)
def test_what_the_policy_keeps_stays_and_nothing_else(
    history: list[Manifest], policy: Policy, shuffled: random.Random
) -> None:
    """B5, B6, B9, C26: and never does one database decide about another's backups."""
    now = max((one.taken for one in history), default=START)
    decisions = decide(history, policy, now, largest_share=1.0)
    assert Counter(map(id, history)) == Counter(id(decision.manifest) for decision in decisions)
    kept = {
        decision.manifest.name.stem + owner(decision.manifest)[0]
        for decision in decisions
        if decision.keep
    }
    assert all(decision.reasons for decision in decisions)
    alone: list[retention.Decision] = []
    for group in by_owner(history).values():
        newest = good(group)
        for one in group:
            stays = (
                not newest
                or one in newest[: policy.min_keep]
                or is_within(one, policy, newest[0].taken)
            )
            assert (one.name.stem + owner(one)[0] in kept) is stays, one
        alone += decide(group, policy, now, largest_share=1.0)
    shuffled.shuffle(history)
    again = decide(history, policy, now, largest_share=1.0)
    assert told(alone) == told(decisions) == told(again)


@given(histories(), policies, st.floats(-24 * 400, 24 * 400))
@settings(many, max_examples=250)
def test_a_wrong_clock_and_a_massacre_are_refused(
    history: list[Manifest], policy: Policy, hours: float
) -> None:
    """B7: a backup from the future, or most of the verified ones at once."""
    assume(history)
    now = history[-1].taken + timedelta(hours=hours)
    future = any(one.taken - now > timedelta(hours=1) for one in history)
    at_once = False
    for group in by_owner(history).values():
        verified = good(group)
        going = sum(not is_within(one, policy, verified[0].taken) for one in
                    verified[policy.min_keep:])  # fmt: skip
        at_once |= going > len(verified) / 2
    said = ""
    try:
        decide(history, policy, now)
    except e.RetentionFailed as error:
        said = error.message
    assert bool(said) is (future or at_once)
    assert ("from the future" in said) <= future
    assert ("removed at once" in said) <= at_once
    assert said == "" or said.endswith("nothing is removed")


def left_overs(store: MemoryStore) -> list[str]:
    """Names of ours that belong to no manifest."""
    parsed = {name: naming.parse(name) for name in store.files}
    return [name for name, one in parsed.items() if one and one.manifest not in store.files]


class BrokenStore(MemoryStore):
    """Deletes so many files, and then no more."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = -1

    def delete(self, name: str) -> None:
        self.patience -= 1
        if self.patience == -1:
            raise e.StoreError("read-only file system")
        super().delete(name)


FOREIGN = (
    "notes.txt", ".sync", "app.sql.gz", "app_daily_2026.sql.gz", "lost+found",
    "app_daily_20260115T020000Z.sql.gz.bak", "app_daily_20261332T020000Z.sql.gz",
    "app_daily_20200101T020000Z.sql.gz", "app_hourly_20260115T020000Z.manifest.json",
    "app%2d2_daily_20260115T020000Z.sql.gz", "App_daily_20260115T020000Z.sql.gz",
    "app_daily_20260115T020000Z_schema_schema.sql.gz", "x_app_daily_20260115T020000Z.sql.gz",
)  # fmt: skip


@given(histories(), policies, st.integers(-1, 60))
@settings(many, max_examples=150)
def test_prune_touches_only_the_files_of_what_may_go(
    history: list[Manifest], policy: Policy, patience: int
) -> None:
    """B9: and where it is interrupted, no backup is left that is not whole."""
    store = BrokenStore()
    store.files |= dict.fromkeys(FOREIGN, b"mine")
    for one in {one.name.stem: one for one in history}.values():
        put(store, one)
    catalog = Catalog(store)
    before = catalog.backups()
    manifests = [one.manifest for one in before]
    decisions = decide(manifests, policy, START + 99_999 * DAY, largest_share=1.0)
    going = [decision.manifest.name for decision in decisions if not decision.keep]
    files = set(store.files)
    assert files == set(FOREIGN) | {file for one in before for file in one.manifest.name.files}
    store.patience = patience
    theirs = [file for name in going for file in reversed(name.files)]
    if 0 <= patience < len(theirs):
        with pytest.raises(e.RetentionFailed, match="read-only file system"):
            prune.prune(catalog, decisions)
        theirs = theirs[:patience]
    else:
        assert [one.manifest.name for one in prune.prune(catalog, decisions).removed] == going
    assert files - set(store.files) == set(theirs)
    for left in catalog.backups():
        assert not left.missing
        assert set(left.manifest.name.files) <= set(store.files)
    assert not catalog.unreadable
    halves = {file for name in going if name.manifest not in store.files for file in name.files}
    ours = set(left_overs(store)) - set(FOREIGN)
    assert ours == halves & set(store.files)


class Nights:
    """Runs of `backup --type=auto` on a virtual clock; what is removed is gone."""

    def __init__(self, policy: Policy, zone: tzinfo = UTC) -> None:
        self.policy = policy
        self.zone = zone
        self.backups: list[Manifest] = []
        self.refused = ""

    def run(self, now: datetime, *, verified: bool = True) -> None:
        now = now.replace(microsecond=0)
        while any(backup.taken == now for backup in self.backups):
            now += timedelta(seconds=1)
        kind = choose_type(self.backups, now, self.zone, self.policy)
        self.backups.append(manifest(now, kind, verified=verified, policy=self.policy))
        self.prune(now)

    def prune(self, now: datetime) -> None:
        self.refused = ""
        try:
            decisions = decide(self.backups, self.policy, now)
        except e.RetentionFailed as error:
            self.refused = error.message
        else:
            self.backups = [decision.manifest for decision in decisions if decision.keep]


@given(policies, st.lists(st.tuples(gaps, st.booleans()), min_size=1, max_size=30), policies)
@settings(many, max_examples=150)
def test_it_heals_by_itself(
    before: Policy, troubles: list[tuple[float, bool]], policy: Policy
) -> None:
    """B5, B6, B7: after whatever has happened, another policy too, tiers come right again."""
    nights = Nights(before)
    now = START
    for hours, verified in troubles:
        now += timedelta(hours=hours)
        nights.run(now, verified=verified)
    nights.policy = policy
    last = max(backup.taken for backup in nights.backups)
    count = 45 + max(0, (last - now) // DAY)
    right: list[int] = []
    for n in range(count):
        now += DAY
        nights.run(now)
        if not nights.refused:
            right.append(n)
            assert_tiers_are_right(nights)
        ahead = max(backup.taken for backup in nights.backups) - now
        assert ahead < timedelta(hours=1) or "from the future" in nights.refused
    # Of the two or three that a small policy keeps, more than half may be due in one regular night.
    # Then that is refused, for a week at most.
    assert right[-1] >= count - 8
    assert len(good(nights.backups)) >= policy.min_keep


def assert_tiers_are_right(nights: Nights) -> None:
    newest = good(nights.backups)
    for backup in nights.backups:
        untouchable = not newest or backup in newest[: nights.policy.min_keep]
        assert untouchable or is_within(backup, nights.policy, newest[0].taken)


def years_old(count: int = 23) -> list[Manifest]:
    return [manifest(START - 800 * DAY + n * DAY) for n in range(count)]


def test_an_outage_of_years_is_refused_for_a_week_only() -> None:
    """B6, B7: the new backups' own expired ones must not make the refusal eternal."""
    nights = Nights(Policy())
    nights.backups = years_old()
    outcomes = []
    for n in range(14):
        nights.run(START + n * DAY)
        outcomes.append(bool(nights.refused))
        # What is backed up by hand neither hastens it nor holds it up.
        nights.backups.append(manifest(START + n * DAY + timedelta(hours=3), "manual"))
    assert outcomes == [True] * 6 + [False] * 8
    assert min(backup.taken for backup in nights.backups) >= START


def test_one_night_with_a_wrong_clock_removes_nothing() -> None:
    """B7: however long the runs before it were regular."""
    nights = Nights(Policy())
    for n in range(400):
        nights.run(START + n * DAY)
    before = list(nights.backups)
    assert len(before) > 20
    nights.run(START + 4000 * DAY)
    assert "21 of 22 verified backups of database app would be removed at once" in nights.refused
    assert all(one in nights.backups for one in before)
    nights.run(START + 400 * DAY)
    assert "from the future" in nights.refused
    assert all(one in nights.backups for one in before)


def test_a_changed_policy_is_refused_for_a_week() -> None:
    """A typing error that a year's backups would be lost by is reported seven times."""
    nights = Nights(Policy())
    for n in range(400):
        nights.run(START + n * DAY)
    nights.policy = Policy(daily=1, weekly=0, monthly=0)
    outcomes = []
    for n in range(400, 410):
        nights.run(START + n * DAY)
        outcomes.append(bool(nights.refused))
    assert outcomes == [True] * 6 + [False] * 4
    assert len(nights.backups) == 1


def test_by_hand_nothing_is_forgiven() -> None:
    """Backups that no retention followed, as with --no-prune, have not been told of."""
    history = [manifest(START + n * DAY) for n in range(40)]
    with pytest.raises(e.RetentionFailed, match="33 of 40 verified") as caught:
        decide(history, Policy(), START + 40 * DAY)
    assert caught.value.exit_code == 7
    assert "--force" in str(caught.value.hint)


@pytest.mark.parametrize("daily", [7, 2])
def test_seven_bad_nights_take_nothing_away(daily: int) -> None:
    """B5: unverified backups push no good one out, whatever their number."""
    policy = Policy(daily=daily)
    history = [manifest(START + n * DAY) for n in range(daily)]
    bad = [manifest(START + (daily + n) * DAY, verified=False) for n in range(70)]
    decisions = decide(history + bad, policy, START + 100 * DAY)
    assert all(decision.keep for decision in decisions)


def test_no_number_is_too_large() -> None:
    """For ever is written in many ways."""
    policy = Policy(daily=10**12, weekly=10**9, monthly=10**6)
    history = [manifest(START + n * DAY, kind) for n in range(20) for kind in ("daily", "monthly")]
    assert all(one.keep for one in decide(history, policy, START + 30 * DAY))


@pytest.mark.parametrize(
    "policy",
    [Policy(weekly=0), Policy(monthly=0), Policy(daily=3, weekly=0, monthly=0)],
    ids=str,
)
def test_a_tier_of_no_length_is_not_made(policy: Policy) -> None:
    """Each night is left: none is promoted to a tier that loses it the next night."""
    nights = Nights(policy)
    for n in range(60):
        nights.run(START + n * DAY)
    dates = {backup.taken.date() for backup in nights.backups}
    assert {(START + n * DAY).date() for n in range(60 - policy.daily, 60)} <= dates
    kinds = {backup.type.value for backup in nights.backups}
    assert "weekly" not in kinds or policy.weekly
    assert "monthly" not in kinds or policy.monthly


def calendar(backups: Sequence[Manifest], zone: tzinfo, now: datetime) -> str:
    """A line for each month: Monthly, Weekly, Daily, a dot for a day of which none is left."""
    marks = {
        backup.taken.astimezone(zone).date(): backup.type.value[0].upper() for backup in backups
    }
    lines = []
    day = min(marks).replace(day=1)
    for _, month in itertools.groupby(days(day, now.astimezone(zone).date()),
                                      lambda one: (one.year, one.month)):  # fmt: skip
        dates = list(month)
        lines.append(f"{dates[0]:%Y-%m}  " + "".join(marks.get(one, ".") for one in dates))
    return "\n".join(lines)


def days(first: date, last: date) -> Iterator[date]:
    return (first + n * DAY for n in range((last - first).days + 1))


def test_three_years_of_nights() -> None:
    """B6, B13, B14: real names in a store; a month without backups, some nights that failed."""
    store = MemoryStore()
    catalog = Catalog(store)
    policy = Policy()
    nights = Nights(policy, BERLIN)
    first, last = date(2023, 12, 28), date(2027, 1, 5)
    outage = set(days(date(2025, 3, 10), date(2025, 4, 9)))
    chance = random.Random(23)  # noqa: S311 - the same nights each time
    # Some failed nights at the places where it matters: a Sunday, a month's first, New Year.
    failed = {date(2026, 11, 1), date(2026, 12, 27), date(2026, 12, 28), date(2027, 1, 1)}
    failed |= {day for day in days(first, last) if chance.random() < 0.03 and day.year < 2026}
    taken: list[date] = []
    shown: list[str] = []
    left: list[Manifest] = []
    for day in days(first, last):
        now = datetime(day.year, day.month, day.day, 2, 30, tzinfo=BERLIN).astimezone(UTC)
        nights.backups = left
        there = set(store.files)
        if day in outage or day in failed:
            nights.prune(now)  # `pgkeep prune` from a cron of its own
            assert store.files.keys() == there
            assert len(nights.backups) == len(there) / 4
        else:
            nights.run(now)
            assert not nights.refused
            newest = max(nights.backups, key=lambda backup: backup.taken)
            put(store, newest)
            prune.prune(catalog, decide([*left, newest], policy, now))
            left = catalog.of("1", "app")
            assert {backup.name.stem for backup in nights.backups} == {
                one.name.stem for one in left
            }
            taken.append(day)
        if day in (max(outage), date(2025, 4, 30), last):
            shown.append(calendar(left, BERLIN, now))
    sys.stdout.write("\n" + "\n\n".join(shown) + "\n")
    assert len(taken) > 1000

    at_the_end_of_the_outage, after_it, at_the_end = (one.splitlines() for one in shown)
    months = [f"{day:%Y-%m}" for day in days(first, last) if day.day == 1]
    assert [line[:10] for line in at_the_end_of_the_outage[:-3]] == [
        f"{month}  M" for month in months[3:13]
    ]
    assert at_the_end_of_the_outage[-3:] == [
        "2025-02  M........W......W......W....",
        "2025-03  M.WDDDDDD......................",  # the night to the 2nd had failed
        "2025-04  .........",
    ]
    assert after_it[-2:] == [
        "2025-03  M..............................",
        "2025-04  .........M...W......W..DDDDWDD",
    ]
    # The failed ones: 1 November, so that the 2nd's is monthly; 28 December, a Monday; New Year.
    assert [line[:10] for line in at_the_end[:-3]] == [f"{month}  M" for month in months[-12:-3]]
    assert at_the_end[-3:] == [
        "2026-11  .M............................",
        "2026-12  M............W......W.......WDD",
        "2027-01  .MDWD",
    ]
    marks = Counter("".join(line[9:] for line in at_the_end))
    assert (marks["M"], marks["W"], marks["D"]) == (12, 4, 4)


def moment(text: str, zone: tzinfo = UTC) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


@pytest.mark.parametrize(
    ("earlier", "now", "kind"),
    [
        ([], "2026-11-18 02:30", "monthly"),
        (["monthly 2026-11-18 02:30"], "2026-11-18 02:30", "daily"),
        (["monthly 2026-11-18 02:30"], "2026-11-22 23:59:59", "daily"),
        (["monthly 2026-11-18 02:30"], "2026-11-23 00:00", "weekly"),
        # A missed Monday, or Sunday where that is the night, or a whole week.
        (["monthly 2026-11-02 02:30", "weekly 2026-11-09 02:30"], "2026-11-17 02:30", "weekly"),
        (["monthly 2026-11-02 02:30", "weekly 2026-11-08 02:30"], "2026-11-16 02:30", "weekly"),
        (["monthly 2026-11-02 02:30", "weekly 2026-11-09 02:30"], "2026-11-28 02:30", "weekly"),
        # Neither a manual nor a daily backup is the week's.
        (["monthly 2026-11-02 02:30", "manual 2026-11-09 02:30", "daily 2026-11-09 03:30"],
         "2026-11-10 02:30", "weekly"),
        # The month's first day is a Monday: one backup for both.
        (["weekly 2026-05-25 02:30", "monthly 2026-05-01 02:30"], "2026-06-01 02:30", "monthly"),
        (["monthly 2026-06-01 02:30"], "2026-06-02 02:30", "daily"),
        # 2026 has a week 53, which New Year is in.
        (["monthly 2026-12-01 02:30", "weekly 2026-12-28 02:30"], "2026-12-31 02:30", "daily"),
        (["monthly 2026-12-01 02:30", "weekly 2026-12-28 02:30"], "2027-01-01 02:30", "monthly"),
        (["monthly 2027-01-01 02:30"], "2027-01-02 02:30", "daily"),
        (["monthly 2027-01-01 02:30"], "2027-01-03 23:30", "daily"),
        (["monthly 2027-01-01 02:30"], "2027-01-04 00:30", "weekly"),
        (["monthly 2026-12-01 02:30"], "2026-12-31 23:59:59", "weekly"),
        # The last days of 2024 are in week 1 of 2025, and the first of 2023 in week 52 of 2022.
        (["monthly 2024-12-01 02:30", "weekly 2024-01-02 02:30"], "2024-12-30 02:30", "weekly"),
        (["monthly 2025-01-01 02:30", "weekly 2024-12-30 02:30"], "2025-01-02 02:30", "daily"),
        (["monthly 2023-01-01 02:30"], "2023-01-02 02:30", "weekly"),
        (["monthly 2023-12-01 02:30", "weekly 2023-01-01 02:30"], "2023-12-30 02:30", "weekly"),
        # A month of another year is another month.
        (["monthly 2025-11-03 02:30", "weekly 2026-11-02 02:30"], "2026-11-03 02:30", "monthly"),
        # Nights without, and with twice, the hour between two and three.
        (["monthly 2026-03-01 02:30", "weekly 2026-03-23 02:30"], "2026-03-29 01:59", "daily"),
        (["monthly 2026-03-01 02:30", "weekly 2026-03-23 02:30"], "2026-03-29 03:00", "daily"),
        (["monthly 2026-03-01 02:30", "weekly 2026-03-23 02:30"], "2026-03-29 23:59", "daily"),
        (["monthly 2026-03-01 02:30", "weekly 2026-03-23 02:30"], "2026-03-30 00:00", "weekly"),
        (["monthly 2026-10-01 02:30", "weekly 2026-10-19 02:30"], "2026-10-25 02:30", "daily"),
        (["monthly 2026-10-01 02:30", "weekly 2026-10-19 02:30"], "2026-10-25 23:59", "daily"),
        (["monthly 2026-10-01 02:30", "weekly 2026-10-19 02:30"], "2026-10-26 00:00", "weekly"),
        (["monthly 2026-10-01 02:30", "weekly 2026-10-26 02:30"], "2026-10-31 23:59", "daily"),
        (["monthly 2026-10-01 02:30", "weekly 2026-10-26 02:30"], "2026-11-01 00:00", "monthly"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zone", [BERLIN, ZoneInfo("Pacific/Auckland"), UTC], ids=str)
def test_the_tier_that_is_due(earlier: list[str], now: str, kind: str, zone: tzinfo) -> None:
    """B13, B14: days, weeks and months begin where the time zone says."""
    backups = [
        manifest(moment(text, zone), name) for name, text in (one.split(" ", 1) for one in earlier)
    ]
    assert choose_type(backups, moment(now, zone), zone) == kind


@pytest.mark.parametrize(
    ("monday", "later"),
    [("2026-12-28 02:30", "2027-01-02 02:30"), ("2024-12-30 02:30", "2025-01-05 23:30")],
)
def test_a_week_has_one_weekly_over_new_year(monday: str, later: str) -> None:
    """B14: where no monthly one comes between."""
    policy = Policy(monthly=0)
    assert choose_type([manifest(moment(monday), "weekly")], moment(later), UTC, policy) == "daily"


def test_both_passes_of_the_hour_are_one_day() -> None:
    """B13: the second 02:30 is no new day, and their names differ."""
    nights = Nights(Policy(), BERLIN)
    for text in ("2026-10-01 00:30", "2026-10-19 00:30", "2026-10-25 00:30", "2026-10-25 01:30"):
        nights.run(moment(text))
    assert [backup.type.value for backup in nights.backups] == [
        "daily",
        "daily",
        "weekly",
        "monthly",
    ]
    assert len({backup.name.stem for backup in nights.backups}) == 4


def test_the_zone_decides_not_the_machine() -> None:
    """B13: the same moment is in another month."""
    backups = [manifest(moment("2026-10-01 02:00"), "monthly")]
    backups += [manifest(moment("2026-10-26 02:00"), "weekly")]
    now = moment("2026-10-31 23:15")
    assert choose_type(backups, now, UTC) == "daily"
    assert choose_type(backups, now, BERLIN) == "monthly"


@pytest.mark.parametrize("schema_only", [False, True])
def test_like_is_counted_with_like(schema_only: bool) -> None:
    """Definitions without rows are not the month's backup, nor is a backup theirs."""
    due = partial(choose_type, now=START + DAY, zone=UTC, schema_only=schema_only)
    backups = [manifest(START, kind, schema=not schema_only) for kind in ("monthly", "weekly")]
    assert due(backups) == "monthly"
    backups.append(manifest(START, "monthly", schema=schema_only))
    assert due(backups) == "daily"
    assert due(backups, now=START + 7 * DAY) == "weekly"


@pytest.mark.parametrize(
    ("before", "months", "after"),
    [
        ("2026-03-31 02:00", 1, "2026-02-28 02:00"),
        ("2024-03-31 02:00", 1, "2024-02-29 02:00"),
        ("2024-02-29 02:00", 12, "2023-02-28 02:00"),
        ("2024-02-29 02:00", 48, "2020-02-29 02:00"),
        ("2100-03-31 02:00", 1, "2100-02-28 02:00"),
        ("2026-07-31 23:59:59", 1, "2026-06-30 23:59:59"),
        ("2026-01-15 02:00", 1, "2025-12-15 02:00"),
        ("2026-01-31 02:00", 12, "2025-01-31 02:00"),
        ("2026-12-31 02:00", 13, "2025-11-30 02:00"),
        ("2026-12-31 02:00", 0, "2026-12-31 02:00"),
        ("2026-05-05 02:00", 17, "2024-12-05 02:00"),
    ],
)
def test_months_before(before: str, months: int, after: str) -> None:
    assert retention.months_before(moment(before), months) == moment(after)


def test_what_no_manifest_can_be_read_of_is_left_alone() -> None:
    """A damaged manifest, one of the future, one that speaks of other files: reported, no more."""
    store = MemoryStore()
    catalog = Catalog(store)
    old = [manifest(START + n * DAY) for n in range(20)]
    for one in old:
        put(store, one)
    store.files[old[0].name.manifest] = b""
    store.files[old[1].name.manifest] = b'{"format": 2}'
    # Renamed by hand to be manual, without a word to the manifest.
    for name in old[2].name.files:
        store.files[name.replace("daily", "manual")] = store.files.pop(name)
    liar = encode(old[3]).replace(b'"name": "app",', b'"name": "shop",')
    store.files[old[3].name.manifest] = liar
    assert liar != encode(old[3])
    shop = manifest(old[3].taken, database="shop")
    put(store, shop)
    before = dict(store.files)
    found = [backup.manifest for backup in catalog.backups()]
    assert found == sorted([*old[4:], shop], key=lambda one: one.taken)
    assert len(catalog.unreadable) == 4
    prune.prune(catalog, decide(found, Policy(), START + 20 * DAY, largest_share=1.0))
    gone = {file for one in old[4:12] for file in one.name.files}
    assert before.keys() - store.files.keys() < gone | {f for one in old for f in one.name.files}
    for one in (*old[:4], shop):
        assert set(one.name.files) & before.keys() <= store.files.keys()
