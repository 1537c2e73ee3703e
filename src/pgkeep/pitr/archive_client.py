"""The client of `pgkeep pitr stream --no-receive`: archive_command and restore_command.

PostgreSQL starts it for each segment, so this module imports nothing of pgkeep and little of
Python. The client opens the file itself and sends its bytes: the service never opens a path that a
client names.

A request is one line: `push 1 NAME SIZE CHANGED CLUSTER` or `fetch 1 NAME CLUSTER`. The answer to
push is `send`, and after the bytes `0 0`. That to fetch is `0 SIZE` and the bytes. Every other
answer is `STATUS LENGTH` and a text: why it failed, with this exit code.
"""

from __future__ import annotations

import _socket  # socket itself imports enum, selectors and more: a fifth of the time of a run
import os
import signal
import sys
import time

TYPE_CHECKING = False  # as typing's, which takes longer to import than everything here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType
    from typing import NoReturn

SOCKET_NAME = "archive.sock"
SOCKET_PATH_BYTES = 107  # sockaddr_un in Linux, without the zero at its end
TIMEOUT = 300  # seconds, for everything together
CONNECT_SECONDS = 5.0  # for which fetch waits for a service that is being restarted
BLOCK = 1 << 20  # bytes
_CLUSTER = "global/pg_control"  # in the data directory, where PostgreSQL starts its commands
_UNKNOWN = "-"

# PostgreSQL's archiver takes a status above 125 for its own end, and does not count it as a
# failure. Recovery takes a status up to 125 for the end of the archive, and promotes the server.
FAILED = {"push": 1, "fetch": 255}
USAGE = {"push": 2, "fetch": 255}
UNREACHABLE = {"push": 3, "fetch": 255}
NO_ANSWER = {"push": 6, "fetch": 255}
END = 1  # fetch: beyond the end of the archive


class ClientError(Exception):
    """Why it failed, and the exit code."""

    def __init__(self, message: str, status: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


class Ended(BaseException):
    """A signal arrived; PostgreSQL must not see that we died of it."""


class Arguments:
    """The command line."""

    def __init__(self, files: list[str], socket: str, timeout: int, end_code: int) -> None:
        self.files = files
        self.socket = socket
        self.timeout = timeout  # seconds
        self.end_code = end_code


def run(verb: str, words: list[str]) -> NoReturn:
    """Run a command and end the process with its exit code, whatever happens."""
    status = FAILED[verb]
    try:
        status = _run(verb, words)
    except ClientError as error:
        status = error.status
        _print(f"error: {error.message}", error.hint)
    except Ended as ended:
        status = NO_ANSWER[verb]
        _print(f"error: {ended}", None)
    except BaseException as error:  # noqa: BLE001 - Python's own exit code would be 1
        _print(f"error: {type(error).__name__}: {error}", None)
    finally:
        os._exit(status)


def _run(verb: str, words: list[str]) -> int:
    arguments = parse(verb, words, os.environ)
    _handle_signals(arguments.timeout)
    if verb == "push":
        return _push(arguments)
    return _fetch(arguments)


def parse(verb: str, words: list[str], environ: Mapping[str, str]) -> Arguments:
    """Read the words after the verb.

    Raises:
        ClientError: they are wrong.

    """
    files: list[str] = []
    options: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        if name in ("--socket", "--timeout") or (name == "--end-code" and verb == "fetch"):
            options[name] = value if equals else next(remaining, "")
        elif word.startswith("-"):
            if word not in ("-q", "--quiet", "-v", "--verbose"):
                raise ClientError(f"no such option: {name}", USAGE[verb], _see(verb))
        else:
            files.append(word)
    if len(files) != (1 if verb == "push" else 2):
        expected = "FILE" if verb == "push" else "NAME and FILE"
        raise ClientError(
            f"found {len(files)} arguments, expected {expected}", USAGE[verb], _see(verb)
        )
    return Arguments(
        files,
        options.get("--socket") or default_socket(verb, environ),
        _number(verb, options, "--timeout", TIMEOUT, 86400),
        _number(verb, options, "--end-code", END, 125),
    )


def _number(verb: str, options: dict[str, str], name: str, default: int, highest: int) -> int:
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= highest):
        raise ClientError(
            f"{name}: found {text!r}, expected a number from 1 to {highest}", USAGE[verb]
        )
    return int(text)


def _see(verb: str) -> str:
    return f"See pgkeep pitr {verb} --help."


def default_socket(verb: str, environ: Mapping[str, str]) -> str:
    """Return the socket in the spool directory."""
    spool = environ.get("BACKUP_SPOOL_DIR")
    directory = environ.get("BACKUP_DIR") or "./backups"
    if not spool and directory.startswith("s3://"):
        raise ClientError("neither --socket nor BACKUP_SPOOL_DIR is set", USAGE[verb], _see(verb))
    return os.path.join(spool or os.path.join(directory, "pitr", "spool"), SOCKET_NAME)  # noqa: PTH118


