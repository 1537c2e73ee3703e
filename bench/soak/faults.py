"""The receiver, and what happens to it: kills, restarts, a bucket that comes and goes."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.support.buckets import Buckets

from bench.measure import _pss, _tree


class Receiver:
    """`pgkeep pitr stream`, started again whenever it ends, for a with block."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = dict(environment)
        self._log = log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self.ended: list[int] = []  # the exit statuses of what ended by itself

    def __enter__(self) -> Self:
        self.supervise()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.stop(signal.SIGTERM)

    def supervise(self) -> None:
        """Start it if it does not run."""
        with self._lock:
            if self._closed:
                return
            if self._process is not None and self._process.poll() is not None:
                self.ended.append(self._process.returncode)
                self._process = None
            if self._process is None:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        ["pgkeep", "pitr", "stream"], env=self._environment,
                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    )  # fmt: skip

    def stop(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        with self._lock:
            if self._process is None:
                return
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(self._process.pid, number)
                else:
                    self._process.send_signal(number)
            self._process.wait(120)
            self._process = None

    def kill_child(self) -> None:
        """Kill pg_receivewal alone."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return
            for pid in list(_tree(self._process.pid))[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def memory(self) -> int:
        """Return the bytes of memory of all its processes together."""
        process = self._process
        return 0 if process is None else sum(map(_pss, _tree(process.pid)))


class Faults:
    """A thread that lets something happen every now and then."""

    def __init__(self, receiver: Receiver, buckets: Buckets, pause: float, seed: int) -> None:
        self._receiver = receiver
        self._buckets = buckets
        self._pause = pause
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.counts: Counter[str] = Counter()
        self.bucket_since: float | None = time.monotonic()  # None: it is stopped

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._random.expovariate(1 / self._pause)):
            name = self._random.choice(
                ["receiver killed (-9)", "receiver stopped (TERM)", "pg_receivewal killed",
                 "receiver down for up to 40 s", "bucket down for up to 90 s"]
            )  # fmt: skip
            self.counts[name] += 1
            if name.startswith("bucket"):
                self.bucket_since = None
                self._buckets.stop(signal.SIGTERM)
                self._stop.wait(self._random.uniform(5, 90))
                self._buckets.start()
                self.bucket_since = time.monotonic()
            elif name.startswith("pg_receivewal"):
                self._receiver.kill_child()
            else:
                self._receiver.stop(signal.SIGTERM if "TERM" in name else signal.SIGKILL)
                if "down" in name:
                    self._stop.wait(self._random.uniform(5, 40))
                self._receiver.supervise()
