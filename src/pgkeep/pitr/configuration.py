"""Configuration files of a server outside its data directory, which a base backup does not contain.

Debian keeps them in /etc/postgresql. They are stored in a small tar archive beside the parts, and a
restore writes them below `pgkeep.source` in the data directory, where the server does not read
them.
"""

import io
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg

from ..artifact.compression import gzip
from ..postgres.connection import Connection
from . import parts

FOLDER = "pgkeep.source"  # in a restored data directory
LIMIT = 4 << 20  # bytes of one file
TOTAL = 64 << 20  # bytes of the archive
# Each is a query of its own: some views need privileges, or a newer server.
_NAMES = (
    "SELECT setting FROM pg_catalog.pg_settings WHERE name ~ '^(config|hba|ident)_file$'",
    "SELECT DISTINCT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL",
    "SELECT DISTINCT sourcefile FROM pg_catalog.pg_file_settings",
    "SELECT DISTINCT file_name FROM pg_catalog.pg_hba_file_rules",
    "SELECT DISTINCT file_name FROM pg_catalog.pg_ident_file_mappings",
)


def read(connection: Connection) -> tuple[dict[str, bytes], list[str]]:
    """Return the files outside the data directory by path, and warnings about unread ones."""
    names: set[str] = set()
    for query in _NAMES:
        try:
            names |= {name for (name,) in connection.execute(query.encode()) if name}
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable,
                psycopg.errors.UndefinedColumn):  # fmt: skip
            continue
    data = _data_directory(connection)
    outside = sorted(name for name in names if data is None or not name.startswith(data + "/"))
    files: dict[str, bytes] = {}
    refused: list[str] = []
    for name in outside:
        try:
            row = connection.execute(
                "SELECT pg_catalog.pg_read_binary_file(%s, 0, %s)", [name, LIMIT + 1]
            ).fetchone()
        except psycopg.Error as error:
            refused.append(f"{name} ({str(error).splitlines()[0]})")
            continue
        contents = b"" if row is None else bytes(row[0])
        if len(contents) > LIMIT or sum(map(len, files.values())) > TOTAL // 2:
            refused.append(f"{name} (too large)")
        else:
            files[name] = contents
    if data is None and not files:
        # Without it, nobody knows whether the files are in the data directory anyway.
        return {}, ["the role cannot see where the configuration files of the server are"]
    missing = "configuration files outside the data directory are not in the base backup"
    return files, [f"{missing}: {', '.join(refused)}"] if refused else []


def _data_directory(connection: Connection) -> str | None:
    row = connection.execute(
        "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'"
    ).fetchone()
    return None if row is None else str(row[0]).rstrip("/")


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return the files as a compressed tar archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, contents in sorted(files.items()):
            info = tarfile.TarInfo(name.lstrip("/"))
            info.size, info.mode = len(contents), 0o600
            tar.addfile(info, io.BytesIO(contents))
    return gzip(data.getvalue())


def unpack(blocks: Iterable[bytes], name: str, target: Path) -> None:
    """Write the files below a data directory, in the place of those of an earlier restore.

    Raises:
        VerificationFailed: the archive is damaged.
        RestoreFailed: a file could not be written.

    """
    folder = target / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    parts.unpack(blocks, name, folder, TOTAL, lambda _: None)
