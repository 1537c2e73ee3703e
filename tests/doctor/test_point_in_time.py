"""pgkeep doctor on point in time: what would end it, or fill a disk."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgkeep.doctor import lifecycle
from pgkeep.pitr import stream_state
from pgkeep.pitr.stream_state import StreamState
from pgkeep.postgres.server import Server
from tests.support import invoke, servers
from tests.support.buckets import Buckets

DAY = 86400


def rule(**more: Any) -> dict[str, Any]:
    return {"ID": "r", "Status": "Enabled", **more}


def test_lifecycle_rules() -> None:
    """C30: prefixes above, equal and below; tags; expiration, archive classes, other actions."""
    three, forty = {"Expiration": {"Days": 3}}, {"Expiration": {"Days": 40}}
    glacier = {"Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]}
    cases: list[tuple[dict[str, Any], str | None]] = [
        (rule(Filter={"Prefix": ""}, **three), "before the 7 days of BACKUP_WINDOW"),
        (rule(Prefix="back", **three), "before the 7 days of BACKUP_WINDOW"),
        (rule(Filter={"Prefix": "backups/pitr/7/wal/"}, **forty), "the parents of others"),
        (rule(Filter={}, **forty), "after 40 days: WAL and base backups, also the last ones"),
        (rule(Filter={"And": {"Prefix": "backups/", "ObjectSizeGreaterThan": 9}}, **forty), "40"),
        (rule(Filter={}, Expiration={"Date": "2027-01-01"}), "at a date"),
        (rule(Filter={"Prefix": "backups/"}, **glacier), "to DEEP_ARCHIVE after 1 days"),
        (rule(Filter={"Prefix": "backups/daily/"}, **three), None),
        (rule(Filter={"Prefix": "backups/pitr-other/"}, **three), None),
        (rule(Filter={"Tag": {"Key": "a", "Value": "b"}}, **three), None),
        (rule(Filter={"And": {"Prefix": "", "Tags": [{"Key": "a", "Value": "b"}]}}, **three), None),
        (rule(Status="Disabled", Filter={}, **three), None),
        (rule(Filter={}, NoncurrentVersionExpiration={"NoncurrentDays": 1}), None),
        (rule(Filter={}, Expiration={"ExpiredObjectDeleteMarker": True}), None),
        (rule(Filter={}, Transitions=[{"Days": 1, "StorageClass": "GLACIER_IR"}]), None),
    ]  # fmt: skip
    for given, expected in cases:
        found = list(lifecycle.findings([given], "s3://b/backups", "backups/pitr/", 7 * DAY))
        assert len(found) == (expected is not None), given
        assert expected is None or expected in found[0].message, found
        assert expected is None or "backups/pitr/" in (found[0].remedy or "")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pitr-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_doctor(folder: Path, buckets: Buckets) -> None:
    """A8, A15: a real server, and a bucket with a rule and Object Lock; others hear nothing."""
    bucket = buckets.bucket()
    client = buckets.client()
    locked = f"{bucket}-locked"
    client.create_bucket(Bucket=locked, ObjectLockEnabledForBucket=True)
    programs = servers.bin_folder(17)
    with Server(programs, initdb=["--wal-segsize=1"]) as server:
        env = invoke.environment(
            server, "postgres", BACKUP_DIR=str(folder), **buckets.environment(locked),
            PATH=f"{programs}:{invoke.environment()['PATH']}",
        )  # fmt: skip

        def found() -> dict[str, str]:
            report = json.loads(invoke.run("doctor", "--json", env=env))
            return {message: remedy or "" for _, message, remedy in report["findings"]}

        before = found()
        assert not [text for text in before if "WAL" in text or "slot" in text]
        invoke.run("pitr", "enable", "--unlimited-slot", "--service=none", env=env)
        retention = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}
        client.put_object_lock_configuration(
            Bucket=locked,
            ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention},
        )
        expire = rule(Filter={"Prefix": "backups/"}, Expiration={"Days": 3})
        client.put_bucket_lifecycle_configuration(
            Bucket=locked, LifecycleConfiguration={"Rules": [expire]}
        )
        identifier = next(folder.glob("pitr/*.cluster.json")).name.partition(".")[0]
        state = stream_state.path_in(folder / "pitr" / "spool" / identifier)
        known = stream_state.read(state)
        assert known is not None
        old = {"written_at": known.written_at.replace(year=2020)}
        made = StreamState(**{name: getattr(known, name) for name in known.__struct_fields__} | old)
        stream_state.write(state, made)
        after = found()
        texts = "\n".join(sorted(after.keys() - before.keys()))
        for expected in (
            "max_slot_wal_keep_size has no limit",
            "summarize_wal is off: every base backup is a full one",
            "has no receiver, and the server keeps",
            "the receiver does not run on this host",
            "is on the file system of the server's data",
            f"lifecycle rule r of s3://{locked}/backups removes after 3 days",
            f"Object Lock of s3://{locked}/backups keeps each state of an unfinished segment",
        ):
            assert texts.count(expected) == 1, (expected, texts)
        servers.sql(
            server, "postgres", f"select pg_drop_replication_slot('pgkeep_{identifier[-8:]}')"
        )
        assert any("does not exist: WAL is missing from then on" in text for text in found())
        invoke.run("pitr", "disable", env=env)
        assert not [text for text in found() if "slot" in text or "receiver" in text]
