"""Run a temporary PostgreSQL server on its own socket: for demo, drill and tests."""

import contextlib
import errno
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from .. import errors as e
from .. import processes
from . import isolation

# Nothing needs to survive a crash of the machine. What was committed survives a crash of the
# server all the same, for tests that cause one: synchronous_commit stays on, it costs no fsync.
TEMPORARY_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "listen_addresses": "",
    "max_locks_per_transaction": "512",
}

# PostgreSQL refuses to run as root; this user exists on every system and owns nothing.
UNPRIVILEGED = "nobody"

# The kernel allows 107 bytes for the path of a socket, and PostgreSQL appends its name.
SOCKET_PATH_BYTES = 107
SOCKET_NAME = ".s.PGSQL.{port}"

# The server must not outlive us even when we are killed with -9, and PR_SET_PDEATHSIG follows the
# thread that started it, is forgotten at a change of user, and exists on Linux only. So a shell
# waits for the end of a pipe that only we hold open, then does what __exit__ would have done.
# Limit: a process forked from us without exec holds the pipe open too. The loop is bounded
# because nobody may be there to reap the server (a container without an init).
REAPER = """
read -r _
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null)
case $pid in *[!0-9]* | 0*) pid= ;; esac # a restored file can contain anything
[ -z "$pid" ] || kill -QUIT "$pid" 2>/dev/null
shift
n=0
while [ -n "$pid" ] && [ "$n" -lt 100 ] && kill -0 "$pid" 2>/dev/null; do
    sleep 0.1
    n=$((n + 1))
done
rm -rf -- "$@"
"""

PROGRAMS = ("initdb", "postgres")

# A server gets no other variables of our environment, because it can run untrusted code.
ENVIRONMENT = re.compile(r"PATH|LANG|LC_.*|LOCPATH|TZ|LD_LIBRARY_PATH")

START_SECONDS = 60
STOP_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating system user that runs the server; None is the current user."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> Self:
        """Return the current user, or an unprivileged user if pgkeep runs as root."""
        if os.geteuid() != 0:
            return cls()
        try:
            entry = pwd.getpwnam(UNPRIVILEGED)
        except KeyError:
            raise e.PgkeepError(
                f'cannot run PostgreSQL as root, and no user named "{UNPRIVILEGED}"',
                hint="Run pgkeep as an ordinary user.",
            ) from None
        return cls(uid=entry.pw_uid, gid=entry.pw_gid)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program as this user, isolated from our terminal's signals."""
        if self.uid is not None:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
            **options,
        )

    def can(self, command: Sequence[str]) -> bool:
        """Whether this user can run a program successfully."""
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
        try:
            with self.popen(command, **silent) as process:
                return process.wait(START_SECONDS) == 0
        except (OSError, subprocess.SubprocessError):
            return False

    def can_enter(self, folder: Path) -> bool:
        """Whether this user can access the contents of a folder."""
        return self.can(["/bin/sh", "-c", 'test -x "$1"', "sh", str(folder)])

    def own(self, root: Path) -> None:
        """Make this user the owner of a folder and its contents."""
        if self.uid is None or self.gid is None:
            return
        if root.is_file():
            os.chown(root, self.uid, self.gid, follow_symlinks=False)
        for folder, _, files in os.walk(root):
            for path in (folder, *(os.path.join(folder, name) for name in files)):  # noqa: PTH118
                os.chown(path, self.uid, self.gid, follow_symlinks=False)


