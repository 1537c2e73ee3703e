"""Catalogs that are damaged, absurd, or lie: what works goes on, and nothing older is taken."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pgkeep import errors as e
from pgkeep.catalog import catalog, copies, manifests, side_files
from pgkeep.catalog.catalog import Catalog
from pgkeep.model import manifest
from pgkeep.model.manifest import FileFacts, Manifest
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.s3.client import S3Settings
from pgkeep.stores.s3.store import S3Store
from pgkeep.stores.store import Store
from tests.support import invoke, planted

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def plant(directory: Path, *days: int) -> list[Manifest]:
    """Plant backups so many days ago, with artifacts of the right length."""
    made = []
    for ago in days:
        one = planted.manifest(NOW - ago * DAY)
        planted.plant(directory, one)
        made.append(one)
    return made


def edit(directory: Path, one: Manifest, change: Callable[[dict[str, object]], None]) -> None:
    """Change a manifest and give it the hash that fits: absurd, but not damaged."""
    path = directory / one.name.manifest
    fields = json.loads(path.read_text())
    change(fields)
    fields["manifest_sha256"] = manifest.digest_of(fields)
    path.write_text(json.dumps(fields))


# --- the manifest's own hash


def test_a_damaged_manifest_is_noticed() -> None:
    """G5.5: whatever bit is wrong: it is refused, or it says the same."""
    one = planted.manifest(NOW)
    data = manifest.encode(one)
    assert manifest.decode(data, "x") == one
    chance = random.Random(7)  # noqa: S311 - no secret
    for _ in range(2000):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        flipped = bytearray(data)
        flipped[place] ^= bit
        with contextlib.suppress(e.VerificationFailed):
            assert manifest.decode(bytes(flipped), "x") == one, flipped


def test_the_hash_of_a_manifest_covers_fields_of_newer_versions() -> None:
    """G5.5: they are ignored, and their damage is not."""
    fields = json.loads(manifest.encode(planted.manifest(NOW)))
    fields["new"] = {"b": [1, "ü", None, 1.5], "a": True}
    del fields["manifest_sha256"]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    fields["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    assert manifest.decode(json.dumps(fields).encode(), "x") == planted.manifest(NOW)
    fields["new"]["a"] = False
    with pytest.raises(e.VerificationFailed, match="x is damaged: SHA-256 is"):
        manifest.decode(json.dumps(fields).encode(), "x")


def test_a_manifest_of_an_older_version_has_no_hash(tmp_path: Path) -> None:
    """G5.5: it can be read, and has one as soon as it is changed."""
    store = LocalStore(tmp_path)
    (one,) = plant(tmp_path, 1)
    (tmp_path / one.name.manifest).write_bytes(msgspec.json.encode(one))
    assert Catalog(store).whole() == [one]
    manifests.change(store, one, lambda old: old)
    assert "manifest_sha256" in json.loads((tmp_path / one.name.manifest).read_text())
    assert Catalog(store).whole() == [one]


ABSURD: dict[str, Callable[[dict[str, object]], None]] = {
    "lag": lambda one: one["server"].update(replay_lag=1e308),  # type: ignore[attr-defined]
    "size": lambda one: one["artifact"].update(size=10**400),  # type: ignore[attr-defined]
    "negative": lambda one: one.update(raw_bytes=-1),
    "seconds": lambda one: one.update(
        drills=[{"when": "2026-01-01T00:00:00Z", "passed": True, "seconds": {"a": 1e300},
                 "findings": 0}]
    ),
    "year": lambda one: one.update(finished="9999-12-31T23:59:59Z"),
    "zone": lambda one: one.update(snapshot="0001-01-01T00:00:00+23:59"),
    "globals": lambda one: one.update(globals={"name": "../x", "size": 1, "sha256": "0"}),
    "rows": lambda one: one.update(tables=[["public", "t", 2**70]]),
}  # fmt: skip
RAW = {
    "nested": b'{"format": 1, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "NaN": b'{"format": NaN}',
    "infinite": b'{"format": 1e999}',
    "empty": b"",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("kind", [*ABSURD, *RAW, "huge", "loop", "dangling", "unreadable", "fifo"])
def test_what_cannot_be_read(tmp_path: Path, kind: str) -> None:
    """G5.6, G5.7: one absurd manifest: the others are read; the newest is not guessed."""
    old, new = plant(tmp_path, 2, 1)
    spoil(tmp_path, new, kind)
    found = Catalog(LocalStore(tmp_path))
    assert found.whole() == [old]
    assert len(found.unreadable) == 1
    with pytest.raises(e.Refused) as caught:
        choose(LocalStore(tmp_path))
    assert (
        f"{old.name.stem} may be too old: a backup that could not be read may be"
        in caught.value.message
    )
    assert "--backup=NAME" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["lag", "loop"])
def test_what_cannot_be_read_stops_nothing(tmp_path: Path, kind: str) -> None:
    """G5.6, G5.7: every command goes on; restore --latest refuses."""
    old, new = plant(tmp_path / "backups", 2, 1)
    spoil(tmp_path / "backups", new, kind)
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "backups"), BACKUP_MAX_AGE="9d")
    out, err = both("list", "--json", env=env)
    assert [load["manifest"]["taken"] for load in json.loads(out)] == [json_time(old)]
    assert err.startswith("warning: "), err
    assert "cannot be read" in both("status", env=env, code=5)[0]
    both("prune", env=env)
    both("metrics", env=env)
    err = both("restore", "--latest", "--drop-existing", "--yes", env=env, code=9)[1]
    assert f"{old.name.stem} may be too old: a backup that could not be read may be newer: " in err
    assert "hint: Select a backup with --backup=NAME" in err


def spoil(directory: Path, one: Manifest, kind: str) -> None:
    path = directory / one.name.manifest
    if kind in ABSURD:
        edit(directory, one, ABSURD[kind])
        return
    path.unlink()
    if kind in RAW:
        path.write_bytes(RAW[kind])
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 30)
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("gone")
    elif kind == "fifo":
        os.mkfifo(path)
    else:  # whoever runs the tests may read anything else
        path.symlink_to("/proc/self/mem")


def json_time(one: Manifest) -> str:
    return str(msgspec.to_builtins(one)["taken"])


def both(*args: str, env: dict[str, str], code: int = 0, timeout: float = 60) -> tuple[str, str]:
    """Return what a command has printed, on both streams."""
    return invoke.outputs(*args, env=env, code=code, seconds=timeout)


def test_other_entries_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """G5.6: links to themselves that are nobody's backup are left alone, by adopt with a reason."""
    (one,) = plant(tmp_path / "backups", 1)
    (tmp_path / "backups" / "loop.sql").symlink_to("loop.sql")
    env = invoke.environment(BACKUP_DIR=str(tmp_path / "backups"))
    out, err = both("list", "--names", env=env)
    assert (out.split(), err) == ([one.name.stem], "")
    out, err = both("adopt", str(tmp_path / "backups"), env=env, code=9)
    assert "loop.sql" in out
    assert "could not open loop.sql" in err


