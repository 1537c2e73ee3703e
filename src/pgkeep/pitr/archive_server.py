"""The Unix socket of `pgkeep pitr stream --no-receive`; the requests are in archive_client.py.

Access is that to the socket. A client names no path: it sends the bytes of a file that it could
read, and writes those of a fetched file itself.
"""

import contextlib
import grp
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from .. import errors as e
from ..model import wal
from ..stores.local import LocalStore
from .archive_client import BLOCK, END, SOCKET_PATH_BYTES
from .archive_fetch import Absent, Fetcher
from .archive_push import Pusher

CLIENTS = 16  # at the same time; more wait
PATIENCE = 60.0  # seconds for a client to go on sending or receiving
STOP_SECONDS = 30.0  # for requests that are being answered
_FAILED = 255
_REQUEST = re.compile(
    rf"push 1 (?P<pushed>{wal.FILE_NAME}) (?P<size>[0-9]{{1,10}}) (?P<changed>[0-9]{{1,12}})"
    rf" (?P<from>-|[0-9]{{1,20}})|fetch 1 (?P<fetched>{wal.FILE_NAME}) (?P<to>-|[0-9]{{1,20}})"
)
_VERB = re.compile(r"(push|fetch) 1 (\S{1,100}) .*")


@contextlib.contextmanager
def listening(path: Path, group: str | None) -> Iterator[socket.socket]:
    """Listen on a socket that only our user, and a group if one is given, can use.

    Raises:
        UsageError: the path is too long, or the group does not exist.
        AlreadyRunning: another service listens there.
        Refused: others could replace the socket, or something else has its name.
        StoreError: it cannot be created.

    """
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise e.UsageError(
            f"the path of the socket has {len(os.fsencode(path))} bytes, at most"
            f" {SOCKET_PATH_BYTES} are possible: {path}",
            hint="Use a shorter one with --socket, for pgkeep pitr push and fetch as well.",
        )
    number = -1 if group is None else _group(group)
    with contextlib.ExitStack() as stack:
        try:
            _prepare(path.parent, number)
            if not stack.enter_context(LocalStore(path.parent).lock(f"{path.name}.lock")):
                raise e.AlreadyRunning(
                    f"pgkeep pitr stream --no-receive is running: it listens on {path}",
                    hint="Another cluster needs another socket: --socket or BACKUP_SPOOL_DIR.",
                )
            listener = stack.enter_context(_bound(path, number))
        except OSError as error:
            raise e.StoreError(f"could not listen on {path}: {error.strerror}") from error
        yield listener


@contextlib.contextmanager
def _bound(path: Path, group: int) -> Iterator[socket.socket]:
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        former = os.umask(0o177)  # bind has no mode
        try:
            listener.bind(str(path))
        finally:
            os.umask(former)
        try:
            if group != -1:
                os.chown(path, -1, group)
                path.chmod(0o660)
            listener.listen(64)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise e.UsageError(f"--socket-group: no group {name}") from None


