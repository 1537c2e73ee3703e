"""The new data directory: it has a cluster that is proved, or it does not exist."""

import contextlib
import os
import pwd
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import errors as e
from ..postgres.server import (
    SOCKET_NAME,
    SOCKET_PATH_BYTES,
    UNPRIVILEGED,
    Account,
    reaper,
    temporary_places,
)
from ..progress import size as shown
from ..stores.local import sync_directory, sync_name
from .recovery_settings import PORT

_PREFIX = ".pgkeep-pitr-"
DATA = "data"  # in a working folder
_MARK = "PG_VERSION"  # without it, PostgreSQL does not start on a directory
_SERVICE_USER = "postgres"


@contextlib.contextmanager
def passable(directory: Path) -> Iterator[None]:
    """Let the server's user pass an existing directory; afterwards it has its own mode again."""
    if not directory.exists():
        yield
        return
    mode = directory.stat().st_mode & 0o7777
    directory.chmod(mode | 0o011)
    try:
        yield
    except BaseException:
        directory.chmod(mode)
        raise


@contextlib.contextmanager
def working_folder(place: Path, owner: Account | None = None) -> Iterator[Path]:
    """Yield a folder that the server's user can pass; what is in it is private.

    Should we be killed, a shell that was started before stops the server in it and removes it.
    """
    folder = place / f"{_PREFIX}{secrets.token_hex(6)}"
    with reaper(folder / DATA, folder):
        try:
            folder.mkdir(mode=0o700)
            folder.chmod(0o711 if owner is None else 0o700)
            if owner is not None:
                owner.own(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def run_folder(account: Account) -> Iterator[Path]:
    """Yield a folder of the server's user for its socket, whose path is short.

    Raises:
        Refused: the user cannot enter any temporary folder.

    """
    place = next((place for place in temporary_places() if account.can_enter(place)), None)
    if place is None:
        raise e.Refused(
            f"the server that recovers cannot enter {tempfile.gettempdir()}",
            hint=f'Started by root, it runs as the user "{UNPRIVILEGED}".',
        )
    path = place / f"{_PREFIX}{'0' * 12}" / SOCKET_NAME.format(port=PORT)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES or "," in str(place):
        place = Path("/tmp")  # noqa: S108
    with working_folder(place.resolve(), account) as folder:
        yield folder


def place_of(directory: Path) -> Path:
    """Return where the directory is prepared: on its own file system.

    Beside it, so that it appears at once; in it if it exists, because it can be a mount point.
    """
    return directory if directory.exists() else directory.parent


def check(directory: Path, needed: int, account: Account) -> None:
    """Refuse a directory that is in use, and one without room.

    Raises:
        Refused: it is not empty, its parent does not exist, or space is short.

    """
    if not directory.parent.is_dir():
        raise e.Refused(f"directory {directory.parent} does not exist")
    if directory.is_symlink() or (
        directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise e.Refused(
            f"{directory} is not an empty directory",
            hint="Restore into a new directory; nothing is ever restored over a cluster.",
        )
    if not account.can_enter(directory.parent):
        raise e.Refused(
            f"the server that recovers cannot enter {directory.parent}",
            hint=f'Started by root, it runs as the user "{UNPRIVILEGED}". Make all directories of'
            " the path executable for others (chmod o+x), or choose another one.",
        )
    check_space(place_of(directory), needed)


def check_space(place: Path, needed: int) -> None:
    """Refuse if less is free than needed.

    Raises:
        NoSpace: space is short.

    """
    free = shutil.disk_usage(place).free
    if free < needed:
        raise e.NoSpace(f"{place} has {shown(free)} free, the restore needs {shown(needed)}")


def owner_of(directory: Path, wanted: str | None) -> tuple[str, Account]:
    """Return the name of the user who will start the server, and who gets the files.

    An ordinary user has them already. Its group can be another one than that of its account.

    Raises:
        UsageError: the user does not exist, or only root could give the files to it.

    """
    current = os.geteuid()
    if current != 0:
        name = _user(current)[0]
        if wanted not in (None, name):
            raise e.UsageError("--owner requires root")
        return name, Account()
    if wanted is not None:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise e.UsageError(f"--owner: found {wanted!r}, expected a user") from None
        return wanted, Account(uid=entry.pw_uid, gid=entry.pw_gid)
    place = place_of(directory)
    above = place.stat().st_uid if place.exists() else 0
    if above != 0:
        return _user(above)
    for name in (_SERVICE_USER, UNPRIVILEGED):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return name, Account(uid=entry.pw_uid, gid=entry.pw_gid)
    return _user(current)


def _user(uid: int) -> tuple[str, Account]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:  # a container can have a user without a name
        return str(uid), Account(uid=uid, gid=os.getegid())
    return entry.pw_name, Account(uid=uid, gid=entry.pw_gid)


def flush(folder: Path) -> None:
    """Flush all files below a folder to disk."""
    for _, _, names, directory in os.fwalk(folder):
        for name in names:
            if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(name, flags, dir_fd=directory)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
        os.fsync(directory)


def appear(data: Path, directory: Path) -> None:
    """Make a finished data directory the new one; the last step of a restore."""
    if not directory.exists():
        data.rename(directory)
        sync_name(directory)
        return
    status = data.stat()
    if os.geteuid() == 0:
        os.chown(directory, status.st_uid, status.st_gid)
    directory.chmod(0o700)
    for item in sorted(data.iterdir(), key=lambda item: item.name == _MARK):
        if item.name == _MARK:
            sync_directory(directory)
        item.rename(directory / item.name)
    sync_directory(directory)
