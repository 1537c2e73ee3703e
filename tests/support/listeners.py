"""HTTP servers for tests: one that records requests, some that do not answer."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    method: str
    path: str
    body: str


class Listener:
    """The address, and the requests so far, in order."""

    def __init__(self, port: int, code: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.code = code  # of every answer
        self.delays: dict[str, float] = {}  # seconds, by the path's last part
        self.requests: list[Request] = []


@contextlib.contextmanager
def listening(code: int = 200) -> Iterator[Listener]:
    """Answer every request with this code."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(listener.delays.get(self.path.partition("?")[0].rpartition("/")[2], 0))
            listener.requests.append(Request(self.command, self.path, body.decode()))
            self.send_response(listener.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Not to the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        listener = Listener(server.server_port, code)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield listener
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def never_ending() -> Iterator[str]:
    """Accept connections and send an endless answer, one byte at a time."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not ended.wait(0.2):
                client.sendall(b"x")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                threads.append(threading.Thread(target=drip, args=(client,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            for one in (accepting, *threads):
                one.join()


@contextlib.contextmanager
def speaking(greeting: bytes) -> Iterator[str]:
    """Send every client something that is not HTTP."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(greeting)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def refusing() -> str:
    """Return the URL of a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
