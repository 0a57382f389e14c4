"""One file of an archive: log entries ``first`` to ``last``, compressed, closed, never changed again.

The layout, little-endian::

    header  "RAFTARCV", u32 crc32c of what follows in the header, u32 format version, u32 bytes of the rest;
            u64 first, u64 last, u64 term of the entry before first (0: there is none), u64 term of last,
            u64 stamp of first, u64 stamp of last, u64 bytes of the body, u64 bytes of the records,
            u32 crc32c of the body, 16 bytes chain, the cluster's id
    body    one zstd frame of records
    record  u64 index, u64 term, u64 stamp, u32 bytes of the payload; the payload

``stamp`` is the time of an entry in ms since the Unix epoch, as its owner tells it; it never goes back. ``chain`` is
the BLAKE2b (16 bytes) of the header of the file before, zeros in the first one of a run: since a header has the
checksum of its body, a row of files whose chain holds is the row that was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct

import zstandard
from crc32c import crc32c

from persistence.errors import CorruptArchiveError
from persistence.files import Readable

MAGIC = b"RAFTARCV"
FORMAT_VERSION = 1
SUFFIX = ".entries"
NO_CHAIN = bytes(16)
LEVEL = 3
CLUSTER_ID_BYTES_MAX = 4096
READ_BYTES = 1 << 20
WINDOW_BYTES_MAX = 128 << 20

_PREFIX = Struct("<8sIII")
_FIELDS = Struct("<QQQQQQQQI16s")
_RECORD = Struct("<QQQI")


@dataclass(frozen=True, slots=True)
class Archived:
    """One entry with its time."""

    index: int
    term: int
    stamp_ms: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class EntriesHeader:
    """What a file says of itself."""

    cluster_id: str
    first: int
    last: int
    previous_term: int
    """Term of the entry before ``first``; 0 when that is the first of all."""
    last_term: int
    first_stamp_ms: int
    last_stamp_ms: int
    body_bytes: int
    raw_bytes: int
    body_crc: int
    chain: bytes
    """Digest of the file before; :data:`NO_CHAIN` in the first of a run."""

    def encode(self) -> bytes:
        rest = (
            _FIELDS.pack(
                self.first, self.last, self.previous_term, self.last_term, self.first_stamp_ms, self.last_stamp_ms,
                self.body_bytes, self.raw_bytes, self.body_crc, self.chain,
            )
            + self.cluster_id.encode()
        )  # fmt: skip
        checked = Struct("<II").pack(FORMAT_VERSION, len(rest)) + rest
        return MAGIC + crc32c(checked).to_bytes(4, "little") + checked

    @property
    def digest(self) -> bytes:
        """What the next file of the run names as its chain."""
        return blake2b(self.encode(), digest_size=len(NO_CHAIN)).digest()


class EntriesWriter:
    """Collects entries in memory, compressed, until :meth:`finish` makes a file's bytes of them."""

    def __init__(self, cluster_id: str, previous_term: int, chain: bytes) -> None:
        self._cluster_id = cluster_id
        self._previous_term = previous_term
        self._chain = chain
        self._compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._body = bytearray()
        self._first: Archived | None = None
        self._last: Archived | None = None
        self.raw_bytes = 0

    @property
    def is_empty(self) -> bool:
        return self._first is None

    def add(self, entry: Archived) -> None:
        """The next one: the caller sees to it that no index is left out and no stamp goes back."""
        payload = entry.payload
        self._body += self._compressor.compress(_RECORD.pack(entry.index, entry.term, entry.stamp_ms, len(payload)))
        self._body += self._compressor.compress(payload)
        self.raw_bytes += _RECORD.size + len(payload)
        self._first = self._first or entry
        self._last = entry

    def finish(self) -> tuple[EntriesHeader, bytes]:
        """(what it says of itself, the whole file). There must be an entry."""
        assert self._first is not None and self._last is not None  # noqa: PT018 -- one state, not two
        self._body += self._compressor.flush()
        header = EntriesHeader(
            self._cluster_id, self._first.index, self._last.index, self._previous_term, self._last.term,
            self._first.stamp_ms, self._last.stamp_ms, len(self._body), self.raw_bytes, crc32c(self._body), self._chain,
        )  # fmt: skip
        return header, header.encode() + self._body


