"""Run pgkeep in a process of its own without the time that Python needs to start and import.

Starting and importing takes a third of a second of processor time, more than most backups of a test
database. So each worker starts one process that imports pgkeep and then forks for every run
(fork_server.py). The fork calls the same `main()` with its own arguments, environment, working
directory and files, and ends like any Python program, except that Python does not free every
object. `run` and `start` have a fork, and so has the `pgkeep` in `folder()`, for shells that run
commands of documents. Tests that set limits, use a terminal, measure memory or send signals while
Python starts use the installed command instead: `invoke.start`, `signals.Struck`.
"""

import atexit
import contextlib
import functools
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import fork_client, fork_server
from tests.support.fork_client import inherited, variables

PGKEEP = fork_server.PGKEEP
FOR_EVER = 1e6  # seconds
START_SECONDS = 300
# What needs modules that take a while to import; they would make every other fork take longer.
HEAVY_COMMANDS = ("drill", "init", "key", "pitr", "rekey")
HEAVY_VARIABLES = ("BACKUP_S3_", "BACKUP_ENCRYPT")


def run(
    args: Sequence[str], env: Mapping[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Run pgkeep to its end; raise subprocess.TimeoutExpired where it takes longer."""
    process = start(args, env)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess((PGKEEP, *args), process.wait(), out, err)


def run_bytes(args: Sequence[str], env: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Do the same for output that is no text; return the exit code and both streams."""
    assert variables(dict(env)) == variables(os.environ)
    process = _launcher(_is_heavy(args, env)).start(args, env)
    out, err = process.output()
    return process.wait(), out, err


def start(args: Sequence[str], env: Mapping[str, str]) -> "Process":
    """Start pgkeep with pipes for its output, as a fork where that can have the environment."""
    if variables(dict(env)) != variables(os.environ):
        return subprocess.Popen(
            [PGKEEP, *args], env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    return _launcher(_is_heavy(args, env)).start(args, env)


def start_into(args: Sequence[str], env: Mapping[str, str], out: int, err: int) -> "Fork":
    """Start a fork whose output goes into files: children that outlive it do not hold a pipe."""
    return _launcher(_is_heavy(args, env)).start(args, env, (out, err))


def _is_heavy(args: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a run will probably import what takes long."""
    return (
        any(argument in HEAVY_COMMANDS for argument in args[:2])
        or any(name.startswith(HEAVY_VARIABLES) for name in env)
        or any("s3://" in word for word in (*args, env.get("BACKUP_DIR", "")))
    )


def folder() -> Path:
    """Return a folder for PATH with a `pgkeep` that is a fork."""
    return _launcher(heavy=False).folder


@functools.cache
def _launcher(heavy: bool) -> "_Launcher":
    launcher = _Launcher(heavy=heavy)
    atexit.register(launcher.close)
    return launcher


class _Launcher:
    """The process that forks, as the tests see it."""

    def __init__(self, *, heavy: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pgkeep-launcher-"))
        self._name = self.folder.name
        self._control, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self._name}")  # has no path, which TMPDIR could make too long
            listener.listen(64)
            descriptors = [theirs.fileno(), listener.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(int(heavy)), *map(str, descriptors)],
                pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        command = [
            sys.executable, "-IS", fork_client.__file__, self._name, inherited(), PGKEEP,
        ]  # fmt: skip
        program = self.folder / "pgkeep"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        program.chmod(0o755)

    def close(self) -> None:
        self._control.close()
        self._process.wait()
        shutil.rmtree(self.folder)

    def start(
        self, args: Sequence[str], env: Mapping[str, str], into: Sequence[int] = ()
    ) -> "Fork":
        pipes = [os.pipe() for _ in range(2)]
        files = [os.open(os.devnull, os.O_RDONLY), *(write for _, write in pipes)]
        for file, write in zip(into, files[1:], strict=False):
            os.dup2(file, write)
        try:
            result = fork_client.ask(self._name, list(args), dict(env), files)
        finally:
            for descriptor in files:
                os.close(descriptor)
        return Fork(args, result, *(read for read, _ in pipes))


class Fork:
    """A fork at work: as much of subprocess.Popen as tests use."""

    returncode: int | None = None

    def __init__(self, args: Sequence[str], result: int, out: int, err: int) -> None:
        self.args = (PGKEEP, *args)
        self._result, self._out, self._err = result, out, err
        self._data = dict.fromkeys((result, out, err), b"")
        self._open = set(self._data)
        deadline = time.monotonic() + START_SECONDS
        while b"\n" not in self._data[result]:
            self._read_some([result], deadline)
            assert result in self._open, "the process that starts pgkeep has ended"
        self.pid = int(self._data[result].partition(b"\n")[0])

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = FOR_EVER) -> int:
        self._read_all([self._result], timeout)
        if self.returncode is None:
            said = self._data[self._result]
            assert said.endswith(b"\n"), f"the process that starts pgkeep has ended: {said!r}"
            self.returncode = int(said.split()[1])
        return self.returncode

    def communicate(self, timeout: float = FOR_EVER) -> tuple[str, str]:
        out, err = self.output(timeout)
        return _text(out), _text(err)

    def output(self, timeout: float = FOR_EVER) -> tuple[bytes, bytes]:
        self._read_all([self._result, self._out, self._err], timeout)
        self.wait()
        return self._data[self._out], self._data[self._err]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        for descriptor in [*self._open]:
            self._close(descriptor)

    def _read_all(self, descriptors: Sequence[int], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while left := [one for one in descriptors if one in self._open]:
            self._read_some(left, deadline)

    def _read_some(self, descriptors: Sequence[int], deadline: float) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        left = max(0, deadline - time.monotonic())
        ready = poll.poll(left * 1000)
        if not ready:
            out, err = self._data[self._out], self._data[self._err]
            raise subprocess.TimeoutExpired(self.args, left, out, err)
        for descriptor, _ in ready:
            block = os.read(descriptor, 1 << 16)
            self._data[descriptor] += block
            if not block:
                self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess does


Process = subprocess.Popen[str] | Fork
