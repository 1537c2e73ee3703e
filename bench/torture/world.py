"""The servers, folders and bucket of a run, and how pgkeep is started in it."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.support import invoke, launcher, private_keys, servers
from tests.support.buckets import Buckets, keys
from tests.support.proxy import Proxy

from pgkeep.postgres.server import Server

from .ledger import Ledger
from .plan import DATABASES, Operation

SETTINGS = {
    **servers.SETTINGS,
    "wal_level": "logical",
    "max_slot_wal_keep_size": "1GB",
    "max_wal_size": "64MB",
    "min_wal_size": "4MB",
    "synchronous_commit": "on",
}
SIZES = {"backups": 512, "tmp": 1024, "spool": 512}  # MiB of their file systems
ROWS = {DATABASES[0]: 3000, DATABASES[1]: 200}
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
MARK = "PGTORTURE"


@dataclass
class Result:
    """How a command has ended."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    @property
    def last(self) -> str:
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""

    def tail(self, lines: int = 12) -> str:
        shown = [*self.out.strip().splitlines()[-4:], *self.err.strip().splitlines()[-lines:]]
        return "\n".join(f"    {line[:400]}" for line in shown)


class Running:
    """A pgkeep at work; its descendants are known by a mark in their environment."""

    def __init__(
        self, args: Sequence[str], env: Mapping[str, str], log: Path, *, fork: bool
    ) -> None:
        self.args = tuple(args)
        self.process: launcher.Process
        mark = secrets.token_hex(8)
        self._mark = f"{MARK}={mark}".encode()
        self._files = [log.with_suffix(".out"), log.with_suffix(".err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            env = {**env, MARK: mark}
            if fork:
                self.process = launcher.start_into(args, env, out.fileno(), err.fileno())
            else:
                self.process = subprocess.Popen(
                    [invoke.PGKEEP, *args], env=env, stdin=subprocess.DEVNULL, text=True,
                    stdout=out, stderr=err,
                )  # fmt: skip
        self._began = time.monotonic()

    def children(self) -> list[int]:
        """Return the programs that it runs, oldest first."""
        return sorted(pid for pid in marked(self._mark) if pid != self.process.pid)

    def send(self, pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self, deadline: float) -> tuple[Result, bool]:
        """Wait for the end; kill what does not end. Return also whether it hung."""
        hung = False
        try:
            self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            hung = True
            for pid in [self.process.pid, *self.children()]:
                self.send(pid, signal.SIGKILL)
            self.process.wait()
        seconds = time.monotonic() - self._began
        out, err = (file.read_text(errors="replace") for file in self._files)
        return Result(self.args, self.process.returncode or 0, out, err, seconds), hung


def marked(mark: bytes) -> Iterator[int]:
    """Yield the processes that have this variable."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


@dataclass
class Known:
    """A backup that was published, and what it must contain."""

    name: str
    database: str  # whose ledger it is of
    low: int  # the state is not older
    high: int  # nor newer
    schema_only: bool
    verified: bool
    doubtful: bool = False  # its run did not succeed
    number: int | None = None  # the state, as soon as it was restored
    contents: dict[str, tuple[str, int, Any]] = field(default_factory=dict)


class World:
    """Everything that steps use; for a with block."""

    def __init__(self, folder: Path, major: int, seed: int) -> None:
        self.folder, self.major, self.seed = folder, major, seed
        self.known: dict[str, Known] = {}
        self.held: set[str] = set()
        self.seconds: dict[str, float] = {}  # how long each operation takes
        self.log = folder / "logs"
        self._stack = contextlib.ExitStack()
        self.pitr = major >= 15
        self.point_in_time: object = None
        self._listing: list[dict[str, Any]] | None = None  # until something changes
        self._places: dict[str, str] = {}  # keys of files that were read

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for name, size in SIZES.items():
                self._mount(name, size)
                stack.callback(subprocess.run, ["umount", "-l", str(self.folder / name)])
            self.log.mkdir()
            (self.folder / "backups" / "b").mkdir()
            self._keys(stack)
            bucket_folder = self.folder / "s3"
            bucket_folder.mkdir()
            self.buckets = Buckets(bucket_folder)
            self.buckets.start()
            stack.callback(self.buckets.stop)
            self.bucket = self.buckets.bucket()
            self.proxy = Proxy(self.buckets.port)
            stack.callback(self.proxy.close)
            self.server = stack.enter_context(
                Server(
                    servers.bin_folder(self.major), settings=self._settings(),
                    initdb=["--wal-segsize=1"], directory=servers.data_folder(),
                )
            )  # fmt: skip
            self.ledgers = {name: Ledger(self.server, name) for name in DATABASES}
            for name, ledger in self.ledgers.items():
                ledger.create(ROWS[name])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def version(self) -> str:
        return str(servers.sql(self.server, "postgres", "show server_version")[0][0]).split()[0]

    def _settings(self) -> dict[str, str]:
        settings = dict(SETTINGS)
        if self.major >= 17:
            settings["summarize_wal"] = "on"
        return settings

    def _mount(self, name: str, size: int) -> None:
        folder = self.folder / name
        folder.mkdir()
        options = f"size={size}m,mode=755"
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        subprocess.run(command, check=True)
        if name == "tmp":
            folder.chmod(0o1777)

    def remount(self, name: str, options: str) -> None:
        """Change the size of a file system, or whether it can be written."""
        command = ["mount", "-o", f"remount,{options}", str(self.folder / name)]
        subprocess.run(command, check=True)

    def _keys(self, stack: contextlib.ExitStack) -> None:
        self.age = [private_keys.age_key(self.folder, f"{name}.txt") for name in "ab"]
        self.gpg = private_keys.gpg_key(self.folder)
        stack.callback(private_keys.close, self.gpg)

    @property
    def programs(self) -> Path:
        """The client programs: those of the server's major, or newer ones."""
        return servers.programs_for(self.major).bin

    def environment(
        self, operation: Operation | None = None, *, stores: str = "both", direct: bool = False
    ) -> dict[str, str]:
        """Return the environment of a run of pgkeep."""
        if operation is not None:
            stores = operation.stores
        env = invoke.environment(self.server, "postgres")
        env |= {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "GNUPGHOME": str(self.gpg.home),
            "BACKUP_DIR": str(self.folder / "backups" / "b"),
            "BACKUP_SPOOL_DIR": str(self.folder / "spool"),
            "BACKUP_IDENTITY_FILE": ",".join(str(key.file) for key in self.age),
            "BACKUP_RETENTION_DAILY": "30",
        }
        if stores != "directory":
            env |= self.buckets.environment(self.bucket)
            env |= {"BACKUP_S3_TIMEOUT": "5", "AWS_MAX_ATTEMPTS": "2"}
            if not direct:
                env["BACKUP_S3_ENDPOINT"] = self.proxy.endpoint
        if stores == "required":
            env["BACKUP_S3_REQUIRED"] = "true"
        if stores == "bucket":
            env["BACKUP_DIR"] = f"s3://{env.pop('BACKUP_S3_BUCKET')}/backups"
        return env

    def recipients(self, cipher: str, pick: float) -> dict[str, str]:
        """Return the variables that encrypt."""
        if cipher == "age":
            return {"BACKUP_ENCRYPT_TO": self.age[int(pick * 97) % 2].recipient}
        if cipher == "gpg":
            return {"BACKUP_ENCRYPT_TO": str(self.gpg.public)}
        return {"BACKUP_ENCRYPT_TO": "none"}

    def call(self, *args: str) -> Result:
        """Run pgkeep without any fault, on both stores."""
        return self.run(*args, env=self.environment(direct=True))

    def run(self, *args: str, env: Mapping[str, str]) -> Result:
        """Run pgkeep to its end."""
        self.changed()
        began = time.monotonic()
        code, out, err = invoke.complete(*args, env=env, seconds=300)
        return Result(args, code, out, err, time.monotonic() - began)

    def listing(self) -> list[dict[str, Any]]:
        """Return what `pgkeep list` shows of both stores."""
        if self._listing is None:
            done = self.call("list", "--json")
            assert done.code == 0, f"list: exit code {done.code}\n{done.err}"
            self._listing = json.loads(done.out)
        return self._listing or []

    def changed(self) -> None:
        """Forget what was listed."""
        self._listing = None

    def drop(self, *names: str) -> None:
        for name in names:
            servers.drop(self.server, name)

    def databases(self) -> list[str]:
        query = "select datname from pg_database where datname !~ '^template' order by 1"
        return [row[0] for row in servers.sql(self.server, "postgres", query)]

    def settled(self) -> dict[str, int]:
        """Return the states of all databases while nobody writes."""
        return {name: ledger.settle() for name, ledger in self.ledgers.items()}

    def names(self, *, bucket: bool) -> list[str]:
        """Return the names of the files of backups in a store."""
        if bucket:
            found = keys(self.buckets.client(), self.bucket)
            return sorted(key.rpartition("/")[2] for key in found if "/pitr/" not in key)
        folder = self.folder / "backups" / "b"
        return sorted(
            path.name for path in folder.iterdir() if path.name[0] != "." and path.is_file()
        )

    def _key(self, name: str) -> str:
        """Return the key of a file; the bucket has a folder for each tier."""
        found = [
            key for key in keys(self.buckets.client(), self.bucket) if key.endswith(f"/{name}")
        ]
        return found[0] if found else ""

    def load(self, name: str, *, bucket: bool) -> bytes | None:
        """Read a file of a store."""
        if not bucket:
            path = self.folder / "backups" / "b" / name
            return path.read_bytes() if path.exists() else None
        key = self._key(name)
        if not key:
            return None
        data: bytes = self.buckets.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        self._places[name] = key
        return data

    def store(self, name: str, data: bytes | None, *, bucket: bool) -> None:
        """Replace a file of a store, or remove it."""
        self.changed()
        if not bucket:
            path = self.folder / "backups" / "b" / name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)
            return
        client, key = self.buckets.client(), self._places.get(name) or self._key(name)
        if data is None:
            client.delete_object(Bucket=self.bucket, Key=key)
        else:
            client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def forget(self, backup: str) -> None:
        """Remove a backup from both stores, the manifest first."""
        for bucket in (False, True):
            stems = (f"{backup}.", f"{backup}_key")
            names = [name for name in self.names(bucket=bucket) if name.startswith(stems)]
            for name in sorted(names, key=lambda name: "manifest" not in name):
                self.store(name, None, bucket=bucket)
        self.known.pop(backup, None)
        self.held.discard(backup)
