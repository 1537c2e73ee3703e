"""A TCP forwarder in front of PostgreSQL servers, which stalls, cuts or alternates as told."""

import contextlib
import itertools
import socket
import struct
import threading
from collections.abc import Iterator

from pgkeep.postgres.server import Server


class Wire:
    """Forwards each connection to one of the servers in turn, over their Unix sockets.

    `stall_after` is the number of bytes from the servers after which nothing is forwarded any
    more, in either direction, while all connections stay open: as where a network drops packets.
    """

    def __init__(self, servers: list[Server]) -> None:
        self._targets = itertools.cycle(
            [f"{server.host}/.s.PGSQL.{server.port}" for server in servers]
        )
        self.stall_after: int | None = None
        self.received = 0  # bytes from the servers
        self.connections = 0
        self._lock = threading.Lock()
        self._going = threading.Event()
        self._going.set()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def stalled(self) -> bool:
        return not self._going.is_set()

    def divert(self, server: Server) -> None:
        """Lead later connections to another server."""
        self._targets = itertools.cycle([f"{server.host}/.s.PGSQL.{server.port}"])

    def stall(self) -> None:
        """Forward nothing from now on."""
        self._going.clear()

    def cut(self) -> None:
        """Reset every connection; later ones are forwarded."""
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()
        self._going.set()
        self.cut()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            server.connect(next(self._targets))
        with self._lock:
            self._open += [client, server]
        back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
        back.start()
        self._pass(client, server, counted=False)

    def _pass(self, source: socket.socket, target: socket.socket, *, counted: bool = True) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counted:
                    with self._lock:
                        self.received += len(data)
                        if self.stall_after is not None and self.received >= self.stall_after:
                            self._going.clear()
                self._going.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def wire(*servers: Server) -> Iterator[Wire]:
    """Run a forwarder in front of these servers."""
    running = Wire(list(servers))
    try:
        yield running
    finally:
        running.close()


def through(running: Wire) -> dict[str, str]:
    """Return the variables with which pgkeep connects through the forwarder."""
    return {"PGHOST": "127.0.0.1", "PGPORT": str(running.port)}
