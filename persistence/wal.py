"""The write-ahead log of one Raft replica.

Two sides. The **owner** (one thread) appends and reads; what it appends is visible to it at once and only *buffered*.
The **committer** (a thread of its own, or whoever calls :meth:`Log.sync`) takes everything that is buffered, encodes
it, writes it with one system call, syncs, and reports how far the log is durable: group commit. While a round is in
flight, the owner goes on; what it appends meanwhile is the next round.

Durability is counted in *sequence numbers*, because an index alone cannot say whether the entry that was durable
is the one that is there now (it may have been truncated and replaced). ``sequence`` after a call is the number to
wait for; ``durable_sequence`` says how far the disk is. ``durable_index`` translates it for the log as it stands now.

Caveats. After one failed write or sync the log has failed for good: what the disk holds is unknown, only opening it
again finds out. Reads of entries in memory still work then; everything else raises LogFailedError. Files are laid
out as docs/architecture/formats.md says.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from persistence.committer import Committer
from persistence.errors import LogClosedError, LogFailedError, OutOfRangeError, PersistenceError
from persistence.files import Files, OsFiles
from persistence.log_reader import LogReader
from persistence.progress import Progress, untold
from persistence.records import (
    BODY_BYTES_MAX,
    CLEAR,
    COMPACT,
    TRUNCATE,
    Compressor,
    Control,
    HardState,
    hard_state_control,
)
from persistence.recovery import Recovered, recover
from persistence.reserve import Reserve
from persistence.segment import DATA_START, VOTE_BYTES_MAX, Segment
from persistence.spares import Spares
from persistence.writer import Entry, Item, LogWriter

ENTRY_OVERHEAD_BYTES = 128
"""What a cached entry costs in memory besides its payload."""
ENTRIES_MIN = 2
"""Entries that are read whatever their size: Raft needs two to place a snapshot, and to see that a tail conflicts."""
SEGMENT_BYTES_MIN = DATA_START * 2
SEGMENT_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a log is kept. Changing them between two runs is allowed."""

    segment_bytes: int = 64 << 20
    cache_bytes: int = 16 << 20
    """Payloads of the newest entries stay in memory up to this much; un-written ones always do."""
    preallocate: bool = True
    """Segments are zero-filled before use: a third off each sync, and a full disk is met before, not in, a write."""
    fsync: Literal["always", "everysec", "no"] = "always"
    """When records count as durable: after a sync, or (everysec, no) as soon as they are written."""
    compress_bytes_min: int = 16 << 10
    """Payloads from this size on are tried with lz4; 0 never."""
    salt: int = 0
    """64 random bits, for a log that has none yet (see ``segment.marker_of``); 0 for none."""

    def __post_init__(self) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"segment_bytes must be {SEGMENT_BYTES_MIN}..{SEGMENT_BYTES_MAX}, not {self.segment_bytes}"
            )
        if not 0 <= self.salt < 1 << 64:
            raise ValueError(f"salt must be 64 bits, not {self.salt}")
        if self.fsync not in ("always", "everysec", "no"):
            raise ValueError(f"fsync must be always, everysec or no, not {self.fsync!r}")


