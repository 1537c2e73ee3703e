"""Every command that reads a backup file, with the key, with another one and without."""

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.crypt.conftest import Encrypted
from tests.support import invoke, private_keys, servers
from tests.support.buckets import Buckets, uploaded
from tests.support.compare import assert_same_database
from tests.support.private_keys import AgeKey, GpgKey


@dataclass(frozen=True)
class Way:
    """A cipher: its backup, who can decrypt it, and what is said without that key."""

    cipher: str
    backup: Path
    to: Mapping[str, str]
    key: Mapping[str, str]
    no_key: str
    other_key: tuple[Mapping[str, str], int, str]


@pytest.fixture(params=["age", "gpg"])
def way(
    request: pytest.FixtureRequest, encrypted: Encrypted, age_key: AgeKey, other_age_key: AgeKey,
    gpg_key: GpgKey, tmp_path: Path,
) -> Iterator[Way]:  # fmt: skip
    """The files lie in a folder of the test's own, as `store`."""
    source = encrypted.age if request.param == "age" else encrypted.gpg
    shutil.copytree(source.parent, tmp_path / "store")
    backup = tmp_path / "store" / source.name
    if request.param == "age":
        yield Way(
            "age", backup, {"BACKUP_ENCRYPT_TO": age_key.recipient},
            {"BACKUP_IDENTITY_FILE": str(age_key.file)},
            "is encrypted with age, and no private key is given",
            ({"BACKUP_IDENTITY_FILE": str(other_age_key.file)}, 5, "no private key in"),
        )  # fmt: skip
        return
    other = private_keys.gpg_key(tmp_path, "other@example.com")
    no_key = "is encrypted with GPG, and the keyring has none of its private keys"
    yield Way(
        "gpg", backup, {"BACKUP_ENCRYPT_TO": str(gpg_key.public)}, gpg_key.environment,
        no_key, (other.environment, 2, no_key),
    )  # fmt: skip
    private_keys.close(other)


def statements(sql: str) -> list[str]:
    """Return the lines that do not differ between two dumps of a database."""
    return [line for line in sql.splitlines() if not line.startswith(("--", "\\restrict", "\\unr"))]


READERS = (
    ("show", "{}"),
    ("cat", "{}", "--table=app.customers"),
    ("cat", "{}", "--globals"),
    ("restore", "--backup={}", "--target-db=never"),
    ("restore", "--backup={}", "--table=app.customers", "--target-db={db}", "--drop-existing",
     "--yes"),
    ("drill", "--backup={}"),
)  # fmt: skip


def test_every_reader(
    pg17: Server, encrypted: Encrypted, way: Way, database: DatabaseFactory
) -> None:
    """With the key as an unencrypted backup; without it exit code 2, with another key 5."""
    folder = {"BACKUP_DIR": str(way.backup.parent), "GNUPGHOME": "/nonexistent"}
    env = invoke.environment(pg17, **folder | dict(way.key))
    other, code, said = way.other_key
    for command in READERS:
        args = [part.format(way.backup, db=encrypted.database) for part in command]
        without = invoke.environment(pg17, **folder)
        error = invoke.run(*args, env=without, code=2)
        assert way.no_key in error, error
        assert "hint: " in error
        assert said in invoke.run(
            *args, env=invoke.environment(pg17, **folder | dict(other)), code=code
        )
    assert not servers.sql(pg17, "postgres", "select 1 from pg_database where datname = 'never'")
    plain = invoke.environment(pg17, BACKUP_DIR=str(encrypted.plain.parent))
    shown = {
        name: json.loads(invoke.run("show", "--json", str(path), env=environment))
        for name, path, environment in (
            ("plain", encrypted.plain, plain), (way.cipher, way.backup, env)
        )
    }  # fmt: skip
    assert shown["plain"]["tables"] == shown[way.cipher]["tables"]
    for args in (["--table=app.customers"], ["--globals"], ["--schema-only"]):
        expected = invoke.run("cat", str(encrypted.plain), *args, env=plain)
        found = invoke.run("cat", "--latest", *args, env=env)
        assert statements(found) == statements(expected)
    assert "is complete" in invoke.run("restore", "--latest", "--verify-only", env=env)
    report = json.loads(invoke.run("verify", "--latest", "--json", env=env))
    assert [found["level"] for found in report] == ["contents"]
    report = json.loads(invoke.run("verify", "--all", "--json", env=without))
    assert [found["level"] for found in report] == ["ciphertext"]
    target = database(pg17)
    into = (f"--target-db={target}", "--yes")
    servers.sql(pg17, target, "create schema app")
    invoke.run("restore", "--latest", "--table=app.customers", *into, env=env)
    servers.sql(
        pg17, target, "delete from app.customers where id > 3; update app.customers set name = 'x'"
    )
    invoke.run(
        "restore", "--latest", "--table=app.customers", "--where=id in (2, 7)",
        "--on-conflict=update", *into, env=env,
    )  # fmt: skip
    rows = servers.sql(pg17, target, "select id, name from app.customers order by id")
    assert rows == [(1, "x"), (2, "customer 2"), (3, "x"), (7, "customer 7")]
    invoke.run("restore", "--latest", *into, "--drop-existing", env=env)
    assert_same_database(pg17, encrypted.database, pg17, target, ignore_database=True)


