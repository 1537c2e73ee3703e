"""Begin point in time, and end it: the slot, the first base backup and the WAL until its end."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from .. import errors as e
from .. import interrupts
from ..config import Config
from ..crypt.options import Encryption
from ..model import wal
from ..model.wal import PARTIAL, Lsn
from ..postgres import versions
from ..postgres.connection import Connection, Endpoint
from ..progress import Progress
from . import checks, location, overview, providers, service, slot, stream_state
from .base_manifest import BaseManifest
from .checks import Problem, ServerFacts
from .location import ClusterFacts
from .slot import SlotState
from .stream import Stream

STALLED = 120.0  # seconds without WAL that is stored
_RELEASE = 10.0  # seconds that the server may need to notice the end of a receiver


@dataclass(frozen=True, slots=True, kw_only=True)
class Enabled:
    """Point in time of a cluster, which is enabled now."""

    facts: ClusterFacts
    slot: str
    limit: str  # max_slot_wal_keep_size
    since: datetime  # any second since then can be restored
    made: BaseManifest | None  # the first base backup; None: it was enabled before
    receiving: bool  # whether pgkeep pitr stream runs
    advice: list[Problem]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enabling:
    """A cluster for which point in time is to be enabled."""

    config: Config
    endpoint: Endpoint
    connection: Connection
    encryption: Encryption
    progress: Progress
    tell: Callable[[str], None]


def check(
    config: Config, endpoint: Endpoint, connection: Connection, accepted: Callable[[Problem], bool]
) -> ServerFacts:
    """Check the server, the role and this host; `accepted` decides about a slot without a limit.

    Raises:
        Refused: with every problem, and the lines that fix it.

    """
    providers.refuse(connection)
    found = checks.read(connection)
    problems = checks.server_problems(found, None)
    if found.major >= versions.OLDEST_FOR_POINT_IN_TIME and not found.standby:
        facts = service.facts_of(connection, config)
        existing = slot.state(connection, slot.slot_name(facts.system_identifier))
        problems = checks.server_problems(found, existing)
        problems += filter(None, [checks.replication_problem(endpoint, found)])
        problems += checks.host_problems(found, location.spool_of(config, facts.system_identifier))
        unlimited = checks.unlimited_slot(found)
        # Only asked where nothing else is in the way.
        if unlimited is not None and (problems or not accepted(unlimited)):
            problems.append(unlimited)
    if problems:
        raise e.Refused(
            f"point-in-time recovery is not possible yet (problems: {len(problems)})",
            details=[
                line
                for problem in problems
                for line in (problem.message, *(f"    {line}" for line in problem.remedy))
            ],
            hint="Execute the SQL statements as a superuser, then run pgkeep pitr enable again.",
        )
    return found


def enable(given: Enabling, server: ServerFacts) -> Enabled:
    """Create the slot, receive the WAL, take a base backup: in this order no second is missing.

    If it fails, a slot that it has created is dropped: nobody would receive its WAL.

    Raises:
        PgkeepError: a step failed.

    """
    facts = service.facts_of(given.connection, given.config)
    name = slot.slot_name(facts.system_identifier)
    state = slot.state(given.connection, name)
    since = None if state is None or state.lost else _since(given, facts, state)
    made = None
    if since is None:
        with _slot(given, facts, name, state):
            made = _first_base(given, facts, name)
        since = made.stopped
    return Enabled(
        facts=facts, slot=name, limit=_limit(given.connection), since=since, made=made,
        receiving=state is not None and state.active, advice=_advice(server),
    )  # fmt: skip


def _advice(server: ServerFacts) -> list[Problem]:
    newer = versions.problem(server.version, server.version_num)
    found = checks.advice(server)
    return found if newer is None else [Problem(newer, (versions.REMEDY,)), *found]


def _limit(connection: Connection) -> str:
    row = connection.execute("SHOW max_slot_wal_keep_size").fetchone()
    return str(row[0]) if row else ""


def _since(given: Enabling, facts: ClusterFacts, state: SlotState) -> datetime | None:
    """Return since when any second can be restored, if the WAL goes on without a gap."""
    size = facts.segment_size
    spool = location.spool_of(given.config, facts.system_identifier) / "wal"
    begins: list[datetime] = []
    for place in location.locations(given.config, facts):
        window = overview.read(place, given.encryption).current
        if window is None:
            return None
        end = Lsn.parse(window.end)
        next_name = wal.segment_of(window.timeline, end, size).name(size)
        received = any((spool / name).exists() for name in (next_name, next_name + PARTIAL))
        if not received and (state.restart is None or end < state.restart - state.restart % size):
            return None
        begins.append(window.since)
    return max(begins)


@contextlib.contextmanager
def _slot(
    given: Enabling, facts: ClusterFacts, name: str, state: SlotState | None
) -> Iterator[None]:
    """Create the slot if it is missing or lost; drop it again if the block fails."""
    created = state is None or state.lost
    if state is not None and state.lost:
        given.tell(f"replication slot {name} is lost: WAL is missing, and a new window begins")
        slot.drop(given.connection, name)
    try:
        if created:
            service.received_of(given.config, facts).begin()
            given.progress.step(f"creating replication slot {name}")
            slot.create(given.connection, name)
        yield
    except BaseException:  # a signal, too, as soon as the server has the slot
        with interrupts.held():
            given.tell(_taken_back(given, name) if created else _remains(name))
        raise


def _taken_back(given: Enabling, name: str) -> str:
    """Drop the slot, and return what to tell."""
    try:
        with given.endpoint.connect() as connection:
            deadline = time.monotonic() + _RELEASE
            while (found := slot.state(connection, name)) and found.active:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            dropped = slot.drop(connection, name)
    except (e.PgkeepError, psycopg.Error):
        return _remains(name)
    return f"replication slot {name} was {'dropped again' if dropped else 'not created'}"


def _remains(name: str) -> str:
    return (
        f"replication slot {name} remains, and keeps WAL on the server: run pgkeep pitr enable"
        " again to go on, or pgkeep pitr disable to drop it"
    )


def _first_base(given: Enabling, facts: ClusterFacts, name: str) -> BaseManifest:
    """Take a full base backup while the WAL is received, until that of the backup is stored."""
    state = slot.state(given.connection, name)
    if state is not None and state.active:  # pgkeep pitr stream runs already
        made = _base(given)
        given.progress.step("waiting for the WAL of the base backup")
        _wait(lambda: _stored(given, facts, made), made.stop_lsn)
        return made
    stream = service.stream_of(given.config, given.endpoint, facts, given.encryption, given.tell)
    with _receiving(stream) as check_receiver:
        made = _base(given)
        given.progress.step("storing WAL")

        def position() -> Lsn | None:
            check_receiver()
            return stream.report.health.position

        _wait(position, made.stop_lsn)
    return made


def _base(given: Enabling) -> BaseManifest:
    return service.take_base(
        given.config, given.endpoint, given.connection, given.encryption, given.progress,
        kind="full",
    )[0]  # fmt: skip


def _stored(given: Enabling, facts: ClusterFacts, made: BaseManifest) -> Lsn | None:
    """Return up to where every place has WAL after a base backup, None if one has none."""
    ends = []
    for place in location.locations(given.config, facts):
        windows = overview.read(place, given.encryption).windows
        found = [window for window in windows if made.name in window.bases]
        if not found:
            return None
        ends.append(Lsn.parse(found[-1].end))
    return min(ends)


@contextlib.contextmanager
def _receiving(stream: Stream) -> Iterator[Callable[[], None]]:
    """Receive WAL in a thread during a block; yields what raises the failure of the thread."""
    errors: list[BaseException] = []

    def receive() -> None:
        try:
            stream.run()
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            errors.append(error)

    def check_receiver() -> None:
        if errors:
            raise errors[0]

    receiver = threading.Thread(target=receive, name="receive", daemon=True)
    receiver.start()
    try:
        yield check_receiver
    finally:
        with interrupts.held():
            stream.stop()
            receiver.join()
    check_receiver()


def _wait(position: Callable[[], Lsn | None], wanted: Lsn) -> None:
    """Wait until the WAL up to a position is stored.

    Raises:
        StoreError: nothing more was stored for a while.

    """
    last, since = position(), time.monotonic()
    while True:
        found = position()
        if found is not None and found >= wanted:
            return
        if found != last:
            last, since = found, time.monotonic()
        if time.monotonic() - since > STALLED:
            raise e.StoreError(
                f"the WAL of the base backup was not stored within {STALLED:.0f} s",
                hint="The warnings above name the reason. Correct it, then run pgkeep pitr enable"
                " again.",
            )
        time.sleep(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabled:
    """Point in time of a cluster, which is disabled now."""

    facts: ClusterFacts
    slot: str
    dropped: bool  # whether the slot existed
    kept: dict[str, tuple[int, datetime | None]]  # by place: base backups, and since when


def disable(config: Config, connection: Connection, encryption: Encryption) -> Disabled:
    """Drop the slot; what is stored stays.

    Raises:
        Refused: pgkeep pitr stream is running.

    """
    facts = service.facts_of(connection, config)
    name = slot.slot_name(facts.system_identifier)
    dropped = slot.drop(connection, name)
    location.end(config, facts, datetime.now(UTC))
    with contextlib.suppress(e.UsageError):
        stream_state.path_in(location.spool_of(config, facts.system_identifier)).unlink(
            missing_ok=True
        )
    kept: dict[str, tuple[int, datetime | None]] = {}
    for place in location.locations(config, facts):
        state = overview.read(place, encryption)
        kept[place.url] = (state.bases, state.windows[0].since if state.windows else None)
    return Disabled(facts=facts, slot=name, dropped=dropped, kept=kept)


def slots_of(config: Config) -> list[str]:
    """Return the names of the slots of all clusters that have files in the stores."""
    found = {place.facts.system_identifier for place in location.known(config)}
    return sorted(slot.slot_name(identifier) for identifier in found)