def _handle_signals(timeout: int) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGALRM:
            raise Ended(f"no answer after {timeout} s")
        raise Ended(f"ended by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(timeout)


def _push(arguments: Arguments) -> int:
    (path,) = arguments.files
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ClientError(f"could not open {path}: {error.strerror}", FAILED["push"]) from error
    status = os.fstat(file)
    name = os.path.basename(path)  # noqa: PTH119
    service = _connect("push", arguments.socket, 0)
    changed = int(status.st_mtime)
    _ask(service, f"push 1 {_plain('push', name)} {status.st_size} {changed} {_cluster()}")
    answer = _Answer("push", service)
    if answer.line() != "send":
        return answer.failed()
    while block := os.read(file, BLOCK):
        service.sendall(block)
    service.shutdown(_socket.SHUT_WR)  # the file can have become shorter
    return 0 if answer.line() == "0 0" else answer.failed()


def _fetch(arguments: Arguments) -> int:
    name, path = arguments.files
    service = _connect("fetch", arguments.socket, CONNECT_SECONDS)
    _ask(service, f"fetch 1 {_plain('fetch', name)} {_cluster()}")
    answer = _Answer("fetch", service)
    words = answer.line().split(" ")
    if words[0] != "0":
        status = answer.failed()
        return arguments.end_code if status == END else status
    temporary = f"{path}.pgkeep-{os.getpid()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600)
        answer.copy(int(words[1]), lambda block: _write(file, block))
        os.close(file)
        os.rename(temporary, path)  # noqa: PTH104
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)  # noqa: PTH108
        raise
    return 0


def _connect(verb: str, path: str, seconds: float) -> _socket.socket:
    """Connect to the service; a service that is being restarted gets some seconds."""
    folder = os.path.dirname(path) or "."  # noqa: PTH120
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise ClientError(
            f"the path of the socket has {len(os.fsencode(path))} bytes, at most"
            f" {SOCKET_PATH_BYTES} are possible: {path}",
            USAGE[verb],
            "Use a shorter one with --socket, for the service as well.",
        )
    deadline = time.monotonic() + seconds
    while True:
        try:
            if os.stat(folder).st_mode & 0o022:  # noqa: PTH116
                raise ClientError(
                    f"other users can write to {folder}: one of them could replace the socket"
                    " of the service",
                    UNREACHABLE[verb],
                    "Put the socket into a directory that only its owner can write to.",
                )
            service = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            service.connect(path)
        except OSError as error:
            waits = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
            if not waits or time.monotonic() > deadline:
                raise ClientError(
                    f"pgkeep pitr stream --no-receive does not answer at {path}: {error.strerror}",
                    UNREACHABLE[verb],
                    "Start it, and check --socket, BACKUP_SPOOL_DIR and the group of the socket.",
                ) from error
            time.sleep(0.1)
        else:
            return service


def _plain(verb: str, name: str) -> str:
    """Return a name that can be part of a request; the service knows which ones are valid."""
    if not name.isascii() or not name.replace(".", "").isalnum():
        raise ClientError(f"{name!r} is not the name of a WAL file", USAGE[verb])
    return name


def _cluster() -> str:
    """Return the system identifier of the data directory in which PostgreSQL started us.

    It is in the first 8 bytes of pg_control. Elsewhere it is unknown.
    """
    try:
        with open(_CLUSTER, "rb") as file:  # noqa: PTH123
            data = file.read(8)
    except OSError:
        return _UNKNOWN
    return str(int.from_bytes(data, sys.byteorder)) if len(data) == 8 else _UNKNOWN


def _ask(service: _socket.socket, line: str) -> None:
    service.sendall(f"{line}\n".encode())


def _write(file: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file, view) :]


class _Answer:
    """What the service answers."""

    def __init__(self, verb: str, service: _socket.socket) -> None:
        self._verb = verb
        self._service = service
        self._rest = b""
        self._line = ""

    def line(self) -> str:
        """Return the next line."""
        while b"\n" not in self._rest:
            self._rest += self._more()
        line, _, self._rest = self._rest.partition(b"\n")
        self._line = line.decode("ascii", "replace")
        return self._line

    def copy(self, size: int, write: Callable[[bytes], None]) -> None:
        """Pass on so many bytes."""
        while size:
            block = self._rest or self._more()
            self._rest = b""
            write(block[:size])
            size -= len(block[:size])

    def failed(self) -> int:
        """Print the text of a failure, and return its exit code."""
        status, _, length = self._line.partition(" ")
        text: list[bytes] = []
        self.copy(int(length), text.append)
        _print(b"".join(text).decode("utf-8", "replace"), None)
        highest = 125 if self._verb == "push" else 255
        return int(status) if 0 < int(status) <= highest else FAILED[self._verb]

    def _more(self) -> bytes:
        try:
            block = self._service.recv(BLOCK)
        except ConnectionError:
            block = b""
        if not block:
            raise ClientError(
                "pgkeep pitr stream --no-receive closed the connection",
                NO_ANSWER[self._verb],
                "Read the log of the service.",
            )
        return block


def _print(text: str, hint: str | None) -> None:
    lines = [*text.splitlines(), *([] if hint is None else [f"hint: {hint}"])]
    shown = "".join(
        "".join(letter if letter.isprintable() else "?" for letter in line) + "\n" for line in lines
    )
    try:  # noqa: SIM105 - contextlib takes time to import
        os.write(2, shown.encode("utf-8", "replace"))
    except OSError:
        pass  # the exit code reports it too
