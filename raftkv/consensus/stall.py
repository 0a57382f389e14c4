"""A disk that does not answer: the stall guard.

Theory: a leader here counts nothing that is not durable at itself (:mod:`raftkv.consensus.durability`), so a disk that
hangs stops the whole group, while heartbeats, which need no disk, keep everybody from electing another leader. So a
leader whose writes have been waiting for ``timing.stall_s`` hands over to a voter that holds them durably (Raft thesis
3.10). What is not committed yet goes with it: the successor commits it, and this node answers when it hears of that.

Nothing of this may wait for the disk in turn. A new term and a vote are synced on the spot, by the thread that does
everything else. So while its disk is stalled, a node drops every message that would make it write either of them, as if
it had been lost, and does not campaign. That is always safe, and the node stays alive: it answers, soon knows no
leader, and takes its place again with the next heartbeat after the disk has come back.

Caveats. A node that has nothing to write does not notice that its disk hangs. One that is asked for a vote (or handed
leadership, or brought into a new term) in the first ``stall_s`` blocks until the disk answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raftkv.consensus.core import Core
from raftkv.consensus.messages import PreVote, PreVoteGranted, RequestVote, SnapshotChunk, TimeoutNow, Vote

if TYPE_CHECKING:
    from raftkv.consensus.leadership import Transfer
    from raftkv.consensus.replication import Replication
    from raftkv.errors import RaftKVError

LOOK_S_MAX: Final = 0.2
"""Most time between two looks that counts as waiting for the disk: this process may have stood still itself."""
REST_S: Final = 5.0
"""Pause after an election and after an attempt to hand over: two slow disks must not toss leadership to and fro."""
NEED_THE_DISK: Final = frozenset({RequestVote, Vote, PreVote, PreVoteGranted, TimeoutNow, SnapshotChunk})
"""Messages that lead to a synchronous write, or to a leadership that this node had better not take."""


class StallGuard:
    """Watches the log of this node; hands leadership over, and drops messages whose handling would block on it."""

    def __init__(self, core: Core, replication: Replication, transfer: Transfer) -> None:
        self._core = core
        self._replication = replication
        self._transfer = transfer
        self.stalled = False
        self.waits_s = 0.0
        """How long what was written last has been waiting to be durable, as far as was seen."""
        self._waits_for = 0
        self._holds = 0
        self._looked = core.monotonic()
        self._led = False
        self._not_before = 0.0

    def look(self) -> None:
        """Time has passed, or the log got further."""
        core, log = self._core, self._core.log
        now = core.monotonic()
        passed, self._looked = min(now - self._looked, LOOK_S_MAX), now
        if log.durable_sequence < self._waits_for:
            self.waits_s += passed
        else:
            self.waits_s = 0.0
            self._waits_for = log.sequence if log.sequence > log.durable_sequence else 0
            self._holds = log.last_index
        self.stalled = 0.0 < core.timing.stall_s <= self.waits_s

    def tick(self) -> None:
        """Hand over, if this node leads, may, and somebody else holds what it cannot write."""
        core = self._core
        now, leads = core.monotonic(), core.is_leader
        if leads and not self._led:
            self._not_before = now + REST_S
        self._led = leads
        if not (self.stalled and leads) or self._transfer.target or now < self._not_before:
            return
        self._not_before = now + REST_S
        progress = self._replication.progress
        successor = self._transfer.best_successor()
        if not successor or progress[successor].match_index < self._holds:
            core.count("stalled_without_successor")
            return
        core.count("stalled_hand_overs")
        self._transfer.start(successor, _forget, committed=False)

    def refuses(self, message: Any) -> bool:
        """Whether ``message``, which arrived on a stalled disk, has to count as lost."""
        return type(message) in NEED_THE_DISK or getattr(message, "term", 0) > self._core.term


def _forget(_error: RaftKVError | None) -> None:
    return None
