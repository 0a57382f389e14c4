"""What a log directory holds after a crash, and what of it may be believed.

The records are replayed in order, segment by segment. Three things can be wrong:

* the tail of the newest segment ends in something that is not a record, and no later sync round vouches for it:
  it was never acknowledged, and is cut;
* a record is bad although a later round, or a later segment, proves that it was durable once: that is damage, and
  nothing may be served from this log (CorruptLogError);
* older segments lie there that compaction had already given up: they are recycled.

Before the recovered tail is believed it is written again. After a failed fsync the page cache may hold bytes that the
disk does not (the kernel marks such pages clean), and a process that restarts would read them and find a
further fsync succeed (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from persistence.errors import CorruptLogError
from persistence.files import ZERO_SLICE_BYTES, File, Files, join
from persistence.positions import Positions
from persistence.progress import Progress, untold
from persistence.records import (
    CLEAR,
    COMPACT,
    ENTRY,
    HARD_STATE,
    HEADER_BYTES,
    MARK,
    TRUNCATE,
    HardState,
    Record,
    body_of,
    hard_state_of,
)
from persistence.segment import (
    DATA_START,
    Segment,
    SegmentHeader,
    decode_segment_header,
    find_proof_of_damage,
    marker_offsets,
    segment_name,
    segment_number,
    walk,
)
from persistence.spares import Spares
from persistence.writer import DiskState, begin_segment

TOLD_EVERY = 4096
"""Records between two reports of the progress."""


@dataclass(slots=True)
class Recovered:
    """A log, ready to be continued."""

    state: DiskState
    segments: list[Segment]
    positions: Positions
    cut_bytes: int = 0
    """Length of the torn tail that was cut, up to the last trace of a record."""


def recover(directory: str, files: Files, spares: Spares, progress: Progress = untold) -> Recovered:
    """Bring the log in ``directory`` (which exists) back. Raises CorruptLogError or OSError."""
    names = files.listdir(directory)
    numbers = sorted(number for name in names if (number := segment_number(name)) is not None)
    # In a new log numbers begin anew: a spare from an older one could hold records under the same number.
    spares.adopt(names, keep=bool(numbers))
    if not numbers:
        # Not zero-filled: that takes a quarter of a second or, on a busy disk, many. The writer moves on to a
        # prepared segment as soon as there is one.
        state = DiskState()
        return Recovered(state, [begin_segment(spares, None, state)], Positions())
    newest = numbers[-1]
    first_segment = _first_segment(directory, files, numbers)
    recovered = _replay_all(directory, files, range(first_segment, newest + 1), numbers, progress)
    files.fsync_dir(directory)
    for number in numbers:
        if number < first_segment:
            spares.retire(Segment(number, files.open(join(directory, segment_name(number)))))
    return recovered


def _replay_all(directory: str, files: Files, needed: range, present: list[int], progress: Progress) -> Recovered:
    """Replay the ``needed`` segments, holding the bytes of one at a time."""
    for number in needed:
        if number not in present:
            path = join(directory, segment_name(number))
            raise CorruptLogError(path, 0, "the segment is missing, and later ones depend on it")
    sizes = [_size_of(directory, files, number) for number in needed]
    replay = Replay()
    try:
        for place, number in enumerate(needed):
            before, total = sum(sizes[:place]), sum(sizes)
            following = _read_header(directory, files, number + 1) if number < needed[-1] else None
            replay.segment(
                Content(directory, files, number),
                None if following is None else following.previous_end,
                lambda offset, before=before, total=total: progress(before + offset, total),  # type: ignore[misc]  # bound now
            )
        return replay.finish()
    except BaseException:
        replay.close()
        raise


class Content:
    """One segment, read as a whole. Raises CorruptLogError when its header is damaged; its file stays open."""

    def __init__(self, directory: str, files: Files, number: int) -> None:
        path = join(directory, segment_name(number))
        file = files.open(path)
        try:
            self.content = file.pread(file.size(), 0)
            self.header = decode_segment_header(memoryview(self.content)[:DATA_START], path, number)
        except BaseException:
            file.close()
            raise
        self.segment = Segment(number, file)

    def records(self, expected_end: int | None) -> Iterator[Record]:
        """All of them. ``expected_end`` is None for the newest, whose tail may be torn.

        Raises CorruptLogError where a record is damaged that was durable once.
        """
        segment, content = self.segment, self.content
        limit = len(content) if expected_end is None else min(expected_end, len(content))
        for record in walk(memoryview(content)[:limit], segment.marker):
            segment.end = record.end
            yield record
        self._refuse_damage(expected_end)

    def _refuse_damage(self, expected_end: int | None) -> None:
        path, end = self.segment.file.path, self.segment.end
        if expected_end is not None:
            if end != expected_end:
                raise CorruptLogError(path, end, f"no valid record here, though records followed to {expected_end}")
            return
        proof = find_proof_of_damage(self.content, self.segment.marker, end)
        if proof is not None:
            reason = f"no valid record here, though the record at {proof.offset} was written after this one was durable"
            raise CorruptLogError(path, end, reason)


def _first_segment(directory: str, files: Files, numbers: list[int]) -> int:
    """Oldest segment that the log still needs: the newest segment, the last of ``numbers``, always knows."""
    newest = numbers[-1]
    found = Content(directory, files, newest)
    segment = found.segment
    try:
        freed = [record.term for record in found.records(None) if record.kind in (CLEAR, COMPACT)]
    finally:
        segment.file.close()
    first = max([found.header.first_segment, *freed])
    if first > newest:
        raise CorruptLogError(segment.file.path, 0, f"it says that nothing before segment {first} is needed")
    missing = [number for number in range(first, newest) if number not in numbers]
    if missing and marker_offsets(found.content, segment.marker, segment.end):
        # No torn write: a segment goes only when the record that gives it up is durable.
        reason = (
            f"no valid record here; segment {missing[0]} is missing, and only this one could say that it is not needed"
        )
        raise CorruptLogError(segment.file.path, segment.end, reason)
    return first


def _size_of(directory: str, files: Files, number: int) -> int:
    file = files.open_read(join(directory, segment_name(number)))
    try:
        return file.size()
    finally:
        file.close()


def _read_header(directory: str, files: Files, number: int) -> SegmentHeader:
    path = join(directory, segment_name(number))
    file = files.open_read(path)
    try:
        return decode_segment_header(file.pread(DATA_START, 0), path, number)
    finally:
        file.close()


class Replay:
    """The records in order, applied to the state in the oldest segment's header."""

    def __init__(self) -> None:
        self._state: DiskState | None = None
        self._positions = Positions()
        self._segments: list[Segment] = []
        self._last: tuple[Content, Record | None]
        """The newest segment and the last record in it."""

    def segment(self, found: Content, expected_end: int | None, progress: Callable[[int], None]) -> None:
        """The next one; ``expected_end`` is None for the newest, whose torn tail is cut."""
        self._segments.append(found.segment)
        header, content = found.header, memoryview(found.content)
        if self._state is None:
            self._state = _state_at_birth(header)
        elif _state_at_birth(header) != self._state:
            raise CorruptLogError(
                found.segment.file.path, 0,
                f"its header says {_state_at_birth(header)}, the records before it {self._state}",
            )  # fmt: skip
        record = None
        for count, record in enumerate(found.records(expected_end)):
            if not count % TOLD_EVERY:
                progress(record.offset)
            if record.kind == HARD_STATE:
                self._state.hard_state = _hard_state(found.segment.file.path, record, content)
            else:
                self._record(self._state, record, found.segment)
        self._last = found, record

    def _record(self, state: DiskState, record: Record, segment: Segment) -> None:
        kind, index = record.kind, record.entry_index
        if kind == ENTRY:
            if state.last_index and index != state.last_index + 1:
                reason = f"entry {index} follows entry {state.last_index}"
                raise CorruptLogError(segment.file.path, record.offset, reason)
            state.apply_entry(index, record.term)
            self._positions.add(index, record.term, segment.number, record.offset, record.stored_bytes)
            segment.index_max = index
        elif kind != MARK:
            self._control(state, record, segment)

    def _control(self, state: DiskState, record: Record, segment: Segment) -> None:
        kind, index = record.kind, record.entry_index
        if kind != CLEAR and not state.first_index <= index <= state.last_index:
            reason = f"a record refers to entry {index}, the log holds {state.first_index} to {state.last_index}"
            raise CorruptLogError(segment.file.path, record.offset, reason)
        state.apply(kind, record.term, index)
        if kind == TRUNCATE:
            self._positions.truncate_from(index)
        elif kind == CLEAR:
            self._positions.clear()
        elif kind == COMPACT:
            self._positions.compact_to(index)

    def close(self) -> None:
        """Give up: close the files of the segments seen so far."""
        for segment in self._segments:
            segment.file.close()

    def finish(self) -> Recovered:
        """All segments were replayed: the log, its torn tail cut."""
        state = self._state
        assert state is not None  # the newest segment at least was replayed
        held = (self._positions.first, self._positions.last) if len(self._positions) else (0, 0)
        if held != (state.first_index, state.last_index):
            reason = f"the segments hold entries {held}, the log should hold {(state.first_index, state.last_index)}"
            raise CorruptLogError(self._segments[-1].file.path, 0, reason)
        return Recovered(state, self._segments, self._positions, _settle_tail(*self._last))


def _hard_state(path: str, record: Record, content: memoryview) -> HardState:
    try:
        return hard_state_of(record, body_of(content, record))
    except ValueError as error:
        raise CorruptLogError(path, record.offset, f"a vote that cannot be read: {error}") from error


def _state_at_birth(header: SegmentHeader) -> DiskState:
    return DiskState(header.first_index, header.last_index, header.last_term, header.hard_state, header.first_segment)


def _settle_tail(newest: Content, last: Record | None) -> int:
    """Write the last sync round again, wipe what follows it, sync. Returns the number of bytes that were cut."""
    file, end, content = newest.segment.file, newest.segment.end, newest.content
    if last is not None:
        file.pwrite([memoryview(content)[last.round_start : end]], last.round_start)
    traces = marker_offsets(content, newest.segment.marker, end)
    if traces:
        # A later record that survived the tear would be taken for live once a new record ended where it begins.
        _wipe(file, end, len(content))
    file.fdatasync()
    return min(len(content), traces[-1] + HEADER_BYTES) - end if traces else 0


def _wipe(file: File, start: int, end: int) -> None:
    for offset in range(start, end, ZERO_SLICE_BYTES):
        file.pwrite([bytes(min(ZERO_SLICE_BYTES, end - offset))], offset)