def read_header(file: Readable) -> EntriesHeader:
    """The verified header, which must fit the file's size. Raises CorruptArchiveError."""
    prefix = _take(file, 0, _PREFIX.size)
    magic, crc, version, length = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise CorruptArchiveError(file.path, 0, "it does not begin with the header of archived entries")
    if not _FIELDS.size <= length <= _FIELDS.size + CLUSTER_ID_BYTES_MAX:
        raise CorruptArchiveError(file.path, 16, f"a header of {length} bytes is declared")
    rest = _take(file, _PREFIX.size, length)
    if crc32c(rest, crc32c(prefix[12:])) != crc:
        raise CorruptArchiveError(file.path, 8, "the checksum of the header does not match")
    if version != FORMAT_VERSION:
        reason = f"format version {version} is unknown, this program reads {FORMAT_VERSION}"
        raise CorruptArchiveError(file.path, 12, reason)
    cluster_id = rest[_FIELDS.size :].decode("utf-8", "replace")
    header = EntriesHeader(cluster_id, *_FIELDS.unpack_from(rest))
    if file.size() != _PREFIX.size + length + header.body_bytes or not 0 < header.first <= header.last:
        raise CorruptArchiveError(file.path, 0, f"it has {file.size()} bytes, its header says another size")
    return header


def read_entries(file: Readable) -> Iterator[Archived]:
    """All entries, after all stored bytes were verified. Memory: the largest entry. Raises CorruptArchiveError."""
    header = read_header(file)
    start = file.size() - header.body_bytes
    crc = 0
    for at in range(start, file.size(), READ_BYTES):
        crc = crc32c(_take(file, at, min(READ_BYTES, file.size() - at)), crc)
    if crc != header.body_crc:
        raise CorruptArchiveError(file.path, start, "the checksum of the entries does not match")
    expected = header.first
    records = _Records(file, start, header.raw_bytes)
    while records.left:
        index, term, stamp_ms, length = _RECORD.unpack(records.take(_RECORD.size))
        if index != expected:
            raise records.damage(f"entry {index} stands where {expected} should")
        yield Archived(index, term, stamp_ms, records.take(length))
        expected += 1
    if expected != header.last + 1:
        raise records.damage(f"it ends with entry {expected - 1}, its header says {header.last}")
    records.finish()


class _Records:
    """Decompressed bytes, in order; never more than was declared, and none that are not there."""

    def __init__(self, file: Readable, start: int, raw_bytes: int) -> None:
        self.left = raw_bytes
        self._file = file
        self._at = start
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
        self._read: Callable[[int], bytes] = decompressor.stream_reader(self, read_size=READ_BYTES).read  # type: ignore[arg-type]  # read() is all it calls

    def read(self, size: int = -1) -> bytes:
        """The file-like face that the decompressor reads from."""
        data = self._file.pread(READ_BYTES if size < 0 else size, self._at)
        self._at += len(data)
        return data

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise self.damage(f"a record of {length} bytes is declared, {self.left} are left")
        self.left -= length
        pieces = []
        while length:
            piece = self._piece(min(length, READ_BYTES))
            if not piece:
                raise self.damage("the entries end early")
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        if self._piece(1):
            raise self.damage("more entries follow than the header says")

    def _piece(self, length: int) -> bytes:
        try:
            return self._read(length)
        except zstandard.ZstdError as error:
            raise self.damage(f"it does not decompress: {error}") from error

    def damage(self, reason: str) -> CorruptArchiveError:
        return CorruptArchiveError(self._file.path, self._at, reason)


def _take(file: Readable, at: int, length: int) -> bytes:
    data = file.pread(length, at)
    if len(data) < length:
        raise CorruptArchiveError(file.path, file.size(), f"the file ends after {file.size()} bytes")
    return data
