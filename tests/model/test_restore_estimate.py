"""How long a restore will take, from the last drill."""

from datetime import UTC, datetime, timedelta

import msgspec

from pgkeep.model.manifest import Drill, Manifest
from pgkeep.model.restore_estimate import estimate
from tests.support import planted

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def backup(days: int, raw_bytes: int, *drills: Drill) -> Manifest:
    manifest = planted.manifest(NOW - timedelta(days=days))
    return msgspec.structs.replace(manifest, raw_bytes=raw_bytes, drills=list(drills))


def drill(days: int, load: float, *, passed: bool = True) -> Drill:
    seconds = {"start": 50.0, "load": load, "indexes": 2.0, "check": 70.0, "clean": 5.0}
    return Drill(NOW - timedelta(days=days), passed, seconds, 0)


def test_the_last_passed_drill_in_proportion_to_the_bytes() -> None:
    """Neither a failed drill nor the phases of the drill itself count."""
    backups = [
        backup(1, 9, drill(0, 9.0, passed=False)),
        backup(2, 1000, drill(4, 30.0), drill(1, 10.0)),
        backup(3, 1000, drill(2, 99.0)),
        backup(4, 0, drill(0, 1.0)),
    ]
    found = estimate(backups, 2500)
    assert found is not None
    assert (found.seconds, found.drill_seconds, found.drill_bytes) == (30.0, 12.0, 1000)
    assert found.drill == NOW - timedelta(days=1)
    assert estimate(backups[:1], 2500) is None
    assert estimate([], 2500) is None
