"""What commands that answer over HTTP share: the address, the server, answers that are not stale.

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
KEPT = 60.0  # seconds for which what a bucket holds is not read again
PATIENCE = 10  # seconds for a client to say what it wants, and to take the answer
THREADS = 8

T = TypeVar("T")


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
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


class Fresh(Generic[T]):
    """A value that is made anew when it is older than some seconds, by one thread at a time."""

    def __init__(self, make: Callable[[], T], kept: float) -> None:
        self._make = make
        self._kept = kept
        self._lock = threading.Lock()
        self._value: tuple[T, float, float] | None = None  # when its making began and ended

    def get(self) -> T:
        """Return the value; one whose making began after it was asked for is always fresh."""
        asked = time.monotonic()
        with self._lock:
            began = time.monotonic()
            if self._value is None or (
                self._value[1] < asked and began >= self._value[2] + self._kept
            ):
                self._value = self._make(), began, time.monotonic()
            return self._value[0]


class Once:
    """Warn of each problem when it comes, not each time that it is met."""

    def __init__(self, out: output.Output) -> None:
        self._out = out
        self._known: list[str] = []

    def warn(self, problems: list[str]) -> None:
        """Take what is wrong now."""
        for problem in problems:
            if problem not in self._known:
                self._out.warning(problem)
        self._known = problems


def kept(targets: Iterable[overview.Target]) -> float:
    """Return for how many seconds what these stores hold need not be read again."""
    return KEPT if any(store.remote for target in targets for store in target.stores) else 0.0


def is_ours(asked: str, listening: str) -> bool:
    """Tell whether a Host is an address, or a name of this machine: no page elsewhere has those."""
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
    """Answer until a signal ends the command.

    Raises:
        UsageError: nobody can listen there.

    """
    from waitress.channel import HTTPChannel  # noqa: PLC0415 - an extra
    from waitress.server import create_server  # noqa: PLC0415

    class Channel(HTTPChannel):
        def handle_read(self) -> None:
            """Count no part of a request as a sign of life, or one could be sent for ever."""
            before = self.last_activity
            super().handle_read()
            if self.request is not None:
                self.last_activity = before

    logging.getLogger("waitress").setLevel(logging.ERROR)  # that it queues is no news
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
    # Beside us, for waitress would take our signals for an ordinary end.
    thread = threading.Thread(target=server.run, name="waitress", daemon=True)
    thread.start()
    thread.join()
