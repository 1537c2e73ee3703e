"""Tell systemd how a service is doing (sd_notify(3)); without systemd, nothing happens."""

import os
import socket
import time


def notify(text: str) -> None:
    """Send a message to the service manager, if there is one and it listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(text.encode(), address.replace("@", "\0", 1))
        except OSError:  # a service works without it
            return


class ServiceManager:
    """Sends each state once, and signs of life as often as they are expected."""

    def __init__(self) -> None:
        self._ready = False
        self._status = ""
        expected = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._pause = int(expected) / 1e6 / 3 if expected.isdigit() and ours else None
        self._next = 0.0

    def report(self, status: str, *, ready: bool) -> None:
        """Send what has changed."""
        if ready and not self._ready:
            self._ready = True
            notify("READY=1")
        if status != self._status:
            self._status = status
            notify(f"STATUS={status}")
        if self._pause is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._pause
            notify("WATCHDOG=1")
