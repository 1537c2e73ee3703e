"""HTTP for several commands: the address, the server, a cache of answers.

The server is waitress: it has limits for slow clients, many clients and large requests.
"""

import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import click

from .. import errors as e
from ..monitor import overview
from . import output

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

LOOPBACK = "127.0.0.1"
KEPT = 60.0  # seconds for which the contents of a bucket are cached
PATIENCE = 10  # seconds for a client to send its request and to receive the answer
THREADS = 8

T = TypeVar("T")


class Address(NamedTuple):
    """An address to listen on."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Read HOST:PORT, or a port on the loopback address, as the callback of an option."""
    del ctx, parameter
    if value is None:
        return None
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):)?([0-9]{1,5})", value)
    if found is None or int(found[2]) > 65535:
        raise click.BadParameter(f"expected HOST:PORT or a port, got {value!r}")
    return Address((found[1] or LOOPBACK).strip("[]"), int(found[2]))


class Cached(Generic[T]):
    """A cached value, made again by one thread at a time when it is older than some seconds."""

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._lock = threading.Lock()
        self._value: tuple[T, float, float] | None = None  # with the start and the end of making it

    def get(self) -> T:
        """Return the value; a value that was started after the call is always fresh."""
        asked = time.monotonic()
        with self._lock:
            began = time.monotonic()
            if self._value is None or (
                self._value[1] < asked and began >= self._value[2] + self._seconds
            ):
                self._value = self._make(), began, time.monotonic()
            return self._value[0]


class NewProblems:
    """Warns of a problem when it appears, not again while it lasts."""

    def __init__(self, out: output.Output) -> None:
        self._out = out
        self._known: list[str] = []

    def warn(self, problems: list[str]) -> None:
        """Warn of the problems that are new."""
        for problem in problems:
            if problem not in self._known:
                self._out.warning(problem)
        self._known = problems


def cache_seconds(targets: Iterable[overview.Target]) -> float:
    """Return for how many seconds the contents of these stores are cached."""
    return KEPT if any(store.remote for target in targets for store in target.stores) else 0.0


def is_own_host(asked: str, listening: str) -> bool:
    """Whether a Host is an address or a name of this machine, which no foreign page can have."""
    name = asked.rpartition(":")[0] if asked.rpartition(":")[2].isdigit() else asked
    name = name.strip("[]").lower()
    if name in {"localhost", listening.lower(), socket.gethostname().lower()}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def serve(app: "WSGIApplication", address: Address, path: str, out: output.Output) -> None:
    """Answer requests until a signal ends the command.

    Raises:
        UsageError: the address cannot be listened on.

    """
    start(app, address, path, out).join()


def start(
    app: "WSGIApplication", address: Address, path: str, out: output.Output
) -> threading.Thread:
    """Answer requests in a thread, as long as the command runs.

    Raises:
        UsageError: the address cannot be listened on.

    """
    from waitress.channel import HTTPChannel  # noqa: PLC0415 - an extra
    from waitress.server import create_server  # noqa: PLC0415

    class Channel(HTTPChannel):
        def handle_read(self) -> None:
            """Do not count parts of a request as activity, or it could be sent for ever."""
            before = self.last_activity
            super().handle_read()
            if self.request is not None:
                self.last_activity = before

    logging.getLogger("waitress").setLevel(logging.ERROR)  # it logs each time that it queues
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family)
    except OSError as error:
        reason = error.strerror or error
        raise e.UsageError(f"could not listen on {address}: {reason}") from error
    server: Any = create_server(
        app, sockets=[listener], threads=THREADS, ident=None, channel_timeout=PATIENCE,
        cleanup_interval=PATIENCE, connection_limit=100,
        max_request_header_size=1 << 14, max_request_body_size=1 << 14,
    )  # fmt: skip
    server.channel_class = Channel
    out.info(f"serving http://{address._replace(port=listener.getsockname()[1])}{path}")
    # In a thread: waitress would take our signals for an ordinary end.
    thread = threading.Thread(target=server.run, name="waitress", daemon=True)
    thread.start()
    return thread
