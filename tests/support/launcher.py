"""Run pgkeep in a process of its own without the time that Python needs to start and import.

Starting and importing takes a third of a second of processor time, more than most backups of a test
database. So each worker starts one process that imports pgkeep and then forks for every run. The
fork calls the same `main()` with its own arguments, environment, working directory and output, and
ends like any Python program, except that Python does not free every object. Tests that send
signals, set limits, use a terminal or look into a running process start the installed command
instead: `invoke.start`, `faults.Run`, `signals.Struck`.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PGKEEP = str(Path(sys.executable).parent / "pgkeep")

# Not numpy, which starts threads: a process with threads must not fork.
PRELOADED = (
    *(f"pgkeep.cli.{name}" for name in (
        "program", "adopt", "backup", "cat", "config", "doctor", "drill", "index", "list",
        "metrics", "prune", "restore", "show", "status", "sync", "verify",
    )),
    "pgkeep.stores.s3.store",
)  # fmt: skip

# Python reads these while it starts.
READ_AT_START = ("PYTHON", "LC_", "LANG")


def run(
    args: Sequence[str], env: Mapping[str, str], timeout: float
) -> "subprocess.CompletedProcess[str]":
    """Run pgkeep to its end; raise subprocess.TimeoutExpired where it takes longer."""
    if _read_at_start(env) != _read_at_start(os.environ):
        return subprocess.run(
            [PGKEEP, *args], env=dict(env), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=timeout,
        )  # fmt: skip
    return _launcher().run(args, env, timeout)


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


@functools.cache
def _launcher() -> "_Launcher":
    launcher = _Launcher()
    atexit.register(launcher.close)
    return launcher


class _Launcher:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def run(
        self, args: Sequence[str], env: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        request = os.memfd_create("request")
        os.write(request, json.dumps([args, dict(env), str(Path.cwd())]).encode())
        pipes = [os.pipe() for _ in range(3)]
        written = [request, *(write for _, write in pipes)]
        try:
            with self._lock:
                socket.send_fds(self._control, [b"."], written)
        finally:
            for descriptor in written:
                os.close(descriptor)
        deadline = time.monotonic() + timeout
        out, err, result = _read_all([read for read, _ in pipes], deadline, (PGKEEP, *args))
        assert result.endswith(b"\n"), f"the process that starts pgkeep has ended: {err!r}"
        code = int(result.split()[1])
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


# -- the process that forks


def _serve(control: socket.socket) -> None:
    """Fork for every request; return in a fork that has become pgkeep, and when nobody asks."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        _reap(os.WNOHANG if descriptors else 0)
        if not descriptors:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _fork(*descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(options: int) -> None:
    """Wait for forks that have ended, or for all of them: their time is counted as ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _fork(request: int, out: int, err: int, result: int) -> None:
    """Fork again: the child returns as pgkeep, its parent reports its process id and its end."""
    pid = os.fork()
    if pid == 0:
        os.close(result)
        _become(request, out, err)
        return
    for descriptor in (request, out, err):
        os.close(descriptor)
    os.write(result, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(result, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: int, out: int, err: int) -> None:
    with open(request, "rb") as file:
        file.seek(0)
        args, env, folder = json.load(file)
    for descriptor, number in ((out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(folder)
    sys.argv = [PGKEEP, *args]


def _leave(codes: Sequence[object]) -> None:
    """End with an exit code, if there is one, without freeing every object.

    Memory that a fork writes to is copied: this took most of the time of a short command.
    """
    match codes:
        case [int(code)]:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)


if __name__ == "__main__":
    sys.path[0] = str(Path(PGKEEP).parent)  # as for the command
    exit_codes: list[object] = []
    atexit.register(_leave, exit_codes)  # the first one, so it runs after all others
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in PRELOADED:
        importlib.import_module(module)
    assert threading.active_count() == 1
    importlib.import_module("pgkeep.postgres.programs").installations()  # and keep the answer
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every object
    _serve(requests)
    from pgkeep.cli import main

    try:
        main()
    except SystemExit as ended:
        exit_codes.append(ended.code)
        raise
