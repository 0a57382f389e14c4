"""A segment: one file of the log, its header, and how its records are walked.

A live segment is named by its number (20 digits, ``.wal``) and always has a valid header, because the header is
synced before the file gets that name. The header takes a block of its own, which is never written again. It holds
the state of the log at the segment's birth, so that nothing is lost when the segments before it are deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from crc32c import crc32c

from persistence.errors import CorruptLogError, UnknownVersionError
from persistence.files import Buffer, File
from persistence.records import HardState, Record, decode_at

MAGIC = b"RAFT-WAL"
FORMAT_VERSION = 2
"""Version 1 has no salt."""
DATA_START = 4096
"""Offset of the first record."""
SUFFIX = ".wal"
VOTE_BYTES_MAX = 1024

_PREFIX = Struct("<8sIII")  # magic, crc32c of all that follows, format version, bytes of the rest
_FIELDS = Struct("<QQQQQQQBH")
_SALT = Struct("<Q")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The state of the log when the segment was begun."""

    number: int
    first_segment: int
    """Oldest segment that was still part of the log."""
    previous_end: int
    """Where the segment before this one ends, in bytes; 0 for the first of all."""
    first_index: int
    """0 when the log held no entry."""
    last_index: int
    last_term: int
    hard_state: HardState
    salt: int = 0
    """Random, the same in all segments of a log; 0 in a log of version 1, which has none."""

    @property
    def marker(self) -> int:
        """What its records begin with."""
        return marker_of(self.number, self.salt)


@dataclass(slots=True)
class Segment:
    """An open live segment. ``end`` is where its next record goes."""

    number: int
    file: File
    marker: int
    """What its records begin with."""
    end: int = DATA_START
    index_max: int = 0
    """Index of its last entry, 0 without one: never lower than that of any entry in it that is still alive."""


def segment_name(number: int) -> str:
    """The file name of live segment ``number``."""
    return f"{number:020d}{SUFFIX}"


def segment_number(name: str) -> int | None:
    """The number in a live segment's file name, or None for any other name."""
    stem = name.removesuffix(SUFFIX)
    return int(stem) if len(stem) == 20 and stem.isascii() and stem.isdigit() and name.endswith(SUFFIX) else None


def marker_of(number: int, salt: int) -> int:
    """What each record of segment ``number`` begins with: never 0, so that zeros are never a record.

    No two segments of a log have the same, and who does not know the ``salt`` cannot make a record: a value with one in it
    would, torn by a crash, pass for the proof that something before it was durable.
    """
    salted = _SALT.pack(salt) if salt else b""
    return crc32c(number.to_bytes(8, "little") + salted, 0x5EED) or 1


def encode_segment_header(header: SegmentHeader) -> bytes:
    """A whole block of ``DATA_START`` bytes."""
    state = header.hard_state
    vote = b"" if state.voted_for is None else state.voted_for.encode()
    rest = _FIELDS.pack(
        header.number,
        header.first_segment,
        header.previous_end,
        header.first_index,
        header.last_index,
        header.last_term,
        state.term,
        state.voted_for is not None,
        len(vote),
    )
    rest += _SALT.pack(header.salt) if header.salt else b""
    checked = Struct("<II").pack(2 if header.salt else 1, len(rest) + len(vote)) + rest + vote
    return (MAGIC + crc32c(checked).to_bytes(4, "little") + checked).ljust(DATA_START, b"\0")


def decode_segment_header(block: Buffer, path: str, number: int) -> SegmentHeader:
    """Raises CorruptLogError when it is damaged, of an unknown version, or of another segment."""
    if len(block) < DATA_START:
        raise CorruptLogError(path, 0, "the file is shorter than a segment header")
    magic, crc, version, length = _PREFIX.unpack_from(block)
    if magic != MAGIC or length < _FIELDS.size or _PREFIX.size + length > DATA_START:
        raise CorruptLogError(path, 0, "it does not begin with a segment header")
    if crc32c(block[12 : _PREFIX.size + length]) != crc:
        raise CorruptLogError(path, 0, "the checksum of the segment header does not match")
    if version not in range(1, FORMAT_VERSION + 1):
        raise UnknownVersionError(
            path, 0, f"format version {version} is unknown, this program reads up to {FORMAT_VERSION}"
        )
    *numbers, voted, vote_bytes = _FIELDS.unpack_from(block, _PREFIX.size)
    fixed, salt = _FIELDS.size, 0
    if version > 1:
        (salt,) = _SALT.unpack_from(block, _PREFIX.size + fixed)
        fixed += _SALT.size
    vote = bytes(block[_PREFIX.size + fixed : _PREFIX.size + length])
    if len(vote) != vote_bytes:
        raise CorruptLogError(path, 0, "the length of the vote in the segment header does not match")
    own, first_segment, previous_end, first_index, last_index, last_term, term = numbers
    if own != number:
        raise CorruptLogError(path, 0, f"the file holds segment {own}")
    state = HardState(term, vote.decode(errors="replace") if voted else None)
    return SegmentHeader(own, first_segment, previous_end, first_index, last_index, last_term, state, salt)


def walk(content: memoryview, marker: int) -> Iterator[Record]:
    """All records from the first on, up to the first thing that is not a record.

    One at a time: there may be a million.
    """
    offset = DATA_START
    while (record := decode_at(content, offset, marker)) is not None:
        yield record
        offset = record.end


def find_proof_of_damage(content: bytes, marker: int, end: int) -> Record | None:
    """A valid record after ``end`` whose round began after ``end``: what lies at ``end`` was durable once."""
    view = memoryview(content)
    for offset in marker_offsets(content, marker, end):
        record = decode_at(view, offset, marker)
        if record is not None and record.round_start > end:
            return record
    return None


def marker_offsets(content: bytes, marker: int, start: int) -> list[int]:
    """Where the marker's four bytes occur at or after ``start``."""
    pattern = marker.to_bytes(4, "little")
    offsets = []
    offset = content.find(pattern, start)
    while offset >= 0:
        offsets.append(offset)
        offset = content.find(pattern, offset + 1)
    return offsets