class Log:
    """See the module. ``first_index``, ``last_index``, ``last_term`` (0 when the log is empty), ``hard_state``,
    ``sequence`` and ``failed`` are attributes because they are read on the hot path; only the log writes them.
    """

    def __init__(self, directory: str, options: LogOptions, spares: Spares, found: Recovered) -> None:
        """Use :meth:`open`."""
        self.directory = directory
        self.options = options
        self.first_index = found.state.first_index
        self.last_index = found.state.last_index
        self.last_term = found.state.last_term
        self.hard_state = found.state.hard_state
        self.sequence = 0
        self.failed: Exception | None = None
        self.torn_bytes = found.cut_bytes
        """How much of a torn tail recovery cut; 0 after a clean stop."""
        self._positions = found.positions
        self._spares = spares
        self._writer = LogWriter(
            found.segments,
            found.state,
            found.positions,
            spares,
            options.segment_bytes,
            Compressor(options.compress_bytes_min),
        )
        self._reader = LogReader(found.positions, self._writer.segment_of)
        self._pending: list[Item] = []
        self._durable = self._synced = (0, self.last_index)
        self._rewind_sequence = 0
        self._rewind_floor = 0
        self._cache: list[Entry] = []
        self._cache_first = self.last_index + 1
        self._cached_bytes = 0
        self._evict_above = options.cache_bytes
        self._round = threading.Lock()
        self._in_flight = False
        self._closed = False
        self._committer: Committer | None = None

    @classmethod
    def open(
        cls,
        directory: str,
        options: LogOptions | None = None,
        files: Files | None = None,
        reserve: Reserve | None = None,
        progress: Progress = untold,
    ) -> Log:
        """Open or create the log in ``directory`` and recover it. On a full disk it takes the ``reserve``.

        Raises CorruptLogError when something that was durable is damaged, OSError when the disk refuses.
        """
        options = options or LogOptions()
        files = files or OsFiles()
        files.make_dir(directory)
        spares = Spares(directory, files, options.segment_bytes, options.preallocate, reserve)
        try:
            found = recover(directory, files, spares, progress, options.salt)
        except OSError as error:
            if not spares.reserve.helps(error, "recovery of the log"):
                raise
            spares = Spares(directory, files, options.segment_bytes, options.preallocate, reserve)
            found = recover(directory, files, spares, progress, options.salt)
        log = cls(directory, options, spares, found)
        log._warm_cache()
        return log

    # -- what the owner knows -----------------------------------------------------------------------------------

    @property
    def durable_sequence(self) -> int:
        """Records that are durable (as ``options.fsync`` understands it)."""
        return self._durable[0]

    @property
    def durable_index(self) -> int:
        """Highest index such that this log's entries up to it are durable; 0 if none is."""
        return self._index_of(self._durable)

    @property
    def synced_sequence(self) -> int:
        """Records that a sync has covered, whatever ``options.fsync`` says."""
        return self._synced[0]

    @property
    def synced_index(self) -> int:
        """As :attr:`durable_index`, of what a sync has covered: a power cut cannot take it."""
        return self._index_of(self._synced)

    def _index_of(self, reached: tuple[int, int]) -> int:
        sequence, index = reached
        return index if sequence >= self._rewind_sequence else min(index, self._rewind_floor)

    @property
    def entry_count(self) -> int:
        return self.last_index - self.first_index + 1 if self.last_index else 0

    @property
    def salt(self) -> int:
        """Of the newest segment; 0 for none."""
        return self._writer.state.salt

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the segments that the log needs, up to their ends; blank space and spare files are not counted."""
        return self._writer.bytes_on_disk

    def bytes_from(self, index: int) -> int:
        """Bytes on disk of the entries from ``index`` on, with what else was written since; about so much."""
        return self._bytes_from(index, list(self._writer.segments))

    def first_within(self, size: int) -> int:
        """The first index from which on the log takes at most ``size`` bytes on disk; last_index + 1 when none does."""
        segments = list(self._writer.segments)
        with self._positions.lock:
            indices = range(self._positions.first, self._positions.last + 1)
        found = bisect_left(indices, -size, key=lambda index: -self._bytes_from(index, segments))
        return indices.start + found

    def _bytes_from(self, index: int, segments: list[Segment]) -> int:
        positions = self._positions
        with positions.lock:
            if index > positions.last or not len(positions):
                return 0
            place = positions.position(max(index, positions.first))
        return sum(one.end - DATA_START for one in segments if one.number > place.segment) + sum(
            one.end - place.offset for one in segments if one.number == place.segment
        )

    @property
    def segment_count(self) -> int:
        """Segments that the log needs; spare files are not counted."""
        return self._writer.segment_count

    @property
    def buffered_count(self) -> int:
        """Records not yet taken by a round: what an owner with limits should look at."""
        return len(self._pending)

    # -- changes, visible at once, durable later ----------------------------------------------------------------

    def append(self, index: int, term: int, payload: bytes) -> None:
        """Add an entry. ``index`` is ``last_index + 1``, or any positive number when the log is empty."""
        payload_bytes = len(payload)
        if (
            index != self.last_index + 1
            or not self.first_index
            or payload_bytes > BODY_BYTES_MAX
            or self.failed is not None
            or self._closed
        ):
            self._append_unusual(index, payload_bytes)
        entry = (payload, index, term)
        self._cache.append(entry)
        self._pending.append(entry)
        self.last_index = index
        self.last_term = term
        self.sequence += 1
        self._cached_bytes += payload_bytes + ENTRY_OVERHEAD_BYTES
        if self._cached_bytes > self._evict_above:
            self._evict()

    def _append_unusual(self, index: int, payload_bytes: int) -> None:
        self._check_usable()
        if payload_bytes > BODY_BYTES_MAX:
            raise OutOfRangeError(f"an entry of {payload_bytes} bytes, {BODY_BYTES_MAX} are the most")
        if self.last_index and index != self.last_index + 1:
            raise OutOfRangeError(f"cannot append entry {index} after entry {self.last_index}")
        if index < 1:
            raise OutOfRangeError(f"entries count from 1, not {index}")
        if not self.last_index:
            self.first_index = self._cache_first = index

    def truncate_from(self, index: int) -> None:
        """Drop the entries from ``index`` on. Nothing happens when there are none."""
        self._check_usable()
        if index > self.last_index:
            return
        if index <= self.first_index:
            self.clear()
            return
        term = self.term_at(index - 1)
        assert term is not None  # index - 1 is inside the log
        kept = max(0, index - self._cache_first)
        self._cached_bytes -= sum(len(payload) + ENTRY_OVERHEAD_BYTES for payload, _, _ in self._cache[kept:])
        del self._cache[kept:]
        self._cache_first = min(self._cache_first, index)
        self.last_index, self.last_term = index - 1, term
        self._buffer_rewind(Control(TRUNCATE, term, index), index - 1)

    def clear(self) -> None:
        """Drop all entries and keep the hard state; the next append may have any index."""
        self._check_usable()
        self._cache.clear()
        self._cached_bytes = 0
        self._cache_first = 1
        self.first_index = self.last_index = self.last_term = 0
        self._buffer_rewind(Control(CLEAR, 0, 0), 0)

    def compact_to(self, index: int) -> None:
        """Drop the entries below ``index`` (at most ``last_index + 1``); their whole segments go after a sync."""
        self._check_usable()
        if index <= self.first_index or not self.last_index:
            return
        if index > self.last_index + 1:
            raise OutOfRangeError(f"cannot compact to {index}, the log ends at {self.last_index}")
        if index > self.last_index:
            self.clear()
            return
        dropped = max(0, index - self._cache_first)
        self._cached_bytes -= sum(len(payload) + ENTRY_OVERHEAD_BYTES for payload, _, _ in self._cache[:dropped])
        del self._cache[:dropped]
        self._cache_first += dropped
        self.first_index = index
        self._pending.append(Control(COMPACT, 0, index))
        self.sequence += 1

    def set_hard_state(self, term: int, voted_for: str | None) -> None:
        """Remember the term and the vote; synced whatever ``options.fsync`` says.

        It must be durable before anything is sent that depends on it.
        """
        self._check_usable()
        if voted_for is not None and len(voted_for.encode()) > VOTE_BYTES_MAX:
            raise ValueError(f"a node id of more than {VOTE_BYTES_MAX} bytes")
        self.hard_state = HardState(term, voted_for)
        self._pending.append(hard_state_control(self.hard_state))
        self.sequence += 1

    def _buffer_rewind(self, control: Control, kept_to: int) -> None:
        # Until the rewind is synced, the disk's end says nothing about entries that came after it.
        rewinding = self._synced[0] < self._rewind_sequence
        self._pending.append(control)
        self.sequence += 1
        self._rewind_floor = min(self._rewind_floor, kept_to) if rewinding else kept_to
        self._rewind_sequence = self.sequence

    # -- reads --------------------------------------------------------------------------------------------------

    def entry(self, index: int) -> Entry:
        """``(payload, index, term)``. For a recent entry the payload is the very object that was appended.

        Raises OutOfRangeError outside ``first_index .. last_index``, CorruptLogError when the disk's copy is damaged.
        """
        place = index - self._cache_first
        if place >= 0:
            try:
                return self._cache[place]
            except IndexError:
                raise self._out_of_range(index) from None
        return self._read(index, 1)[0]

    def entries(self, low: int, count: int, bytes_max: int = sys.maxsize) -> list[Entry]:
        """Up to ``count`` entries from ``low`` on, fewer at the end of the log; the one whose payload makes it more
        than ``bytes_max`` bytes is the last, unless it is the first: two come at least.

        Raises OutOfRangeError when ``low`` is below ``first_index``.
        """
        place = low - self._cache_first
        if place >= 0:
            return _bounded(self._cache[place : place + count], bytes_max)
        high = min(low + count, self.last_index + 1)
        found: list[Entry] = []
        left = bytes_max
        while low < min(high, self._cache_first) and (left >= 0 or len(found) < ENTRIES_MIN):
            run = self._read(low, min(high, self._cache_first) - low, max(left, 0))
            left -= sum(len(payload) for payload, _, _ in run)
            found += run
            low = found[-1][1] + 1
        if low < high and (left >= 0 or len(found) < ENTRIES_MIN):
            found += self._cache[: high - low]
        return _bounded(found, bytes_max)

    def beginning_with(self, mark: int, low: int) -> Iterator[Entry]:
        """The entries from ``low`` on whose payload begins with the byte ``mark``, in order;
        the log may not change meanwhile.
        """
        self._check_usable()
        if self.last_index:
            low = max(low, self.first_index)
            yield from self._reader.beginning_with(mark, low, min(self._cache_first, self.last_index + 1))
            for entry in self._cache[max(0, low - self._cache_first) :]:
                if entry[0][:1] == bytes([mark]):
                    yield entry

    def term_at(self, index: int) -> int | None:
        """The term of entry ``index``, or None when the log does not hold it."""
        place = index - self._cache_first
        if place >= 0:
            try:
                return self._cache[place][2]
            except IndexError:
                return None
        if index < self.first_index or not self.first_index:
            return None
        with self._positions.lock:
            return self._positions.term(index)

    def _out_of_range(self, index: int) -> OutOfRangeError:
        return OutOfRangeError(f"no entry {index}, the log holds {self.first_index} to {self.last_index}")

    def _read(self, index: int, count: int, bytes_max: int = sys.maxsize) -> list[Entry]:
        """At least one, at most ``count`` entries from disk that lie together, and hardly more than ``bytes_max``."""
        if index < self.first_index or not self.first_index:
            raise self._out_of_range(index)
        self._check_usable()
        return self._reader.run(index, count, bytes_max)

    def _warm_cache(self) -> None:
        """After recovery: read the newest entries back, so that the first reads cost what all later ones do."""
        low = self.last_index + 1
        wanted = self.options.cache_bytes // 2
        while self.first_index and low > self.first_index:
            wanted -= self._positions.position(low - 1).stored_bytes + ENTRY_OVERHEAD_BYTES
            if wanted < 0:
                break
            low -= 1
        entries = self.entries(low, self.last_index + 1 - low) if low <= self.last_index else []
        self._cache = entries
        self._cache_first = low
        self._cached_bytes = sum(len(payload) + ENTRY_OVERHEAD_BYTES for payload, _, _ in entries)

    def _evict(self) -> None:
        """Forget the oldest payloads that are on disk, down to three quarters of the limit."""
        target = self.options.cache_bytes * 3 // 4
        with self._positions.lock:
            # Before the last rewind is written, the table may still tell of entries that it replaces.
            settled = self._positions.sequence >= self._rewind_sequence
            placed = self._positions.last - self._cache_first + 1 if settled else 0
        dropped = 0
        while dropped < placed and self._cached_bytes > target:
            self._cached_bytes -= len(self._cache[dropped][0]) + ENTRY_OVERHEAD_BYTES
            dropped += 1
        del self._cache[:dropped]
        self._cache_first += dropped
        self._evict_above = max(self.options.cache_bytes, self._cached_bytes + self.options.cache_bytes // 8)

    # -- rounds: taken by one thread at a time ------------------------------------------------------------------

    def sync(self) -> None:
        """Write and sync everything buffered, on this thread. Raises LogFailedError, and ever after."""
        self._check_usable()
        self.run_round(sync=True)
        self._check_usable()

    def begin_sync(self) -> bool:
        """For an owner without a committer whose disk takes (virtual) time: write what is buffered, do not sync.

        Returns whether there was anything. :meth:`finish_sync` makes it durable; what is buffered in between
        belongs to the next round.
        """
        self._check_usable()
        with self._round:
            if self._in_flight:
                raise PersistenceError("a round is in flight: finish_sync() comes first")
            items = self._take()
            self._guarded(lambda: self._writer.write(items, sync=False))
            self._in_flight = bool(items)
        self._check_usable()
        return self._in_flight

    def finish_sync(self) -> None:
        """Sync what :meth:`begin_sync` wrote and count it as durable."""
        self._check_usable()
        with self._round:
            self._in_flight = False
            self._guarded(self._sync_written)
        self._check_usable()

    def run_round(self, *, sync: bool) -> None:
        """One round; a failure is left in ``failed``. For the committer and :meth:`sync`."""
        with self._round:
            if self.failed is not None or self._closed:
                return
            items = self._take()
            self._in_flight = False
            if sync:
                self._guarded(lambda: self._write_and_sync(items))
            else:
                self._guarded(lambda: self._write_only(items))

    def retire_segments(self) -> None:
        """Delete or recycle what compaction freed; off the way of acknowledgements. For the committer."""
        with self._round:
            if self.failed is None and not self._closed:
                self._guarded(self._writer.retire_segments)

    def _take(self) -> list[Item]:
        # The owner may append meanwhile: both statements are single operations on one list object.
        count = len(self._pending)
        items = self._pending[:count]
        del self._pending[:count]
        return items

    def _write_and_sync(self, items: list[Item]) -> None:
        self._writer.write(items, sync=True)
        self._publish()
        if self._committer is None:
            self._writer.retire_segments()

    def _write_only(self, items: list[Item]) -> None:
        self._writer.write(items, sync=False)
        if self._writer.must_sync:
            self._writer.sync()
        self._publish()

    def _sync_written(self) -> None:
        self._writer.sync()
        self._publish()
        self._writer.retire_segments()

    def _publish(self) -> None:
        self._durable = (self._writer.written, self._writer.state.last_index)
        if self._writer.all_synced:
            self._synced = self._durable

    def _guarded(self, step: Callable[[], None]) -> None:
        if self.failed is not None:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 -- whatever it was, the disk's state is unknown now
            failure = LogFailedError(f"the log in {self.directory} failed and must be opened again: {error}")
            failure.__cause__ = error
            self.failed = failure

    # -- the committer ------------------------------------------------------------------------------------------

    def start_committer(self, on_durable: Callable[[int], None], on_failed: Callable[[Exception], None]) -> None:
        """Start the group-commit thread. Both callbacks run ON THAT THREAD: ``on_durable(durable_sequence)`` after
        each round, ``on_failed(error)`` at most once, after which the thread ends.
        """
        self._check_usable()
        if self._committer is not None:
            raise PersistenceError("the committer runs already")
        self._committer = Committer(self, self._spares, self.options.fsync, on_durable, on_failed)
        self._committer.start()

    def request_sync(self) -> None:
        """Ask the committer for a round over everything buffered so far. Cheap; from the owner's thread."""
        committer = self._committer
        if committer is None:
            raise PersistenceError("request_sync() needs start_committer() first")
        committer.request()

    def request_fsync(self) -> None:
        """As :meth:`request_sync`, and the round syncs whatever ``options.fsync`` says: see ``synced_sequence``."""
        committer = self._committer
        if committer is None:
            raise PersistenceError("request_fsync() needs start_committer() first")
        committer.request_fsync()

    # -- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the committer, make everything buffered durable, close the files. Idempotent.

        A log that failed is closed without a further write.
        """
        if self._closed:
            return
        if self._committer is not None:
            self._committer.stop()
            self._committer = None
        self.run_round(sync=True)
        with self._round:
            self._guarded(self._writer.seal)
            self._closed = True
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self.failed is not None:
            raise self.failed
        if self._closed:
            raise LogClosedError(f"the log in {self.directory} is closed")


def _bounded(entries: list[Entry], bytes_max: int) -> list[Entry]:
    """The first of them, see :meth:`Log.entries`."""
    if bytes_max < sys.maxsize:
        for at, (payload, _, _) in enumerate(entries, 1):
            bytes_max -= len(payload)
            if bytes_max < 0 and at >= ENTRIES_MIN:
                return entries[:at]
    return entries
