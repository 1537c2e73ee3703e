"""The WAL archive of one cluster in a store: segments, history files and unfinished segments.

A file is compressed, and encrypted as backups are. Its name contains the beginning of the SHA-256
of its plain bytes: archiving the same file again changes nothing, and another file under the same
name of a segment is noticed and never replaces the first one (PostgreSQL manual, 25.3.1).
"""

import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from .. import errors as e
from ..artifact.compression import MultiMemberInflater, gzip
from ..catalog.side_files import open_contents
from ..crypt.options import Encryption
from ..model import wal
from ..model.naming import Cipher
from ..model.wal import PARTIAL, Segment
from ..stores.store import Store, chunks, write_file
from .wal_file import Origin, check_header

HISTORY_LIMIT = 1 << 20  # bytes; a line for each promotion
_DIGEST = 32  # hexadecimal digits of the SHA-256 in a name
_STORED = re.compile(
    rf"(?P<name>{wal.FILE_NAME})-(?P<sha256>[0-9a-f]{{{_DIGEST}}})\.gz(?:\.(?P<cipher>age|gpg))?"
)


class StoredFile(NamedTuple):
    """A file of the archive, as its name describes it."""

    name: str  # as PostgreSQL names it
    sha256: str  # the beginning of that of its plain bytes
    cipher: Cipher | None
    stored: str  # the name in the store
    modified: float | None = None  # when it was stored, as the store's list has it


def stored_name(name: str, sha256: str, cipher: Cipher | None) -> str:
    """Return the name under which a file is stored."""
    return f"{name}-{sha256[:_DIGEST]}.gz{f'.{cipher}' if cipher else ''}"


def parse_stored(stored: str) -> StoredFile | None:
    """Return what the name of a stored file contains; None for other names."""
    match = _STORED.fullmatch(stored)
    if match is None:
        return None
    cipher = Cipher(match["cipher"]) if match["cipher"] else None
    return StoredFile(match["name"], match["sha256"], cipher, stored)


