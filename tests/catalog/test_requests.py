"""How many requests commands send to a bucket; copies save requests and are never trusted."""

import gzip
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pgkeep.catalog import small_files
from pgkeep.model.manifest import Manifest, encode
from pgkeep.postgres.server import Server
from tests.support import invoke, planted
from tests.support.buckets import Buckets
from tests.support.proxy import Proxy, proxy

NOW = datetime.now(UTC).replace(microsecond=0)
NO_COPIES = {"XDG_CACHE_HOME": "/proc/none"}


@pytest.fixture
def counted(buckets: Buckets) -> Iterator[Proxy]:
    with proxy(buckets.port) as running:
        yield running


class Place:
    """A bucket behind a proxy that counts, and the environment that uses it."""

    def __init__(self, buckets: Buckets, counted: Proxy, home: Path) -> None:
        self.bucket = buckets.bucket()
        self.client = buckets.client()
        self.home = home
        self._counted = counted
        extra = buckets.environment(self.bucket)
        del extra["BACKUP_S3_BUCKET"]
        self.env = (
            invoke.environment()
            | extra
            | {
                "BACKUP_DIR": f"s3://{self.bucket}/backups",
                "BACKUP_S3_ENDPOINT": counted.endpoint,
                "BACKUP_MAX_AGE": "3650d",
                "XDG_CACHE_HOME": str(home),
            }
        )

    def plant(self, count: int, *, cluster: str = "1") -> list[Manifest]:
        made = [
            planted.manifest(NOW - timedelta(days=number + 1), "daily", cluster=cluster)
            for number in range(count)
        ]
        files = {name: b"x" for one in made for name in one.name.files}
        files |= {one.name.manifest: encode(one) for one in made}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.put, files, files.values()))
        return made

    def put(self, name: str, data: bytes) -> None:
        folder = "" if name == small_files.SUMMARY else "daily/"
        self.client.put_object(Bucket=self.bucket, Key=f"backups/{folder}{name}", Body=data)

    def requests(self, *args: str, env: Mapping[str, str] = {}) -> tuple[str, dict[str, int]]:
        """Run a command; return its output, and its requests by kind."""
        self._counted.requests.clear()
        out = invoke.run(*args, env=self.env | dict(env))
        kinds = [_kind(line) for line in self._counted.requests]
        return out, {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _kind(line: str) -> str:
    method, path, _ = line.split(" ")
    return "LIST" if "list-type=2" in path else method


@pytest.fixture
def place(buckets: Buckets, counted: Proxy, tmp_path: Path) -> Place:
    return Place(buckets, counted, tmp_path / "cache")


def test_a_listing_costs_one_request_more_where_nothing_is_known(place: Place) -> None:
    """C10: not two for each backup, on each call; a summary serves machines without copies."""
    made = place.plant(10)
    names = [one.name.stem for one in reversed(made)]
    out, requests = place.requests("list", "--names")
    assert requests == {"GET": 10, "LIST": 1}
    assert out.split() == names
    for command in (("list", "--names"), ("status",), ("metrics",)):
        assert place.requests(*command)[1] == {"LIST": 1}, command
    assert place.requests("prune", "--dry-run")[1] == {"LIST": 2}, "one for WAL archives"
    assert place.requests("list", "--names", env=NO_COPIES)[1] == {
        "GET": 10, "LIST": 1,
    }  # fmt: skip
    out, requests = place.requests("prune")
    assert requests["PUT"] == 2, "the record of the run, and the summary"
    left = place.requests("list", "--names")[0].split()
    for env in (NO_COPIES, {"XDG_CACHE_HOME": str(place.home / "of another machine")}):
        out, requests = place.requests("list", "--names", env=env)
        assert (out.split(), requests) == (left, {"GET": 1, "LIST": 1})


def test_no_home_directory_is_created(place: Place) -> None:
    """That of accounts for services often does not exist."""
    home = place.home.parent / "none"
    place.requests("list", env={"XDG_CACHE_HOME": "", "HOME": str(home)})
    assert not home.exists()


def test_a_change_is_seen_and_costs_one_request(place: Place) -> None:
    """C11: a copy is of one version of a file."""
    newest, *_ = place.plant(3)
    place.requests("list", "--names")
    place.put(newest.name.manifest, encode(msgspec.structs.replace(newest, verified=None)))
    out, requests = place.requests("list", "--json")
    assert requests == {"GET": 1, "LIST": 1}
    assert [one["manifest"].get("verified") is None for one in json.loads(out)] == [
        False, False, True,
    ]  # fmt: skip
    assert place.requests("list", "--json") == (out, {"LIST": 1})


def forge(data: bytes) -> bytes:
    """Change copies, and their SHA-256 with them."""
    copies = json.loads(gzip.decompress(data))
    for copy in copies["files"]:
        copy["text"] = copy["text"].replace('"verified"', '"VERIFIED"')
        copy["sha256"] = hashlib.sha256(copy["text"].encode()).hexdigest()
    return gzip.compress(json.dumps(copies).encode())


def lie(data: bytes, **changes: str) -> bytes:
    """Change copies: all of them say that their backup is not verified."""
    copies = json.loads(gzip.decompress(data))
    for copy in copies["files"]:
        text = copy["text"].replace('"verified"', '"VERIFIED"')
        copy.update({"text": text, **changes})
    return gzip.compress(json.dumps(copies).encode())


BAD: dict[str, Callable[[bytes], bytes]] = {
    "changed": lie,
    "of another version": lambda data: lie(data, version='"0"'),
    "of no version": lambda data: lie(data, version=""),
    "newer format": lambda data: gzip.compress(
        json.dumps(json.loads(gzip.decompress(data)) | {"format": 2}).encode()
    ),
    "truncated": lambda data: data[: len(data) // 2],
    "bomb": lambda _: gzip.compress(bytes(200 << 20)),
    "binary": lambda _: os.urandom(1000),
    "empty": lambda _: b"",
}


def test_a_copy_is_never_trusted_more_than_the_bucket(place: Place) -> None:
    """C12, G5.6: whatever is in the folder of this machine or in the summary, the list is right."""
    made = place.plant(3)
    place.requests("prune")
    out, _ = place.requests("list", "--json")
    (cached,) = (place.home / "pgkeep").iterdir()
    assert stat.S_IMODE(cached.stat().st_mode) == 0o600
    assert stat.S_IMODE(cached.parent.stat().st_mode) == 0o700
    good = cached.read_bytes()
    place.client.delete_object(Bucket=place.bucket, Key=f"backups/{small_files.SUMMARY}")
    for kind, spoil in BAD.items():
        cached.write_bytes(spoil(good))
        assert place.requests("list", "--json") == (out, {"GET": len(made), "LIST": 1}), kind
        assert place.requests("list", "--json") == (out, {"LIST": 1}), kind
    for kind, spoil in {**BAD, "forged": forge}.items():
        place.put(small_files.SUMMARY, spoil(good))
        found, requests = place.requests("list", "--json", env=NO_COPIES)
        assert (found, requests["GET"]) == (out, len(made) + 1), kind
    for mode in (0o620, 0o602):  # somebody else can have written it
        cached.write_bytes(good)
        cached.chmod(mode)
        assert place.requests("list", "--json")[1]["GET"] == len(made) + 1, oct(mode)


def test_a_run_leaves_a_record_and_a_summary(pg17: Server, app: str, place: Place) -> None:
    """C10: also with several backups before it, a run costs as many requests as with none."""
    place.plant(10, cluster=planted.cluster_of(pg17))
    server = {f"PG{name.upper()}": value for name, value in pg17.params.items()}
    server["PGDATABASE"] = app
    _, first = place.requests("backup", "--type=daily", env=server)
    _, second = place.requests("backup", "--type=daily", env=server)
    assert second["GET"] <= 12, second
    assert second["LIST"] <= 3, second
    assert first["GET"] == second["GET"] + 10, "each manifest once"