# --- which backup is the newest


def choose(*stores: Store, unread: tuple[str, ...] = ()) -> Manifest:
    found = [Catalog(store).read() for store in stores]
    return catalog.latest(found, "app", NOW, unread=unread)[1]


def test_what_cannot_be_newer_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """G5.7: an older manifest, another database's, one of definitions only."""
    _, new = plant(tmp_path, 2, 1)
    for name in ("app_daily_20200101T000000Z", "other_daily_20400101T000000Z",
                 "app_daily_20400101T000000Z_schema"):  # fmt: skip
        (tmp_path / f"{name}.manifest.json").write_text("{}")
    assert choose(LocalStore(tmp_path)) == new
    (tmp_path / "app_daily_20400101T000000Z.manifest.json").write_text("{}")
    with pytest.raises(e.Refused, match=f"{new.name.stem} may be too old"):
        choose(LocalStore(tmp_path))


def test_a_store_that_cannot_be_reached(tmp_path: Path) -> None:
    """G5.7: nobody knows what it has."""
    (one,) = plant(tmp_path / "backups", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    env = invoke.environment(
        BACKUP_DIR=str(tmp_path / "backups"), BACKUP_S3_BUCKET="bucket",
        BACKUP_S3_ENDPOINT=endpoint, BACKUP_S3_TIMEOUT="1", AWS_ACCESS_KEY_ID="a",
        AWS_SECRET_ACCESS_KEY="b",
    )  # fmt: skip
    err = both("restore", "--latest", env=env, code=9)[1]
    assert f"{one.name.stem} may be too old" in err
    assert "could not list s3://bucket/backups" in err


def test_a_newer_backup_that_is_incomplete_is_named(tmp_path: Path) -> None:
    """G5.7: the newest complete one is taken, with a warning."""
    old, new = plant(tmp_path, 2, 1)
    (tmp_path / new.artifact.name).write_bytes(b"")
    found = [Catalog(LocalStore(tmp_path)).read()]
    assert choose(LocalStore(tmp_path)) == old
    (said,) = catalog.passed_over(found, old)
    assert f"{new.name.stem} is newer than {old.name.stem}, but its file is missing" in said
    (tmp_path / new.name.manifest).unlink()
    found = [Catalog(LocalStore(tmp_path)).read()]
    (said,) = catalog.passed_over(found, old)
    assert "its manifest is missing: pgkeep adopt" in said


# --- buckets that misbehave


class Bucket:
    """A server whose answers a test writes, each on a connection of its own."""

    def __init__(self, answer: Callable[[str], Iterator[bytes]]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(1 << 16)
                if not more:
                    return
                head += more
            self.requests += 1
            for data in self._answer(head.split(b"\r\n", 1)[0].decode()):
                client.sendall(data)


def answer(body: bytes, *headers: str, status: str = "200 OK") -> Iterator[bytes]:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    yield "\r\n".join(lines).encode() + b"\r\n\r\n"
    yield body


def page(keys: dict[str, int], token: str = "") -> bytes:
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size></Contents>" for key, size in keys.items()
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        f"<ListBucketResult><IsTruncated>{'true' if token else 'false'}</IsTruncated>{more}"
        f"{contents}</ListBucketResult>"
    ).encode()


def drip(body: bytes) -> Iterator[bytes]:
    """A piece every now and then: no timeout of a socket is ever met."""
    yield f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number in range(len(body)):
        time.sleep(0.2)
        yield body[number : number + 1]


def for_ever(line: str) -> Iterator[bytes]:
    token = f"t{time.monotonic_ns()}"
    return answer(page({}, token))


def redirected(line: str) -> Iterator[bytes]:
    where = "Location: http://127.0.0.1:1/"
    body = b"<Error><Code>TemporaryRedirect</Code><Message>again</Message></Error>"
    return answer(body, where, status="307 Temporary Redirect")


def dripping_listing(line: str) -> Iterator[bytes]:
    return drip(page({}) + b" " * 1000)


def dripping_manifests(line: str) -> Iterator[bytes]:
    if line.startswith("HEAD"):
        return iter([b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"])
    if "list-type" in line:
        stems = [f"app_daily_20260101T0000{n:02}Z" for n in range(60)]
        return answer(page({f"backups/daily/{stem}.manifest.json": 1000 for stem in stems}))
    return drip(b" " * 1000)


@contextlib.contextmanager
def bucket(behaviour: Callable[[str], Iterator[bytes]]) -> Iterator[dict[str, str]]:
    """Yield an environment with a bucket of copies that misbehaves."""
    running = Bucket(behaviour)
    try:
        yield {
            "BACKUP_S3_BUCKET": "bucket", "BACKUP_S3_TIMEOUT": "0.5",
            "BACKUP_S3_ENDPOINT": f"http://127.0.0.1:{running.port}",
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        }  # fmt: skip
    finally:
        running.close()


@pytest.mark.parametrize("behaviour", [redirected, for_ever, dripping_listing, dripping_manifests])
def test_a_bucket_that_misbehaves(
    tmp_path: Path, behaviour: Callable[[str], Iterator[bytes]]
) -> None:
    """G5.8: what lies in the directory is listed, within a time, with a warning."""
    (one,) = plant(tmp_path / "backups", 1)
    with bucket(behaviour) as extra:
        env = invoke.environment(BACKUP_DIR=str(tmp_path / "backups")) | extra
        out, err = both("list", "--names", env=env, timeout=25)
        assert out.split() == [one.name.stem]
        assert "warning: " in err
        assert "bucket" in err or "not read" in err
        both("status", env=env, code=5 if behaviour is dripping_manifests else 0, timeout=25)
        if behaviour is dripping_manifests:
            said = both("restore", "--latest", env=env, timeout=25, code=5)[1]
            assert "too old" not in said  # they are all older
        else:
            err = both("restore", "--latest", env=env, timeout=25, code=9)[1]
            assert "may be too old" in err


def test_a_signal_while_a_bucket_does_not_answer(tmp_path: Path) -> None:
    """G5.1, G5.8: threads that wait for a store hold up no end."""
    plant(tmp_path / "backups", 1)
    with bucket(dripping_manifests) as extra:
        env = invoke.environment(BACKUP_DIR=str(tmp_path / "backups")) | extra
        env["BACKUP_S3_TIMEOUT"] = "60"
        process = invoke.start("list", env=env)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        err = process.communicate(timeout=20)[1]
        assert time.monotonic() - began < 5
        assert (process.returncode, err) == (143, "error: ended by SIGTERM\n")


def test_a_copy_that_cannot_be_looked_at_is_not_put_at_risk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5.9: a run that was killed before it noted the copy: it is not sent, and lost, once more."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    store = LocalStore(tmp_path / "here")
    lines: list[str] = []

    def failing(line: str) -> Iterator[bytes]:
        lines.append(line)
        return answer(b"<Error><Code>InternalError</Code></Error>", status="500 Error")

    with bucket(failing) as extra:
        settings = S3Settings(
            bucket="bucket", endpoint=extra["BACKUP_S3_ENDPOINT"], timeout=1, attempts=1
        )
        target = S3Store(settings)
        backup = msgspec.structs.replace(planted.manifest(NOW), pending=[target.url])
        planted.plant(store.directory, backup)
        ((copied, error),) = copies.upload_pending(store, target, [backup])
    assert copied == backup
    assert isinstance(error, e.StoreError)
    assert not [line for line in lines if line.startswith(("PUT", "POST", "DELETE"))], lines


def test_a_file_of_roles_that_is_missing_is_no_copy(tmp_path: Path) -> None:
    """G5.9: the copy would restore without roles; its checksum is made anew."""
    store, target = LocalStore(tmp_path / "here"), LocalStore(tmp_path / "there")
    content = b"x"
    facts = FileFacts(planted.manifest(NOW).artifact.name, 1, hashlib.sha256(content).hexdigest())
    roles = FileFacts(planted.manifest(NOW).name.globals, 1, facts.sha256)
    one = msgspec.structs.replace(planted.manifest(NOW), artifact=facts, globals=roles)
    planted.plant(store.directory, one)
    (store.directory / facts.name).write_bytes(content)
    (store.directory / roles.name).unlink(missing_ok=True)
    (store.directory / one.name.checksum).write_text("damaged")
    with pytest.raises(e.VerificationFailed, match=r"globals.sql.gz is missing"):
        copies.transfer(store, target, one)
    assert invoke.left_over(target.directory) == []
    (store.directory / roles.name).write_bytes(content)
    copies.transfer(store, target, one)
    (copied,) = Catalog(target).whole()
    side = side_files.read(target, copied.artifact.name)
    assert side.sha256 == facts.sha256


# --- side files


@pytest.fixture(scope="module")
def whole(pg17: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invoke.backup(pg17, "postgres", tmp_path_factory.mktemp("whole"))


CHECKSUMS = {
    "other name": "{digest}  other.sql.gz\n",
    "no name": "{digest}\n",
    "nothing": "",
    "one space": "{digest} {name}\n",
    "two lines": "{digest}  {name}\n{digest}  {name}\n",
    "carriage return": "{digest}  {name}\r\n",
    "short": "{short}  {name}\n",
    "path": "{digest}  ./{name}\n",
    "blank first": " {digest}  {name}\n",
    "tail": "{digest}  {name} \n",
    "no line end": "{digest}  {name}",
    "binary": "{digest} *{name}\n",
    "capitals": "{capitals}  {name}\n",
    "as it is": "{digest}  {name}\n",
}


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_a_checksum_file_is_read_as_sha256sum_does(whole: Path, tmp_path: Path, kind: str) -> None:
    """G5.5, B28: what `sha256sum -c` refuses is refused; what it writes is taken."""
    path = tmp_path / whole.name
    path.write_bytes(whole.read_bytes())
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    text = CHECKSUMS[kind].format(
        digest=digest, name=path.name, short=digest[:-1], capitals=digest.upper()
    )
    side = path.with_name(f"{path.name}.sha256")
    side.write_bytes(text.encode())
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", side.name], cwd=tmp_path, capture_output=True, check=False
    )
    # Some versions of it pass more than what anybody writes: a line end of Windows, one space.
    good = kind in ("no line end", "binary", "capitals", "as it is")
    assert done.returncode == 0 or not good
    said = invoke.run("verify", str(path), env=invoke.environment(), code=0 if good else 5)
    assert good or "its .sha256 file has" in said


def test_damaged_roles_are_noticed_before_a_restore(
    pg17: Server, whole: Path, tmp_path: Path
) -> None:
    """G5.5: not when they are needed."""
    for path in whole.parent.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    artifact = tmp_path / whole.name
    roles = tmp_path / whole.name.replace(".sql.gz", ".globals.sql.gz")
    roles.write_bytes(roles.read_bytes()[:-1] + b"x")
    env = invoke.environment(pg17)
    args = ["restore", f"--backup={artifact}", "--target-db=app_copy"]
    assert "is damaged: it differs from the manifest" in invoke.run(*args, env=env, code=5)
    assert "app_copy" not in invoke.run("list", env=env | {"BACKUP_DIR": str(tmp_path)})
    roles.unlink()
    assert f"{roles.name} is missing" in invoke.run("verify", str(artifact), env=env, code=5)
    invoke.run(*args, "--dry-run", env=env)


def test_adopted_with_its_roles(whole: Path, tmp_path: Path) -> None:
    """G5.9: what is known of the roles, and that its copy is pending."""
    for one in whole.parent.glob("*.*"):
        (tmp_path / one.name).write_bytes(one.read_bytes())
    path = tmp_path / whole.name.replace(".sql.gz", ".manifest.json")
    before = manifest.decode(path.read_bytes(), path.name)
    path.unlink()
    env = invoke.environment(BACKUP_DIR=str(tmp_path), BACKUP_S3_BUCKET="bucket")
    invoke.run("adopt", str(tmp_path / whole.name), env=env)
    after = manifest.decode(path.read_bytes(), path.name)
    roles = tmp_path / whole.name.replace(".sql.gz", ".globals.sql.gz")
    hashed = b" PASSWORD '" in gzip.decompress(roles.read_bytes())
    assert (after.globals, after.role_passwords) == (before.globals, hashed)
    assert after.pending == ["s3://bucket/backups"]
