"""Write files of a base backup and of a WAL archive as this version does, for later versions.

    python -m tests.support.pitr_golden tests/fixtures/pitr/1

The number is that of the format. Files that a released version has written are never written again.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pgkeep.catalog.encryption import encryption_facts
from pgkeep.crypt import recipients
from pgkeep.crypt.options import Encryption
from pgkeep.model.manifest import FileFacts
from pgkeep.model.wal import Segment
from pgkeep.pitr import base, parts
from pgkeep.pitr.archive import WalArchive
from pgkeep.pitr.base_manifest import BaseManifest, Kind, Tablespace
from pgkeep.pitr.location import ClusterFacts
from pgkeep.pitr.wal_file import _HEADER, Origin
from pgkeep.progress import Silent
from pgkeep.stores.local import LocalStore
from tests.support import private_keys

IDENTIFIER = "7712692484203507928"
SIZE = 1 << 20
FILES = {"PG_VERSION": b"17\n", "base/5/1": b"rows" * 500, "pg_tblspc/16400/PG_17/5/2": b"space"}


def segment(number: int) -> bytes:
    """Return a segment with a valid header."""
    header = _HEADER.pack(0xD116, 0x0002, 1, number * SIZE, 0, int(IDENTIFIER), SIZE, 8192)
    return header + f"records of segment {number}".encode() + bytes(SIZE - len(header) - 20)


def _data(folder: Path, kind: Kind) -> None:
    for path, contents in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(contents + kind.encode())
    listed = [
        {"Path": path, "Size": (folder / path).stat().st_size, "Checksum-Algorithm": "SHA256",
         "Checksum": hashlib.sha256((folder / path).read_bytes()).hexdigest()}
        for path in FILES
    ]  # fmt: skip
    manifest = {"PostgreSQL-Backup-Manifest-Version": 2, "Files": listed, "WAL-Ranges": [
        {"Timeline": 2, "Start-LSN": "0/200028", "End-LSN": "0/200158"}]}  # fmt: skip
    (folder / "backup_manifest").write_text(json.dumps(manifest))


def write(folder: Path) -> None:
    """Write a full and an incremental base backup and some WAL, encrypted with age."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    key = private_keys.age_key(folder)
    encryption = Encryption(recipients=recipients.parse(key.recipient))
    root = folder / "pitr"
    facts = ClusterFacts(system_identifier=IDENTIFIER, segment_size=SIZE, version_num=170006)
    root.mkdir()
    (root / f"{IDENTIFIER}.cluster.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"
    )
    store = LocalStore(root / IDENTIFIER / "wal")
    archive = WalArchive(store, Origin(IDENTIFIER, SIZE), encryption)
    for number in (2, 3):
        archive.put(Segment(1, number).name(SIZE), segment(number))
    archive.put_partial(Segment(1, 4).name(SIZE) + ".partial", segment(4))
    archive.put("00000002.history", b"1\t0/480000\tno recovery target specified\n")
    store = LocalStore(root / IDENTIFIER / "base")
    parent = None
    for hour, kind in enumerate(Kind):
        with tempfile.TemporaryDirectory() as name:
            data = Path(name)
            _data(data, kind)
            found = parts.entries(data)
            made = BaseManifest(
                pgkeep="0.2.0", system_identifier=IDENTIFIER, version="17.6", version_num=170006,
                kind=kind, parent=parent, timeline=1, start="0/200028", stop="0/200158",
                started=datetime(2026, 11, 27, hour, tzinfo=UTC),
                stopped=datetime(2026, 11, 27, hour, 1, tzinfo=UTC), segment_size=SIZE,
                checksums=True, size=sum(entry.size for entry in found), file_count=len(found),
                parts=[], backup_manifest=FileFacts("", 0, ""),
                tablespaces=[Tablespace(16400, "/srv/two")], settings={"max_connections": "100"},
                encryption=encryption_facts(encryption),
            )  # fmt: skip
            parent = made.name
            # `true` stands for pg_verifybackup, which refuses this small directory.
            (folder / "pg_verifybackup").symlink_to("/bin/true")
            options = base.BaseOptions(programs=folder, staging=data, jobs=1, encryption=encryption)
            outside = {"/etc/postgresql/17/main/pg_hba.conf": b"local all"}
            base._published(store, data, options, Silent(), made, outside)
            (folder / "pg_verifybackup").unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
