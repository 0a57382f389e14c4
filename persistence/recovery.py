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
from dataclasses import dataclass, replace

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


def recover(directory: str, files: Files, spares: Spares, progress: Progress = untold, salt: int = 0) -> Recovered:
    """Bring the log in ``directory`` (which exists) back. One without a salt gets a new segment that has this ``salt``.

    Raises CorruptLogError or OSError.
    """
    names = files.listdir(directory)
    numbers = sorted(number for name in names if (number := segment_number(name)) is not None)
    # In a new log numbers begin anew: a spare from an older one could hold records under the same number.
    spares.adopt(names, keep=bool(numbers))
    if not numbers:
        # Not zero-filled: that takes a quarter of a second or, on a busy disk, many. The writer moves on to a
        # prepared segment as soon as there is one.
        state = DiskState(salt=salt)
        return Recovered(state, [begin_segment(spares, None, state)], Positions())
    recovered = _replay_all(directory, files, numbers, progress)
    files.fsync_dir(directory)
    if salt and not recovered.state.salt:
        recovered.state.salt = salt
        recovered.segments.append(begin_segment(spares, recovered.segments[-1], recovered.state))
    for number in numbers:
        if number < recovered.segments[0].number:
            spares.retire(files.open(join(directory, segment_name(number))))
    return recovered


def _replay_all(directory: str, files: Files, numbers: list[int], progress: Progress) -> Recovered:
    """Replay the newest segment, which says how many of the older ones are needed, then these.

    Holds the bytes of one at a time.
    """
    newest, older = Replay(), Replay()
    sizes = {number: _size_of(directory, files, number) for number in numbers}
    try:
        content = Content(directory, files, numbers[-1])
        newest.segment(content, None, lambda offset: progress(offset, sum(sizes.values())))
        tail = content.tail()
        del content
        first = _first_segment(directory, newest, numbers, tail)
        done, total = sizes[numbers[-1]], sum(sizes[number] for number in numbers if number >= first)
        for number in range(first, numbers[-1]):
            older.segment(
                Content(directory, files, number),
                _read_header(directory, files, number + 1).previous_end,
                lambda offset, done=done: progress(done + offset, total),  # type: ignore[misc]  # bound now
            )
            done += sizes[number]
        recovered = newest.following(older)
        recovered.cut_bytes = tail.settle(recovered.segments[-1])
    except BaseException:
        newest.close()
        older.close()
        raise
    return recovered


def _first_segment(directory: str, newest: Replay, numbers: list[int], tail: Tail) -> int:
    """Oldest segment that the log still needs. Raises CorruptLogError when one of them is missing."""
    first, segment = newest.state.first_segment, newest.segments[-1]
    if first > segment.number:
        raise CorruptLogError(segment.file.path, 0, f"it says that nothing before segment {first} is needed")
    missing = [number for number in range(first, segment.number) if number not in numbers]
    if missing and tail.traces:
        # No torn write: a segment goes only when the record that gives it up is durable.
        reason = (
            f"no valid record here; segment {missing[0]} is missing, and only this one could say that it is not needed"
        )
        raise CorruptLogError(segment.file.path, segment.end, reason)
    if missing:
        path = join(directory, segment_name(missing[0]))
        raise CorruptLogError(path, 0, "the segment is missing, and later ones depend on it")
    return first


