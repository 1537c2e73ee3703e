"""Whether the next base backup can be an incremental one: a pure decision, with its reason."""

from collections.abc import Mapping
from typing import NamedTuple

from . import chains
from .base_manifest import BaseManifest, Kind

LONGEST_CHAIN = 7  # incremental base backups after a full one
INCREMENTAL_SINCE = 17  # the first major version
HALF = 0.5  # an incremental one above this share of the full one saves little, and costs a restore


class Choice(NamedTuple):
    """The parent of the next base backup, None for a full one, and why."""

    parent: BaseManifest | None
    reason: str


def choose(
    known: Mapping[str, BaseManifest], *, version_num: int, timeline: int, summarizes: bool,
    checksums: bool,
) -> Choice:  # fmt: skip
    """Return on which base backup the next one is based."""
    # By time: after the restore of an earlier point, positions are lower again.
    newest = max(known.values(), key=lambda base: base.stopped, default=None)
    chain = None if newest is None else chains.find(newest, known)
    if version_num // 10000 < INCREMENTAL_SINCE:
        reason = f"PostgreSQL {version_num // 10000} has no incremental base backups"
    elif not summarizes:
        reason = "summarize_wal is off"
    elif newest is None:
        reason = "it is the first one"
    elif chain is None:
        reason = f"a parent of {newest.name} is missing"
    elif newest.major != version_num // 10000:
        reason = f"{newest.name} is of PostgreSQL {newest.major}"
    elif newest.timeline != timeline:
        # Summaries of the older timeline can be incomplete where it ended.
        reason = f"the timeline changed from {newest.timeline} to {timeline}"
    elif newest.checksums != checksums:
        reason = "data checksums were switched on or off"
    elif len(chain) > LONGEST_CHAIN:
        reason = f"{LONGEST_CHAIN} incremental base backups follow each other"
    elif newest.kind is Kind.INCREMENTAL and newest.size > HALF * chain[0].size:
        reason = f"{newest.name} is larger than half of the full one"
    else:
        return Choice(newest, f"changes since {newest.name}")
    return Choice(None, reason)
