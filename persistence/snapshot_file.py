"""The file of a snapshot: its layout, its name, and how it is read.

The layout, little-endian::

    header  "RAFTSNAP", u32 crc32c of what follows, u32 format version, u32 bytes of the rest;
            u64 index, u64 term, extra
    chunk   u32 stored bytes (never 0), u32 running checksum; that many bytes of one zstd stream
    footer  u32 0, u32 running checksum; u64 content bytes, u32 crc32c of the content, u32 chunks

The running checksum is the CRC32C of the header's checksum, of the chunk bodies so far and (in the footer)
of the footer's last 16 bytes: each chunk is checked as it is read, and the last value covers everything.
The last 20 bytes of a file (two checksums, two counts) are its **seal**: with its size, what it is told apart by from
another file of the same snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import zstandard
from crc32c import crc32c

from persistence.errors import CorruptSnapshotError, UnknownVersionError
from persistence.files import Files, Readable
from persistence.progress import Progress, untold

MAGIC = b"RAFTSNAP"
FORMAT_VERSION = 1
SUFFIX = ".snap"
PART_SUFFIX = ".part"
CHUNK_BYTES = 256 << 10
"""Compressed bytes in a chunk, except the last."""
CHUNK_BYTES_MAX = 4 << 20
"""A declared chunk above it is damage, and is never allocated."""
EXTRA_BYTES_MAX = 1 << 30
WINDOW_BYTES_MAX = 128 << 20
"""Memory that decompression may use; more than any compression level here asks for."""

PREFIX = Struct("<8sIII")
_META = Struct("<QQ")
CHUNK = Struct("<II")
FOOTER = Struct("<QII")
SEAL_BYTES = 4 + FOOTER.size
NAME = re.compile(r"(\d{20})-(\d{20})\.snap", re.ASCII)
PART_PREFIX = "incoming-"
PART_NAME = re.compile(r"incoming-(\d{20}-\d{20})-\d+-[0-9a-f]{40}\.part", re.ASCII)


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: the state after entry ``index`` of ``term``; ``extra`` is the owner's."""

    index: int
    term: int
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A complete snapshot in the store."""

    name: str
    """File name, which is also its name on the way to a follower."""
    meta: SnapshotMeta
    size_bytes: int
    """Size of the file."""
    content_bytes: int
    """Size of what was written into it, before compression."""
    seal: bytes
    """The last SEAL_BYTES of the file."""

    @property
    def index(self) -> int:
        return self.meta.index

    @property
    def term(self) -> int:
        return self.meta.term


def order(name: str) -> tuple[int, int]:
    """(index, term) of the snapshot that a file is, or is a part of."""
    index, term = name.removeprefix(PART_PREFIX).removesuffix(SUFFIX).split("-")[:2]
    return int(index), int(term)


def snapshot_name(index: int, term: int) -> str:
    """File names sort as (index, term) do."""
    return f"{index:020d}-{term:020d}{SUFFIX}"


def encode_header(meta: SnapshotMeta) -> bytes:
    """What a file begins with."""
    rest = _META.pack(meta.index, meta.term) + meta.extra
    checked = Struct("<II").pack(FORMAT_VERSION, len(rest)) + rest
    return MAGIC + crc32c(checked).to_bytes(4, "little") + checked


class Reader:
    """Walks a snapshot file: header, chunk bodies, footer; each verified before it is handed on."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.size = file.size()
        self.offset = 0
        self._running = 0
        self.meta = self._read_header()
        self.content_bytes = -1
        """Known once the footer was read, as the next two."""
        self.seal = b""
        self.content_crc = 0
        self._chunks = 0
        self._at_end = False

    def read(self, _size: int = -1) -> bytes:
        """The next chunk's body, b"" after the last: the file-like face that the decompressor reads from."""
        if self._at_end:
            return b""
        stored, expected = CHUNK.unpack(self._take(CHUNK.size))
        if not stored:
            self._read_footer(expected)
            return b""
        if stored > CHUNK_BYTES_MAX:
            raise self.damage(f"a chunk of {stored} bytes is declared")
        body = self._take(stored)
        running = crc32c(body, self._running)
        if running != expected:
            raise self.damage("the checksum of a chunk does not match")
        self._running = running
        self._chunks += 1
        return body

    def refuse_other_name(self, name: str) -> None:
        """Raises CorruptSnapshotError when it is not what its file is called."""
        if snapshot_name(self.meta.index, self.meta.term) != name:
            raise self.damage(f"it holds the snapshot of index {self.meta.index}, term {self.meta.term}")

    def damage(self, reason: str) -> CorruptSnapshotError:
        return CorruptSnapshotError(self._file.path, self.offset, reason)

    def _take(self, length: int) -> bytes:
        data = self._file.pread(min(length, max(0, self.size - self.offset)), self.offset)
        if len(data) < length:
            raise self.damage(f"the file ends after {self.size} bytes")
        self.offset += length
        return data

    def _read_header(self) -> SnapshotMeta:
        prefix = self._take(PREFIX.size)
        magic, crc, version, length = PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise self.damage("it does not begin with a snapshot header")
        if not _META.size <= length <= _META.size + EXTRA_BYTES_MAX:
            raise self.damage(f"a header of {length} bytes is declared")
        rest = self._take(length)
        if crc32c(rest, crc32c(prefix[12:])) != crc:
            raise self.damage("the checksum of the header does not match")
        if version != FORMAT_VERSION:
            reason = f"format version {version} is unknown, this program reads {FORMAT_VERSION}"
            raise UnknownVersionError(self._file.path, self.offset, reason)
        self._running = crc32c(prefix[8:12])
        index, term = _META.unpack_from(rest)
        return SnapshotMeta(index, term, rest[_META.size :])

    def _read_footer(self, expected: int) -> None:
        footer = self._take(FOOTER.size)
        if crc32c(footer, self._running) != expected:
            raise self.damage("the checksum over the whole file does not match")
        self.content_bytes, self.content_crc, chunks = FOOTER.unpack(footer)
        self.seal = expected.to_bytes(4, "little") + footer
        if chunks != self._chunks or self.offset != self.size:
            raise self.damage("there is more, or less, in the file than its footer says")
        self._at_end = True