@dataclass(slots=True)
class Tail:
    """How the newest segment ends."""

    last_round: bytes
    """The records of the last sync round."""
    traces: list[int]
    """Where after it something looks as if a record began."""
    size: int

    def settle(self, segment: Segment) -> int:
        """Write the last round again, wipe what follows it, sync. Returns the number of bytes that were cut."""
        file, end = segment.file, segment.end
        if self.last_round:
            file.pwrite([self.last_round], end - len(self.last_round))
        if self.traces:
            # A later record that survived the tear would be taken for live once a new record ended where it begins.
            self._wipe(file, end)
        file.fdatasync()
        return self.cut_bytes(end)

    def cut_bytes(self, end: int) -> int:
        """Length of what is cut after ``end``, up to the last trace."""
        return min(self.size, self.traces[-1] + HEADER_BYTES) - end if self.traces else 0

    def _wipe(self, file: File, start: int) -> None:
        for offset in range(start, self.size, ZERO_SLICE_BYTES):
            file.pwrite([bytes(min(ZERO_SLICE_BYTES, self.size - offset))], offset)


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
        self.segment = Segment(number, file, self.header.marker)
        self._round_start = self.segment.end

    def records(self, expected_end: int | None) -> Iterator[Record]:
        """All of them. ``expected_end`` is None for the newest, whose tail may be torn.

        Raises CorruptLogError where a record is damaged that was durable once.
        """
        segment, content = self.segment, self.content
        limit = len(content) if expected_end is None else min(expected_end, len(content))
        for record in walk(memoryview(content)[:limit], segment.marker):
            segment.end, self._round_start = record.end, record.round_start
            yield record
        self._refuse_damage(expected_end)

    def tail(self) -> Tail:
        """Of the newest segment, when :meth:`records` has come to its end."""
        end = self.segment.end
        traces = marker_offsets(self.content, self.segment.marker, end)
        return Tail(self.content[self._round_start : end], traces, len(self.content))

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
    """Segments in order, applied to the state in the header of the first."""

    def __init__(self) -> None:
        self.state: DiskState
        self.segments: list[Segment] = []
        self._born: DiskState
        """As the first header has it."""
        self._positions = Positions()
        self._kept_to: int
        """How far the log goes back to what it was then; the entries up to there lie in older segments."""

    def segment(self, found: Content, expected_end: int | None, progress: Callable[[int], None]) -> None:
        """The next one; ``expected_end`` is None for the newest, whose tail may be torn."""
        is_first, born = not self.segments, _state_at_birth(found.header)
        self.segments.append(found.segment)
        if is_first:
            self.state, self._born, self._kept_to = replace(born), born, born.last_index
        else:
            self._refuse_gap(found.segment, born)
            self.state.salt = born.salt
        path, content = found.segment.file.path, memoryview(found.content)
        for count, record in enumerate(found.records(expected_end)):
            if not count % TOLD_EVERY:
                progress(record.offset)
            if record.kind == HARD_STATE:
                self.state.hard_state = _hard_state(path, record, content)
            else:
                self._record(self.state, record, found.segment)

    def _refuse_gap(self, segment: Segment, born: DiskState) -> None:
        if born != self.state:
            reason = f"its header says {born}, the records before it {self.state}"
            raise CorruptLogError(segment.file.path, 0, reason)

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
            self._kept_to = min(self._kept_to, index - 1)
        elif kind == CLEAR:
            self._positions.clear()
            self._kept_to = 0
        elif kind == COMPACT:
            self._positions.compact_to(index)

    def close(self) -> None:
        """Give up: close the files of the segments seen so far."""
        for segment in self.segments:
            segment.file.close()

    def following(self, older: Replay) -> Recovered:
        """The log, once the segments before these were replayed as well, as far as they are needed."""
        state, positions, last = self.state, self._positions, self.segments[-1]
        if older.segments:
            older._refuse_gap(self.segments[0], self._born)
            positions = older._positions
            positions.truncate_from(self._kept_to + 1)
            positions.compact_to(state.first_index)
            positions.extend(self._positions)
        held = (positions.first, positions.last) if len(positions) else (0, 0)
        if held != (state.first_index, state.last_index):
            reason = f"the segments hold entries {held}, the log should hold {(state.first_index, state.last_index)}"
            raise CorruptLogError(last.file.path, 0, reason)
        return Recovered(state, older.segments + self.segments, positions)


def _hard_state(path: str, record: Record, content: memoryview) -> HardState:
    try:
        return hard_state_of(record, body_of(content, record))
    except ValueError as error:
        raise CorruptLogError(path, record.offset, f"a vote that cannot be read: {error}") from error


def _state_at_birth(header: SegmentHeader) -> DiskState:
    return DiskState(
        header.first_index, header.last_index, header.last_term, header.hard_state, header.first_segment, header.salt
    )
