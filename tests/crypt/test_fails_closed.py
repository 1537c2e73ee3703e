"""Encryption fails closed: what cannot be encrypted as configured is not backed up at all.

How other tools failed is named in each test.
"""

import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.support import invoke, private_keys, servers
from tests.support.buckets import Buckets
from tests.support.private_keys import AgeKey, GpgKey, gpg

MANGLED = "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqsqqqqqq"


class Trial:
    """A backup that must be refused before anything is read: it would reach a port that listens."""

    def __init__(self, folder: Path) -> None:
        self.backups = folder / "backups"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.env = invoke.environment(
            PGHOST="127.0.0.1", PGPORT=str(self._listener.getsockname()[1]), PGUSER="nobody",
            PGDATABASE="app", BACKUP_DIR=str(self.backups),
        )  # fmt: skip

    def refused(self, *args: str, **settings: str) -> str:
        """Run pgkeep; return its message."""
        _, err = invoke.outputs(*(args or ("backup",)), env=self.env | settings, code=2)
        self.check_untouched()
        return err

    def check_untouched(self) -> None:
        """Check that no connection was made, and no file."""
        with pytest.raises(BlockingIOError):
            self._listener.accept()
        assert not self.backups.exists()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    found = Trial(tmp_path)
    yield found
    found.close()


def test_a_misspelt_setting(trial: Trial, age_key: AgeKey, tmp_path: Path) -> None:
    """WAL-G PR 1832: an upgrade ignored the setting of the key, and wrote plain text for months."""
    misspelt = (
        "BACKUP_ENCRYPT", "BACKUP_ENCRYPTION_TO", "BACKUP_ENCRYPT_TO_FILES", "BACKUP_ENCRYPT_KEY",
        "backup_encrypt_to", "Backup_Encrypt_To", "PGKEEP_ENCRYPT_TO", "BACKUP_ENCRYPT_RECIPIENT",
    )  # fmt: skip
    err = trial.refused(**dict.fromkeys(misspelt, age_key.recipient))
    for name in misspelt:
        assert f"{name}: unknown variable" in err
    assert "did you mean BACKUP_ENCRYPT_TO?" in err
    assert "unknown variable" in trial.refused(BACKUP_ENCRYPT_TOO="")  # also an empty one
    config = tmp_path / "pgkeep.toml"
    for key in ("backup_encrypt", "BACKUP_ENCRYPT_TO", "backup_encryption_to", "encrypt_to"):
        config.write_text(f'{key} = "{age_key.recipient}"\n')
        assert f"unknown key {key}" in trial.refused(PGKEEP_CONFIG=str(config))


# A file system with room for a few small files, but not for a keyring.
NARROW = """
mount -t tmpfs -o size=64k none "$1" && head -c 57344 /dev/zero >"$1/filler" || exit 99
exec "$2" backup
"""


