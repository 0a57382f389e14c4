"""Where each entry lies on disk. Written by whoever writes the log, read by its owner: every access holds ``lock``."""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from typing import NamedTuple

from persistence.records import HEADER_BYTES


class Position(NamedTuple):
    """One entry's place."""

    segment: int
    offset: int
    stored_bytes: int


class Places(NamedTuple):
    """Entries that lie together in one segment, one after the other."""

    segment: int
    offsets: array[int]
    end: int
    """Offset after the last of them."""


class Positions:
    """A table of places for the entries ``first .. last`` of the log as it is on disk (24 bytes an entry)."""

    __slots__ = ("_offsets", "_segments", "_sizes", "_terms", "first", "lock", "sequence")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.first = 1
        self.sequence = 0
        """Records that the table has seen; an entry is safe to forget elsewhere once it is among them."""
        self._terms = array("Q")
        self._segments = array("I")
        self._offsets = array("Q")
        self._sizes = array("I")

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def last(self) -> int:
        """0 when the table is empty."""
        return self.first + len(self._offsets) - 1 if self._offsets else 0

    def add(self, index: int, term: int, segment: int, offset: int, stored_bytes: int) -> None:
        """``index`` is ``last + 1``, or anything when the table is empty."""
        if not self._offsets:
            self.first = index
        self._terms.append(term)
        self._segments.append(segment)
        self._offsets.append(offset)
        self._sizes.append(stored_bytes)

    def extend(self, later: Positions) -> None:
        """Add the entries that follow: ``later`` begins after the last one here, or either is empty."""
        if later and self:
            assert later.first == self.last + 1  # who replays has refused gaps
        self.first = self.first if self else later.first
        self._terms += later._terms
        self._segments += later._segments
        self._offsets += later._offsets
        self._sizes += later._sizes

    def term(self, index: int) -> int:
        return self._terms[index - self.first]

    def position(self, index: int) -> Position:
        place = index - self.first
        return Position(self._segments[place], self._offsets[place], self._sizes[place])

    def places(self, index: int, count: int, bytes_max: int) -> Places:
        """Of at least one and at most ``count`` entries from ``index`` on; the others begin
        within ``bytes_max`` of the first.
        """
        first = index - self.first
        segment, offset = self._segments[first], self._offsets[first]
        stop = min(first + count, len(self._offsets))
        stop = bisect_right(self._segments, segment, first, stop)
        stop = bisect_right(self._offsets, offset + bytes_max, first, stop)
        end = self._offsets[stop - 1] + HEADER_BYTES + self._sizes[stop - 1]
        return Places(segment, self._offsets[first:stop], end)

    def truncate_from(self, index: int) -> None:
        """Forget the entries from ``index`` on."""
        self._keep(slice(0, max(0, index - self.first)))

    def compact_to(self, index: int) -> None:
        """Forget the entries below ``index``."""
        dropped = min(max(0, index - self.first), len(self._offsets))
        if dropped:
            self._keep(slice(dropped, None))
            self.first += dropped

    def clear(self) -> None:
        self._keep(slice(0, 0))

    def _keep(self, kept: slice) -> None:
        self._terms = self._terms[kept]
        self._segments = self._segments[kept]
        self._offsets = self._offsets[kept]
        self._sizes = self._sizes[kept]
