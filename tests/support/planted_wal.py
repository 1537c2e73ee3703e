"""WAL archives and base backups as their names and manifests show them, with placeholder files."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from pgkeep.artifact.compression import gzip
from pgkeep.crypt import recipients
from pgkeep.crypt.options import Encryption
from pgkeep.drill import pitr_result
from pgkeep.drill.pitr_result import Engine, PitrDrillResult
from pgkeep.model.manifest import FileFacts
from pgkeep.model.naming import Cipher
from pgkeep.model.wal import Lsn, Segment
from pgkeep.pitr import stream_state
from pgkeep.pitr.archive import stored_name
from pgkeep.pitr.base_manifest import SUFFIX, BaseManifest, Kind, base_name, encode
from pgkeep.pitr.location import ClusterFacts
from pgkeep.pitr.stream_state import SlotProgress, StreamState
from pgkeep.stores.local import LocalStore

SIZE = 1 << 24
IDENTIFIER = "7432198765432198765"
BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def base(
    number: int, parent: BaseManifest | None = None, *, timeline: int = 1, size: int = 1000
) -> BaseManifest:
    """Return a base backup that began and ended in a segment; one is written every hour."""
    kind = Kind.FULL if parent is None else Kind.INCREMENTAL
    started = BEGIN + number * HOUR
    return BaseManifest(
        pgkeep="", system_identifier=IDENTIFIER, version="17.0", version_num=170000, kind=kind,
        parent=None if parent is None else parent.name, timeline=timeline,
        start=str(Lsn(number * SIZE + 40)), stop=str(Lsn(number * SIZE + 400)),
        started=started, stopped=started + timedelta(minutes=5, milliseconds=250),
        segment_size=SIZE, size=size, parts=[],
        backup_manifest=FileFacts(base_name(started, kind) + ".manifest", 1, "0"),
    )  # fmt: skip


class Planted:
    """The files of a cluster below a directory."""

    def __init__(self, place: Path, identifier: str = IDENTIFIER, name: str | None = None) -> None:
        self.folder = place / "pitr" / identifier
        for below in ("wal", "base", "drill"):
            (self.folder / below).mkdir(parents=True)
        facts = ClusterFacts(
            system_identifier=identifier, segment_size=SIZE, version_num=170000, name=name
        )
        description = self.folder.with_name(f"{identifier}.cluster.json")
        description.write_bytes(msgspec.json.encode(facts))

    def bases(self, *manifests: BaseManifest) -> None:
        for given in manifests:
            manifest = msgspec.structs.replace(given, system_identifier=self.folder.name)
            (self.folder / "base" / (manifest.name + SUFFIX)).write_bytes(encode(manifest))
            (self.folder / "base" / manifest.backup_manifest.name).write_bytes(b"x")

    def segments(self, numbers: Iterable[int], timeline: int = 1, suffix: str = "") -> None:
        """Plant segments; each was stored at the end of its hour."""
        for number in numbers:
            name = Segment(timeline, number).name(SIZE) + suffix
            path = self.folder / "wal" / stored_name(name, "0" * 64, None)
            path.touch()
            stored = (BEGIN + (number + 1) * HOUR).timestamp()
            os.utime(path, (stored, stored))

    def histories(self, switches: Mapping[int, str], recipient: str | None = None) -> None:
        """Plant history files with these contents."""
        encryption = Encryption(recipients=recipients.parse(recipient) if recipient else None)
        for timeline, text in switches.items():
            digest = hashlib.sha256(text.encode()).hexdigest()
            cipher = Cipher.AGE if recipient else None
            name = stored_name(f"{timeline:08X}.history", digest, cipher)
            data = encryption.encrypted(gzip(text.encode()))
            (self.folder / "wal" / name).write_bytes(data)

    def receiver(self, place: Path, **state: Any) -> None:
        """Plant the state of a receiver that has stopped long ago."""
        spool = place / "pitr" / "spool" / self.folder.name
        spool.mkdir(parents=True)
        made = StreamState(
            **{
                "pid": 1, "written_at": BEGIN, "system_identifier": self.folder.name,
                "receiving": True, "timeline": 1, "slot": SlotProgress(name="pgkeep_1"), **state,
            }
        )  # fmt: skip
        stream_state.write(stream_state.path_in(spool), made)


def drilled(folder: Path, began: datetime, *, passed: bool = True, seconds: float = 1) -> None:
    """Record a drill of the cluster whose files are in a folder."""
    result = PitrDrillResult(
        passed=passed, engine=Engine.PGKEEP, system_identifier=folder.name, name=None,
        place=str(folder), server="17.2", began=began, pgkeep="0", seed=1,
        recovery_seconds=seconds, lost_seconds=0, points=[], checks=[],
        findings=[] if passed else ["x"],
    )  # fmt: skip
    assert pitr_result.record([LocalStore(folder / "drill")], result) == []