def inspect(files: Files, path: str, name: str) -> SnapshotInfo:
    """Verify all stored bytes without decompressing them. Raises CorruptSnapshotError."""
    file = files.open_read(path)
    try:
        reader = Reader(file)
        while reader.read():
            pass
        reader.refuse_other_name(name)
        return SnapshotInfo(name, reader.meta, file.size(), reader.content_bytes, reader.seal)
    finally:
        file.close()


class SnapshotContent:
    """The snapshot in an open file, wherever that is: its ``meta`` at once, its content by iterating (once).

    Reads forward only, each byte once. Every piece is verified before it is handed on as far as its own chunk goes;
    what covers the whole is checked after the last one, so nothing may be relied on before the iteration has ended.
    Raises CorruptSnapshotError, also when it is made.
    """

    def __init__(self, file: Readable, progress: Progress = untold, bytes_max: int | None = None) -> None:
        """``bytes_max`` bounds the content for whoever keeps it, see :func:`declared_bytes`;
        None for whoever lets it pass.
        """
        self._reader = Reader(file)
        self._progress = progress
        self._bytes_max = bytes_max
        self.meta = self._reader.meta
        self.content_bytes = 0
        """Handed out so far."""

    @property
    def seal(self) -> bytes:
        """Of the file; known after the last piece."""
        return self._reader.seal

    def refuse_other_name(self, name: str) -> None:
        """Raises CorruptSnapshotError when the file is called otherwise than the snapshot in it."""
        self._reader.refuse_other_name(name)

    def __iter__(self) -> Iterator[bytes]:
        reader, crc = self._reader, 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        with decompressor.stream_reader(reader, read_size=CHUNK_BYTES_MAX) as stream:  # type: ignore[arg-type]  # read() is all it calls
            try:
                while piece := stream.read(CHUNK_BYTES):
                    self.content_bytes += len(piece)
                    if self._bytes_max is not None and self.content_bytes > self._bytes_max:
                        self._refuse_excess()
                    crc = crc32c(piece, crc)
                    self._progress(reader.offset, reader.size)
                    yield piece
            except zstandard.ZstdError as error:
                raise reader.damage(f"it does not decompress: {error}") from error
        while reader.read():
            raise reader.damage("chunks follow the end of the compressed stream")
        if (self.content_bytes, crc) != (reader.content_bytes, reader.content_crc):
            raise reader.damage("the checksum of the content does not match")

    def _refuse_excess(self) -> None:
        while self._reader.read():
            pass  # a file that is cut off, or damaged further on, is told of as such
        raise self._reader.damage(f"more comes out of it than the {self._bytes_max} bytes of content that it declares")


def declared_bytes(file: Readable) -> int:
    """How much content the end of a complete file declares: a bound for memory, before its
    checksum can be known to match.
    """
    end = file.pread(FOOTER.size, max(0, file.size() - FOOTER.size))
    return int(FOOTER.unpack(end)[0]) if len(end) == FOOTER.size else 0


def read_content(files: Files, path: str) -> Iterator[bytes]:
    """The content of the file at ``path``, as :class:`SnapshotContent` gives it."""
    file = files.open_read(path)
    try:
        yield from SnapshotContent(file, bytes_max=declared_bytes(file))
    finally:
        file.close()
