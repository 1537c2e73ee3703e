"""Have a fork of fork_server.py run pgkeep; as a program, in the place of pgkeep in a shell.

Python starts this program in 0.01 s, because it imports little: not socket, array, collections. It
becomes the real command where a fork would not have what a process inherits, such as a limit.
"""

import _socket
import os
import resource
import sys

# Python reads these while it starts.
READ_AT_START = ("PYTHON", "LC_", "LANG")


def variables(environ: "dict[str, str] | os._Environ[str]") -> list[tuple[str, str]]:
    """Return the variables that Python reads while it starts."""
    return sorted(item for item in environ.items() if item[0].startswith(READ_AT_START))


def inherited() -> str:
    """Return, as text, what a fork has from its server and a command from its shell."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        mask = [line for line in status if line.startswith("Umask")]
    limits = [
        resource.getrlimit(getattr(resource, name))
        for name in sorted(dir(resource))
        if name.startswith("RLIMIT_")
    ]
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    return repr((mask, os.geteuid(), priority, limits, variables(os.environ)))


def ask(
    name: str, args: list[str], environ: "dict[str, str] | os._Environ[str]", files: list[int]
) -> int:
    """Start a fork with standard input, output and error; return what reports its id and end."""
    request = os.memfd_create("request")
    words = [os.getcwd(), str(len(args)), *args]  # noqa: PTH109 - pathlib takes as long as all else
    words += ("=".join(item) for item in environ.items())
    os.write(request, os.fsencode("\0".join(words)))
    read, write = os.pipe()
    control = _socket.socket(_socket.AF_UNIX)
    try:
        control.connect(f"\0{name}")
        numbers = [request, *files, write]
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
        control.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    finally:
        control.close()
        os.close(request)
        os.close(write)
    return read


def _main(name: str, expected: str, command: str, *args: str) -> None:
    if any(map(os.isatty, range(3))) or inherited() != expected:
        os.execv(command, [command, *args])  # noqa: S606
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415

    result = open(ask(name, list(args), os.environ, [0, 1, 2]))  # noqa: SIM115
    os.closerange(0, 3)
    pid = int(result.readline())
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, lambda received, _: os.kill(pid, received))
    code = int(result.readline())
    if code < 0:
        _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    _main(*sys.argv[1:])
