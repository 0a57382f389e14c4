"""The log's records: bytes <-> values. Pure.

A record is a header of 40 bytes (little-endian) and a body::

    0  u32 marker     of the segment (see ``segment.marker_of``); also the seed of the checksum
    4  u32 crc32c     of bytes 8.. of the header and of the body as stored
    8  u32 stored     bytes of the body as stored
    12 u32 distance   bytes from the start of this record's sync round to this record
    16 u32 raw        bytes of the body once decompressed
    20 u8  kind       1 entry, 2 truncate, 3 hard state, 4 clear, 5 compact, 6 mark
    21 u8  flags      1 body is an lz4 block, 2 the vote is given
    22 u16 zero
    24 u64 term
    32 u64 index

Two fields need a word. ``marker`` differs from segment to segment, so what an earlier use of a recycled file
left behind never verifies. ``distance`` is what makes a torn tail distinguishable from damage: rounds are
written one after the other, each synced before the next begins, so a record whose round starts at S proves
that every byte before S was durable once. A bad record before S is damage; a bad record that no later round
vouches for was never acknowledged, even when the disk kept some records after it (un-synced writes reach
the disk in any order).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

import lz4.block  # type: ignore[import-untyped]  # lz4 ships no types; the two calls are typed where they are made
from crc32c import crc32c

from persistence.files import Buffer

HEADER_BYTES = 40
FLAGS_AT = 21
BODY_BYTES_MAX = 1 << 30
"""Above the largest batch; a declared length beyond it is damage, whatever the checksum says."""
COMPRESSION_RATIO_MAX = 255
"""What an lz4 block can expand to; a larger declared size is damage and is never allocated."""

ENTRY, TRUNCATE, HARD_STATE, CLEAR, COMPACT, MARK = 1, 2, 3, 4, 5, 6
KIND_NAMES = {
    ENTRY: "entry",
    TRUNCATE: "truncate",
    HARD_STATE: "hard state",
    CLEAR: "clear",
    COMPACT: "compact",
    MARK: "mark",
}
FLAG_LZ4 = 1
FLAG_VOTED = 2

_HEADER = Struct("<IIIIIBBHQQ")
_PREFIX = Struct("<II")
_REST = Struct("<IIIBBHQQ")


class HardState(NamedTuple):
    """What Raft must not forget besides the log (Raft paper, figure 2: currentTerm and votedFor)."""

    term: int = 0
    voted_for: str | None = None


class Control(NamedTuple):
    """A record other than an entry, on its way to the disk.

    ========== ============================== ================================
    kind       term                           entry_index
    ========== ============================== ================================
    truncate   of the entry that becomes last first index dropped
    hard state current term                   0
    clear      oldest segment still needed    0
    compact    oldest segment still needed    first index kept
    mark       0                              0
    ========== ============================== ================================
    """

    kind: int
    term: int
    entry_index: int
    body: bytes = b""
    flags: int = 0


class Record(NamedTuple):
    """A verified record and where it lies in its buffer."""

    kind: int
    flags: int
    term: int
    entry_index: int
    offset: int
    stored_bytes: int
    raw_bytes: int
    round_start: int
    """Offset at which its sync round began: all before it was durable when this record was written."""

    @property
    def end(self) -> int:
        return self.offset + HEADER_BYTES + self.stored_bytes


def hard_state_control(state: HardState) -> Control:
    """The record that says ``state``."""
    if state.voted_for is None:
        return Control(HARD_STATE, state.term, 0)
    return Control(HARD_STATE, state.term, 0, state.voted_for.encode(), FLAG_VOTED)


def hard_state_of(record: Record, body: bytes) -> HardState:
    """What a hard state record says."""
    return HardState(record.term, body.decode() if record.flags & FLAG_VOTED else None)


def encode_header(
    marker: int, distance: int, kind: int, flags: int, term: int, index: int, stored: Buffer, raw_bytes: int
) -> bytes:
    """The 40 bytes that go before ``stored``."""
    rest = _REST.pack(len(stored), distance, raw_bytes, kind, flags, 0, term, index)
    return _PREFIX.pack(marker, crc32c(stored, crc32c(rest, marker))) + rest


def decode_at(buffer: memoryview, offset: int, marker: int, base: int = 0) -> Record | None:
    """The record at ``offset``, or None when there is none that verifies.

    ``base`` is where the buffer begins in the file.
    """
    body_start = offset + HEADER_BYTES
    if body_start > len(buffer):
        return None
    found, crc, stored, distance, raw, kind, flags, _, term, index = _HEADER.unpack_from(buffer, offset)
    if found != marker or stored > len(buffer) - body_start or distance > offset + base:
        return None
    if crc32c(buffer[offset + _PREFIX.size : body_start + stored], marker) != crc:
        return None
    if kind not in KIND_NAMES:
        return None
    return Record(kind, flags, term, index, offset, stored, raw, offset + base - distance)


def body_of(buffer: memoryview, record: Record) -> bytes:
    """The body, decompressed. Raises ValueError when it does not decompress to what the header says."""
    start = record.offset + HEADER_BYTES
    stored = buffer[start : start + record.stored_bytes]
    if not record.flags & FLAG_LZ4:
        return bytes(stored)
    if record.raw_bytes > min(BODY_BYTES_MAX, COMPRESSION_RATIO_MAX * len(stored)):
        raise ValueError(f"{record.raw_bytes} bytes cannot come out of {len(stored)}")
    try:
        body: bytes = lz4.block.decompress(stored, uncompressed_size=record.raw_bytes)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(str(error)) from error
    if len(body) != record.raw_bytes:
        raise ValueError(f"{len(body)} bytes where {record.raw_bytes} were declared")
    return body


class Compressor:
    """lz4 for bodies where it pays.

    A body that does not shrink by an eighth is stored as it is, and the next few are not even tried:
    what one writer stores tends to be alike.
    """

    SKIPPED_AFTER_FAILURE = 15

    def __init__(self, bytes_min: int) -> None:
        self._bytes_min = bytes_min
        self._skip = 0

    def compress(self, body: bytes) -> bytes | None:
        """The lz4 block, or None when ``body`` is to be stored as it is."""
        if not self._bytes_min or len(body) < self._bytes_min:
            return None
        if self._skip:
            self._skip -= 1
            return None
        block: bytes = lz4.block.compress(body, store_size=False)
        if len(block) > len(body) - len(body) // 8:
            self._skip = self.SKIPPED_AFTER_FAILURE
            return None
        return block
