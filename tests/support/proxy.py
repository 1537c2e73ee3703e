"""A TCP proxy that breaks HTTP as networks and servers do, where the test chooses."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["reset", "stall", "status", "lost", "cut"]


@dataclass
class Fault:
    """What happens to the requests that match.

    reset, stall: after so many bytes of the body. status: an answer without asking the server.
    lost: the server does it, and its answer is lost. cut: the answer ends after so many bytes.
    """

    kind: Kind
    match: str = ""  # in the request's first line
    skip: int = 0  # so many that match pass first
    times: int = 1
    after: int = 0
    status: int = 500
    code: str = "InternalError"
    body: bytes = b""
    seen: int = field(default=0, init=False)
    lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def takes(self, line: str) -> bool:
        if self.match not in line:
            return False
        with self.lock:
            self.seen += 1
            return self.skip < self.seen <= self.skip + self.times


class Proxy:
    """Listens on a port of its own; each connection carries one request."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._target = ("127.0.0.1", port)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.sent = 0  # bytes of answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self._counting = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._closed.set()
        self._listener.close()
        for one in list(self._open):
            _reset(one)

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._tls is not None:
            try:
                client = self._tls.wrap_socket(client, server_side=True)
            except OSError:
                return
        self._open.add(client)
        with client, contextlib.suppress(OSError):
            head, rest = _head(client)
            if not head:
                return
            lines = head.split(b"\r\n")
            line = lines[0].decode()
            self.requests.append(line)
            self.heads.append(head.decode("latin-1"))
            fault = next((fault for fault in self.faults if fault.takes(line)), None)
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(b":") for line in lines[1:])
            }
            length = int(headers.get(b"content-length", b"0"))
            if fault is not None and fault.kind == "status":
                _answer(client, headers, rest, length, fault)
                return
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            kept.append(b"Connection: close")
            with socket.create_connection(self._target) as server:
                server.sendall(b"\r\n".join(kept) + b"\r\n\r\n")
                answers = threading.Thread(
                    target=self._answers, args=(server, client, fault), daemon=True
                )
                answers.start()
                self._body(client, server, rest, length, fault)
                answers.join(120)
        self._open.discard(client)

    def _body(
        self, client: socket.socket, server: socket.socket, rest: bytes, length: int,
        fault: Fault | None,
    ) -> None:  # fmt: skip
        limit = length
        if fault is not None and fault.kind in ("reset", "stall"):
            limit = min(fault.after, length)
        sent = 0
        while True:
            if rest:
                server.sendall(rest[: limit - sent])
                sent += len(rest)
            if sent >= limit:
                break
            rest = client.recv(1 << 16)
            if not rest:
                return
        if fault is not None and fault.kind == "reset":
            _reset(server)
            _reset(client)
        elif fault is not None and fault.kind == "stall":
            self._closed.wait(60)

    def _answers(self, server: socket.socket, client: socket.socket, fault: Fault | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if fault is not None and fault.kind == "lost":
                    if not data.startswith(b"HTTP/1.1 100"):
                        _reset(client)
                        return
                elif fault is not None and fault.kind == "stall":
                    continue
                elif fault is not None and fault.kind == "cut":
                    client.sendall(data[: max(0, fault.after - passed)])
                    passed += len(data)
                    if passed >= fault.after:
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    continue
                client.sendall(data)
                with self._counting:
                    self.sent += len(data)
            client.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(port: int, *faults: Fault) -> Iterator[Proxy]:
    """Run a proxy in front of a port, with these faults."""
    running = Proxy(port)
    running.faults += faults
    try:
        yield running
    finally:
        running.close()


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(1 << 16)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _answer(
    client: socket.socket, headers: dict[bytes, bytes], rest: bytes, length: int, fault: Fault
) -> None:
    if headers.get(b"expect", b"").lower() != b"100-continue":
        got = len(rest)
        while got < length:
            more = client.recv(1 << 16)
            if not more:
                return
            got += len(more)
    body = (
        fault.body
        or (
            f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>said the test</Message>"
            "</Error>"
        ).encode()
    )
    client.sendall(
        f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    client.shutdown(socket.SHUT_WR)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
