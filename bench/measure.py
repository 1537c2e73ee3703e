"""Run a command; tell its wall time and the peak memory of all its processes together."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

SAMPLE_SECONDS = 0.05


class Measured(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One run: seconds, bytes left on disk, bytes of memory at the worst moment."""

    seconds: float
    size: int
    memory: int


def run(command: str, environment: Mapping[str, str], output: Path | None = None) -> Measured:
    """Run a command in a shell that fails when any part of a pipeline does.

    Raises:
        subprocess.CalledProcessError: it failed; the message was printed by the command itself.
    """
    began = time.perf_counter()
    shell = ["bash", "-euo", "pipefail", "-c", command]
    with subprocess.Popen(
        shell, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        sampler = Sampler(process.pid)
        sampler.start()
        status = process.wait()
    seconds = time.perf_counter() - began
    sampler.ended.set()
    sampler.join()
    if status != 0:
        raise subprocess.CalledProcessError(status, command)
    return Measured(
        seconds=round(seconds, 4), size=size_of(output) if output else 0, memory=sampler.peak
    )


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class Sampler(threading.Thread):
    """Adds up the memory of a process and all below it, again and again.

    PSS, not RSS: pages that two processes share count once. What the server uses is not in it,
    for its processes are not below ours.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.peak = 0
        self._pid = pid

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, sum(map(_pss, _tree(self._pid))))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    # A process may end between one look and the next.
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children = (task / "children").read_text()
                for child in children.split():
                    yield from _tree(int(child))


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
