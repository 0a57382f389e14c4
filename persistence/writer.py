"""The log's disk side: takes records in order, lays them into segments, syncs, and drops what is not needed.

One thread at a time may use a :class:`LogWriter`; :class:`persistence.wal.Log` sees to that. It raises OSError, and
must not be used again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from persistence.files import Buffer
from persistence.positions import Positions
from persistence.records import (
    CLEAR,
    COMPACT,
    ENTRY,
    FLAG_LZ4,
    HARD_STATE,
    HEADER_BYTES,
    MARK,
    TRUNCATE,
    Compressor,
    Control,
    HardState,
    encode_header,
)
from persistence.segment import DATA_START, Segment, SegmentHeader
from persistence.spares import Spares

Entry: TypeAlias = tuple[bytes, int, int]
"""(payload, index, term)"""
Item: TypeAlias = Entry | Control


@dataclass(slots=True)
class DiskState:
    """The log as the records written so far leave it."""

    first_index: int = 0
    last_index: int = 0
    last_term: int = 0
    hard_state: HardState = field(default_factory=HardState)
    first_segment: int = 1
    salt: int = field(default=0, compare=False)
    """Of the newest segment, and of those to come."""

    def apply_entry(self, index: int, term: int) -> None:
        if not self.last_index:
            self.first_index = index
        self.last_index = index
        self.last_term = term

    def apply(self, kind: int, term: int, index: int) -> None:
        """A control record other than a hard state."""
        if kind == TRUNCATE:
            self.last_index, self.last_term = index - 1, term
        elif kind == CLEAR:
            self.first_index = self.last_index = self.last_term = 0
            self.first_segment = max(self.first_segment, term)
        elif kind == COMPACT:
            self.first_index = index
            self.first_segment = max(self.first_segment, term)


class LogWriter:
    """Appends to the newest segment; rolls to the next; retires the oldest."""

    def __init__(
        self,
        segments: list[Segment],
        state: DiskState,
        positions: Positions,
        spares: Spares,
        segment_bytes: int,
        compressor: Compressor,
    ) -> None:
        self.segments = segments
        self.state = state
        self.written = 0
        """Records written since the log was opened."""
        self.must_sync = False
        """Something was written that must be durable whatever the fsync setting: a vote, or a permission to delete."""
        self._positions = positions
        self._spares = spares
        self._segment_bytes = segment_bytes
        self._compressor = compressor
        self._round_start = segments[-1].end
        self._unsynced = False
        self._deletable = False
        self._buffers: list[Buffer] = []
        self._places: list[tuple[int, int, int, int, int]] = []
        self._offset = segments[-1].end
        self._prefilled = self._is_prefilled()

    def _is_prefilled(self) -> bool:
        """Whether the newest segment has its full size already, so that a sync need not allocate."""
        return self.segments[-1].file.size() >= self._segment_bytes

    @property
    def bytes_on_disk(self) -> int:
        return sum(segment.end for segment in self._needed())

    @property
    def segment_count(self) -> int:
        return len(self._needed())

    def _needed(self) -> list[Segment]:
        """The segments, without those that compaction has freed and that are not deleted yet."""
        return [segment for segment in self.segments if segment.number >= self.state.first_segment]

    @property
    def all_synced(self) -> bool:
        """Whether everything written is durable whatever happens to the machine."""
        return not self._unsynced

    def write(self, items: Sequence[Item], *, sync: bool) -> None:
        """Write ``items`` in order; with ``sync`` they, and all before them, are durable on return."""
        if items and not self._prefilled and self._spares.ready and self._offset > DATA_START:
            self._roll()  # the log began on an empty file, and a zero-filled one is ready by now
        for item in items:
            if isinstance(item, Control):
                self._put_control(item)
            else:
                self._put_entry(*item)
            self.written += 1
        self._flush(sync=sync)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Make everything written so far durable."""
        if self._unsynced:
            self.segments[-1].file.fdatasync()
            self._unsynced = False
        self._round_start = self._offset
        self.must_sync = False

    def retire_segments(self) -> None:
        """After a sync: drop the segments that compaction has freed."""
        if not self._deletable or self._unsynced:
            return
        self._deletable = False
        while self.segments[0].number < self.state.first_segment:
            self._spares.retire(self.segments.pop(0).file)

    def seal(self) -> None:
        """A last record in a round of its own: it vouches for the round before it (see ``records``)."""
        self._put(MARK, 0, 0, 0, b"", 0)
        self._flush(sync=True)

    def segment_of(self, number: int) -> Segment:
        """Segment ``number``, which holds an entry that the owner still sees."""
        return next(segment for segment in reversed(self.segments) if segment.number == number)

    def close(self) -> None:
        for segment in self.segments:
            segment.file.close()

    def _put_entry(self, payload: bytes, index: int, term: int) -> None:
        block = self._compressor.compress(payload)
        if block is None:
            self._put(ENTRY, 0, term, index, payload, len(payload))
            stored_bytes = len(payload)
        else:
            self._put(ENTRY, FLAG_LZ4, term, index, block, len(payload))
            stored_bytes = len(block)
        segment = self.segments[-1]
        self._places.append((index, term, segment.number, self._offset - HEADER_BYTES - stored_bytes, stored_bytes))
        segment.index_max = index
        self.state.apply_entry(index, term)

    def _put_control(self, control: Control) -> None:
        kind, term, index, body, flags = control
        if kind == HARD_STATE:
            voted_for = body.decode() if flags else None
            self._put(kind, flags, term, index, body, len(body))
            self.state.hard_state = HardState(term, voted_for)
            self.must_sync = True
            return
        if kind != TRUNCATE:
            term = self._first_segment_after(kind, index)
            self.must_sync = self._deletable = True
        self._put(kind, flags, term, index, body, len(body))
        self._flush(sync=False)  # the table of positions must see the entries before the change
        self.state.apply(kind, term, index)
        self._change_positions(kind, index)

    def _change_positions(self, kind: int, index: int) -> None:
        with self._positions.lock:
            if kind == TRUNCATE:
                self._positions.truncate_from(index)
            elif kind == CLEAR:
                self._positions.clear()
            elif kind == COMPACT:
                self._positions.compact_to(index)

    def _first_segment_after(self, kind: int, index: int) -> int:
        """Oldest segment that is needed once the entries below ``index`` (all, for a clear) are gone."""
        newest = self.segments[-1].number
        if kind == CLEAR:
            return newest
        return next((segment.number for segment in self.segments if segment.index_max >= index), newest)

    def _put(self, kind: int, flags: int, term: int, index: int, stored: bytes, raw_bytes: int) -> None:
        size = HEADER_BYTES + len(stored)
        if self._offset + size > self._segment_bytes and self._offset > DATA_START:
            self._roll()
        marker = self.segments[-1].marker
        header = encode_header(marker, self._offset - self._round_start, kind, flags, term, index, stored, raw_bytes)
        self._buffers.append(header)
        if stored:
            self._buffers.append(stored)
        self._offset += size

    def _flush(self, *, sync: bool) -> None:
        if self._buffers:
            segment = self.segments[-1]
            # A synced write covers its own bytes only; with others outstanding the file must be synced as a whole.
            covers_all = sync and not self._unsynced
            self._write_out(segment, sync=covers_all)
            segment.end = self._offset
            self._unsynced = not covers_all
            self._buffers = []
        places, self._places = self._places, []
        with self._positions.lock:
            for place in places:
                self._positions.add(*place)
            self._positions.sequence = self.written

    def _write_out(self, segment: Segment, *, sync: bool) -> None:
        try:
            segment.file.pwrite(self._buffers, segment.end, sync=sync)
        except OSError as error:
            if not self._spares.reserve.helps(error, "a write to the log"):
                raise
            # Safe even if it was the sync that found no space: all that it covered is written, and so dirty, again.
            segment.file.pwrite(self._buffers, segment.end, sync=sync)

    def _roll(self) -> None:
        """Begin the next segment. The old one is synced first: a later segment vouches for all of it."""
        self._flush(sync=False)
        if self._unsynced:
            self.segments[-1].file.fdatasync()
            self._unsynced = False
        self.segments.append(begin_segment(self._spares, self.segments[-1], self.state))
        self._offset = self._round_start = DATA_START
        self._prefilled = self._is_prefilled()


def begin_segment(spares: Spares, previous: Segment | None, state: DiskState) -> Segment:
    """The segment after ``previous`` (None: the first of all), with ``state`` in its header."""
    header = SegmentHeader(
        number=1 if previous is None else previous.number + 1,
        first_segment=state.first_segment,
        previous_end=0 if previous is None else previous.end,
        first_index=state.first_index,
        last_index=state.last_index,
        last_term=state.last_term,
        hard_state=state.hard_state,
        salt=state.salt,
    )
    return spares.become_segment(header)
