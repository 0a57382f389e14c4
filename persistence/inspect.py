"""Looking into a log and at snapshots: what is there, and what of it verifies. Nothing is locked, changed or deleted.

The verdict on a log is that of the code that opens the log (:func:`persistence.recovery.recover`, through a layer that
keeps its repairs to itself), so that the two cannot differ. What that code does not say is added here: how far each
segment verifies, and how much of what lies after damage still does.

The log may be in use. Then its end moves while it is read, segments are rolled, recycled and deleted, and a look may
meet any of it half done. Two facts tell this from damage: a segment that is not the newest is never changed under its
name; and where a record proves that what lies before it was durable, a second look sees that as it is. So an error
counts when a second look finds the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from persistence.errors import CorruptLogError, CorruptSnapshotError, PersistenceError
from persistence.files import Files, join
from persistence.overlay import OverlayFiles
from persistence.records import CLEAR, COMPACT, ENTRY, Record, body_of, decode_at
from persistence.recovery import recover
from persistence.segment import (
    DATA_START,
    SegmentHeader,
    decode_segment_header,
    find_proof_of_damage,
    marker_of,
    marker_offsets,
    segment_name,
    segment_number,
    walk,
)
from persistence.snapshot_file import PART_SUFFIX, SUFFIX, SnapshotContent, SnapshotMeta, snapshot_name
from persistence.spares import PREPARATION_SUFFIX, READY_SUFFIX, Spares
from persistence.writer import DiskState

LOOKS_MAX = 20
"""A log that loses a segment during each of so many looks is given up on."""


class BusyLogError(PersistenceError):
    """The log changes faster than it can be looked at."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes ``start .. end`` of a segment in which records were durable once, and none verifies now."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class SegmentView:
    """One segment and what verifies of it."""

    name: str
    number: int
    size_bytes: int
    header: SegmentHeader | None
    """None when it is damaged: ``gaps`` says how."""
    end: int
    """Where the last record that verifies ends."""
    records: int
    entries: int
    first_index: int
    """Of the entries in it, also those that a later record drops; 0 without any."""
    last_index: int
    gaps: tuple[Gap, ...]
    records_behind: int
    """How many of ``records`` lie after the first gap."""
    needed: bool
    """False for what a compaction has given up already: nothing in it counts."""


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file that is no segment: a spare one, one in preparation, or one that nobody knows."""

    name: str
    kind: str
    """spare, preparation, unknown"""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LogView:
    """A log directory at one moment."""

    directory: str
    segments: tuple[SegmentView, ...]
    others: tuple[OtherFile, ...]
    state: DiskState | None
    """What a start would go on with; None when the log is damaged."""
    tail_bytes: int
    """Behind the end: a write in progress, or one that was interrupted and never acknowledged. A start cuts it."""
    damage: CorruptLogError | None
    """Why a start would refuse the log."""
    moving: bool
    """It was written to while it was looked at."""

    @property
    def records(self) -> int:
        return sum(one.records for one in self.segments)


def look(directory: str, files: Files) -> LogView:
    """Look at a log; all of it is read, one segment at a time.

    Raises OSError, and BusyLogError when segments keep vanishing while it is read.
    """
    seen: LogView | None = None
    for _ in range(LOOKS_MAX):
        try:
            view = _look_once(directory, files)
        except FileNotFoundError:
            files.listdir(directory)  # gone for good, or only a segment of it?
            continue
        if view.damage is None or (seen is not None and _same(seen.damage, view.damage)):
            return view
        seen = view
    raise BusyLogError(f"the log in {directory} changes faster than it can be looked at; try again")


def records(
    directory: str, files: Files, low: int = 0, high: int | None = None
) -> Iterator[tuple[str, Record | Gap, bytes]]:
    """(segment's file name, record, body) of every record that verifies, oldest first; a gap in its place.

    Segments that a compaction gave up are left out. With ``low`` or ``high`` only those entries. A segment that is
    deleted meanwhile is passed over.
    """
    numbers = _numbers(files.listdir(directory))
    first_needed = _first_needed(directory, files, numbers)
    for number in numbers:
        if number < first_needed:
            continue
        try:
            content = _read(files, join(directory, segment_name(number)))
            head = _read(files, join(directory, segment_name(number + 1)), DATA_START) if number < numbers[-1] else b""
        except FileNotFoundError:
            continue
        own, following = _header(content, number), _header(head, number + 1)
        found, gaps = _all_records(content, _marker(content, number, own, following), following)
        view = memoryview(content)
        parts: list[Record | Gap] = [*found, *gaps]
        for one in sorted(parts, key=_place):
            if isinstance(one, Gap):
                yield segment_name(number), one, b""
            elif _within(one, low, high):
                try:
                    body = body_of(view, one)
                except ValueError as error:
                    yield segment_name(number), Gap(one.offset, one.end, str(error)), b""
                else:
                    yield segment_name(number), one, body


def _place(one: Record | Gap) -> int:
    return one.start if isinstance(one, Gap) else one.offset


def _within(record: Record, low: int, high: int | None) -> bool:
    if not low and high is None:
        return True
    return record.kind == ENTRY and low <= record.entry_index and (high is None or record.entry_index <= high)


def _header(content: bytes, number: int) -> SegmentHeader | None:
    """Of segment ``number``, which begins with this, if it verifies."""
    try:
        return decode_segment_header(memoryview(content)[:DATA_START], segment_name(number), number)
    except CorruptLogError:
        return None


def _same(one: CorruptLogError | None, other: CorruptLogError) -> bool:
    return one is not None and (one.path, one.offset, one.reason) == (other.path, other.offset, other.reason)


def _look_once(directory: str, files: Files) -> LogView:
    names = files.listdir(directory)
    numbers = _numbers(names)
    state, damage, tail_bytes = _verdict(directory, files) if numbers else (DiskState(), None, 0)
    first_needed = state.first_segment if state is not None else _first_needed(directory, files, numbers)
    found: list[SegmentView] = []
    following: SegmentHeader | None = None
    for number in reversed(numbers):
        one = _segment(directory, files, number, following, needed=number >= first_needed)
        found.append(one)
        following = one.header
    others = tuple(_other(directory, files, name) for name in names if segment_number(name) is None)
    moving = bool(found) and _moved(directory, files, names, found[0])
    return LogView(directory, tuple(reversed(found)), others, state, tail_bytes, damage, moving)


def _numbers(names: list[str]) -> list[int]:
    return sorted(number for name in names if (number := segment_number(name)) is not None)


def _verdict(directory: str, files: Files) -> tuple[DiskState | None, CorruptLogError | None, int]:
    """(state, why there is none, bytes after the end), as a start would find them."""
    layer = OverlayFiles(files)
    try:
        found = recover(directory, layer, Spares(directory, layer, segment_bytes=0, preallocate=False))
    except CorruptLogError as error:
        return None, error, 0
    finally:
        layer.close()
    return found.state, None, found.cut_bytes


def _first_needed(directory: str, files: Files, numbers: list[int]) -> int:
    """The oldest segment that counts: the newest one always knows, if it can be read; 0 if it cannot."""
    if not numbers:
        return 0
    path = join(directory, segment_name(numbers[-1]))
    content = _read(files, path)
    try:
        header = decode_segment_header(memoryview(content)[:DATA_START], path, numbers[-1])
    except CorruptLogError:
        return 0
    found, _ = _all_records(content, header.marker, None)
    return max([header.first_segment, *(one.term for one in found if one.kind in (CLEAR, COMPACT))])


def _read(files: Files, path: str, length: int | None = None) -> bytes:
    file = files.open_read(path)
    try:
        return file.pread(file.size() if length is None else length, 0)
    finally:
        file.close()


def _segment(
    directory: str, files: Files, number: int, following: SegmentHeader | None, *, needed: bool
) -> SegmentView:
    name = segment_name(number)
    path = join(directory, name)
    content = _read(files, path)
    gaps: list[Gap] = []
    header: SegmentHeader | None = None
    try:
        header = decode_segment_header(memoryview(content)[:DATA_START], path, number)
    except CorruptLogError as error:
        gaps.append(Gap(0, min(DATA_START, len(content)), error.reason))
    found, torn = _all_records(content, _marker(content, number, header, following), following)
    gaps += torn
    first_gap = gaps[0].start if gaps else len(content)
    bad = _undecodable(content, found)
    indices = [record.entry_index for record in found if record.kind == ENTRY]
    return SegmentView(
        name, number, len(content), header,
        end=found[-1].end if found else DATA_START,
        records=len(found),
        entries=len(indices),
        first_index=min(indices, default=0),
        last_index=max(indices, default=0),
        gaps=tuple(gaps + bad) if needed else (),
        records_behind=sum(record.offset > first_gap for record in found) if needed else 0,
        needed=needed,
    )  # fmt: skip


def _marker(content: bytes, number: int, header: SegmentHeader | None, following: SegmentHeader | None) -> int:
    """What the records of segment ``number`` begin with. When its header is damaged, the first record tells, or the next
    segment.
    """
    if header is not None:
        return header.marker
    written = int.from_bytes(content[DATA_START : DATA_START + 4], "little")
    if decode_at(memoryview(content), DATA_START, written) is not None:
        return written
    return marker_of(number, following.salt if following is not None else 0)


def _all_records(content: bytes, marker: int, following: SegmentHeader | None) -> tuple[list[Record], list[Gap]]:
    """The records that verify, and the places between them where some were.

    ``following`` is the header of the next segment, which says where they have to end; None when there is none.
    """
    previous_end = following.previous_end if following is not None else None
    limit = len(content) if previous_end is None else min(previous_end, len(content))
    view = memoryview(content)[:limit]
    found = list(walk(view, marker))
    end = found[-1].end if found else DATA_START
    gaps: list[Gap] = []
    while _more_is_proven(content, marker, end, previous_end):
        start, more = end, _next_record(content, view, marker, end)
        found += more
        end = more[-1].end if more else limit
        gaps.append(Gap(start, more[0].offset if more else previous_end or limit, "no valid record here"))
        if not more:
            break
    return found, gaps


def _more_is_proven(content: bytes, marker: int, end: int, previous_end: int | None) -> bool:
    if previous_end is not None:
        return end < previous_end
    return find_proof_of_damage(content, marker, end) is not None


def _next_record(content: bytes, view: memoryview, marker: int, start: int) -> list[Record]:
    """The next record that verifies after ``start``, and all that follow it without a gap."""
    for offset in marker_offsets(content, marker, start):
        found: list[Record] = []
        at = offset
        while (record := decode_at(view, at, marker)) is not None:
            found.append(record)
            at = record.end
        if found:
            return found
    return []


def _undecodable(content: bytes, found: list[Record]) -> list[Gap]:
    """Records whose checksum is right, and whose body is not what they declare."""
    view = memoryview(content)
    gaps = []
    for record in found:
        try:
            body = body_of(view, record)
        except ValueError as error:
            gaps.append(Gap(record.offset, record.end, str(error)))
            continue
        if len(body) != record.raw_bytes:
            gaps.append(Gap(record.offset, record.end, f"{record.raw_bytes} bytes declared, {len(body)} there"))
    return gaps


def _other(directory: str, files: Files, name: str) -> OtherFile:
    kinds = {READY_SUFFIX: "spare", PREPARATION_SUFFIX: "preparation"}
    kind = next((kind for suffix, kind in kinds.items() if name.endswith(suffix)), "unknown")
    file = files.open_read(join(directory, name))
    try:
        return OtherFile(name, kind, file.size())
    finally:
        file.close()


def _moved(directory: str, files: Files, names: list[str], newest: SegmentView) -> bool:
    """Whether segments came or went since, or a record now stands where the end was."""
    if files.listdir(directory) != names:
        return True
    if newest.header is None:
        return False
    content = _read(files, join(directory, newest.name))
    return decode_at(memoryview(content), newest.end, newest.header.marker) is not None


# -- snapshots ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """One file of a snapshot directory, as far as it was read."""

    path: str
    size_bytes: int
    complete: bool
    """False while it is being written or received."""
    meta: SnapshotMeta | None
    """None when the header is damaged, or not there yet."""
    content_bytes: int | None
    """Before compression; None until all of it was read."""
    damage: str
    """Where and why it does not verify; empty as far as it was read."""


def look_at_snapshots(directory: str, files: Files) -> list[SnapshotView]:
    """Headers and sizes, oldest first; nothing after the header is read. Raises OSError."""
    found = []
    for name in files.listdir(directory):
        if name.endswith((SUFFIX, PART_SUFFIX)):
            try:
                found.append(look_at_snapshot(join(directory, name), files, everything=False))
            except FileNotFoundError:
                continue  # replaced, or finished, meanwhile
    return found


def look_at_snapshot(path: str, files: Files, *, everything: bool) -> SnapshotView:
    """``everything``: all checksums are checked and the content is decompressed. Raises OSError."""
    file = files.open_read(path)
    complete = not path.endswith(PART_SUFFIX)
    meta: SnapshotMeta | None = None
    size: int | None = None
    damage = ""
    try:
        content = SnapshotContent(file)
        meta = content.meta
        name = path.rpartition("/")[2]
        if name.endswith(SUFFIX) and _is_stored_name(name) and name != snapshot_name(meta.index, meta.term):
            damage = f"{path} holds the snapshot of index {meta.index}, term {meta.term}"
        if everything and complete:
            size = sum(map(len, content))
    except CorruptSnapshotError as error:
        damage = str(error) if complete else ""
    finally:
        bytes_there = file.size()
        file.close()
    return SnapshotView(path, bytes_there, complete, meta, size, damage)


def _is_stored_name(name: str) -> bool:
    """Whether it is a name that a store gives, and not that of a copy."""
    return len(name) == len(snapshot_name(0, 0)) and name[20] == "-"
