"""pgkeep rekey: the files of existing backups are encrypted again, and the former ones removed.

At every moment each backup has a complete file that its manifest names, and nothing is plain.
"""

import contextlib
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pgkeep import config
from pgkeep import errors as e
from pgkeep.catalog import copies, leftovers, rekey_run, side_files
from pgkeep.catalog.catalog import Catalog, together
from pgkeep.catalog.locks import backup_lock, copies_lock
from pgkeep.catalog.rekey import RekeyOptions, is_current
from pgkeep.catalog.rekey_plan import plan
from pgkeep.crypt import recipients
from pgkeep.crypt.opening import AGE, Keys
from pgkeep.crypt.options import Encryption
from pgkeep.crypt.recipients import Recipients
from pgkeep.model.manifest import Encryption as EncryptionFacts
from pgkeep.model.naming import Cipher
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from pgkeep.stores.memory import MemoryStore
from pgkeep.stores.store import Store
from tests.support import invoke, planted
from tests.support.buckets import Buckets, keys
from tests.support.private_keys import AgeKey, GpgKey

FORMER = Path(__file__).parents[1] / "fixtures" / "backups"  # a daily and a weekly backup, plain
WEEKLY = "shop_weekly_20261126T175451Z"
DAILY = "shop_daily_20261126T130700Z"
NOW = datetime(2026, 11, 27, tzinfo=UTC)


def files_of(stem: str, generation: int, cipher: str = "age") -> set[str]:
    key = f"{stem}_key{generation}" if generation > 1 else stem
    return {
        f"{stem}.manifest.json",
        *(f"{key}{end}" for end in (f".globals.sql.gz.{cipher}", f".sql.gz.{cipher}",
                                    f".sql.gz.{cipher}.sha256")),
    }  # fmt: skip


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """A directory with two backups that are not encrypted; the weekly one is held."""
    folder = tmp_path / "backups"
    shutil.copytree(FORMER, folder)
    return folder


def environment(folder: Path, **extra: str) -> dict[str, str]:
    return {**invoke.environment(), "BACKUP_DIR": str(folder), **extra}


