"""pgkeep pitr windows."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click

from .. import config as configuration
from .. import errors as e
from ..crypt.options import Encryption
from ..monitor.spans import span
from ..pitr import location, overview
from ..pitr.overview import ClusterState
from ..pitr.stream_state import StreamState
from ..pitr.windows import Gap, Window
from . import output
from .command import pgkeep_command
from .common import (
    ask_passphrase,
    dir_option,
    identity_option,
    json_option,
    load_configs,
    plural,
    print_json,
    target_option,
)

SHOWN = 20  # gaps


@pgkeep_command("windows", examples=("pgkeep pitr windows", "pgkeep pitr windows --json"))
@click.option("--cluster", metavar="IDENTIFIER", help="Only this system identifier.")
@identity_option
@target_option
@dir_option
@json_option
def command(*, cluster: str | None, as_json: bool, **common: str | None) -> None:
    """List the intervals in which every second can be restored.

    An interval begins at the end of a base backup, and ends where the first WAL segment after it is
    missing. Only names and manifests are read. UNTIL is the time of which everything is stored. If
    it is marked with *, it is the time at which the newest WAL file was stored: changes shortly
    before can be missing.
    """
    configs = load_configs(**common)
    found: list[ClusterState] = []
    problems: list[str] = []
    for config in configs:
        _read(config, cluster, found, problems)
    for problem in problems:
        output.current().warning(problem)
    if not found and problems:
        raise e.StoreError("no store of base backups and WAL can be read")
    if not found:
        raise e.Refused(
            "no cluster has base backups or WAL here",
            hint="pgkeep pitr enable begins. Check --dir, BACKUP_DIR and BACKUP_S3_BUCKET.",
        )
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    output.show(line for state in found for line in lines(state, now))


def _read(
    config: configuration.Config, cluster: str | None, found: list[ClusterState],
    problems: list[str],
) -> None:  # fmt: skip
    """Read the clusters of all stores of a target; what cannot be read is a problem."""
    encryption = Encryption(keys=config.keys(ask_passphrase))
    for place in location.places(config):
        try:
            for known in location.clusters_in(config, place):
                identifier = known.facts.system_identifier
                if cluster in (None, identifier):
                    stream = _receiver(config, identifier, problems)
                    found.append(overview.read(known, encryption, stream))
        except (e.StoreError, e.VerificationFailed) as error:
            problems.append(error.message)


def _receiver(
    config: configuration.Config, identifier: str, problems: list[str]
) -> StreamState | None:
    try:
        return overview.receiver_state(config, identifier)
    except (e.StoreError, e.VerificationFailed) as error:
        problems.append(error.message)
        return None


def lines(state: ClusterState, now: datetime) -> Iterator[str]:
    """Yield the lines about a cluster."""
    name = f" ({state.cluster})" if state.cluster else ""
    yield f"cluster {state.system_identifier}{name} in {state.store}"
    shown = [*state.windows, *state.other_timelines]
    if shown:
        yield f"  {'SINCE':27}{'UNTIL':28}{'TIMELINE':>8}{'BASES':>7}{'CHAIN':>7}"
    for window in state.windows:
        yield from _window(window, now)
    for window in state.other_timelines:
        yield from _window(window, now)
        yield from _wrapped(f"another history: the newest timeline left timeline {window.timeline}")
    yield from _gaps(state.gaps)
    for text in explanations(state):
        yield from _wrapped(text)
    if any(window.until is not None and not window.complete for window in shown):
        yield "  *: when the newest WAL file was stored; changes shortly before can be missing"


def _window(window: Window, now: datetime) -> Iterator[str]:
    until = "unknown" if window.until is None else _local(window.until)
    mark = "" if window.complete or window.until is None else "*"
    since = _local(window.since, up=True)
    yield (
        f"  {since:27}{until + mark:28}{window.timeline:>8}{len(window.bases):>7}{window.chain:>7}"
    )
    age = span(max(0.0, (now - window.newest_base).total_seconds()))
    partial = " and the unfinished segment" if window.partial else ""
    text = f"LSN {window.start} to {window.end}{partial}; newest base backup {window.bases[-1]}"
    yield from _wrapped(f"{text}, {age} old", "    ")


def _gaps(gaps: Sequence[Gap]) -> Iterator[str]:
    for gap in gaps[-SHOWN:]:
        which = gap.first if gap.segments == 1 else f"{gap.first} to {gap.last}"
        until = (
            "no base backup since" if gap.until is None else f"until {_local(gap.until, up=True)}"
        )
        since = "" if gap.since is None else f"after {_local(gap.since)}, "
        yield from _wrapped(f"missing: {which} ({since}{until})")
    if len(gaps) > SHOWN:
        yield f"  and {plural(len(gaps) - SHOWN, 'earlier gap')}"


def explanations(state: ClusterState) -> Iterator[str]:
    """Yield what else is to say of a cluster."""
    if not state.bases:
        yield "nothing can be restored: no base backup; pgkeep pitr base takes one"
    elif not state.windows:
        yield "nothing can be restored: no base backup with the WAL after it"
    elif state.current is None:
        yield "the newest WAL is in no window: pgkeep pitr base begins one"
    if not state.segments:
        yield "no WAL is stored; pgkeep pitr stream receives it"
    for name in state.waiting:
        yield f"the WAL of base backup {name} is not stored yet"
    yield from state.unusable
    yield from state.unreadable
    if state.timelines_by_name:
        yield "no private key decrypts the histories: timelines are known from names of segments"


def _wrapped(text: str, indent: str = "  ") -> Iterator[str]:
    yield from textwrap.wrap(
        text, output.WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _local(moment: datetime, *, up: bool = False) -> str:
    """Return a time of this machine's zone with its offset, in whole seconds."""
    seconds = moment.timestamp()
    whole = math.ceil(seconds) if up else math.floor(seconds)
    return datetime.fromtimestamp(whole, UTC).astimezone().isoformat(" ")
