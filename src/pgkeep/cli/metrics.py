"""pgkeep metrics."""

import re
import socket
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

from .. import config, metrics, overview
from .. import errors as e
from . import output
from .common import dir_option, load_configs, target_option
from .watch import contents_of, target_of

LOOPBACK = "127.0.0.1"
PORT = 9647
KEPT = 60.0  # seconds for which what a bucket holds is not read again
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _address(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    del ctx, parameter
    if value is None:
        return None
    found = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*):)?([0-9]{1,5})", value)
    if found is None or int(found[2]) > 65535:
        raise click.BadParameter(f"expected HOST:PORT or a port, got {value!r}")
    return (found[1] or LOOPBACK).strip("[]"), int(found[2])


@click.command(
    "metrics",
    epilog="""\b
Examples:
  pgkeep metrics
  pgkeep metrics --listen                      on 127.0.0.1:9647
  pgkeep metrics --listen=0.0.0.0:9647 --dir=/backups
""",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    is_flag=False,
    flag_value=f"{LOOPBACK}:{PORT}",
    callback=_address,
    help=f"Answer scrapes of /metrics until ended; alone {LOOPBACK}:{PORT}.",
)
@target_option
@dir_option
def command(*, listen: tuple[str, int] | None, target: str | None, directory: str | None) -> None:
    """Print what the backups there are mean to Prometheus, or serve it.

    Everything comes from the manifests, read anew for each scrape (of a bucket, once a minute). How
    attempts went that made no backup is only in BACKUP_METRICS_FILE and BACKUP_PUSHGATEWAY, which
    every run writes. Whoever can reach the port can read the names of databases: it is open to this
    machine only unless another address is given.
    """
    _check_installed()
    configs = load_configs(target=target, directory=directory)
    if listen is None:
        text, problems = exposition(configs)
        for problem in problems:
            output.current().warning(problem)
        if text is None:
            raise e.StoreError("none of the stores can be read")
        click.echo(text, nl=False)
        return
    _serve(configs, listen)


def _check_installed() -> None:
    try:
        import prometheus_client  # noqa: F401, PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise e.UsageError(
            f"metrics need another package: {error.name}", hint="pip install 'pgkeep[metrics]'"
        ) from error


def exposition(configs: Sequence[config.Config]) -> tuple[bytes | None, list[str]]:
    """Return the text for Prometheus, if any store can be read, and what is wrong with others."""
    targets = [target_of(one) for one in configs]
    contents, problems = contents_of(targets)
    if not contents:
        return None, problems
    samples = [
        one
        for target in targets
        for one in metrics.of_target(target, contents, overview.expected(target, contents))
    ]
    return metrics.render(samples), problems


class _Answers:
    """What is answered; one scrape at a time reads the stores."""

    def __init__(self, configs: Sequence[config.Config], out: output.Output) -> None:
        self._configs = configs
        self._out = out
        self._lock = threading.Lock()
        self._text: bytes | None = None
        self._problems: list[str] = []
        remote = any(store.remote for one in configs for store in target_of(one).stores)
        self._kept = KEPT if remote else 0.0
        self._until = 0.0

    def get(self) -> bytes | None:
        """Return the text, or none where no store can be read."""
        with self._lock:
            if self._text is None or time.monotonic() >= self._until:
                self._text, problems = exposition(self._configs)
                self._until = time.monotonic() + self._kept
                for problem in problems:
                    if problem not in self._problems:  # once is enough
                        self._out.warning(problem)
                self._problems = problems
            return self._text


def _serve(configs: Sequence[config.Config], address: tuple[str, int]) -> None:
    out = output.current()
    answers = _Answers(configs, out)

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a client to say what it wants

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._answer(404, b"only /metrics is here\n")
                return
            text = answers.get()
            if text is None:
                self._answer(503, b"none of the stores can be read\n")
            else:
                self._answer(200, text)

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Not a line for each scrape."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is no news."""

    try:
        server = Server(address, Handler)
    except OSError as error:
        raise e.UsageError(
            f"could not listen on {address[0]}:{address[1]}: {error.strerror or error}"
        ) from error
    with server:
        host, port = server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        out.info(f"serving http://{shown}:{port}/metrics")
        server.serve_forever()
