"""Make backups in a test, wait for them, read them, restore them."""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from pgkeep.postgres.server import Server
from tests.support import invoke, launcher, servers


def start(
    server: Server, database: str, directory: Path, *args: str, **extra: str
) -> launcher.Process:
    env = invoke.environment(server, database, **{"BACKUP_DIR": str(directory), **extra})
    return launcher.start(["backup", *args], env)


def finish(process: launcher.Process, directory: Path, seconds: float = 150) -> Path:
    """Wait for a backup that must succeed; return its artifact."""
    _, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return newest(directory)


def newest(directory: Path) -> Path:
    """Return the newest artifact in a directory."""
    found = [path for path in directory.glob("*.sql.gz") if ".globals." not in path.name]
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def backup_of(server: Server, database: str, directory: Path, *args: str, **extra: str) -> Path:
    env = invoke.environment(server, database, **{"BACKUP_DIR": str(directory), **extra})
    invoke.run("backup", *args, env=env, timeout=150)
    return newest(directory)


@contextlib.contextmanager
def restored(server: Server, artifact: Path) -> Iterator[psycopg.Connection[Any]]:
    """Restore an artifact with pgkeep; connect to the new database."""
    name = artifact.name.removesuffix(".sql.gz")[-50:]
    try:
        invoke.restore(server, artifact, name, "--no-analyze")
        with servers.connect(server, name) as connection:
            yield connection
    finally:
        servers.drop(server, name)


def globals_of(artifact: Path) -> bytes:
    path = artifact.with_name(artifact.name.removesuffix(".sql.gz") + ".globals.sql.gz")
    return gzip.decompress(path.read_bytes())


def fails(server: Server, artifact: Path, target: str, *args: str, code: int = 8) -> str:
    env = invoke.environment(server)
    restore = ("restore", f"--backup={artifact}", f"--target-db={target}")
    return invoke.run(*restore, *args, env=env, code=code)
