# ruff: noqa: N802, N803 -- the names of the engine's Journal interface
"""The engine's view of our write-ahead log.

Fault 3 of ``consensus.md``: the engine's own journal is never synced and is changed in place. Here it is an
append-only, checksummed log; term and vote are on disk before they are used, and the commit index is volatile,
as in the Raft paper.

Raft's invariants of a log are asserted here, always: indices have no gaps, terms never go back, one vote a term,
nothing committed is cut. A breach is a bug or a damaged file; the node stops and names the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, overload

from pysyncobj.journal import Journal

from raftkv.consensus.configuration import CONFIGURATION
from raftkv.consensus.messages import Entry
from raftkv.errors import InvariantError

SLICE_ENTRIES_MAX = 64
SLICE_BYTES_MAX = 128 * 1024
"""A slice gives about so much; the engine asks again for the rest. It applies one slice a tick, so that a follower
that has much to apply still acknowledges what arrives meanwhile."""

NOTHING_KEPT = 1 << 62


class HardState(Protocol):
    """What must survive a restart besides the entries."""

    @property
    def term(self) -> int: ...
    @property
    def voted_for(self) -> str | None: ...


class WriteAheadLog(Protocol):
    """What consensus needs of :class:`persistence.wal.Log` (a simulated one serves as well)."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def last_term(self) -> int: ...
    @property
    def hard_state(self) -> HardState: ...
    @property
    def durable_index(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def durable_sequence(self) -> int: ...
    @property
    def synced_sequence(self) -> int: ...
    @property
    def synced_index(self) -> int: ...
    @property
    def failed(self) -> Exception | None: ...
    @property
    def bytes_on_disk(self) -> int: ...
    @property
    def entry_count(self) -> int: ...
    def bytes_from(self, index: int) -> int: ...
    def first_within(self, size: int) -> int: ...
    def append(self, index: int, term: int, payload: bytes) -> None: ...
    def truncate_from(self, index: int) -> None: ...
    def set_hard_state(self, term: int, voted_for: str | None) -> None: ...
    def clear(self) -> None: ...
    def compact_to(self, index: int) -> None: ...
    def entry(self, index: int) -> Entry: ...
    def entries(self, low: int, count: int, bytes_max: int = ...) -> list[Entry]: ...
    def beginning_with(self, mark: int, low: int) -> Iterator[Entry]: ...
    def term_at(self, index: int) -> int | None: ...
    def sync(self) -> None: ...
    def request_sync(self) -> None: ...
    def request_fsync(self) -> None: ...


def _ignore(*_: object) -> None:
    return None


class JournalAdapter(Journal):
    """pysyncobj's Journal on a WriteAheadLog.

    The engine addresses entries by their position after the first one. ``view_first`` lets it see the log from
    a later entry on than what is kept for slow followers, which it needs to recognise a snapshot that matches.
    """

    def __init__(self, log: WriteAheadLog, snapshot_index: int) -> None:
        self.log = log
        self.view_first = log.first_index
        self.first_kept: Callable[[], int] = lambda: NOTHING_KEPT
        """Entries from here on stay when the engine compacts (:mod:`raftkv.consensus.compaction`)."""
        self._first: Entry = (b"", -1, -1)
        self._commit_at_start = max(snapshot_index, 1)
        self.on_configuration: Callable[[int, bytes], None] = _ignore
        """Told of every entry that holds a configuration, when it gets into the log."""
        self.on_truncated: Callable[[int], None] = _ignore
        """Told from which entry on the log was cut."""
        self.committed: Callable[[], int] = lambda: 0
        """Highest index known to be committed; nothing up to it is ever cut."""

    def __len__(self) -> int:
        return self.log.last_index - self.view_first + 1 if self.log.last_index else 0

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        log = self.log
        if isinstance(item, slice):
            low = self.view_first + item.start
            stop = log.last_index + 1 if item.stop is None else min(self.view_first + item.stop, log.last_index + 1)
            count = min(stop - low, SLICE_ENTRIES_MAX)
            if count <= 0:
                return []
            return [log.entry(low)] if count == 1 else log.entries(low, count, SLICE_BYTES_MAX)
        if item < 0:
            return log.entry(log.last_index + 1 + item)
        return self._first_entry() if item == 0 else log.entry(self.view_first + item)

    def _first_entry(self) -> Entry:
        """The engine asks for it all the time, to learn where the log begins; its payload may long be on disk only."""
        index = self.view_first
        if self._first[1] != index or self._first[2] != self.log.term_at(index):
            self._first = self.log.entry(index)
        return self._first

    def add(self, command: bytes, idx: int, term: int) -> None:
        log = self.log
        if log.last_index and idx != log.last_index + 1:
            msg = f"gap in the log: entry {idx} after {log.last_index}"
            raise InvariantError(msg)
        if term < log.last_term:
            msg = f"terms go back in the log: entry {idx} of term {term} after one of term {log.last_term}"
            raise InvariantError(msg)
        if not log.last_index:
            self.view_first = idx
        log.append(idx, term, command)
        if command[0] == CONFIGURATION:
            self.on_configuration(idx, command)

    def clear(self) -> None:
        self._first = (b"", -1, -1)
        self.on_truncated(0)  # before: the engine cannot be given other voters while its log is empty
        self.log.clear()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        index = self.view_first + entryFrom
        if index <= self.log.last_index:
            if index <= self.committed():
                msg = f"entry {index} would be cut off the log, and {self.committed()} is committed"
                raise InvariantError(msg)
            self.log.truncate_from(index)
            self.on_truncated(index)

    def deleteEntriesTo(self, entryTo: int) -> None:
        index = min(self.view_first + entryTo, self.first_kept())
        if index > self.log.first_index:
            self.log.compact_to(index)
        self.view_first = self.log.first_index

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        pass

    def getRaftCommitIndex(self) -> int:
        return self._commit_at_start

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        known = self.log.hard_state
        if term < known.term:
            msg = f"the term would go back from {known.term} to {term}"
            raise InvariantError(msg)
        if term == known.term and known.voted_for not in (None, votedForNodeId):
            msg = f"a second vote in term {term}: for {votedForNodeId} after {known.voted_for}"
            raise InvariantError(msg)
        self.log.set_hard_state(term, votedForNodeId)
        self.log.sync()

    def getCurrentTerm(self) -> int:
        return self.log.hard_state.term

    def getVotedForNodeId(self) -> str | None:
        return self.log.hard_state.voted_for

    def _destroy(self) -> Any:
        return None
