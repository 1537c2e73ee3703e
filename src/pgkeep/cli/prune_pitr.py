"""What pgkeep prune does with base backups and WAL."""

from collections.abc import Iterator
from typing import Any

from .. import errors as e
from ..config import Config
from ..pitr import service
from ..pitr.expire import Expired, RemovalPlan
from ..pitr.location import known
from . import output
from .common import plural


def decide(config: Config) -> list[RemovalPlan]:
    """Decide on base backups and WAL of every cluster, in every store."""
    encryption = config.encryption()
    try:
        found = list(known(config))
    except e.VerificationFailed as error:  # which must not keep logical backups from expiring
        output.current().warning(f"base backups and WAL are not removed: {error.message}")
        return []
    return [service.plan_removal(config, location, encryption) for location in found]


def remove(config: Config, plans: list[RemovalPlan]) -> list[Expired]:
    """Remove what is decided, each cluster under its lock; decided again, since time has passed.

    A cluster whose base backup is being taken is left to that run.
    """
    done: list[Expired] = []
    for facts in {
        plan.location.facts.system_identifier: plan.location.facts for plan in plans
    }.values():
        try:
            done += service.expire(config, facts, config.encryption())
        except e.AlreadyRunning as error:
            output.current().info(f"base backups and WAL are not removed: {error.message}")
    return done


def lines(plan: RemovalPlan) -> Iterator[str]:
    """Yield the decisions on one cluster in one store for people."""
    yield f"cluster {plan.location.facts.system_identifier} in {plan.location.url}"
    for decision in plan.expiry.bases:
        base = decision.base
        did = "keep" if decision.keep else "REMOVE"
        yield f"  {base.name:28} {base.stopped:%Y-%m-%d %H:%M} {did:7} {decision.reason}"
    for text in plan.damaged:
        yield f"  keep: {text}"
    if plan.wal:
        count = sum(len(files) for files in plan.wal.values())
        yield f"  {plural(count, 'file')} of WAL before {plan.first_kept} REMOVE"
    count = sum(len(files) for files in plan.leftovers.values())
    if count:
        yield f"  {plural(count, 'file')} of interrupted base backups REMOVE"


def documents(plan: RemovalPlan) -> Iterator[dict[str, Any]]:
    """Yield the decisions on one cluster in one store for --json."""
    common = {"id": None, "database": None, "store": plan.location.url,
              "cluster": plan.location.facts.system_identifier}  # fmt: skip
    for decision in plan.expiry.bases:
        yield {
            **common, "backup": decision.base.name, "keep": decision.keep,
            "reasons": [decision.reason],
        }  # fmt: skip
    count = sum(len(files) for files in plan.wal.values())
    if count:
        yield {
            **common, "backup": "wal", "keep": False,
            "reasons": [f"{count} files before {plan.first_kept}"],
        }  # fmt: skip
