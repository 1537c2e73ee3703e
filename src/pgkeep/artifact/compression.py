"""Compress and decompress: gzip by ISA-L, zstd by Python's own module (PEP 784) or its backport."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from isal import isal_zlib
from isal.igzip_lib import IsalError

from .. import errors as e
from ..model.naming import Compression

if sys.version_info >= (3, 14):
    from compression import zstd as zstd  # noqa: PLC0414 - others use it too
else:
    from backports import zstd as zstd  # noqa: PLC0414

BLOCK = 1 << 20
LONGEST_HEAD = 4  # bytes with which a compressed file begins
_GZIP_LEVEL = 1  # ISA-L's level 1: about the size of gzip -6 at ten times its speed
_ZSTD: Mapping[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.checksum_flag: 1,
}
# A frame that is compressed at once takes a third less time than one that grows, and readers need
# no more memory than the bytes of one frame.
_FRAME = 1 << 20
_STEP = 16 << 10  # a frame's end copies what was fed after it: many tiny frames take long otherwise
_MAGIC = {Compression.GZIP: b"\x1f\x8b\x08", Compression.ZSTD: b"\x28\xb5\x2f\xfd"}
_SKIPPABLE = range(0x50, 0x60)  # the first byte of a skippable frame (RFC 8878, section 3.1.2)


class Compressor(Protocol):
    """Compress a stream of bytes."""

    def compress(self, data: bytes) -> bytes:
        """Return the next compressed bytes, if any."""
        ...

    def flush(self) -> bytes:
        """Return the last compressed bytes."""
        ...


class Inflater(Protocol):
    """Decompress a stream of gzip members or zstd frames up to the end of the last one."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes; raise VerificationFailed if they are damaged."""
        ...

    def close(self) -> None:
        """Check that the data ends where a member or frame ends."""
        ...


def magic(compression: Compression) -> bytes:
    """Return the bytes with which such a file begins."""
    return _MAGIC[compression]


def compression_of(head: bytes) -> Compression | None:
    """Return the compression of a file according to its first bytes."""
    if head.startswith(_MAGIC[Compression.GZIP][:2]):
        return Compression.GZIP
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] in _SKIPPABLE
    return Compression.ZSTD if skippable or head.startswith(_MAGIC[Compression.ZSTD]) else None


def compressor(compression: Compression) -> Compressor:
    """Return a new compressor."""
    if compression is Compression.ZSTD:
        return _ZstdFrames()
    stream: Compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, 31)
    return stream


def inflater(compression: Compression) -> Inflater:
    """Return a new decompressor."""
    return MultiFrameInflater() if compression is Compression.ZSTD else MultiMemberInflater()


def gzip(data: bytes) -> bytes:
    """Return a small file's contents as gzip."""
    compressed: bytes = isal_zlib.compress(data, _GZIP_LEVEL, 31)
    return compressed


def member_blocks(data: bytes, compression: Compression) -> Iterator[bytes]:
    """Yield the contents of exactly one gzip member, or of the zstd frames of one member.

    Raises:
        VerificationFailed: they are damaged.

    """
    if compression is Compression.GZIP:
        yield from _gzip_member(data)
        return
    frames = MultiFrameInflater()
    yield from frames.feed(data)
    frames.close()


class _ZstdFrames:
    """Compress into frames of equal size."""

    def __init__(self) -> None:
        self._zstd = zstd.ZstdCompressor(options=_ZSTD)
        self._held: list[bytes] = []
        self._size = 0

    def compress(self, data: bytes) -> bytes:
        self._held.append(data)
        self._size += len(data)
        return self.flush() if self._size >= _FRAME else b""

    def flush(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        self._size = 0
        return self._zstd.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)


class MultiFrameInflater:
    """Decompress a stream of zstd frames up to the end of the last one."""

    def __init__(self) -> None:
        self._frame: Any = None  # a decompressor, within a frame

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes; raise VerificationFailed if they are damaged."""
        view = memoryview(data)
        for start in range(0, len(view), _STEP):
            rest: bytes | memoryview = view[start : start + _STEP]
            while len(rest):
                if self._frame is None:
                    self._frame = zstd.ZstdDecompressor()
                yield from self._blocks(rest)
                rest = b""
                if self._frame.eof:
                    rest = self._frame.unused_data
                    self._frame = None

    def close(self) -> None:
        """Check that the data ends at the end of a frame."""
        if self._frame is not None:
            raise e.VerificationFailed("truncated zstd data")

    def _blocks(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Yield what these bytes expand to, in blocks: few bytes can expand to very many."""
        while True:
            try:
                block: bytes = self._frame.decompress(data, BLOCK)
            except zstd.ZstdError as error:
                raise _unreadable(error) from error
            if block:
                yield block
            if self._frame.eof or self._frame.needs_input:
                return
            data = b""


def _unreadable(error: zstd.ZstdError) -> e.VerificationFailed:
    # Its decompressor allocates at most 128 MiB, as the program zstd does.
    if "requires too much memory" in str(error):
        return e.VerificationFailed(
            "zstd data with a window of more than 128 MiB",
            hint="Compress it again: zstd -dc --long=31 FILE | zstd > NEW.",
        )
    return e.VerificationFailed(f"damaged zstd data: {error}")


def _gzip_member(data: bytes) -> Iterator[bytes]:
    stream = isal_zlib.decompressobj(wbits=31)
    try:
        while True:
            block = stream.decompress(data, BLOCK)
            if block:
                yield block
            data = stream.unconsumed_tail
            if stream.eof or not (block or data):
                break
    except IsalError as error:  # type: ignore[misc]  # the stub declares it as a variable
        raise e.VerificationFailed(f"damaged gzip data: {error}") from error
    if not stream.eof:
        raise e.VerificationFailed("truncated gzip data")
    if stream.unused_data:
        raise e.VerificationFailed("bytes after the end of the gzip data")


class MultiMemberInflater:
    """Decompress a stream of gzip members up to the end of the last one."""

    def __init__(self) -> None:
        self._inflater = isal_zlib.decompressobj(wbits=31)
        self._begun = False  # inside a member

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes; raise VerificationFailed if they are damaged."""
        while data:
            if self._inflater.eof and data.startswith(b"\0"):
                raise e.VerificationFailed(
                    "zero bytes after the end of the gzip data",
                    hint="Tapes and block devices add them. Remove them with:"
                    " gzip -dc FILE | gzip > NEW.",
                )
            if self._inflater.eof:
                self._inflater = isal_zlib.decompressobj(wbits=31)
            self._begun = True
            try:
                block = self._inflater.decompress(data, BLOCK)
            except IsalError as error:  # type: ignore[misc]  # the stub declares it as a variable
                raise e.VerificationFailed(f"damaged gzip data: {error}") from error
            if block:
                yield block
            if self._inflater.eof:
                data = self._inflater.unused_data
                self._begun = False
            else:
                data = self._inflater.unconsumed_tail

    def close(self) -> None:
        """Check that the data ends at the end of a member."""
        if self._begun:
            raise e.VerificationFailed("truncated gzip data")
