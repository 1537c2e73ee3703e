"""Encrypted backups that are killed, ended or fail: nothing published, nothing in plain text."""

import os
import random
import secrets
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pgkeep.postgres.server import Server
from tests.conftest import DatabaseFactory
from tests.support import faults, invoke, leaks, servers
from tests.support.buckets import Buckets, keys
from tests.support.faults import Run
from tests.support.private_keys import AgeKey, GpgKey
from tests.support.proxy import Fault, proxy

KILLS = int(os.environ.get("KILLS", "2"))  # of each cipher; by hand: KILLS=50
SECRET = secrets.token_hex(16)
FILL = f"""
create table large as select i, '{SECRET}' || md5(i::text) || md5((-i)::text) as text
from generate_series(1, 60000) i
"""


@pytest.fixture
def source(pg17: Server, database: DatabaseFactory) -> str:
    name = database(pg17)
    servers.sql(pg17, name, FILL)
    return name


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files; the directories of gpg are in it if its path is short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def env(tmp_path: Path, temporary: Path) -> dict[str, str]:
    return {"BACKUP_DIR": str(tmp_path / "b"), "TMPDIR": str(temporary)}


def to(cipher: str, age_key: AgeKey, gpg_key: GpgKey) -> dict[str, str]:
    return {"BACKUP_ENCRYPT_TO": age_key.recipient if cipher == "age" else str(gpg_key.public)}


@pytest.mark.parametrize("cipher", ["age", "gpg"])
def test_killed_at_any_moment(
    pg17: Server, source: str, cipher: str, age_key: AgeKey, gpg_key: GpgKey,
    env: Mapping[str, str], tmp_path: Path, temporary: Path,
) -> None:  # fmt: skip
    """B6: a killed run leaves no file that counts as a backup, and no plain text anywhere."""
    directory = tmp_path / "b"
    settings = {**env, **to(cipher, age_key, gpg_key)}
    started = time.monotonic()
    invoke.run("backup", env=invoke.environment(pg17, source, **settings))
    took = time.monotonic() - started
    before = faults.published(directory)
    for _ in range(KILLS):
        with Run(pg17, source, "backup", "--verify", env=settings) as run:
            time.sleep(random.uniform(0, took))  # noqa: S311
            run.kill()
        for path in (*tmp_path.rglob("*"), *temporary.rglob("*")):
            if path.is_file():
                assert leaks.found(path.read_bytes(), [SECRET.encode()]) is None, path
        faults.remove_unfinished_publication(directory)
        assert set(faults.published(directory)) >= set(before)
        before = faults.published(directory)
    homes = list(temporary.glob("pgkeep-gpg-*"))
    abandoned, used = temporary / "pgkeep-gpg-abandoned", temporary / "pgkeep-gpg-link"
    abandoned.mkdir()
    used.symlink_to(directory)
    for path in (*homes, abandoned):
        os.utime(path, (0, 0))
    invoke.run("backup", env=invoke.environment(pg17, source, **settings))
    assert used.is_symlink()
    if cipher == "gpg":
        assert list(temporary.iterdir()) == [used]
    assert not [name for name in invoke.left_over(directory) if ".partial-" in name]
    invoke.run("verify", "--all", env=invoke.environment(pg17, source, **settings))


def gpg_that(folder: Path, does: str) -> str:
    """Return a PATH on which gpg is checked as ever, and does this when it encrypts a backup."""
    folder.mkdir()
    script = folder / "gpg"
    # The check of the keys encrypts too, with --with-colons.
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" --with-colons "*) exec /usr/bin/gpg "$@";; esac\n{does}\n'
    )
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_gpg_fails(
    pg17: Server,
    source: str,
    gpg_key: GpgKey,
    env: Mapping[str, str],
    tmp_path: Path,
    temporary: Path,
) -> None:
    """The message of gpg is reported, or the signal that killed it; nothing is published."""
    settings = {**env, "BACKUP_ENCRYPT_TO": str(gpg_key.public)}
    for number, (does, reason) in enumerate((
        ("head -c 100000; kill -9 $$", "could not encrypt: gpg failed (signal 9)"),
        ("echo 'gpg: no luck' >&2; exit 2", "gpg: no luck"),
        ("head -c 100000 >/dev/null; exit 0", "the encryption ended before its input"),
    )):  # fmt: skip
        path = gpg_that(tmp_path / str(number), does)
        with Run(pg17, source, "backup", env={**settings, "PATH": path}) as run:
            assert reason in run.ends(6)
            run.leaves_no_child()
        assert invoke.left_over(tmp_path / "b") == []
        assert list(temporary.iterdir()) == []


