"""Continuous archiving: what is committed leaves the log for an archive (:mod:`persistence.archive`), all the time.

The event loop takes slices of applied entries out of the log; a thread of its own compresses, writes and syncs them.
Whatever becomes of the archive's disk, the node goes on: a failure is told and tried again later, a disk that hangs
holds only that thread. Meanwhile the log keeps what is not archived yet, up to a bound; beyond it, or when the log
becomes another one, there is a **gap**, which is told loudly, and a new run begins with a base of now.

After a failure and after a restart it goes on after the last complete file: the log still has what came after.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from persistence.archive import ArchiveWriter, Place
from persistence.backup import Origin
from persistence.directory import explain
from persistence.entries import Archived
from persistence.errors import PersistenceError
from persistence.files import Files
from raftkv import __version__
from raftkv.clock import Clock
from raftkv.config import Settings
from raftkv.consensus.node import RaftNode
from raftkv.errors import RaftKVError
from raftkv.machine.batch import stamp_of
from raftkv.machine.summary import StateSummary
from raftkv.replicator import OpenSnapshot, Report

SLICE_BYTES: Final = 4 * 1024 * 1024
"""Given to the thread at a time; the next slice waits until this one is compressed."""
SLICE_ENTRIES: Final = 64
"""Read from the log at a time; one at a time once they are large."""
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
"""After a failure, doubled each time."""
STOP_S: Final = 5.0
"""A node that stops waits so long for its last file."""
REGULAR: Final = 0
"""First byte of an entry of the state machine: it has a stamp."""


class Log(Protocol):
    """The node's log; asked on the event loop's thread only."""

    @property
    def first_index(self) -> int: ...
    def entries(self, low: int, count: int) -> Sequence[tuple[bytes, int, int]]: ...
    def term_at(self, index: int) -> int | None: ...


class Source(Protocol):
    """What is archived."""

    @property
    def log(self) -> Log: ...
    @property
    def applied(self) -> int: ...
    def open_snapshot(self) -> OpenSnapshot | None: ...
    def take_snapshot(self, done: Callable[[int, RaftKVError | None], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """As the settings of these names."""

    directory: str
    file_bytes: int
    file_s: float
    base_s: float


NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class _View:
    """Where the writer stands, for the loop."""

    run: int = 0
    archived: Place = NOWHERE
    added: Place = NOWHERE
    stamp_ms: int = 0
    open_bytes: int = 0
    base_index: int = 0
    base_taken_ms: int = 0
    unusable: str = ""


@dataclass(slots=True)
class ArchiveState:
    """For INFO and metrics. Totals count from the start of the node."""

    run: int = 0
    index: int = 0
    """Last entry in a complete file (or base)."""
    base_index: int = 0
    behind_since: float | None = None
    """Clock.monotonic() when the oldest entry that is not archived was noticed; None: nothing waits."""
    error: str = ""
    """Why the last attempt failed; empty while it works."""
    failures: int = 0
    gaps: int = 0
    written_bytes: int = 0
    files: int = 0

    def lag_s(self, now: float) -> float:
        """Age of the oldest entry that is not archived; 0.0 when all are."""
        return 0.0 if self.behind_since is None else max(0.0, now - self.behind_since)


class Archiver:
    """Call :meth:`step` a few times a second."""

    def __init__(
        self, source: Source, options: Options, *, cluster_id: str, node_id: str, clock: Clock, report: Report,
        call_soon_threadsafe: Callable[[Callable[[], None]], object], files: Files | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._options = options
        self._cluster_id, self._node_id = cluster_id, node_id
        self._clock = clock
        self._report = report
        self._call_soon = call_soon_threadsafe
        self._files = files
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._writer: ArchiveWriter | None = None  # the thread's while a job runs
        self._view: _View | None = None
        self._busy = self._stopping = self._asked = False
        self._retry_at = 0.0
        self._retry_s = RETRY_S
        self._held = 0
        """First entry after it that a base on its way needs."""
        self._newest = 0
        """Last entry that this process has seen in the archive, whatever is there now; 0 once the gap after it was
        told."""
        self._stopped: asyncio.Event | None = None
        self.state = ArchiveState()
        self._thread = threading.Thread(target=self._work, name="archiver", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ what the log has to keep
    def first_needed(self) -> int:
        """First entry that is not safe in the archive, or the one before it; 1 while that is not known."""
        if self._held:
            return self._held
        return max(1, self._view.archived.index) if self._view is not None else 1

    # ------------------------------------------------------------ steps, on the loop
    def step(self) -> None:
        """Do what there is to do next. Raises nothing: an archive never stops a node."""
        now = self._clock.monotonic()
        if self.state.behind_since is None and self._source.applied > self.state.index:
            self.state.behind_since = now
        if self._busy or self._stopping or now < self._retry_at:
            return
        try:
            self._step(now)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the node does not stop for its archive
            self._failed(error)

    def _step(self, now: float) -> None:
        view = self._view
        if view is None or self._writer is None:
            self._submit(self._open)
        elif gap := self._gap(view):
            self._begin_run(gap)
        elif entries := self._collect(view):
            self._submit(lambda: self._add(entries))
        elif view.open_bytes and now - (self.state.behind_since or 0.0) >= self._options.file_s:
            self._submit(self._flush)
        elif self._base_is_due(view):
            self._take_base(view)

    def _gap(self, view: _View) -> str:
        """Why the run cannot go on; empty when it can."""
        at, log = view.added, self._source.log
        if not view.run and self._newest:
            return "the archive is empty, and was not before: is its file system mounted?"
        if not view.run or view.unusable:
            return view.unusable or "nothing is archived yet"
        if at.index > self._source.applied:
            return ""  # this node was behind its own archive, and catches up
        term = log.term_at(at.index)
        if term == at.term or (not at.index and log.first_index <= 1):
            return ""
        if term is None:
            return f"entries {at.index + 1} to {log.first_index - 1} left the log before they were archived"
        return f"entry {at.index} is of term {term} now, archived was one of term {at.term}: the log is another one"

    def _collect(self, view: _View) -> list[Archived]:
        found: list[Archived] = []
        size, stamp_ms, low = 0, view.stamp_ms, view.added.index + 1
        count = SLICE_ENTRIES
        while size < SLICE_BYTES and low <= self._source.applied:
            read = self._source.log.entries(low, min(count, self._source.applied + 1 - low))
            for payload, index, term in read:
                if payload[0] == REGULAR:
                    stamp_ms = max(stamp_ms, stamp_of(payload))
                found.append(Archived(index, term, stamp_ms, payload))
                size += len(payload)
            low += len(read)
            if size > SLICE_BYTES // SLICE_ENTRIES * len(found):
                count = 1
        return found

    def _begin_run(self, why: str) -> None:
        snapshot, log = self._source.open_snapshot(), self._source.log
        fits = log.first_index <= 1 if snapshot is None else log.term_at(snapshot.index) == snapshot.term
        if not fits:
            if snapshot is not None:
                snapshot.file.close()
            self._ask_for_snapshot()
            return
        view = self._view or _View()
        if archived := max(self._newest, view.archived.index):
            self.state.gaps += 1
            self._report.error("ARCHIVE GAP: points between its runs cannot be restored", directory=self._options.directory,
                               run=view.run, archived=archived, reason=why)  # fmt: skip
            self._newest = 0
        self._held = 1 if snapshot is None else snapshot.index + 1
        self._submit(lambda: self._begin(snapshot))

    def _base_is_due(self, view: _View) -> bool:
        if self._clock.wall_ms() - view.base_taken_ms < self._options.base_s * 1000:
            return False
        return self._source.applied == view.added.index > view.base_index

    def _take_base(self, view: _View) -> None:
        """All applied entries are taken in: a snapshot of now, or the node's own if there was
        none yet, is within the run.
        """
        snapshot = self._source.open_snapshot()
        if snapshot is None or snapshot.index <= view.base_index or snapshot.index > view.added.index:
            if snapshot is not None:
                snapshot.file.close()
            if view.base_taken_ms or snapshot is not None:
                self._ask_for_snapshot()
            return
        self._submit(lambda: self._add_base(snapshot))

    def _ask_for_snapshot(self) -> None:
        if not self._asked:
            self._asked = True
            self._source.take_snapshot(self._snapshot_taken)

    def _snapshot_taken(self, _index: int, error: RaftKVError | None) -> None:
        self._asked = False
        if error is not None:
            self._failed(error)

    # ------------------------------------------------------------ jobs, on the thread
    def _open(self) -> None:
        self._writer = ArchiveWriter.open(self._options.directory, cluster_id=self._cluster_id, files=self._files)

    def _begin(self, snapshot: OpenSnapshot | None) -> None:
        assert self._writer is not None
        if snapshot is None:
            self._writer.begin_run(None, lambda _at, _length: b"", StateSummary())
            return
        try:
            self._writer.begin_run(self._origin(snapshot), _reader(snapshot), StateSummary())
        finally:
            snapshot.file.close()

    def _add(self, entries: list[Archived]) -> None:
        assert self._writer is not None
        self._writer.add(entries)
        if self._writer.open_bytes >= self._options.file_bytes:
            self._flush()

    def _flush(self) -> None:
        assert self._writer is not None
        written = self._writer.flush()
        self.state.written_bytes += written
        self.state.files += bool(written)

    def _add_base(self, snapshot: OpenSnapshot) -> None:
        assert self._writer is not None
        try:
            self._flush()
            self._writer.add_base(self._origin(snapshot), _reader(snapshot), StateSummary())
        finally:
            snapshot.file.close()

    def _origin(self, snapshot: OpenSnapshot) -> Origin:
        return Origin(
            self._cluster_id, self._node_id, snapshot.index, snapshot.term, snapshot.size_bytes, self._clock.wall_ms(),
            f"raftkv {__version__}",
        )  # fmt: skip

    # ------------------------------------------------------------ to the thread and back
    def _submit(self, job: Callable[[], None]) -> None:
        self._busy = True
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            error: Exception | None = None
            try:
                job()
            except Exception as raised:  # noqa: BLE001 -- told on the loop
                error = raised
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None
            try:
                self._call_soon(partial(self._done, error, _view_of(self._writer)))
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _done(self, error: Exception | None, view: _View | None) -> None:
        self._busy = False
        if self._stopped is not None:
            self._stopped.set()
        if error is not None:
            self._failed(error)
            return
        assert view is not None
        self._view, self._held = view, 0
        self._newest = max(self._newest, view.archived.index)
        state = self.state
        caught_up = view.archived.index >= self._source.applied
        wrote = view.archived.index > state.index or view.run != state.run or view.base_index != state.base_index
        if wrote:
            state.behind_since = None if caught_up else self._clock.monotonic()
        if wrote or caught_up:
            self._works()
        state.run, state.index, state.base_index = view.run, view.archived.index, view.base_index
        if view.added.index < self._source.applied:
            self.step()

    def _works(self) -> None:
        """Something was written, or there is nothing to write."""
        if self.state.error:
            self._report.info("archive works again", directory=self._options.directory)
        self.state.error = ""
        self._retry_s = RETRY_S

    def _failed(self, error: Exception) -> None:
        if isinstance(error, OSError):
            error = explain(error, self._options.directory, "archive")
        text = str(error) if isinstance(error, PersistenceError | RaftKVError) else repr(error)
        state = self.state
        state.failures += 1
        if text != state.error or self._retry_s >= RETRY_S_MAX:
            self._report.warning("archive failed; the node goes on, and tries again", directory=self._options.directory,
                                 reason=text, retry_s=self._retry_s)  # fmt: skip
        state.error = text
        self._retry_at = self._clock.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
        self._held = 0

    # ------------------------------------------------------------ the end
    async def stop(self) -> None:
        """Write what was taken in, within STOP_S; the rest is in the log for the next start."""
        self._stopping = True
        self._stopped = asyncio.Event()
        try:
            async with asyncio.timeout(STOP_S):
                if self._busy:
                    await self._stopped.wait()
                if self._writer is not None and self._view is not None:
                    self._stopped.clear()
                    self._submit(self._close)
                    await self._stopped.wait()
        except TimeoutError:
            self._report.warning("the archive's disk does not answer; what it lacks is in the log")
        self._jobs.put(None)

    def _close(self) -> None:
        assert self._writer is not None
        self._flush()
        self._writer.close()


def make_archiver(
    settings: Settings, raft: RaftNode, clock: Clock, report: Report,
    call_soon_threadsafe: Callable[[Callable[[], None]], object],
) -> Archiver | None:  # fmt: skip
    """The node's, which its log keeps entries for from now on; None when the settings ask for none."""
    if settings.archive_dir is None:
        return None
    options = Options(
        str(settings.archive_dir), settings.archive_file_bytes, settings.archive_file_s, settings.archive_base_s
    )
    archiver = Archiver(
        _Replica(raft), options, cluster_id=settings.cluster_id, node_id=settings.node_id, clock=clock, report=report,
        call_soon_threadsafe=call_soon_threadsafe,
    )  # fmt: skip
    raft.replica.retention.hold("archive", archiver.first_needed, settings.archive_retain_bytes)
    return archiver


class _Replica:
    """A node's replica as what is archived."""

    def __init__(self, raft: RaftNode) -> None:
        self._raft = raft

    @property
    def log(self) -> Log:
        return self._raft.replica.core.log

    @property
    def applied(self) -> int:
        return self._raft.replica.core.applied

    def open_snapshot(self) -> OpenSnapshot | None:
        return self._raft.open_snapshot()

    def take_snapshot(self, done: Callable[[int, RaftKVError | None], None]) -> None:
        self._raft.take_snapshot(done)


def _reader(snapshot: OpenSnapshot) -> Callable[[int, int], bytes]:
    return lambda offset, length: snapshot.file.pread(length, offset)


def _view_of(writer: ArchiveWriter | None) -> _View | None:
    if writer is None:
        return None
    return _View(
        writer.run, writer.archived, writer.added, writer.stamp_ms, writer.open_bytes, writer.base_index,
        writer.base_taken_ms, writer.unusable,
    )  # fmt: skip
