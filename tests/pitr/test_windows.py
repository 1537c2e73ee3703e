"""`pgkeep pitr windows`: what can be restored, from names and manifests only."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec

from pgkeep.model.wal import Lsn
from pgkeep.pitr import stream_state
from pgkeep.pitr.stream_state import SlotProgress, StreamState
from tests.support import invoke, private_keys
from tests.support.buckets import Buckets
from tests.support.planted_wal import BEGIN, HOUR, IDENTIFIER, SIZE, Planted, base
from tests.support.proxy import proxy

TZ = {"TZ": "Europe/Berlin"}


def shown(place: Path, **env: str) -> list[dict[str, Any]]:
    own = invoke.environment() | {"BACKUP_DIR": str(place), **env}
    return list(json.loads(invoke.run("pitr", "windows", "--json", env=own)))


def width(text: str, place: Path) -> int:
    """Return the longest line; one with the path of a store is as long as that."""
    return max(len(line) for line in text.splitlines() if str(place) not in line)


def test_a_gap_divides_windows(tmp_path: Path) -> None:
    """A11: a missing segment is named, in the middle and at the border of two timelines."""
    planted = Planted(tmp_path, name="main")
    first, second, third = base(2), base(5), base(12, timeline=2)
    child = base(14, third, timeline=2)
    planted.bases(first, second, third, child)
    planted.segments([0, 1, 2, 3, 5, 6, 7])
    planted.histories({2: "1\t0/8000000\tno recovery target specified\n"})
    planted.segments([10, 11, 12, 13, 14], timeline=2)
    planted.segments([15], timeline=2, suffix=".partial")
    (found,) = shown(tmp_path)
    windows, gaps = found["windows"], found["gaps"]
    assert [window["bases"] for window in windows] == [
        [first.name], [second.name], [third.name, child.name],
    ]  # fmt: skip
    assert [(window["timeline"], window["end"], window["chain"]) for window in windows] == [
        (2, "0/4000000", 1), (2, "0/8000000", 1), (2, "0/F000000", 2),
    ]  # fmt: skip
    assert [window["partial"] for window in windows] == [False, False, True]
    assert [window["until"] for window in windows] == [
        "2026-11-20T16:00:00Z", "2026-11-20T20:00:00Z", "2026-11-21T04:00:00Z",
    ]  # fmt: skip
    assert gaps == [
        {"first": "000000010000000000000004", "last": "000000010000000000000004", "segments": 1,
         "since": "2026-11-20T16:00:00Z", "until": "2026-11-20T17:05:00.250000Z"},
        {"first": "000000020000000000000008", "last": "000000020000000000000009", "segments": 2,
         "since": "2026-11-20T20:00:00Z", "until": "2026-11-21T00:05:00.250000Z"},
    ]  # fmt: skip
    assert (found["unusable"], found["unreadable"], found["other_timelines"]) == ([], [], [])
    env = invoke.environment() | {"BACKUP_DIR": str(tmp_path), **TZ}
    text = invoke.run("pitr", "windows", env=env)
    assert width(text, tmp_path) <= 80
    assert f"cluster {IDENTIFIER} (main) in {tmp_path}" in text
    # The end of the base backup, rounded up: the second before cannot be restored.
    assert "2026-11-21 01:05:01+01:00  2026-11-21 05:00:00+01:00*" in text
    assert "to 000000020000000000000009 (after 2026-11-20 21:00:00+01:00," in " ".join(text.split())


def test_a_history_beside_the_newest_one(tmp_path: Path) -> None:
    """A10: a former primary that went on, and a timeline that nobody continued."""
    planted = Planted(tmp_path)
    before, after = base(1), base(7)
    planted.bases(before, after)
    planted.segments(range(10))
    planted.segments([4, 5], timeline=2)
    planted.segments([5, 6], timeline=3)
    planted.histories({2: "1\t0/4000100\tx\n", 3: "1\t0/5000100\tx\n"})
    (found,) = shown(tmp_path)
    windows, others = found["windows"], found["other_timelines"]
    assert [(one["timeline"], one["end"], one["bases"]) for one in windows] == [
        (3, "0/7000000", [before.name])
    ]
    assert [(one["timeline"], one["end"], one["bases"]) for one in others] == [
        (1, "0/A000000", [before.name, after.name]), (2, "0/6000000", [before.name]),
    ]  # fmt: skip
    env = invoke.environment() | {"BACKUP_DIR": str(tmp_path)}
    assert "another history" in invoke.run("pitr", "windows", env=env)
    # Only the public key is here, as on the host of a receiver: names show the same segments.
    for path in (planted.folder / "wal").glob("*.history*"):
        path.unlink()
    texts = {2: "1\t0/4000100\tx\n", 3: "1\t0/5000100\tx\n"}
    key = private_keys.age_key(tmp_path)
    planted.histories(texts, key.recipient)
    with_key = shown(tmp_path, BACKUP_IDENTITY_FILE=str(key.file))
    assert [with_key[0]["windows"], with_key[0]["other_timelines"]] == [windows, others]
    (by_name,) = shown(tmp_path)
    assert by_name["timelines_by_name"]
    assert [(one["timeline"], one["end"], one["bases"]) for one in by_name["windows"]] == [
        (3, "0/7000000", [before.name])
    ]


def test_a_history_counts_more_than_names(tmp_path: Path) -> None:
    """A10: one that can be read has the exact position, also if another one is encrypted."""
    planted = Planted(tmp_path)
    planted.bases(base(4))
    planted.segments(range(5))
    planted.segments([4, 5, 6], timeline=2)
    planted.segments([6, 7], timeline=3)
    planted.histories({2: "1\t0/4000500\tx\n"}, private_keys.age_key(tmp_path).recipient)
    planted.histories({3: "1\t0/4000500\tx\n2\t0/6000100\tx\n"})
    (found,) = shown(tmp_path)
    assert found["timelines_by_name"]
    assert [(one["timeline"], one["end"], one["bases"]) for one in found["windows"]] == [
        (3, "0/8000000", [base(4).name])
    ]


def test_what_the_receiver_says_counts_only_if_it_is_stored(tmp_path: Path) -> None:
    """Its files can have been removed since: the list of the store decides."""
    planted = Planted(tmp_path)
    planted.bases(base(1))
    planted.segments(range(4))
    spool = tmp_path / "pitr" / "spool" / IDENTIFIER
    spool.mkdir(parents=True)
    complete = BEGIN + 8 * HOUR

    def until(**state: Any) -> tuple[str, bool]:
        made = StreamState(
            pid=1, written_at=complete, system_identifier=IDENTIFIER, receiving=True,
            complete_until=complete, slot=SlotProgress(name="s"),
            **{"position": "0/3FFFFFF", "timeline": 1, **state},
        )  # fmt: skip
        stream_state.write(stream_state.path_in(spool), made)
        window = shown(tmp_path)[0]["windows"][-1]
        return window["until"], window["complete"]

    assert until() == ("2026-11-20T20:00:00Z", True)
    stored = ("2026-11-20T16:00:00Z", False)
    assert until(timeline=2) == stored
    assert until(position="0/4000100") == stored, "the unfinished segment is missing"
    planted.segments([4], suffix=".partial")
    assert until(position="0/4000100") == ("2026-11-20T20:00:00Z", True)
    assert until(position="0/5000100") == ("2026-11-20T17:00:00Z", False)
    text = invoke.run("pitr", "windows", env=invoke.environment() | {"BACKUP_DIR": str(tmp_path)})
    assert "and the unfinished segment" in text


def test_what_prevents_a_restore_is_named(tmp_path: Path) -> None:
    parent = base(3)
    long = msgspec.structs.replace(base(4), stop=str(Lsn(5 * SIZE + 400)))
    cases = {
        "1": ([], [], "no base backup; pgkeep pitr base takes one"),
        "2": ([], range(5), "no base backup; pgkeep pitr base takes one"),
        "3": ([base(5)], range(5), f"the WAL of base backup {base(5).name} is not stored yet"),
        "4": ([base(4, parent)], range(6), "is based on one that is missing"),
        "5": ([base(1)], range(3, 6), f"WAL that base backup {base(1).name} needs is missing"),
        "6": ([base(1)], [], "no WAL is stored; pgkeep pitr stream receives it"),
        "7": ([base(1, timeline=2)], range(3), "is of timeline 2 without history"),
        # Its last segment is missing, so recovery would not reach a consistent state.
        "20": ([long], range(5), f"the WAL of base backup {long.name} is not stored yet"),
    }
    for identifier, (bases, numbers, _) in cases.items():
        planted = Planted(tmp_path, identifier)
        planted.bases(*bases)
        planted.segments(numbers)
    damaged = Planted(tmp_path, "8")
    damaged.bases(base(1))
    for path in (damaged.folder / "base").iterdir():
        path.write_bytes(b"{")
    incomplete = Planted(tmp_path, "21")
    incomplete.bases(base(1))
    incomplete.segments(range(5))
    (incomplete.folder / "base" / base(1).backup_manifest.name).unlink()
    env = invoke.environment() | {"BACKUP_DIR": str(tmp_path)}
    assert "nothing can be restored" in invoke.run("pitr", "windows", "--cluster=21", env=env)
    text = invoke.run("pitr", "windows", env=env)
    for identifier, (_, _, expected) in cases.items():
        own = invoke.run("pitr", "windows", f"--cluster={identifier}", env=env)
        assert expected in " ".join(own.split()), (identifier, own)
        assert "nothing can be restored" in own
        assert f"cluster {identifier} in" in text
    assert "is not a manifest of a base backup" in text
    assert width(text, tmp_path) <= 80
    status, _, err = invoke.complete("pitr", "windows", "--cluster=9", env=env)
    assert (status, "no cluster has base backups or WAL here" in err) == (9, True)


def test_several_targets_and_a_store_that_cannot_be_read(tmp_path: Path, buckets: Buckets) -> None:
    """C10: a bucket only; the list of clusters does not read their WAL."""
    bucket = buckets.bucket()
    local, remote = Planted(tmp_path / "one"), Planted(tmp_path / "two", "77")
    for planted in (local, remote):
        planted.bases(base(1))
        planted.segments(range(4))
    client = buckets.client()
    for path in (tmp_path / "two").rglob("*"):
        if path.is_file():
            key = f"b/{path.relative_to(tmp_path / 'two')}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    (tmp_path / "pgkeep.toml").write_text(
        f'[targets.one]\nbackup_dir = "{tmp_path}/one"\n'
        f'[targets.two]\nbackup_dir = "s3://{bucket}/b"\n'
    )
    with proxy(buckets.port) as counted:
        env = invoke.environment() | buckets.environment(bucket) | {
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PGKEEP_CONFIG": str(tmp_path / "pgkeep.toml"), "BACKUP_S3_ENDPOINT": counted.endpoint,
        }  # fmt: skip
        del env["BACKUP_S3_BUCKET"]
        found = json.loads(invoke.run("pitr", "windows", "--json", env=env))
        assert len(counted.requests) == 5, "three lists, two small files"
        counted.requests.clear()
        invoke.complete("status", "--target=two", env=env)
        # One list is that of the backups; the manifest of the base backup is not read again.
        assert len(counted.requests) == 6, counted.requests
        counted.requests.clear()
        invoke.run("list", "--target=two", env=env)
        assert len(counted.requests) == 1, counted.requests
    assert [one["store"] for one in found] == [f"{tmp_path}/one", f"s3://{bucket}/b"]
    assert [one["windows"][0]["end"] for one in found] == ["0/4000000"] * 2
    assert found[1]["windows"][0]["until"] is not None
    env["BACKUP_S3_ENDPOINT"] = "http://127.0.0.1:9"
    out, err = invoke.outputs("pitr", "windows", "--json", env=env)
    assert [one["store"] for one in json.loads(out)] == [f"{tmp_path}/one"]
    assert f"s3://{bucket}/b" in err
    status, _, err = invoke.complete("pitr", "windows", "--target=two", env=env)
    assert status == 6, err


def test_many_segments(tmp_path: Path) -> None:
    """Also where every second one is missing, nothing is quadratic."""
    planted = Planted(tmp_path)
    planted.bases(*(base(number) for number in range(0, 20_000, 1000)))
    planted.segments(range(0, 20_000, 2))
    began = time.monotonic()
    (found,) = shown(tmp_path)
    took = time.monotonic() - began
    gaps = found["gaps"]
    assert len(gaps) == 9_999
    assert took < 10
