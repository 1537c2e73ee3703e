"""Tablespaces of a restored cluster: never at the place that they have on the source.

Base backups have their files as directories in pg_tblspc, which PostgreSQL accepts ("in place").
WAL after a base backup can create others: recovery would link to the location on the source, which
on its own host is the directory of the live cluster. So the server that recovers sees a folder of
ours at this location, and the files are moved into the data directory afterwards.
"""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from .. import errors as e
from ..model.wal import Lsn
from ..stores.local import sync_directory, sync_name
from . import target_directory
from .base_manifest import Tablespace

FOLDER = "pg_tblspc"


def created_after(created: Mapping[str, Lsn], start: Lsn) -> list[str]:
    """Return the locations of the tablespaces that recovery from a position creates."""
    return sorted(location for location, lsn in created.items() if lsn >= start)


def elsewhere(locations: Iterable[str], folder: Path) -> dict[str, Path]:
    """Make a folder for each location that recovery must not use; return them."""
    found = {}
    for number, location in enumerate(locations, 1):
        own = folder / f"tablespace-{number}"
        own.mkdir(mode=0o700)
        found[location] = own
    return found


def vacate(data: Path, mapped: Mapping[str, Path], known: Iterable[Tablespace]) -> None:
    """Move a tablespace that the WAL creates, and that the base backup has, to its folder.

    Recovery replaces it with a link, which it cannot if it is a directory with files.
    """
    for space in known:
        directory = data / FOLDER / str(space.oid)
        if space.location in mapped and directory.is_dir() and not directory.is_symlink():
            folder = mapped[space.location]
            folder.rmdir()
            directory.rename(folder)
            directory.symlink_to(space.location)


def bring_home(data: Path, mapped: Mapping[str, Path]) -> dict[int, str]:
    """Replace links to locations of the source by the files; return the locations by oid.

    Raises:
        RestoreFailed: a link leads to another place.

    """
    locations = {}
    for link in (data / FOLDER).iterdir():
        if not link.is_symlink():
            continue
        location = str(link.readlink())
        if location not in mapped:
            raise e.RestoreFailed(f"{link} leads to {location}, which is not a restored directory")
        link.unlink()
        mapped[location].rename(link)
        locations[int(link.name)] = location
    return locations


def check_mapping(mapping: Mapping[str, Path], known: Collection[str]) -> None:
    """Check that each old location is known, and each new one is an empty directory, or can be.

    Raises:
        Refused: one is not.

    """
    for old, new in mapping.items():
        if old not in known:
            raise e.Refused(
                f"no base backup has a tablespace at {old}"
                f" (found: {', '.join(sorted(known)) or 'none'})"
            )
        if new.exists() and (not new.is_dir() or any(new.iterdir())):
            raise e.Refused(f"{new}, for the tablespace at {old}, is not an empty directory")
        if not new.parent.is_dir():
            raise e.Refused(f"directory {new.parent} does not exist")


@contextlib.contextmanager
def working_folder(new: Path) -> Iterator[Path]:
    """Yield a folder on the file system of a new location, which is made if it does not exist."""
    made = not new.exists()
    new.mkdir(mode=0o700, exist_ok=True)
    try:
        with target_directory.working_folder(new) as folder:
            yield folder
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                new.rmdir()
        raise


def move(
    data: Path, locations: Mapping[int, str], mapping: Mapping[str, Path],
    moved: Mapping[str, Path],
) -> list[int]:  # fmt: skip
    """Move tablespaces to the file systems of their new locations; return those that stay."""
    stay = []
    for directory in sorted((data / FOLDER).iterdir()):
        location = locations.get(int(directory.name), "")
        if location not in mapping:
            stay.append(int(directory.name))
            continue
        for part in directory.iterdir():
            shutil.move(part, moved[location] / part.name)
        directory.rmdir()
        directory.symlink_to(mapping[location])
    return stay


def appear(moved: Mapping[str, Path], mapping: Mapping[str, Path]) -> None:
    """Put moved tablespaces into their new locations."""
    for location, folder in moved.items():
        status = folder.stat()
        if os.geteuid() == 0:
            os.chown(mapping[location], status.st_uid, status.st_gid)
        for part in folder.iterdir():
            part.rename(mapping[location] / part.name)
        sync_directory(mapping[location])
        sync_name(mapping[location])
