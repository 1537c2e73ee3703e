"""Combine pg_dump's stream and the workers' rows in the order that psql requires."""

import re
import threading
from collections.abc import Callable, Sequence

from .. import errors as e
from ..artifact.file import ArtifactWriter, MemberBuilder, Object
from ..artifact.packer import Packer, object_of_entry
from ..postgres.snapshot import Table
from ..sql import script
from ..task_group import TaskGroup

PENDING_LIMIT = 32 << 20  # compressed bytes of rows that can wait until the pre-data is written
_WITH_COLUMNS = frozenset({"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW"})


class MemberOrder:
    """Write pre-data, then rows, then post-data, regardless of which is ready first."""

    def __init__(self, writer: ArtifactWriter, threads: TaskGroup, workers: int) -> None:
        self._writer = writer
        self._threads = threads
        self._workers = workers
        self._changed = threading.Condition()
        self._pending: list[MemberBuilder] = []
        self._open = False
        threads.on_stop(self._wake)

    def packer(self, section: str) -> Packer:
        """Return what makes members of a section of pg_dump's stream."""
        return Packer(section, self.write, self._writer.compression)

    def rows_packer(self) -> Packer:
        """Return what makes members of a worker's rows."""
        return Packer("data", self.write_rows, self._writer.compression)

    def write(self, member: MemberBuilder) -> None:
        """Write a member of pg_dump's stream; these arrive in order."""
        self._writer.append(member)

    def write_rows(self, member: MemberBuilder) -> None:
        """Write a worker's member, or keep it until the pre-data is complete."""
        with self._changed:
            while (
                not self._open
                and sum(builder.compressed for builder in self._pending) > PENDING_LIMIT
            ):
                self._wait()
            if not self._open:
                self._pending.append(member)
                return
        self._writer.append(member)

    def pre_data_is_complete(self) -> None:
        """Write the rows that waited, and accept further rows."""
        with self._changed:
            for member in self._pending:
                self._writer.append(member)
            self._pending.clear()
            self._open = True
            self._changed.notify_all()

    def worker_is_done(self) -> None:
        """Record that a worker has written all its rows."""
        with self._changed:
            self._workers -= 1
            self._changed.notify_all()

    def wait_for_rows(self) -> None:
        """Wait until every worker is done."""
        with self._changed:
            while self._workers:
                self._wait()

    def _wait(self) -> None:
        # Check first: a thread that only checks after waiting would miss an earlier stop and wait
        # forever.
        self._threads.check()
        self._changed.wait()
        self._threads.check()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Assembler:
    """Divide pg_dump's own stream into members, section by section."""

    def __init__(
        self,
        header: bytes,
        codec: str,
        tables: Sequence[Table],
        order: MemberOrder,
        rows_are_read: Callable[[], None] = lambda: None,
        settings: bytes = b"",
    ) -> None:
        self._codec = codec
        self._added = settings  # of pgkeep, after those of pg_dump
        self._rows_are_read = rows_are_read  # called when pg_dump has read all its rows
        self._tables = {table.oid: table for table in tables}
        self._order = order
        self._section = "pre"
        self._packer = order.packer("pre")
        self._packer.write(header)
        self._settings: dict[bytes, bytes] = {}
        self._type = ""
        self._complete = False
        self.begun = False
        self.tables: set[int] = set()

    def add(self, piece: script.Piece) -> None:
        """Process the next piece of the stream."""
        match piece:
            case script.Entry():
                self._begin(piece)
            case script.CopyBegin():
                self._packer.begin_copy(piece.data)
            case script.Rows():
                self._packer.rows(piece.data)
            case script.CopyEnd():
                self._packer.end_copy()
            case script.Complete():
                # Without a post-data section, this line must still come after the rows of the
                # workers, and not in a member that contains only rows.
                self._enter("post")
                self._complete = True
                self._packer.end()
                self._packer.write(piece.data)
            case script.Setting():
                # It applies to the entries that follow, which another session can load.
                self._settings[piece.data.partition(b" = ")[0]] = piece.data
                self._packer.end()
                self._packer.write(piece.data)
            case script.Text() if self._type in _WITH_COLUMNS:
                self._packer.write(script.without_marks(piece.data))
            case _:
                self._packer.write(piece.data)
                if self._type == "BLOBS":
                    self._packer.cut()

    def finish(self) -> None:
        """End the last section; the stream must have ended with pg_dump's closing line."""
        if not self._complete:
            raise e.DumpFailed("pg_dump ended without an error, but its closing line is missing")
        self._enter("post")
        self._packer.flush()

    def _begin(self, entry: script.Entry) -> None:
        if not self.begun:
            self._packer.write(self._added)
        self.begun = True
        self._enter(script.section_of(entry, self._section))
        if self._section == "data" and entry.type != self._type:
            self._packer.flush()  # rows and other data are loaded differently: separate members
        self._type = entry.type
        table = self._tables.get(entry.oid) if entry.type == "TABLE DATA" else None
        if table is not None:
            self.tables.add(table.oid)
            record = object_of(table)
        else:
            record = self._object(entry)
        record.settings = b"".join(self._settings.values()).decode(self._codec, "replace")
        self._packer.begin(record)

    def _object(self, entry: script.Entry) -> Object:
        return object_of_entry(entry, self._codec)

    def _enter(self, section: str) -> None:
        if section == self._section:
            return
        self._packer.flush()
        if self._section == "pre":
            self._order.pre_data_is_complete()
        if section == "post":
            self._rows_are_read()
            self._order.wait_for_rows()
        self._section = section
        self._packer = self._order.packer(section)


def object_of(table: Table) -> Object:
    """Return the index entry for a table's rows."""
    return Object(
        type="TABLE DATA", schema=table.schema, name=table.name, owner=table.owner,
        member=0, start=0, oid=table.oid,
    )  # fmt: skip


def announcement(table: Table, codec_name: str) -> bytes:
    """Return a comment like pg_dump's; a newline in a name must not end it (CVE-2025-8715)."""
    name, schema, owner = (
        re.sub(r"\s", " ", value) for value in (table.name, table.schema, table.owner)
    )
    return (
        f"--\n-- Data for Name: {name}; Type: TABLE DATA; Schema: {schema}; Owner: {owner}\n--\n\n"
    ).encode(codec_name, "backslashreplace")
