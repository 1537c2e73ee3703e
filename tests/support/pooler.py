"""PgBouncer in front of a server: the real program, in transaction mode."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgkeep.postgres.server import Server
from tests.support.concurrency import until
from tests.support.observers import TOOLS

FOLDER = TOOLS / "pgbouncer"


@contextlib.contextmanager
def pooled(server: Server, folder: Path, **settings: str) -> Iterator[dict[str, str]]:
    """Give libpq's parameters of a pooler that has one connection per database.

    With `ignore_startup_parameters="options"` it lets clients in that send options.
    """
    assert FOLDER.is_dir(), "PgBouncer is not there: run tests/setup.sh"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": "1",
        "ignore_startup_parameters": "extra_float_digits",
        "max_client_conn": "100",
        **settings,
    }
    address = make_conninfo("", **server.params)
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = {address}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in options.items())
    )
    configuration.chmod(0o644)
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": pwd.getpwnam("nobody").pw_uid, "group": pwd.getpwnam("nobody").pw_gid}
    # As another user it could not enter a checkout below /root.
    copy = Path(tempfile.mkdtemp(prefix="pgkeep-pgbouncer-"))
    shutil.copytree(FOLDER / "usr", copy, symlinks=True, dirs_exist_ok=True)
    copy.chmod(0o755)
    (library,) = (copy / "lib").glob("*-linux-gnu")
    with configuration.open() as text:
        process = subprocess.Popen(
            [copy / "sbin" / "pgbouncer", "/dev/stdin"],
            stdin=text,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"LD_LIBRARY_PATH": str(library)},
            cwd="/",
            extra_groups=[] if user else None,
            **user,
        )
    params = {**server.params, "host": "127.0.0.1", "port": str(port)}

    def reached() -> bool:
        assert process.poll() is None, f"pgbouncer ended with status {process.returncode}"
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(make_conninfo("", **params, dbname="postgres")).close()
            return True
        return False

    try:
        until(reached)
        yield params
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(copy)