def manifest_of(folder: Path, stem: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{stem}.manifest.json").read_text())
    return found


def test_from_one_cipher_to_the_other(
    backups: Path, age_key: AgeKey, other_age_key: AgeKey, gpg_key: GpgKey
) -> None:
    """Plain, age, GPG with two keys, age: each time the new keys alone decrypt.

    Former files are gone, holds and drills remain, the manifest says what was proved, and contains
    no settings. What is encrypted to exactly these recipients stays as it is.
    """
    before = manifest_of(backups, WEEKLY)
    env = environment(backups, **gpg_key.environment)
    to_age = {"BACKUP_ENCRYPT_TO": age_key.recipient, "BACKUP_IDENTITY_FILE": str(age_key.file)}
    to_gpg = {"BACKUP_ENCRYPT_TO": str(gpg_key.public), "BACKUP_IDENTITY_FILE": str(age_key.file)}
    to_two = {"BACKUP_ENCRYPT_TO": f"{other_age_key.recipient},{age_key.recipient}"}
    document = json.loads(invoke.run("rekey", "--dry-run", "--json", env=env | to_age))
    assert [each["action"] for each in document] == ["encrypt", "encrypt"]
    for generation, settings, cipher in (
        (2, to_age, "age"),
        (3, to_gpg, "gpg"),
        (4, to_two, "age"),
    ):
        document = json.loads(invoke.run("rekey", "--json", env=env | settings))
        assert [len(each["removed"]) for each in document] == [3, 3]
        found = {*invoke.left_over(backups)}
        assert found == files_of(WEEKLY, generation, cipher) | files_of(DAILY, generation, cipher)
        level = "contents" if generation == 2 else "ciphertext"
        after = manifest_of(backups, WEEKLY)
        assert (after["hold"], after["drills"]) == (before["hold"], before["drills"])
        assert (after.get("verified_level", "contents"), after["encryption"]["cipher"]) == (
            level, cipher,
        )  # fmt: skip
        assert after["verified"] > before["verified"]
        assert not {"settings", "comment"} & after["database"].keys()
        said = json.loads(invoke.run("rekey", "--json", env=env | settings))
        assert [each["written"] for each in said] == [[], []]
    plain = (FORMER / f"{WEEKLY}.sql.gz").read_bytes()
    for key in (age_key, other_age_key):
        file = backups / f"{WEEKLY}_key4.sql.gz.age"
        assert subprocess.check_output(["age", "-d", "-i", key.file, file]) == plain
        invoke.run("verify", "--all", f"--identity={key.file}", env=env)
    subprocess.run(["sha256sum", "-c", f"{file.name}.sha256"], cwd=backups, check=True)
    runs = json.loads(invoke.run("history", "--kind=rekey", "--json", env=env))
    assert [run["exit_code"] for run in runs] == [0] * 6
    assert [result["backup"] for result in runs[1]["results"]] == [WEEKLY, DAILY]


def test_what_is_refused(backups: Path, age_key: AgeKey, other_age_key: AgeKey) -> None:
    """Without recipients, without the private key, beside a running backup; nothing changes."""
    env = environment(backups)
    to = {"BACKUP_ENCRYPT_TO": age_key.recipient}
    for text, extra in (("not set", {}), ("is none", {"BACKUP_ENCRYPT_TO": "none"})):
        assert text in invoke.run("rekey", env=env | extra, code=2)
    assert "no backup other" in invoke.run(
        "rekey", "other_daily_20261126T130700Z", env=env | to, code=9
    )
    assert "no backups in" in invoke.run("rekey", "--database=x", env=env | to, code=9)
    for lock in (backup_lock("shop"), copies_lock("shop")):
        with LocalStore(backups).lock(lock):
            assert "is running" in invoke.run("rekey", env=env | to, code=10)
    assert invoke.left_over(backups) == invoke.left_over(FORMER)
    invoke.run("rekey", DAILY, env=env | to)
    assert {*invoke.left_over(backups)} > files_of(DAILY, 2)
    assert (backups / f"{WEEKLY}.sql.gz").exists()
    invoke.run("rekey", env=env | to)
    before = invoke.left_over(backups)
    to = {"BACKUP_ENCRYPT_TO": other_age_key.recipient}
    assert "no private key is given" in invoke.run("rekey", env=env | to, code=2)
    wrong = f"--identity={other_age_key.file}"
    assert "decrypts it" in invoke.run("rekey", wrong, env=env | to, code=5)
    assert invoke.left_over(backups) == before


def test_a_damaged_backup_stays(backups: Path, age_key: AgeKey) -> None:
    """It is reported, and the others are encrypted; so is a backup without a manifest (G3).

    A disk that is full is known before; --dry-run ends as the run would where it can know.
    """
    env = environment(backups, BACKUP_ENCRYPT_TO=age_key.recipient)
    damaged = backups / f"{WEEKLY}.sql.gz"
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    shown, err = invoke.outputs("rekey", env=env, code=11)
    assert ("failed" in shown, "1 of 2 backups" in err, "SHA-256" in err) == (True, True, True)
    dry_run = ("rekey", "--dry-run", "--json")
    assert len(json.loads(invoke.run(*dry_run, env=env))) == 2
    assert max(map(len, shown.splitlines())) <= 80
    left = {name for name in invoke.left_over(FORMER) if WEEKLY in name}
    assert {*invoke.left_over(backups)} == files_of(DAILY, 2) | left
    (backups / f"{DAILY}.manifest.json").unlink()
    err = invoke.run("rekey", env=env, code=5)
    assert "2 of 2 backups" in err
    assert "1 of 2 backups" in invoke.run(*dry_run, env=env, code=11)
    full = LocalStore(backups)
    full.free = lambda: 1000  # type: ignore[method-assign]
    (outcome,) = run(full, None, age_key)
    assert "1.0 kB free" in str(outcome.error)
    damaged.unlink()
    assert "2 of 2 backups" in invoke.run(*dry_run, env=env, code=5)


def run(store: Store, copy: Store | None, key: AgeKey, *private: AgeKey) -> list[rekey_run.Outcome]:
    """Encrypt all backups to a key."""
    encryption = Encryption(
        recipients=recipients.parse(key.recipient), keys=Keys([each.file for each in private])
    )
    options = RekeyOptions(encryption=encryption, jobs=1, progress=Silent())
    catalogs = [Catalog(each).read() for each in (store, copy) if each is not None]
    return list(rekey_run.run(store, plan(catalogs, options.recipients), options))


def test_the_copy_in_a_bucket(
    backups: Path, age_key: AgeKey, other_age_key: AgeKey, buckets: Buckets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It gets the same bytes, its former files go, also in a bucket that has no directory."""
    bucket = buckets.bucket()
    settings = buckets.environment(bucket)
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    environ = environment(backups, **settings)
    (configured,) = config.load(environ)
    directory, copy = configured.store(), configured.copy()
    assert copy is not None
    found = Catalog(directory)
    list(copies.upload_pending(directory, copy, found.whole()))

    def in_bucket() -> set[str]:
        names = {key.rpartition("/")[2] for key in keys(buckets.client(), bucket)}
        return {name for name in names if name.startswith("shop")}

    def succeeds(done: list[rekey_run.Outcome]) -> None:
        assert [(outcome.error, bool(outcome.written)) for outcome in done] == [(None, True)] * 2

    succeeds(run(directory, copy, age_key))
    assert in_bucket() == files_of(WEEKLY, 2) | files_of(DAILY, 2)
    listed = together([Catalog(directory), Catalog(copy)])
    assert [{*each.stores.values()} for each in listed] == [{False}, {False}]
    assert [each.manifest.pending for each in listed] == [[], []]
    succeeds(run(copy, None, other_age_key, age_key))
    assert in_bucket() == files_of(WEEKLY, 3) | files_of(DAILY, 3)
    # The directory has the former key. It does not take the place of the newer copy.
    assert copies.missing(found, Catalog(copy), []) == []
    assert len(together([Catalog(directory), Catalog(copy)])) == 2
    env = environ | {"BACKUP_IDENTITY_FILE": str(age_key.file)}
    invoke.run("rekey", env=env | {"BACKUP_ENCRYPT_TO": other_age_key.recipient})
    assert in_bucket() == files_of(WEEKLY, 4) | files_of(DAILY, 4)
    invoke.run("verify", "--all", f"--identity={other_age_key.file}", env=env)


class Killed(BaseException):
    """The process does not exist any more."""


class Stops:
    """Counts the operations of all stores, and stops at one of them."""

    def __init__(self, at: int, *, answer_is_lost: bool) -> None:
        self.at = at
        self.count = 0
        self.answer_is_lost = answer_is_lost  # the operation is done; else nothing is done from now

    def __call__(self, operation: Callable[[], Any]) -> Any:
        self.count += 1
        if self.answer_is_lost:
            result = operation()
            if self.count == self.at:
                raise e.StoreError("no answer")
            return result
        if self.count >= self.at > 0:
            raise Killed
        return operation()


class StoppingStore(MemoryStore):
    """A store in memory whose operations can be the last one."""

    def __init__(self, name: str, stops: Stops) -> None:
        super().__init__()
        self.name = name
        self.stops = stops

    @property
    def url(self) -> str:
        return self.name

    def create(self, name: str, **options: Any) -> Any:
        upload = self.stops(functools.partial(super().create, name))
        return StoppingUpload(upload, self.stops)

    def delete(self, name: str) -> None:
        self.stops(functools.partial(super().delete, name))

    def open(self, name: str) -> Any:
        return self.stops(functools.partial(super().open, name))


class StoppingUpload:
    def __init__(self, upload: Any, stops: Stops) -> None:
        self.upload = upload
        self.stops = stops

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.upload, name)
        if name not in ("seal", "publish"):
            return method
        return lambda: self.stops(method)

    def __enter__(self) -> "StoppingUpload":
        return self

    def __exit__(self, *_: object) -> None: ...


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in invoke.left_over(folder)}


def check_state(stores: list[StoppingStore], key: AgeKey, other: AgeKey) -> None:
    """Each backup is listed once, has a file that one of the keys opens, and nothing is plain."""
    for store in stores:
        for name, data in store.files.items():
            encrypted = data.startswith(AGE)
            assert encrypted or name.endswith((".manifest.json", ".sha256", ".lock")), name
    found = together([Catalog(store) for store in stores])
    assert len(found) == 1
    assert not found[0].missing
    file = found[0].manifest.artifact.name
    valid = [store for store in stores if found[0].stores.get(store.url) is False]
    assert valid[0] is stores[0]
    report = side_files.verify(
        valid[0], file, keys=Keys([key.file, other.file]), jobs=1, progress=lambda _: None
    )
    assert {"roles", "manifest", "SHA-256"} <= {*report.checked}


@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_every_point(
    backups: Path, age_key: AgeKey, other_age_key: AgeKey, answer_is_lost: bool
) -> None:
    """Stop at each operation of a store: before it, or after it as if its answer was lost.

    Then each backup is complete and encrypted, and the next run finishes and cleans.
    """
    for file in backups.glob(f"{DAILY}*"):
        file.unlink()
    run(LocalStore(backups), None, age_key)
    before = contents(backups)
    point, stopped = 1, True
    while stopped:
        stops = Stops(0, answer_is_lost=False)
        stores = [StoppingStore("directory", stops), StoppingStore("bucket", stops)]
        for store in stores:
            store.files = dict(before)
        stops.count, stops.at, stops.answer_is_lost = 0, point, answer_is_lost
        with contextlib.suppress(Killed):
            run(stores[0], stores[1], other_age_key, age_key)
        stopped = stops.count >= point
        stops.at = 0
        check_state(stores, age_key, other_age_key)
        again = run(stores[0], stores[1], other_age_key, age_key)
        assert [outcome.error for outcome in again] == [None]
        for store in stores:
            generations = {name.partition("_key")[2][:1] for name in store.files} - {""}
            assert (len(store.files), len(generations)) == (4, 1), (point, sorted(store.files))
        assert stores[0].files.keys() == stores[1].files.keys()
        point += 1
    assert point > 30  # all of the files in both stores


def changes(folder: Path, process: "subprocess.Popen[str]", count: int) -> Iterator[None]:
    """Yield after so many changes of a directory."""
    before = {*folder.iterdir()}
    while process.poll() is None:
        now = {*folder.iterdir()}
        if now != before:
            before = now
            count -= 1
            if count == 0:
                yield
                return


def test_sigkill(backups: Path, age_key: AgeKey, other_age_key: AgeKey) -> None:
    """The same with real processes, killed after the first, second, third ... change."""
    both = f"{age_key.file},{other_age_key.file}"
    env = environment(backups, BACKUP_IDENTITY_FILE=both)
    run(LocalStore(backups), None, age_key)
    killed = 0
    for number in range(10):
        new = (other_age_key, age_key)[number % 2]
        process = invoke.start("rekey", env=env | {"BACKUP_ENCRYPT_TO": new.recipient})
        for _ in changes(backups, process, number + 1):
            process.kill()
        process.communicate()
        killed += process.returncode == -9
        check_directory(backups, age_key, other_age_key)
        done = run(LocalStore(backups), None, new, age_key, other_age_key)
        assert [outcome.error for outcome in done] == [None, None]
        assert len(invoke.left_over(backups)) == 8
    assert killed >= 5


def check_directory(folder: Path, *private: AgeKey) -> None:
    """Each backup has a complete file, and nothing is plain."""
    for name in invoke.left_over(folder):
        assert name.endswith((".age", ".sha256", ".manifest.json")) or ".partial-" in name
        assert not (folder / name).read_bytes().startswith(b"\x1f\x8b")
    store = LocalStore(folder)
    found = [backup.manifest for backup in Catalog(store).backups() if not backup.missing]
    assert len(found) == 2
    given = Keys([key.file for key in private])
    for manifest in found:
        report = side_files.verify(
            store, manifest.artifact.name, keys=given, jobs=1, progress=lambda _: None
        )
        assert report.level == "contents"


def test_prune_removes_what_was_replaced(backups: Path, age_key: AgeKey) -> None:
    """Of backups that are kept: files of a lower generation; never those of a higher one.

    Until then they are no problem: list, verify, restore by id and by name use the valid file.
    """
    former = contents(backups)
    run(LocalStore(backups), None, age_key)
    env = environment(backups, BACKUP_IDENTITY_FILE=str(age_key.file))
    for name, data in former.items():
        if not name.endswith(".manifest.json"):
            (backups / name).write_bytes(data)
    unfinished = backups / f"{DAILY}_key3.sql.gz.age"
    unfinished.write_bytes(b"age-encryption.org/v1\n")
    for found in invoke.listed(env):
        shown = json.loads(invoke.run("show", "--json", found["id"], env=env))
        assert shown["file"].endswith("_key2.sql.gz.age")
    verdicts = json.loads(invoke.run("verify", "--all", "--json", env=env))
    assert [(each["ok"], each["file"][-16:]) for each in verdicts] == [
        (True, "_key2.sql.gz.age")
    ] * 2
    invoke.run("verify", str(backups / f"{DAILY}.sql.gz"), env=env)
    invoke.run("prune", env=env)
    assert {*invoke.left_over(backups)} == (
        files_of(WEEKLY, 2) | files_of(DAILY, 2) | {unfinished.name}
    )
    run(LocalStore(backups), None, age_key)
    assert not unfinished.exists()


def test_which_recipients_are_current() -> None:
    """One more or one less is another set: a key that was stolen must not decrypt it any more."""
    found = EncryptionFacts(Cipher.AGE, ["age1a", "age1b"])
    manifest = msgspec.structs.replace(planted.manifest(NOW), encryption=found)
    for names, current in (("ab", True), ("ba", True), ("a", False), ("abc", False), ("ac", False)):
        wanted = Recipients(Cipher.AGE, tuple(f"age1{name}" for name in names))
        assert is_current(manifest, wanted) is current, names


def test_nothing_is_removed_while_the_new_file_is_missing(tmp_path: Path) -> None:
    """A manifest can name a file that the store has lost; then the former one is the last."""
    store = LocalStore(tmp_path)
    manifest = planted.manifest(NOW)
    (tmp_path / "former").write_bytes(b"x")
    assert leftovers.remove(store, manifest, ["former"]) == ([], [])
    assert (tmp_path / "former").exists()
    planted.plant(tmp_path, manifest)
    (tmp_path / manifest.artifact.name).write_bytes(bytes(manifest.artifact.size))
    assert leftovers.remove(store, manifest, ["former"]).files == ["former"]
