"""Who waits until this node's log is synced, whatever its fsync setting: WAITAOF, SYNC and COMPACT.

With ``fsync = everysec`` or ``no`` a record counts as durable before a power cut could not take it any more. A wait
here asks for a sync of its own. It is counted in the log's sequence numbers: the entry was in the log when the wait
began and is committed, so nothing replaces it, and once everything written so far is synced, it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from raftkv.consensus.core import Core
from raftkv.consensus.outcomes import Cause
from raftkv.consensus.reads import ReadIndex
from raftkv.errors import RaftKVError

WAITING_MAX: Final = 10_000
"""Waits for a sync at once; one more is refused as busy."""

Synced = Callable[[RaftKVError | None], None]


class Syncing:
    """Waits of one node, oldest first."""

    def __init__(self, core: Core, reads: ReadIndex) -> None:
        self._core = core
        self._reads = reads
        self._waiting: deque[tuple[int, Synced]] = deque()

    def wait(self, index: int, done: Synced) -> None:
        """Call ``done`` when the committed entry ``index`` is applied here, and synced with all before it.

        Errors: those of :meth:`ReadIndex.await_applied`; busy; stopped, when the log fails meanwhile.
        """
        self._reads.await_applied(index, lambda error: done(error) if error is not None else self._sync(done))

    def _sync(self, done: Synced) -> None:
        log = self._core.log
        if log.failed is not None or self._core.halted:
            done(self._stopped())
        elif log.synced_sequence >= log.sequence:
            done(None)
        elif len(self._waiting) >= WAITING_MAX:
            done(Cause.SYNCS_FULL.error(WAITING_MAX))
        else:
            self._waiting.append((log.sequence, done))
            log.request_fsync()

    def on_durable(self) -> None:
        """The log got further."""
        waiting = self._waiting
        if not waiting:  # asked after every round
            return
        synced = self._core.log.synced_sequence
        while waiting and waiting[0][0] <= synced:
            waiting.popleft()[1](None)

    def tick(self) -> None:
        """A log that has failed syncs nothing any more."""
        if self._waiting and (self._core.log.failed is not None or self._core.halted):
            waiting, self._waiting = self._waiting, deque()
            for _, done in waiting:
                done(self._stopped())

    def _stopped(self) -> RaftKVError:
        return Cause.READ_STOPPED.error(self._core.halted or self._core.log.failed)