@dataclass(slots=True)
class WalArchive:
    """The archive of one cluster; the names in it are listed once, and then remembered."""

    store: Store
    origin: Origin
    encryption: Encryption
    retains: bool = False  # an unfinished segment could not be removed: Object Lock keeps it
    forgotten: str = ""  # the segments before this one are not remembered
    _files: dict[str, list[StoredFile]] | None = field(default=None)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # several threads fetch

    def files(self) -> dict[str, list[StoredFile]]:
        """Return the stored files by the name that PostgreSQL gives them."""
        with self._lock:
            if self._files is None:
                listed: dict[str, list[StoredFile]] = defaultdict(list)
                for item in self.store.items():
                    found = parse_stored(item.name)
                    if found is not None:
                        listed[found.name].append(found._replace(modified=item.modified))
                self._files = listed
            return self._files

    def refresh(self) -> None:
        """Forget the names, so that the store is listed again."""
        with self._lock:
            self._files = None
            self.forgotten = ""

    def forget_before(self, name: str) -> None:
        """Forget the complete segments before one: a process that runs for years stores millions.

        If one of them is put nevertheless, the store is listed again.
        """
        files = self.files()
        for old in list(files):
            if not files[old] or (len(old) == len(name) and old < name):
                del files[old]
        self.forgotten = name

    def segments(self) -> list[Segment]:
        """Return the complete segments in ascending order."""
        size = self.origin.segment_size
        found = (wal.parse_segment(name, size) for name in self.files())
        return sorted(segment for segment in found if segment is not None)

    def stored_at(self, name: str) -> datetime | None:
        """Return when a file was stored; None if the archive does not have it."""
        times = [found.modified for found in self.files().get(name, ()) if found.modified]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def put(self, name: str, data: bytes) -> bool:
        """Store a file of the WAL; return False if the archive has it already.

        Raises:
            Differs: the archive has a file of this name with other bytes.
            VerificationFailed: it is no file of this cluster's WAL.
            StoreError: it could not be stored.

        """
        check(name, data, self.origin)
        digest = hashlib.sha256(data).hexdigest()[:_DIGEST]
        if self._has(name, digest):
            return False
        # Another process can have stored this name since the archive was listed. Both of two that
        # store at the same time see it afterwards, and neither succeeds. Nothing is removed: others
        # can have relied on either file.
        self._refuse_others(self._named(name), digest)
        self._store(name, data, digest)
        self._refuse_others(self._named(name), digest)
        return True

    def put_partial(self, name: str, data: bytes) -> bool:
        """Store an unfinished segment in the place of an earlier state; return False if it is that.

        The zeros at its end are not stored.

        Raises:
            VerificationFailed: it is no file of this cluster's WAL.
            StoreError: it could not be stored.

        """
        data = data.rstrip(b"\0")
        check(name, data, self.origin)
        digest = hashlib.sha256(data).hexdigest()[:_DIGEST]
        former = list(self.files().get(name, []))
        if any(found.sha256 == digest for found in former):
            return False
        self._store(name, data, digest)
        self._remove_states(former)
        return True

    def remove_partial(self, name: str) -> None:
        """Remove the states of an unfinished segment, which is stored completely.

        Raises:
            StoreError: one could not be removed.

        """
        self._remove_states(list(self.files().get(name, [])))

    def tidy(self) -> None:
        """Remove unfinished segments that were retained when they were stored completely.

        The oldest ones first: if one is still retained, the others are too.

        Raises:
            StoreError: one could not be removed.

        """
        self.refresh()
        files = self.files()
        for name in sorted(files):
            segment = name.removesuffix(PARTIAL)
            if name != segment and files.get(segment) and not self._remove_states(files[name]):
                return

    def _has(self, name: str, digest: str) -> bool:
        """Whether the archive has a file with these bytes.

        Raises:
            Differs: it has a file of this name with other bytes.

        """
        if name < self.forgotten:
            self.refresh()
        existing = self.files().get(name, [])
        self._refuse_others(existing, digest)
        return bool(existing)

    def _refuse_others(self, existing: Iterable[StoredFile], digest: str) -> None:
        for found in existing:
            if found.sha256 != digest:
                raise e.Differs(
                    f"{self.store.url} has {found.name} with other contents: SHA-256 begins with"
                    f" {found.sha256}, expected {digest}",
                    hint="Two servers write WAL of one cluster, for example after a promotion"
                    " without stopping the former primary. Stop archiving from the wrong one, and"
                    " move its file away.",
                )

    def _named(self, name: str) -> list[StoredFile]:
        """Return the files of one name that the store has now."""
        found = map(parse_stored, self.store.named(f"{name}-"))
        return [file for file in found if file is not None]

    def _store(self, name: str, data: bytes, digest: str) -> None:
        recipients = self.encryption.recipients
        cipher = None if recipients is None else recipients.cipher
        stored = StoredFile(name, digest, cipher, stored_name(name, digest, cipher))
        contents = self.encryption.encrypted(gzip(data))
        try:
            write_file(
                self.store, stored.stored, contents, owner=self.origin.system_identifier, new=True
            )
        except e.Exists:  # the same bytes, as its name says
            self.store.sync()
        self.files()[name].append(stored)

    def _remove_states(self, states: Iterable[StoredFile]) -> bool:
        """Remove states of an unfinished segment; return False if the store retains one."""
        for found in list(states):
            try:
                self._remove(found)
            except e.Retained:
                self.retains = True
                return False
        return True

    def _remove(self, found: StoredFile) -> None:
        self.store.delete(found.stored)
        self.files()[found.name].remove(found)

    def get(self, name: str) -> bytes | None:
        """Return a file of the archive, checked; None if the archive does not have it.

        Raises:
            VerificationFailed: it is damaged, or several files of this name exist.
            NoKey, OtherKey: it cannot be decrypted.
            StoreError: it could not be read.

        """
        try:
            return self._get(name)
        except e.Missing:  # an unfinished segment was stored anew, or completely, meanwhile
            self.refresh()
            return self._get(name)

    def _get(self, name: str) -> bytes | None:
        existing = self.files().get(name, [])
        if not existing:
            return None
        if len(existing) > 1 and not name.endswith(PARTIAL):
            raise e.VerificationFailed(
                f"{self.store.url} has {len(existing)} different files {name}",
                hint="Two servers have archived WAL of one cluster. Move the wrong file away.",
            )
        # Of an unfinished segment, a kill can leave two states; the longer one is the newer.
        data = max((self._read(found) for found in existing), key=len)
        check(name, data, self.origin)
        return data

    def _read(self, found: StoredFile) -> bytes:
        limit = max(self.origin.segment_size, HISTORY_LIMIT)
        inflater = MultiMemberInflater()
        parts: list[bytes] = []
        size = 0
        with closing(open_contents(self.store, found.stored, self.encryption.keys)) as source:
            try:
                for chunk in chunks(source):
                    for block in inflater.feed(chunk):
                        size += len(block)
                        if size > limit:
                            raise e.VerificationFailed(
                                f"{source.name}: found more than {limit} bytes, expected a WAL file"
                            )
                        parts.append(block)
                inflater.close()
            except e.OtherKey:
                raise
            except e.VerificationFailed as error:  # it may not name the file
                name = self.store.url_of(found.stored)
                if name in error.message:
                    raise
                raise e.VerificationFailed(f"{name}: {error.message}") from error
            data = b"".join(parts)
            digest = hashlib.sha256(data).hexdigest()
            if digest[:_DIGEST] != found.sha256:
                raise e.VerificationFailed(
                    f"{source.name}: SHA-256 is {digest}, expected {found.sha256} as in its name"
                )
        return data


def check(name: str, data: bytes, origin: Origin) -> None:
    """Check that bytes are those that the name promises.

    Raises:
        VerificationFailed: they are not.

    """
    size = origin.segment_size
    segment = wal.parse_segment(name.removesuffix(PARTIAL), size)
    if segment is not None:
        if len(data) > size or (len(data) < size and not name.endswith(PARTIAL)):
            raise e.VerificationFailed(f"{name}: found {len(data)} bytes, expected {size}")
        check_header(data, name, segment, origin)
    elif (timeline := wal.parse_history(name)) is not None and timeline > 1:
        wal.decode_history(data[:HISTORY_LIMIT].decode("ascii", "replace"), name)
    elif not wal.is_backup_label(name):
        raise e.VerificationFailed(f"{name[:255]!r} is not the name of a WAL file")


def histories(archive: WalArchive) -> dict[int, tuple[wal.Switch, ...]]:
    """Read all history files of an archive, by timeline.

    Raises:
        VerificationFailed: one is damaged.
        StoreError: one could not be read.

    """
    return {timeline: history(archive, name) for name, timeline in _timelines(archive.files())}


def history(archive: WalArchive, name: str) -> tuple[wal.Switch, ...]:
    """Read a history file of an archive.

    Raises:
        VerificationFailed: it is damaged.
        NoKey, OtherKey: it cannot be decrypted.
        StoreError: it could not be read.

    """
    return wal.decode_history((archive.get(name) or b"").decode("ascii", "replace"), name)


def _timelines(names: Iterable[str]) -> list[tuple[str, int]]:
    found = [(name, wal.parse_history(name)) for name in names]
    return [(name, timeline) for name, timeline in found if timeline is not None]