def test_a_full_disk_is_not_a_wrong_key(trial: Trial, gpg_key: GpgKey) -> None:
    """Exit code 9, not 2: nothing is wrong with the settings."""
    unshare = ["unshare"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    with tempfile.TemporaryDirectory() as narrow:  # gpg needs a short path
        done = subprocess.run(
            [*unshare, "--mount", "/bin/sh", "-c", NARROW, "sh", narrow, invoke.PGKEEP],
            env=trial.env | {"BACKUP_ENCRYPT_TO": str(gpg_key.public), "TMPDIR": narrow},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 9, done.stderr
    assert "No space left on device\nhint: Free disk space" in done.stderr
    trial.check_untouched()


def test_an_empty_setting(trial: Trial, tmp_path: Path) -> None:
    """WAL-G PR 1832: an empty value, such as of a secret that was not mounted, is not "none"."""
    empty = tmp_path / "recipients"
    empty.write_text("\n")
    config = tmp_path / "pgkeep.toml"
    config.write_text('backup_encrypt_to = ""\n')
    for settings, reason in (
        ({"BACKUP_ENCRYPT_TO": ""}, "expected public keys, or none for no encryption"),
        ({"BACKUP_ENCRYPT_TO": "  "}, "expected public keys, or none for no encryption"),
        ({"PGKEEP_CONFIG": str(config)}, "expected public keys, or none for no encryption"),
        ({"BACKUP_ENCRYPT_TO_FILE": str(empty)}, "expected public keys, or none for no encryption"),
        ({"BACKUP_ENCRYPT_TO": "# nobody"}, "found an empty recipient"),
        ({"BACKUP_ENCRYPT_TO_FILE": ""}, "BACKUP_ENCRYPT_TO_FILE: could not read"),
        ({"BACKUP_ENCRYPT_TO_FILE": "/nowhere"}, "could not read /nowhere: No such file"),
        ({"BACKUP_ENCRYPT_TO": "none", "BACKUP_ENCRYPT_TO_FILE": str(empty)}, "are both set"),
    ):
        assert reason in trial.refused(**settings), settings


def test_keys_that_do_not_parse(trial: Trial, age_key: AgeKey, tmp_path: Path) -> None:
    """databasus 217: each recipient counts, not only the first one that can be used."""
    empty, comments, text = tmp_path / "empty", tmp_path / "comments", tmp_path / "text"
    empty.write_bytes(b"")
    comments.write_text("# a comment\n\n")
    text.write_text(f"{age_key.recipient}\nthe secret 4711\n")
    (tmp_path / "garbage.gpg").write_bytes(b"\x99" + bytes(200))
    for recipients, reason in (
        (MANGLED, "expected age1..."),
        (age_key.recipient[:-1] + "!", "expected age1..."),
        (f"{age_key.recipient},", "found an empty recipient"),
        ("ssh-ed25519 AAAA", "expected age1..."),
        ("None", "'None' is no recipient"),
        ("false", "'false' is no recipient"),
        (f"none,{age_key.recipient}", "'none' is no recipient"),
        (f"{age_key.recipient},{tmp_path}/nowhere", "and no file: No such file or directory"),
        (f"{tmp_path},{age_key.recipient}", "and no file: Is a directory"),
        (str(empty), "is empty, expected public keys"),
        (str(comments), "contains no public key"),
        (str(text), f"file {text}, line 2: expected age1..., or an SSH key"),
        (str(tmp_path / "garbage.gpg"), "gpg --list-packets failed"),
        ("age1tag1qqq", "recipients of type tag are not supported"),
        ("0" * 40, f"has no key {'0' * 40}"),
    ):
        err = trial.refused(BACKUP_ENCRYPT_TO=recipients)
        assert reason in err, recipients
        assert "4711" not in err
    both = trial.refused(BACKUP_ENCRYPT_TO=f"{empty},{MANGLED},{text}")
    assert both.count("expected") == 3  # all problems at once


def test_a_private_key_is_refused_and_not_printed(
    trial: Trial, age_key: AgeKey, gpg_key: GpgKey, tmp_path: Path
) -> None:
    """The host that backs up must not be able to decrypt, and no log may have the key."""
    ssh = private_keys.ssh_key(tmp_path, "ed25519")
    secret = age_key.file.read_text().splitlines()[-1]
    bundle = tmp_path / "bundle"
    bundle.write_text(f"{age_key.recipient}\nexport KEY={secret}\n")
    armored, binary, appended = tmp_path / "armored", tmp_path / "binary", tmp_path / "appended"
    armored.write_bytes(gpg(gpg_key.home, "--armor", "--export-secret-keys"))
    binary.write_bytes(gpg(gpg_key.home, "--export-secret-keys"))
    appended.write_bytes(gpg(gpg_key.home, "--export") + binary.read_bytes())
    config = tmp_path / "pgkeep.toml"
    config.write_text(f'backup_encrypt_to = ["{secret}"]\n')
    keys = [secret, *ssh.file.read_text().splitlines()[1:-1]]
    for settings in (
        *(
            {"BACKUP_ENCRYPT_TO": recipients}
            for recipients in (
                secret, f"{age_key.recipient},{secret.lower()}", ssh.file.read_text(),
                *map(str, (age_key.file, ssh.file, bundle, armored, binary, appended)),
            )
        ),
        {"BACKUP_ENCRYPT_TO_FILE": str(age_key.file)},
        {"BACKUP_ENCRYPT_TO_FILE": str(ssh.file)},
        {"PGKEEP_CONFIG": str(config)},
    ):  # fmt: skip
        err = trial.refused("-v", "backup", **settings)
        assert re.search("found a .*private key|no private key|expected a string", err), settings
        assert not any(key.lower() in err.lower() for key in keys), settings


def test_missing_packages_and_programs(
    trial: Trial, age_key: AgeKey, gpg_key: GpgKey, tmp_path: Path
) -> None:
    """Barman 3.14 starts gpg when the backup has been written: what is missing must stop it."""
    for module in ("pyrage", "cryptography"):
        prelude = f"import sys; sys.modules['{module}'] = None"
        env = trial.env | {"BACKUP_ENCRYPT_TO": age_key.recipient}
        done = invoke.run_python(prelude, "backup", env=env)
        assert (done.returncode, "pip install 'pgkeep[age]'" in done.stderr) == (2, True), done
        assert f"encryption with age requires another package: {module}" in done.stderr
        trial.check_untouched()
    for recipients in (str(gpg_key.public), gpg_key.fingerprint):
        err = trial.refused(BACKUP_ENCRYPT_TO=recipients, PATH=str(tmp_path), **gpg_key.environment)
        assert "encryption with GPG requires a program: gpg" in err
    mixed = f"{age_key.recipient},{gpg_key.public}"
    assert "found recipients of age and of GPG" in trial.refused(BACKUP_ENCRYPT_TO=mixed)


class Keyring:
    """A keyring with GPG keys that cannot be used, and one that can."""

    def __init__(self, key: GpgKey) -> None:
        self.home = key.home
        self.good = key.fingerprint

    def create(self, user: str, *options: str, algorithm: str = "ed25519") -> str:
        use = "sign" if algorithm == "ed25519" else "encr"
        self.run("--quick-generate-key", user, algorithm, use, "2d", options=options)
        listing = gpg(self.home, "--with-colons", "--list-keys", user).decode()
        return next(line.split(":")[9] for line in listing.splitlines() if line[:3] == "fpr")

    def run(self, *args: str, options: tuple[str, ...] = (), data: bytes = b"") -> None:
        gpg(self.home, *options, *args, data=data)


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    key = private_keys.gpg_key(tmp_path)
    yield Keyring(key)
    private_keys.close(key)


def test_gpg_keys_that_cannot_be_used(trial: Trial, keyring: Keyring, tmp_path: Path) -> None:
    """Expired, revoked, disabled, without encryption: gpg itself finds that out after the dump."""
    past = ("--faked-system-time", "20200101T000000!")
    expired = keyring.create("expired@x.org", *past)
    signs = keyring.create("signs@x.org")
    old_subkey = keyring.create("old@x.org", *past)
    keyring.run("--quick-set-expire", old_subkey, "1y")
    keyring.run("--quick-add-key", old_subkey, "cv25519", "encr", "1d", options=past)
    revoked = keyring.create("revoked@x.org")
    certificate = (keyring.home / "openpgp-revocs.d" / f"{revoked}.rev").read_text()
    keyring.run("--import", data=certificate.replace(":-----BEGIN", "-----BEGIN").encode())
    disabled = keyring.create("disabled@x.org", algorithm="rsa2048")
    edit = ["gpg", "--batch", "--command-fd=0", "--edit-key", disabled]
    env = os.environ | {"GNUPGHOME": str(keyring.home)}
    subprocess.run(edit, env=env, input=b"disable\nquit\n", check=True, capture_output=True)
    for fingerprint, reason in (
        (expired, "expired on 2020-01-03"),
        (signs, "has no subkey that can encrypt"),
        (old_subkey, "has no usable subkey: expired on 2020-01-02"),
        (revoked, "was revoked"),
        (disabled, "is disabled"),
    ):
        for recipients in (fingerprint, f"{keyring.good},{fingerprint}"):
            err = trial.refused(BACKUP_ENCRYPT_TO=recipients, GNUPGHOME=str(keyring.home))
            assert f"GPG key {fingerprint} {reason}" in err, recipients
    file = tmp_path / "two.asc"
    file.write_bytes(gpg(keyring.home, "--armor", "--export", keyring.good, expired))
    assert f"GPG key {expired} expired" in trial.refused(BACKUP_ENCRYPT_TO=str(file))


def test_settings_of_the_user_do_not_matter(
    pg17: Server, app: str, keyring: Keyring, tmp_path: Path
) -> None:
    """gpg.conf, trust, locale and TMPDIR neither prevent a backup nor add a recipient."""
    other = keyring.create("other@x.org", algorithm="rsa2048")
    (keyring.home / "gpg.conf").write_text(
        f"encrypt-to {other}\narmor\ntrust-model pgp\nno-such-option\ndefault-recipient {other}\n"
    )
    recipients = f"{keyring.good}, 0x{keyring.good.lower()}"
    long = tmp_path / ("long" * 20)  # in which no path of a socket has room
    long.mkdir()
    settings = {"LANGUAGE": "de", "LC_ALL": "C.UTF-8", "TMPDIR": str(long)}
    settings |= {"GNUPGHOME": str(keyring.home)}
    artifact = invoke.backup(pg17, app, tmp_path / "b", BACKUP_ENCRYPT_TO=recipients, **settings)
    manifest = json.loads(next((tmp_path / "b").glob("*.manifest.json")).read_text())
    assert manifest["encryption"]["recipients"] == [keyring.good]
    packets = subprocess.run(
        ["gpg", "--no-options", "--batch", "--list-only", "--list-packets", artifact],
        env=os.environ | {"GNUPGHOME": str(keyring.home)}, capture_output=True, check=False,
    ).stdout  # fmt: skip
    assert packets.count(b":pubkey enc packet:") == 1


def test_encryption_is_not_forgotten(
    pg17: Server, app: str, age_key: AgeKey, tmp_path: Path, buckets: Buckets
) -> None:
    """WAL-G PR 1832: encrypted once, a target is not backed up in plain text by an omission."""
    directory, bucket = tmp_path / "b", buckets.bucket()
    dump = tmp_path / "dumps" / "app_20260506T070809.sql"
    dump.parent.mkdir()
    plain = servers.programs_for(17).program("pg_dump")
    env = invoke.environment(pg17, app, BACKUP_DIR=str(directory), **buckets.environment(bucket))
    subprocess.run([plain, "-f", dump], env=env, check=True)
    invoke.run("backup", env=env | {"BACKUP_ENCRYPT_TO": age_key.recipient})
    elsewhere = env | {"BACKUP_DIR": str(tmp_path / "new host")}  # only the bucket has any
    before = invoke.left_over(directory)
    for surroundings in (env, elsewhere, env | {"BACKUP_S3_BUCKET": ""}):
        for command in (
            ("backup",), ("backup", "--schema-only"), ("index", str(dump), f"--database={app}"),
            ("adopt", str(dump.parent), f"--database={app}"),
        ):  # fmt: skip
            err = invoke.outputs(*command, env=surroundings, code=9)[1]
            assert ".age is encrypted, and BACKUP_ENCRYPT_TO is not set" in err, command
    assert invoke.left_over(directory) == before
    assert invoke.left_over(tmp_path / "new host") == []
    invoke.run("backup", "--schema-only", env=env | {"BACKUP_ENCRYPT_TO": "none"})


def test_only_bucket_and_key(
    pg17: Server, app: str, age_key: AgeKey, tmp_path: Path, buckets: Buckets
) -> None:
    """databasus 244: the key was in a database of the server that was lost.

    Here nothing else is required than the bucket and the private key.
    """
    bucket = buckets.bucket()
    settings = buckets.environment(bucket)
    del settings["BACKUP_S3_BUCKET"]
    settings["BACKUP_DIR"] = f"s3://{bucket}/backups"
    env = invoke.environment(pg17, app, **settings)
    invoke.run("backup", env=env | {"BACKUP_ENCRYPT_TO": age_key.recipient})
    blank = {"HOME": str(tmp_path), "BACKUP_IDENTITY_FILE": str(age_key.file)}
    target = f"{app}_restored"
    try:
        invoke.run("restore", "--latest", f"--target-db={target}", env=env | blank)
        assert servers.sql(pg17, target, "select count(*) from t") == servers.sql(
            pg17, app, "select count(*) from t"
        )
    finally:
        servers.drop(pg17, target)
