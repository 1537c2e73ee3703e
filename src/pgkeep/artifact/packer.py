"""Divide a stream of SQL into members: complete statements, small enough to hold in memory."""

from collections.abc import Callable

from ..model.naming import Compression
from ..sql.encodings import shared_text
from ..sql.script import COPY_DATA_END, Entry
from .file import MemberBuilder, Object

# Members of SQL text are small, so that reading one object reads little else. Members of rows are
# large, so that their headers cost nothing: 16 MiB of rows are about 3 MiB of gzip.
TEXT_SIZE = 1 << 20
ROWS_SIZE = 16 << 20


class Packer:
    """Take objects, text and COPY data of one section and emit members."""

    def __init__(
        self,
        section: str,
        emit: Callable[[MemberBuilder], None],
        compression: Compression = Compression.GZIP,
    ) -> None:
        self._section = section
        self._emit = emit
        self._compression = compression
        self._member: MemberBuilder | None = None
        self._copy: tuple[Object, bytes] | None = None

    def begin(self, entry: Object) -> None:
        """Begin an object, in a new member if the current one is large enough."""
        if self._member is not None and self._member.raw >= TEXT_SIZE:
            self.flush()
        self._open().begin(entry)

    def write(self, data: bytes) -> None:
        """Append SQL to the current object."""
        self._open().write(data)

    def cut(self, size: int = ROWS_SIZE) -> None:
        """Continue the object in a new member if the current one is large enough.

        Only for text that can be executed in parts, such as the data of a large object.
        """
        member = self._open()
        if member.raw >= size:
            part = _next_part(member.objects[-1])
            self.flush()
            self._open().begin(part)

    def begin_copy(self, header: bytes) -> None:
        """Begin the COPY statement of the current object."""
        member = self._open()
        self._copy = (member.objects[-1], header)
        self._copy[0].rows = 0
        member.write(header)

    def rows(self, data: bytes) -> None:
        """Append COPY data, which can end within a row."""
        if self._member is None or self._copy is None:
            raise AssertionError("rows outside of a COPY")
        if self._member.raw >= ROWS_SIZE:
            # The member is full: it ends after the current row.
            end = data.find(b"\n") + 1
            if end:
                self._rows(data[:end])
                data = data[end:]
                if data:
                    self._continue_copy()
        self._rows(data)

    def end_copy(self) -> None:
        """End the COPY statement."""
        self._open().write(COPY_DATA_END)
        self._copy = None

    def end(self) -> None:
        """End the current object; the text that follows belongs to no object."""
        if self._member is not None:
            self._member.end()

    def flush(self) -> None:
        """Emit the current member."""
        if self._member is not None and self._member.raw:
            self._emit(self._member)
        self._member = None

    def _rows(self, data: bytes) -> None:
        assert self._member is not None and self._copy is not None  # noqa: S101, PT018
        entry = self._copy[0]
        entry.rows = (entry.rows or 0) + data.count(b"\n")
        self._member.write(data)

    def _continue_copy(self) -> None:
        assert self._copy is not None  # noqa: S101
        entry, header = self._copy
        self.end_copy()
        self.flush()
        self._open().begin(_next_part(entry))
        self.begin_copy(header)

    def _open(self) -> MemberBuilder:
        if self._member is None:
            self._member = MemberBuilder(self._section, self._compression)
        return self._member


def _next_part(entry: Object) -> Object:
    return Object(
        type=entry.type, schema=entry.schema, name=entry.name, owner=entry.owner, member=0, start=0,
        oid=entry.oid, settings=entry.settings,
    )  # fmt: skip


def object_of_entry(entry: Entry, codec: str) -> Object:
    """Return the index entry for an object that the SQL announces."""
    schema, name = (value.decode(codec, "backslashreplace") for value in (entry.schema, entry.name))
    owner = shared_text(entry.owner, codec)
    return Object(
        type=entry.type, schema="" if schema == "-" else schema, name=name,
        owner="" if owner == "-" else owner, member=0, start=0, oid=entry.oid,
    )  # fmt: skip
