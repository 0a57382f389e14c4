"""Entries of the log that are on disk, read where the table of positions says that they lie."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from persistence.errors import CorruptLogError
from persistence.positions import Places, Positions
from persistence.records import ENTRY, FLAG_LZ4, FLAGS_AT, HEADER_BYTES, body_of, decode_at
from persistence.segment import Segment
from persistence.writer import Entry

READ_AHEAD_BYTES = 1 << 20
"""Neighbouring entries that are read from disk together."""


class LogReader:
    """For the owner of the log. Raises OSError, and CorruptLogError when the disk's copy is damaged."""

    def __init__(self, positions: Positions, segment_of: Callable[[int], Segment]) -> None:
        """``segment_of`` gives an open segment by its number."""
        self._positions = positions
        self._segment_of = segment_of

    def run(self, index: int, count: int, bytes_max: int = sys.maxsize) -> list[Entry]:
        """At least one, at most ``count`` entries from ``index`` on that lie together, and
        hardly more than ``bytes_max``.
        """
        places = self._places(index, count, min(READ_AHEAD_BYTES, bytes_max))
        start = places.offsets[0]
        segment = self._segment_of(places.segment)
        file, marker = segment.file, segment.marker
        content = memoryview(file.pread(places.end - start, start))
        found = []
        for number, offset in enumerate(places.offsets, index):
            record = decode_at(content, offset - start, marker, start)
            if record is None or record.kind != ENTRY or record.entry_index != number:
                raise CorruptLogError(file.path, offset, f"entry {number} does not verify any more")
            try:
                body = body_of(content, record)
            except ValueError as error:
                raise CorruptLogError(file.path, offset, f"entry {number}: {error}") from error
            found.append((body, number, record.term))
            bytes_max -= len(body)
            if bytes_max < 0:
                break
        return found

    def beginning_with(self, mark: int, low: int, high: int) -> Iterator[Entry]:
        """Those of the entries ``low .. high - 1`` whose payload begins with the byte ``mark``;
        only they are verified.
        """
        first = bytes([mark])
        while low < high:
            places = self._places(low, high - low, READ_AHEAD_BYTES)
            start, offsets = places.offsets[0], places.offsets
            content = self._segment_of(places.segment).file.pread(offsets[-1] + HEADER_BYTES + 1 - start, start)
            for index, offset in enumerate(offsets, low):
                body = offset - start + HEADER_BYTES
                if content[body : body + 1] == first or content[offset - start + FLAGS_AT] & FLAG_LZ4:
                    entry = self.run(index, 1)[0]
                    if entry[0].startswith(first):
                        yield entry
            low += len(offsets)

    def _places(self, index: int, count: int, bytes_max: int) -> Places:
        with self._positions.lock:
            return self._positions.places(index, count, bytes_max)