def test_gpg_hangs(
    pg17: Server,
    source: str,
    gpg_key: GpgKey,
    env: Mapping[str, str],
    tmp_path: Path,
    temporary: Path,
) -> None:
    """A program that hangs neither keeps a signal waiting, nor the backup for ever."""
    waits = tmp_path / "waits"
    path = gpg_that(tmp_path / "bin", f"touch {waits}; exec sleep 600")
    settings = {**env, "BACKUP_ENCRYPT_TO": str(gpg_key.public), "PATH": path}
    with Run(pg17, source, "backup", env=settings) as run:
        faults.eventually(waits.exists, "the start of gpg")
        started = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        run.ends(143)
        assert time.monotonic() - started < 5
        run.leaves_no_child()
    prelude = "from pgkeep.crypt import encryption; encryption.HANG = 0.5"
    environment = invoke.environment(pg17, source, **settings)
    done = invoke.run_python(prelude, "backup", env=environment)
    assert (done.returncode, "gpg has written nothing for 0.5 s" in done.stderr) == (6, True), done
    assert invoke.left_over(tmp_path / "b") == []
    assert list(temporary.iterdir()) == []
    faults.leaves_no_session(pg17, source)


@pytest.mark.parametrize("cipher", ["age", "gpg"])
def test_the_disk_is_full(
    pg17: Server, source: str, cipher: str, age_key: AgeKey, gpg_key: GpgKey,
    env: Mapping[str, str], tmp_path: Path, temporary: Path,
) -> None:  # fmt: skip
    """B3: the failure of the store is reported, not that of the encryption which it causes."""
    from tests.backup.test_faults import limited  # noqa: PLC0415

    settings = {**env, **to(cipher, age_key, gpg_key)}
    with Run(pg17, source, "backup", env=settings, preexec_fn=limited(300_000)) as run:
        said = run.ends(6)
    assert ".sql.gz." in said
    assert "File too large" in said
    assert invoke.left_over(tmp_path / "b") == []
    assert list(temporary.iterdir()) == []


def test_a_bucket_that_takes_nothing(
    pg17: Server, database: DatabaseFactory, gpg_key: GpgKey, buckets: Buckets, temporary: Path
) -> None:
    """C9: an encryption that waits for the store ends with it, and with a signal."""
    name, bucket = database(pg17), buckets.bucket()
    servers.sql(pg17, name, FILL.replace("60000", "200000"))
    denied = Fault("status", "partNumber", times=99, status=403, code="AccessDenied")
    with proxy(buckets.port, denied) as stalled:
        env = buckets.environment(
            bucket, BACKUP_S3_ENDPOINT=stalled.endpoint, BACKUP_S3_PART_SIZE="5",
            BACKUP_S3_TIMEOUT="60", BACKUP_DIR=f"s3://{bucket}/backups", TMPDIR=str(temporary),
        ) | {"BACKUP_ENCRYPT_TO": str(gpg_key.public)}  # fmt: skip
        del env["BACKUP_S3_BUCKET"]
        without_spool = "import pgkeep.stores.spool as s; s.room = lambda: 1000"
        environment = invoke.environment(pg17, name, **env)
        done = invoke.run_python(without_spool, "backup", env=environment)
        assert (done.returncode, "AccessDenied" in done.stderr) == (6, True), done
        stalled.faults[:] = [Fault("stall", "partNumber", times=99, after=1000)]
        stalled.requests.clear()
        with Run(pg17, name, "backup", env=env) as run:
            faults.eventually(
                lambda: any("partNumber" in request for request in stalled.requests), "an upload"
            )
            run.process.send_signal(signal.SIGTERM)
            run.ends(143, 20)
            run.leaves_no_child()
    assert keys(buckets.client(), bucket) == []
    assert list(temporary.iterdir()) == []
