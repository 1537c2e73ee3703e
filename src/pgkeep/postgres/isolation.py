"""Restrict a program's access to files and network with Linux namespaces, where allowed.

A server that runs untrusted code must not find secrets or backups. Its root directory contains only
the system's programs and the server's own files. It has no network and sees no other processes.
"""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAMESPACES = ("--user", "--mount", "--net", "--ipc")

# Programs, their libraries and data, which every user can read and no ordinary user can change.
_SYSTEM = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32",
    "/usr/lib64", "/usr/libexec", "/usr/local/lib", "/usr/share", "/nix/store", "/gnu/store",
    "/etc/ld.so.cache", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/localtime",
)  # fmt: skip

# Run as root of a user namespace. The program itself runs in another one inside, as the user that
# it was before: it has no rights over these mounts, and cannot undo them (user_namespaces(7)).
# /proc holds the process itself alone, where the second unshare writes its maps.
_SCRIPT = """
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1 uid=$2 gid=$3 folder=$4
shift 4
bind() {
    if [ -L "$2" ]; then
        mkdir -p "$root$(dirname "$3")"
        [ -e "$root$3" ] || ln -s "$(readlink "$2")" "$root$3"
        return
    elif [ -d "$2" ]; then
        mkdir -p "$root$3"
    elif [ -e "$2" ]; then
        mkdir -p "$root$(dirname "$3")"
        : > "$root$3"
    else
        return 0
    fi
    mount --rbind "$2" "$root$3"
    [ "$1" != ro ] || mount -o remount,bind,ro "$root$3"
}
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir -p "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
    bind "$1" "$2" "$3"
    shift 3
done
shift
for device in null zero random urandom; do
    bind rw "/dev/$device" "/dev/$device"
done
mkdir -p "$root/proc/self" "$root/former"
mount --bind "/proc/$$" "$root/proc/self"
ip link set lo up 2> /dev/null || :
cd "$root"
mount -o remount,bind,ro "$root"
pivot_root . former
umount -l /former
cd "$folder"
exec unshare --user --map-user="$uid" --map-group="$gid" -- "$@"
"""

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """Folders that a program can access: some writable, others read-only."""

    folder: Path  # where it works, and where its root directory is mounted
    own: Sequence[Path]
    readable: Sequence[Path]
    uid: int
    gid: int
    elsewhere: Mapping[str, Path] = field(default_factory=dict)  # path inside -> writable folder

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another command in new namespaces."""
        root = self.folder / "root"
        mounts = [("ro", path, path) for path in (*_SYSTEM, *map(str, self.readable))]
        mounts += [("rw", str(path), str(path)) for path in self.own]
        mounts += [("rw", str(path), inside) for inside, path in self.elsewhere.items()]
        return [
            "unshare", "--map-root-user", *NAMESPACES, "/bin/sh", "-c", _SCRIPT, "sh", str(root),
            str(self.uid), str(self.gid), str(self.folder),
            *(word for mount in mounts for word in mount), "--", *command,
        ]  # fmt: skip


def is_installed() -> bool:
    """Whether the program that creates namespaces exists; it may not be permitted to."""
    return shutil.which("unshare") is not None


@contextlib.contextmanager
def secretive() -> Iterator[None]:
    """Prevent other processes of our user from reading our memory and environment (Linux)."""
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        before = prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError):  # no such call on this system
        yield
        return
    try:
        yield
    finally:
        if before == 1 and os.geteuid() == os.getuid():
            prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
