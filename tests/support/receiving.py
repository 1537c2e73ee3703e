"""A server whose WAL pgkeep pitr stream receives, for tests that kill and disturb it."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgkeep.crypt.options import Encryption
from pgkeep.model import wal
from pgkeep.model.wal import Lsn
from pgkeep.pitr import stream_state, windows
from pgkeep.pitr.archive import WalArchive, histories
from pgkeep.pitr.stream_state import StreamState
from pgkeep.pitr.wal_file import Origin
from pgkeep.postgres.server import Server
from pgkeep.stores.local import LocalStore
from pgkeep.stores.store import Store
from tests.support import invoke, servers

SIZE = 1 << 20
UNSHARE = ["unshare"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
MOUNT = 'mount -t tmpfs -o "size=$2" none "$1" && exec "$3" pitr stream'
SETTINGS = {"max_slot_wal_keep_size": "1GB"}


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass
class Cluster:
    """A server whose WAL is received, and the environment of the commands."""

    server: Server
    env: dict[str, str]
    folder: Path  # of its files in the directory

    @property
    def spool(self) -> Path:
        return self.folder.parent / "spool" / self.folder.name

    def state(self) -> StreamState | None:
        return stream_state.read(stream_state.path_in(self.spool))

    def stored(self) -> set[str]:
        """Return the names of the stored files, as PostgreSQL has them."""
        return {path.name.partition("-")[0] for path in self.folder.glob("wal/*")}

    def runs(self, store: Store | None = None) -> list[wal.Extent]:
        """Return the unbroken runs of stored segments on the way to the newest timeline."""
        origin = Origin(self.folder.name, SIZE)
        archive = WalArchive(store or LocalStore(self.folder / "wal"), origin, Encryption())
        path = windows.newest_path(histories(archive), archive.segments())
        assert path is not None
        for segment in archive.segments():
            assert archive.get(segment.name(SIZE)) is not None  # checks its bytes
        return wal.extents(path, archive.segments(), SIZE)

    def write(self, segments: int) -> Lsn:
        """Fill segments; return the border after the last one."""
        self.sql("create table if not exists public.filler (t text)")
        for number in range(segments):
            self.sql(f"insert into public.filler values ('{number}')")
            self.sql("select pg_switch_wal()")
        return self.position()

    def promote(self, *, immediate: bool = False) -> None:
        """Restart the server as a standby without a primary, and promote it."""
        data = Path(str(self.sql("show data_directory")))
        self.server.stop(immediate=immediate)
        (data / "standby.signal").touch()
        self.server.start()
        assert self.sql("select pg_promote()")

    def sql(self, text: str, *values: object) -> object:
        with servers.connect(self.server, "postgres") as connection:
            cursor = connection.execute(text.encode(), values)
            row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]

    def position(self) -> Lsn:
        return Lsn.parse(str(self.sql("select pg_current_wal_lsn()::text")))


class Stream:
    """A running pgkeep pitr stream, and what it has printed."""

    def __init__(self, cluster: Cluster, process: subprocess.Popen[str]) -> None:
        self.cluster = cluster
        self.process = process
        self.printed = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed += line

    def until(self, condition: Callable[[], object], seconds: float = 60) -> object:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, (self.printed, self.cluster.state())
            time.sleep(0.05)
        return found

    def tells(self, text: str) -> None:
        self.until(lambda: text in self.printed)

    def stores(self, position: Lsn, seconds: float = 60) -> None:
        """Wait until everything before a position is in every store."""

        def stored() -> bool:
            state = self.cluster.state()
            return state is not None and Lsn.parse(state.position or "0/0") >= position

        self.until(stored, seconds)


def service_of(server: Server) -> str:
    keywords = {**server.params, "dbname": "postgres"}
    return "[own]\n" + "".join(f"{name}={value}\n" for name, value in keywords.items())


def enabled(server: Server, place: Path, **extra: str) -> Cluster:
    """Create the slot of a server, as `pitr enable` does, and take no base backup."""
    programs = servers.bin_folder(servers.major_of(server))
    env = invoke.environment(
        server, "postgres", BACKUP_DIR=str(place / "backups"), BACKUP_WAL_MAX_LAG="1s",
        PATH=f"{programs}:{invoke.environment()['PATH']}", **extra,
    )  # fmt: skip
    with servers.connect(server, "postgres") as connection:
        row = connection.execute(
            "select system_identifier::text, pg_create_physical_replication_slot('pgkeep_'"
            " || right(system_identifier::text, 8), true) is not null from pg_control_system()"
        ).fetchone()
    assert row is not None
    return Cluster(server, env, place / "backups" / "pitr" / row[0])


@contextmanager
def streaming(
    cluster: Cluster, *args: str, code: int = 0, extra: Mapping[str, str] = {},
    disk: str | None = None,
) -> Iterator[Stream]:  # fmt: skip
    """Run pgkeep pitr stream; it must end with an exit code when it is told to.

    With the size of a disk, its spool is on one of its own, which only it sees.
    """
    env = {**cluster.env, **extra}
    if disk is None:
        process = invoke.start("pitr", "stream", *args, env=env)
    else:
        (spool := cluster.spool.parent).mkdir(parents=True)
        process = subprocess.Popen(
            [*UNSHARE, "--mount", "/bin/sh", "-c", MOUNT, "sh", str(spool), disk, invoke.PGKEEP],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    stream = Stream(cluster, process)
    try:
        yield stream
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=20)
        stream.reader.join(timeout=20)
        assert process.returncode == code, stream.printed
        assert "Traceback" not in stream.printed, stream.printed
    finally:
        with process:  # closes its pipes
            process.kill()
            stream.reader.join()