def test_without_key_and_packages(
    pg17: Server, encrypted: Encrypted, way: Way, buckets: Buckets, tmp_path: Path
) -> None:
    """What does not read contents needs no key, and no package of the extra."""
    env = invoke.environment(
        pg17, encrypted.database, BACKUP_DIR=str(way.backup.parent), GNUPGHOME="/nonexistent",
        **buckets.environment(uploaded(buckets, way.backup.parent)),
    )  # fmt: skip
    for command in ("list", "sync", "prune", "status"):
        code, out, err = invoke.complete(command, env=env)
        assert code in ((0, 10) if command == "status" else (0,)), out + err
    without = "import sys\nsys.modules |= dict.fromkeys(('pyrage', 'cryptography', 'bech32'))"
    done = invoke.run_python(without, "status", "--json", env=env)
    assert json.loads(done.stdout), done.stderr
    done = invoke.run_python(without, "show", str(way.backup), env=env)
    assert done.returncode == 2, done.stderr
    assert "hint: pip install 'pgkeep[age]'" in done.stderr
    if way.cipher == "gpg":  # encryption with GPG requires no package
        done = invoke.run_python(without, "verify", "--json", str(way.backup), env=env)
        assert json.loads(done.stdout)["level"] == "ciphertext", done.stderr
    # The copy in the bucket is used if the file in the directory is damaged.
    damaged = bytearray(way.backup.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    way.backup.write_bytes(damaged)
    env |= way.key
    said = invoke.run("verify", str(way.backup), env=env, code=5)
    assert "another copy of this backup" in said
    target = f"copy_{way.cipher}"
    try:
        _, said = invoke.outputs("restore", "--latest", f"--target-db={target}", env=env)
        assert "restoring the copy s3://" in said
        assert_same_database(pg17, encrypted.database, pg17, target, ignore_database=True)
    finally:
        servers.drop(pg17, target)


def test_drill(
    pg17: Server, encrypted: Encrypted, way: Way, buckets: Buckets, tmp_path: Path
) -> None:
    """Of age from a bucket, of GPG from a directory; a damaged file is a failed drill."""
    env = invoke.environment(
        pg17, encrypted.database, BACKUP_DIR=str(way.backup.parent), **dict(way.key)
    )
    where = str(way.backup.parent)
    if way.cipher == "age":
        bucket = uploaded(buckets, way.backup.parent)
        env |= buckets.environment(bucket)
        where = f"s3://{bucket}/backups"
        del env["BACKUP_S3_BUCKET"]
    result = json.loads(invoke.run("drill", "--json", f"--dir={where}", env=env))
    drills = [result] if isinstance(result, dict) else result
    assert [drill["passed"] for drill in drills] == [True], result
    manifest = next(way.backup.parent.glob("*.manifest.json"))
    if way.cipher == "age":
        key = f"backups/daily/{manifest.name}"
        recorded = buckets.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    else:
        recorded = manifest.read_bytes()
    assert [drill["passed"] for drill in json.loads(recorded)["drills"]] == [True]
    data = bytearray(way.backup.read_bytes())
    data[-10] ^= 1
    way.backup.write_bytes(data)
    invoke.run("drill", f"--backup={way.backup}", env=env, code=5)
    recorded = manifest.read_bytes()
    assert [drill["passed"] for drill in json.loads(recorded)["drills"]][-1:] == [False]


def test_adopt(pg17: Server, way: Way, age_key: AgeKey, gpg_key: GpgKey, tmp_path: Path) -> None:
    """The manifest of an encrypted file is lost: who can decrypt it is written again."""
    manifest = next(way.backup.parent.glob("*.manifest.json"))
    before = json.loads(manifest.read_text())
    manifest.unlink()
    env = invoke.environment(BACKUP_DIR=str(way.backup.parent), GNUPGHOME="/nonexistent")
    assert way.no_key in invoke.run("adopt", str(way.backup), env=env, code=2)
    env |= way.key
    invoke.run("adopt", str(way.backup), env=env)
    found = json.loads(manifest.read_text())
    for field in ("encryption", "artifact", "globals", "tables", "index_sha256"):
        assert found.get(field) == before.get(field), field
    assert found["encryption"]["recipients"] == [
        age_key.recipient if way.cipher == "age" else gpg_key.fingerprint
    ]
    assert "settings" not in json.dumps(found["database"])
    assert found["verified"]


def test_index_of_encrypted_dumps(
    pg17: Server, encrypted: Encrypted, way: Way, gpg_key: GpgKey, age_key: AgeKey, tmp_path: Path
) -> None:
    """Dumps that others encrypted become encrypted backups; that cannot be forgotten."""
    dump = servers.dump(pg17, encrypted.database)
    folder = tmp_path / "dumps"
    folder.mkdir()
    files = {
        "old_20260506_070809.sql.gz": gzip.compress(dump),
        "old_20260507_070809.sql": dump,
        "nightly-20260508": dump,
        "photo.jpg": b"\xff\xd8photo",
    }
    for name, data in files.items():
        suffix = f".{'pgp' if name == 'nightly-20260508' else way.cipher}"
        command = ["age", "-r", age_key.recipient]
        if way.cipher == "gpg":  # compressed and signed by gpg
            command = ["gpg", "--batch", "--trust-model=always", "-s", "-e", "-r"]
            command += [gpg_key.fingerprint]
        encrypted_dump = subprocess.run(
            command, input=data, capture_output=True, check=True,
            env=invoke.environment(GNUPGHOME=str(gpg_key.home)),
        )  # fmt: skip
        (folder / f"{name}{suffix}").write_bytes(encrypted_dump.stdout)
    first = folder / f"old_20260506_070809.sql.gz.{way.cipher}"
    store = tmp_path / "indexed"
    env = invoke.environment(BACKUP_DIR=str(store), GNUPGHOME="/nonexistent")
    args = ("index", str(first), "--database=app")
    assert way.no_key in invoke.run(*args, env=env | dict(way.to), code=2)
    env |= way.key
    made = Path(invoke.run(*args, env=env | dict(way.to)).splitlines()[0])
    assert made.name == f"app_manual_20260506T070809Z.sql.gz.{way.cipher}"
    assert "OK" in subprocess.check_output(
        ["sha256sum", "-c", f"{made.name}.sha256"], cwd=store, text=True
    )
    assert json.loads(invoke.run("verify", "--json", str(made), env=env))["level"] == "contents"
    # Of the folder all dumps, with any name; nothing of it is written without encryption.
    folder_args = ("adopt", str(folder), "--database=app", "--json")
    assert "BACKUP_ENCRYPT_TO is not set" in invoke.complete(*folder_args, env=env)[1]
    out = json.loads(invoke.run(*folder_args, env=env | dict(way.to)))
    assert {found["file"].split(".")[0]: found["state"] for found in out} == {
        "nightly-20260508": "indexed", "old_20260506_070809": "there",
        "old_20260507_070809": "indexed", "photo": "other",
    }  # fmt: skip
    assert all(way.cipher in path.name for path in store.glob("*.sql.gz*"))
    # A dump can also be restored as it is.
    target = f"dump_{way.cipher}"
    try:
        restore = ("restore", f"--backup={first}", f"--target-db={target}")
        invoke.run(*restore, env=invoke.environment(pg17, **dict(way.key)))
        assert servers.sql(pg17, target, "select count(*) from app.large") == [(3000,)]
    finally:
        servers.drop(pg17, target)


def test_a_passphrase_on_a_terminal(encrypted: Encrypted, age_key: AgeKey, tmp_path: Path) -> None:
    """It is asked for once; without a terminal the reason is clear, and nothing waits."""
    locked = tmp_path / "locked.age"
    locked.write_bytes(private_keys.with_passphrase(age_key.file.read_bytes(), "two words"))
    locked.chmod(0o600)
    env = invoke.environment(BACKUP_DIR=str(encrypted.age.parent))
    args = ("verify", "--latest", f"--identity={locked}")
    question = f"passphrase of {locked}"
    code, shown = invoke.on_terminal(*args, env=env, answers={question: "two words"})
    assert code == 0, shown
    assert shown.count(question) == 1
    assert "two words" not in shown
    code, shown = invoke.on_terminal(*args, env=env, answers={question: "one word"})
    assert code == 2, shown
    assert "could not decrypt the identity file" in shown
    said = invoke.run(*args, env=env, code=2)
    assert f"cannot ask for the {question}: standard input is not a terminal" in said
