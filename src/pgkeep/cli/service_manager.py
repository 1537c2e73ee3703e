"""A service: its end by signals, and reports to systemd (sd_notify(3)) if that started it."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

from .. import interrupts, processes


def end_by_signals(stop: Callable[[], None]) -> None:
    """Let the first signal stop a service, and the second one end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        return
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            processes.kill_all()
            os._exit(128 + number)
        received.append(number)
        notify("STOPPING=1")
        stop()

    for number in interrupts.SIGNALS:
        signal.signal(number, end)


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