def _prepare(folder: Path, group: int) -> None:
    """Create the folder of the socket; nobody else may be able to replace the socket."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        if group != -1:
            os.chown(folder, -1, group)
            folder.chmod(0o710)
    status = folder.stat()
    if status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid()):
        raise e.Refused(
            f"other users can write to {folder}: one of them could replace the socket of the"
            " service",
            hint="Put the socket into a directory that only its owner can write to.",
        )


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise e.Refused(f"{path} exists, and is not a socket")
        path.unlink()


class ArchiveServer:
    """Answers clients until it is stopped."""

    def __init__(
        self, pusher: Pusher, fetcher: Fetcher, system_identifier: str,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Store the parameters; `tell` reports failures to people."""
        self._pusher = pusher
        self._fetcher = fetcher
        self._identifier = system_identifier
        self._tell = tell
        self._pushing = threading.Lock()
        self._places = threading.BoundedSemaphore(CLIENTS)
        self._answering: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def serve(self, listener: socket.socket, stopped: Callable[[], bool]) -> None:
        """Accept clients until `stopped`, then let those end that are being answered."""
        listener.settimeout(0.2)
        while not stopped():
            if not self._places.acquire(timeout=0.2):
                continue
            try:
                client, _ = listener.accept()
            except OSError:  # none came, or one left at once
                self._places.release()
                continue
            client.settimeout(PATIENCE)
            thread = threading.Thread(target=self._answer, args=(client,), daemon=True)
            with self._lock:
                self._answering.add(thread)
            thread.start()
        deadline = time.monotonic() + STOP_SECONDS
        with self._lock:
            answering = list(self._answering)
        for thread in answering:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _answer(self, client: socket.socket) -> None:
        try:
            with client, contextlib.suppress(OSError):  # the client ended
                self._answer_request(client)
        finally:
            with self._lock:
                self._answering.discard(threading.current_thread())
            self._places.release()

    def _answer_request(self, client: socket.socket) -> None:
        line = _line(client)
        request = _REQUEST.fullmatch(line)
        try:
            if request is None:
                raise _malformed(line)
            self._check_cluster(request["from"] or request["to"])
            if request["pushed"]:
                changed = datetime.fromtimestamp(int(request["changed"]), UTC)
                self._push(client, request["pushed"], int(request["size"]), changed)
            else:
                self._fetch(client, request["fetched"])
        except Absent as absent:
            _say(client, END, str(absent))
        except e.PgkeepError as error:
            self._fail(client, line, error)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001 - PostgreSQL must not wait for an answer
            self._fail(client, line, e.PgkeepError(f"{type(error).__name__}: {error}"))

    def _fail(self, client: socket.socket, line: str, error: e.PgkeepError) -> None:
        verb, _, rest = line.partition(" 1 ")
        self._tell(f"{verb} {rest.partition(' ')[0]}: {error.message}")
        code = error.exit_code if verb == "push" else _FAILED
        hint = "" if error.hint is None else f"\nhint: {error.hint}"
        _say(client, code, f"error: {error.message}{hint}")

    def _check_cluster(self, found: str) -> None:
        if found not in ("-", self._identifier):
            raise e.Refused(
                f"the data directory is that of cluster {found}, this is the archive of"
                f" {self._identifier}",
                hint="Run pgkeep pitr stream --no-receive with --cluster, and with another"
                " --socket, for each cluster.",
            )

    def _push(self, client: socket.socket, name: str, size: int, changed: datetime) -> None:
        problem = self._pusher.size_problem(name, size)
        if problem is not None:
            raise e.VerificationFailed(problem)
        if not self._pushing.acquire(timeout=PATIENCE):  # one file in memory
            raise e.StoreError("another file is still being stored")
        try:
            client.sendall(b"send\n")
            data = bytearray()
            while len(data) < size:
                block = client.recv(min(BLOCK, size - len(data)))
                if not block:
                    return  # the client ended
                data += block
            self._pusher.push(name, bytes(data), changed)
        finally:
            self._pushing.release()
        client.sendall(b"0 0\n")

    def _fetch(self, client: socket.socket, name: str) -> None:
        with self._fetcher.fetch(name) as file:
            size = os.fstat(file.fileno()).st_size
            client.sendall(f"0 {size}\n".encode())
            client.sendfile(file)


def _malformed(line: str) -> e.PgkeepError:
    found = _VERB.fullmatch(line)
    if found is None:
        return e.UsageError(
            "the client and pgkeep pitr stream --no-receive have different versions",
            hint="Restart the service after an update of pgkeep.",
        )
    return e.UsageError(f"{found[2]!r} is not the name of a WAL file")


def _line(client: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n") and len(data) < 256:
        block = client.recv(1)
        if not block:
            break
        data += block
    return data.decode("ascii", "replace").removesuffix("\n")


def _say(client: socket.socket, code: int, text: str) -> None:
    data = text.encode()
    client.sendall(f"{code} {len(data)}\n".encode() + data)
