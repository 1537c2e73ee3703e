"""Configuration files of a server outside its data directory, which a base backup does not contain.

Debian keeps them in /etc/postgresql. They are stored in a small tar archive beside the parts, and a
restore writes them below `pgkeep.source` in the data directory, where the server does not read
them.
"""

import io
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath

import psycopg

from .. import errors as e
from ..artifact.file import compress
from ..catalog.side_files import open_contents
from ..crypt.opening import Keys
from ..model.manifest import FileFacts
from ..postgres.connection import Connection
from ..stores.store import Store, sha256_of
from . import parts

FOLDER = "pgkeep.source"  # in a restored data directory
LIMIT = 4 << 20  # bytes of one file
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
        if len(contents) > LIMIT:
            refused.append(f"{name} (more than {LIMIT} bytes)")
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
    return compress(data.getvalue())


def unpack(store: Store, facts: FileFacts, target: Path, keys: Keys) -> None:
    """Write the files below a data directory, in the place of those of an earlier restore.

    Raises:
        VerificationFailed: the archive is damaged.
        StoreError: it could not be read.

    """
    folder = target / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    with closing(store.open(facts.name)) as stored:
        if sha256_of(stored) != facts.sha256:
            raise e.VerificationFailed(f"{stored.name}: the SHA-256 differs from the manifest")
    with closing(open_contents(store, facts.name, keys)) as source:
        parts.unpack(source, folder, lambda _: None)


def restored(path: str, target: Path) -> Path:
    """Return where a file of the source is in a restored data directory."""
    return target / FOLDER / PurePosixPath(path).relative_to("/")
