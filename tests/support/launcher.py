"""Run pgkeep in a process of its own without the time that Python needs to start and import.

Starting and importing takes a third of a second of processor time, more than most backups of a test
database. So each worker starts one process that imports pgkeep and then forks for every run
(fork_server.py). The fork calls the same `main()` with its own arguments, environment, working
directory and files, and ends like any Python program, except that Python does not free every
object. `run` has a fork, and so has the `pgkeep` in `folder()`, for shells that run commands of
documents. Tests that send signals, set limits, use a terminal or look into a running process start
the installed command instead: `invoke.start`, `faults.Run`, `signals.Struck`.
"""

import atexit
import functools
import os
import selectors
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


def run(
    args: Sequence[str], env: Mapping[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Run pgkeep to its end; raise subprocess.TimeoutExpired where it takes longer."""
    if variables(dict(env)) != variables(os.environ):
        return subprocess.run(
            [PGKEEP, *args], env=dict(env), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=timeout,
        )  # fmt: skip
    return _launcher().run(args, env, timeout)


def folder() -> Path:
    """Return a folder for PATH with a `pgkeep` that is a fork."""
    return _launcher().folder


@functools.cache
def _launcher() -> "_Launcher":
    launcher = _Launcher()
    atexit.register(launcher.close)
    return launcher


class _Launcher:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pgkeep-launcher-"))
        self._name = self.folder.name
        self._control, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self._name}")  # has no path, which TMPDIR could make too long
            listener.listen(64)
            descriptors = [theirs.fileno(), listener.fileno()]
            self._process = subprocess.Popen(
                [sys.executable, fork_server.__file__, *map(str, descriptors)],
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

    def run(
        self, args: Sequence[str], env: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        pipes = [os.pipe() for _ in range(2)]
        files = [os.open(os.devnull, os.O_RDONLY), *(write for _, write in pipes)]
        try:
            result = fork_client.ask(self._name, list(args), dict(env), files)
        finally:
            for descriptor in files:
                os.close(descriptor)
        deadline = time.monotonic() + timeout
        read = [*(read for read, _ in pipes), result]
        out, err, end = _read_all(read, deadline, (PGKEEP, *args))
        assert end.endswith(b"\n"), f"the process that starts pgkeep has ended: {err!r}"
        code = int(end.split()[1])
        return subprocess.CompletedProcess((PGKEEP, *args), code, _text(out), _text(err))


def _text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n")  # as subprocess does


def _read_all(pipes: Sequence[int], deadline: float, command: Sequence[str]) -> list[bytes]:
    """Read output, errors and result to their ends; kill what takes too long."""
    data = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        try:
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise subprocess.TimeoutExpired(
                        command, left, *(data[pipe].decode() for pipe in pipes[:2])
                    )
                for key, _ in selector.select(left):
                    block = os.read(key.fd, 1 << 16)
                    data[key.fd] += block
                    if not block:
                        selector.unregister(key.fd)
        except BaseException:
            if pid := data[pipes[2]].partition(b"\n")[0]:
                os.kill(int(pid), signal.SIGKILL)
            raise
        finally:
            for pipe in pipes:
                os.close(pipe)
    return list(data.values())
