"""The process that imports pgkeep once, and forks for every run; see launcher.py.

Its arguments are 1 where it also imports what few commands need, else 0; a descriptor that is
closed when nobody will ask any more; and one on which fork_client.py connects.
"""

import atexit
import contextlib
import gc
import importlib
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PGKEEP = str(Path(sys.executable).parent / "pgkeep")

PRELOADED = (
    *(f"pgkeep.cli.{name}" for name in (
        "program", "adopt", "backup", "cat", "config", "doctor", "drill", "history", "hold",
        "index", "list", "metrics", "prune", "release", "restore", "runbook", "show", "status",
        "swap", "sync", "undo", "verify",
    )),
    "pgkeep.stores.s3.store",
)  # fmt: skip
# Only where probably needed: the more memory a process has, the longer its forks take.
HEAVY = (
    *(f"pgkeep.cli.{name}" for name in (
        "init", "key_check", "key_kit", "key_new", "pitr_base", "pitr_restore", "pitr_stream",
        "pitr_windows", "rekey",
    )),
    "pgkeep.crypt.age_identities",
    "pgkeep.crypt.encryption",
    "pgkeep.drill.drill",
    "pgkeep.monitor.pages.rendering",
)  # fmt: skip
# A process with threads must not fork; numpy would start one for each further processor.
WITHOUT_THREADS = {"OPENBLAS_NUM_THREADS": "1"}

DESCRIPTORS = 5  # of a request: itself, standard input, output and error, where its end is reported


def serve(control: socket.socket, listener: socket.socket) -> None:
    """Fork for every request; return in a fork that has become pgkeep, and when nobody asks."""
    while True:
        ready, _, _ = select.select([control, listener], [], [])
        _reap(0 if control in ready else os.WNOHANG)
        if control in ready:
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            _, descriptors, _, _ = socket.recv_fds(connection, 1, DESCRIPTORS)
        if len(descriptors) == DESCRIPTORS and os.fork() == 0:
            control.close()
            listener.close()
            _fork(*descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(options: int) -> None:
    """Wait for forks that have ended, or for all of them: their time is counted as ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _fork(request: int, *files: int) -> None:
    """Fork again: the child returns as pgkeep, its parent reports its process id and its end."""
    *standard, result = files
    pid = os.fork()
    if pid == 0:
        os.close(result)
        _become(request, standard)
        return
    for descriptor in (request, *standard):
        os.close(descriptor)
    os.write(result, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(result, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: int, standard: Sequence[int]) -> None:
    with open(request, "rb") as file:
        file.seek(0)
        folder, count, *words = os.fsdecode(file.read()).split("\0")
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    for word in words[int(count) :]:
        name, _, value = word.partition("=")
        os.environ[name] = value
    time.tzset()
    os.chdir(folder)
    sys.argv = [PGKEEP, *words[: int(count)]]


def _read_descriptions_of_s3() -> None:
    """Have botocore read the long files that describe the service, which pgkeep keeps."""
    client = importlib.import_module("pgkeep.stores.s3.client")
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    client.create_client(client.S3Settings(bucket="none", endpoint="http://127.0.0.1:9"))


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
    heavy, *descriptors = map(int, sys.argv[1:])
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    os.environ |= WITHOUT_THREADS
    for module in (*PRELOADED, *HEAVY) if heavy else PRELOADED:
        importlib.import_module(module)
    if heavy:
        _read_descriptions_of_s3()
    assert len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - also those of libraries
    importlib.import_module("pgkeep.postgres.programs").installations()  # and keep the answer
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every object
    serve(*sockets)
    from pgkeep.cli import main

    try:
        main()
    except SystemExit as ended:
        exit_codes.append(ended.code)
        raise