class Server:
    """A temporary PostgreSQL server for a with block; its data is removed afterwards.

    `directory` contains its temporary folder, by default that of the system. Settings are written
    to postgresql.conf and override the temporary ones; initdb's arguments override ours. With a
    password, every role must use one. Isolated, the server sees no other files and no network if
    the system allows that; `isolation` reports what is in effect.
    """

    host: str
    log: Path
    isolation: tuple[str, ...]

    def __init__(
        self,
        bin_folder: Path,
        *,
        settings: Mapping[str, str] = {},
        initdb: Sequence[str] = (),
        directory: Path | None = None,
        user: str = "postgres",
        password: str | None = None,
        isolated: bool = False,
    ) -> None:
        self.user = user
        self._password = password
        self._isolated = isolated
        self._namespaces: isolation.Namespaces | None = None
        self._bin = bin_folder.absolute()
        self._settings = {**TEMPORARY_SETTINGS, **settings}
        self._initdb = tuple(initdb)
        self._directory = directory
        self._account = Account()
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = contextlib.ExitStack()
        self.port = int(self._settings.get("port", "5432"))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._account = Account.choose()
            folder = stack.enter_context(self._folder())
            self.host = str(self._socket_folder(folder, stack))
            self._data = folder / "data"
            stack.enter_context(reaper(self._data, folder, Path(self.host)))
            self.log = folder / "log"
            self._programs = reachable(self._bin, PROGRAMS, folder, self._account)
            self._create()
            self._isolate(folder)
            stack.callback(self.stop)
            self.start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    @property
    def params(self) -> dict[str, str]:
        """The libpq keywords to connect as the superuser; the caller adds the database."""
        password = {} if self._password is None else {"password": self._password}
        return {"host": self.host, "port": str(self.port), "user": self.user, **password}

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise e.PgkeepError("the temporary server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server on its data and wait until it accepts connections."""
        if self._process is not None:
            return
        socket = '"' + self.host.replace('"', '""') + '"'
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-k", socket]
        if self._namespaces is not None:
            command = self._namespaces.command(command)
        self._process = self._run(command)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(self._process.pid):
            if self._process.poll() is not None:
                self._process = None
                raise self._failed("the temporary server did not start")
            if time.monotonic() > deadline:
                self.stop(immediate=True)
                raise self._failed(f"the temporary server was not ready after {START_SECONDS} s")
            time.sleep(0.02)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and end its sessions; `immediate` means without a checkpoint."""
        process = self._process
        if process is None:
            return
        for number in (signal.SIGQUIT,) if immediate else (signal.SIGINT, signal.SIGQUIT):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                self._process = None
                return
        self.kill()

    def kill(self) -> None:
        """Kill the server and its backends like a crash; start() recovers the data."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        # An orphaned backend ends as soon as it waits. One that computes would keep the shared
        # memory, and with it the data directory, in use for an unlimited time.
        while orphans := tuple(_working_in(self._data)):
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _folder(self) -> contextlib.AbstractContextManager[Path]:
        if self._directory is not None:
            return private_folder(self._account, [self._directory])
        return private_folder(self._account, temporary_places())

    def _socket_folder(self, folder: Path, stack: contextlib.ExitStack) -> Path:
        path = folder / SOCKET_NAME.format(port=self.port)
        # libpq treats a comma as the end of a host name.
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES and "," not in str(folder):
            return folder
        return stack.enter_context(private_folder(self._account, [Path("/tmp")]))  # noqa: S108

    def _create(self) -> None:
        # If options contradict each other, initdb uses the last one.
        options = ["--no-sync", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", *self._initdb]
        with self._password_file() as arguments:
            command = [str(self._programs / "initdb"), "-D", str(self._data), *options, *arguments]
            process = self._run([*command, "-U", self.user])
            if process.wait() != 0:
                raise self._failed("initdb failed")
        lines = [f"{name} = {quoted(value)}\n" for name, value in self._settings.items()]
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.writelines(lines)

    @contextlib.contextmanager
    def _password_file(self) -> Iterator[list[str]]:
        """Yield initdb's arguments for the superuser's password, which stays out of `ps`."""
        if self._password is None:
            yield []
            return
        path = self._data.with_name("password")
        path.write_text(self._password)  # in a folder that no other user can enter
        try:
            self._account.own(path)
            yield ["-A", "scram-sha-256", f"--pwfile={path}"]
        finally:
            path.unlink()

    def _isolate(self, folder: Path) -> None:
        """Find out which isolation is available."""
        self.isolation = ("user",) if self._account.uid is not None else ()
        if not self._isolated:
            return
        named = {Path(part) for value in self._settings.values() for part in _paths(value)}
        own = [folder, Path(self.host)]
        self._namespaces = namespaces(self._programs, folder, self._account, own, readable=named)
        if self._namespaces is not None:
            self.isolation += ("namespaces",)

    def _run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            try:
                return self._account.popen(command, stdout=log, stderr=log, cwd=self.log.parent)
            except (OSError, subprocess.SubprocessError) as error:
                raise e.PgkeepError(f"cannot run {command[0]}: {error}") from error

    def _is_ready(self, pid: int) -> bool:
        # What pg_ctl --wait looks at too: pid in the first line, status in the eighth. Unlike
        # pg_isready it costs no process, and the npm packages come without that program.
        try:
            lines = (self._data / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _failed(self, message: str) -> e.PgkeepError:
        tail = self.log.read_text(errors="replace").splitlines()[-10:]
        hint = "Its log ends with:\n" + "\n".join(tail)
        if os.strerror(errno.ENOSPC) in hint:
            return e.NoSpace(f"{message}: the disk of {self.log.parent} is full", hint=hint)
        return e.PgkeepError(message, hint=hint)


def temporary_places() -> list[Path]:
    """Return where temporary folders can be, in the order of preference."""
    # TMPDIR can be our private one, which the server's user cannot enter.
    return [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108


@contextlib.contextmanager
def private_folder(account: Account, places: Sequence[Path]) -> Iterator[Path]:
    """Yield a new folder of the server's user, which is removed at the end."""
    place = next((place for place in places if account.can_enter(place)), None)
    if place is None:
        raise e.PgkeepError(
            f"the server cannot enter {' or '.join(map(str, places))}",
            hint=f'Started by root, the server runs as the user "{UNPRIVILEGED}".',
        )
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-", dir=place)).resolve()
    try:
        account.own(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reachable(bin_folder: Path, names: Sequence[str], folder: Path, account: Account) -> Path:
    """Return a folder from which the server's user can run the programs, or a copy of it."""
    for name in names:
        if not (bin_folder / name).is_file():
            raise e.PgkeepError(f"found no server program {bin_folder / name}")
    if _runs(bin_folder, names, account):
        return bin_folder
    # For example, a virtual environment below /root.
    copy = _copy_installation(bin_folder, folder / "installation")
    account.own(folder / "installation")
    if not _runs(copy, names, account):
        raise e.PgkeepError(f"neither {bin_folder / names[0]} nor a copy of it can be run")
    return copy


def _runs(folder: Path, names: Sequence[str], account: Account) -> bool:
    return all(account.can([str(folder / name), "--version"]) for name in names)


def namespaces(
    programs: Path, folder: Path, account: Account, own: Sequence[Path],
    *, readable: Iterable[Path] = (), elsewhere: Mapping[str, Path] = {},
) -> isolation.Namespaces | None:  # fmt: skip
    """Return the namespaces in which a server of these programs runs; None if not permitted."""
    if not isolation.is_installed():
        return None
    root = folder / "root"
    root.mkdir(exist_ok=True)
    account.own(root)
    installation = programs.parent
    found = isolation.Namespaces(
        folder=folder,
        own=own,
        readable=[installation, _libraries(installation), *readable],
        uid=os.geteuid() if account.uid is None else account.uid,
        gid=os.getegid() if account.gid is None else account.gid,
        elsewhere=elsewhere,
    )
    return found if account.can(found.command([str(programs / "postgres"), "--version"])) else None


def _copy_installation(bin_folder: Path, target: Path) -> Path:
    """Copy all files that the programs find by relative paths; return the copy's bin folder."""
    installation = bin_folder.parent
    package = installation.parent
    copy = target / package.name / installation.name
    for name in ("bin", "lib", "share"):
        shutil.copytree(installation / name, copy / name, symlinks=True)
    libraries = _libraries(installation)
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return copy / "bin"


def _libraries(installation: Path) -> Path:
    """Return the folder where wheels keep the libraries that auditwheel renamed."""
    package = installation.parent
    return package.with_name(f"{package.name}.libs")


def _environment() -> dict[str, str]:
    kept = processes.environment({})
    return {name: value for name, value in kept.items() if ENVIRONMENT.fullmatch(name)}


def _paths(setting: str) -> list[str]:
    """Return the absolute paths in a setting, such as extension_control_path."""
    return [part for part in map(str.strip, re.split("[:,]", setting)) if part.startswith("/")]


@contextlib.contextmanager
def reaper(data: Path, *folders: Path) -> Iterator[None]:
    """Have the server of a data directory stopped, and folders removed, should we be killed."""
    command = ["/bin/sh", "-c", REAPER, "sh", str(data), *map(str, folders)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, start_new_session=True, cwd="/", env=_environment()
    ) as process:
        pipe: IO[bytes] | None = process.stdin
        try:
            yield
        finally:
            # The server is stopped; its reaper only has to remove the folders.
            if pipe is not None:
                pipe.close()


def _working_in(folder: Path) -> Iterator[int]:
    """Yield the processes with this working directory, as every backend has (Linux)."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == folder:
                yield int(link.parent.name)


def quoted(value: str) -> str:
    """Return a value as postgresql.conf has it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
