"""What a follower does with an append: the log guard.

Theory: Raft truncates a follower's log only where an entry conflicts with the leader's (same index, other term), and
commits only what it has compared with that leader's log (figure 2, AppendEntries 3 to 5).

Faults of the engine that this stops (consensus.md 2, 5a, 6, 12, 15):

* every append cuts the log after ``prev``, so a late or repeated one removes entries that match and were
  acknowledged: **the matching prefix is stripped first**, and only a real conflict truncates;
* ``commit`` of the leader applies to a tail that was never compared: **it is clipped** to the last verified entry;
* a conflict goes back entry by entry, and each reset starts a flight again: **a whole term is skipped at once**.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftkv.consensus.core import Core
from raftkv.consensus.durability import DurabilityGuard
from raftkv.consensus.election import ElectionGuard
from raftkv.consensus.messages import AppendEntries, AppendReply, Entry, Heartbeat, TermNotice

if TYPE_CHECKING:
    from raftkv.consensus.engine import Deliver


class AppendGuard:
    """The follower's side of replication."""

    def __init__(self, core: Core, election: ElectionGuard, durability: DurabilityGuard) -> None:
        self._core = core
        self._election = election
        self._durability = durability
        self._answering: tuple[int, int] | None = None
        self._answering_prev = 0

    def accept_leader(self, peer: str, term: int) -> bool:
        """Whether ``peer`` may lead this node in ``term``; a lower term gets told ours."""
        core = self._core
        if term < core.term:
            core.wire.send(peer, TermNotice(core.term))
            return False
        if term == core.term and core.engine.is_leader:
            core.halt(f"two leaders in term {term}: this node and {peer}")
            return False
        self._election.heard_leader()
        return True

    def on_heartbeat(self, peer: str, message: Heartbeat) -> None:
        """Leadership without a log position, while entries or a snapshot are on their way.

        The answer acknowledges nothing and asks for nothing: it only counts for check-quorum.
        """
        core = self._core
        if self.accept_leader(peer, message.term):
            self.follow(peer, message.term, max(core.committed, min(message.commit, core.log.last_index)))
            reply = AppendReply(message.term, message.sequence, core.committed + 1, reset=False, success=False)
            core.wire.send(peer, reply)

    def on_append(self, peer: str, message: AppendEntries) -> None:
        """Compare, keep what matches, and give the engine only what is new."""
        if not self.accept_leader(peer, message.term):
            return
        self._answering = (message.term, message.sequence)
        self._answering_prev = message.prev_index
        try:
            self._compare(peer, message)
        finally:
            self._answering = None

    def _compare(self, peer: str, message: AppendEntries) -> None:
        core, log = self._core, self._core.log
        prev, prev_term = message.prev_index, message.prev_term
        entries: list[Entry] = list(message.entries)
        committed = core.committed
        if prev + len(entries) <= committed:
            self._agree(peer, message, committed)
            return
        if prev < committed:
            entries = entries[committed - prev :]
            prev, prev_term = committed, log.term_at(committed) or 0
        if log.term_at(prev) != prev_term:
            # The engine answers with a reset; send() below turns it into "skip my whole conflicting term".
            self._to_engine(peer, message, prev, prev_term, [], committed)
            return
        while entries and log.term_at(entries[0][1]) == entries[0][2]:
            payload, prev, prev_term = entries.pop(0)
            if log.entry(prev)[0] != payload:
                core.halt(f"entry {prev} of term {prev_term} differs from the leader's: log matching is broken")
                return
        if not entries:
            self._agree(peer, message, prev)
            return
        if prev < committed:
            core.halt(f"leader {peer} of term {message.term} conflicts below commit index {committed}")
            return
        if log.last_index > prev:
            core.count("conflict_truncations")
        self._to_engine(peer, message, prev, prev_term, entries, min(message.commit, entries[-1][1]))

    def _agree(self, peer: str, message: AppendEntries, verified: int) -> None:
        """Everything in the append is here already: follow, commit up to it, acknowledge."""
        self.follow(peer, message.term, min(message.commit, verified))
        self.send(peer, verified + 1, reset=False, success=True)

    def follow(self, peer: str, term: int, commit: int) -> None:
        """Term, leader and commit index for the engine, without entries."""
        self._core.deliver(peer, {"type": "append_entries", "term": term, "commit_index": commit})

    def _to_engine(
        self, peer: str, message: AppendEntries, prev: int, prev_term: int, entries: list[Entry], commit: int
    ) -> None:
        delivered: Deliver = {
            "type": "append_entries",
            "term": message.term,
            "commit_index": commit,
            "entries": entries,
            "prevLogIdx": prev,
            "prevLogTerm": prev_term,
        }
        self._core.deliver(peer, delivered)

    def send(self, peer: str, next_index: int, *, reset: bool, success: bool) -> bool:
        """The engine's (or our) reply to the append in hand, held until durable."""
        if self._answering is None:
            return False
        term, sequence = self._answering
        if reset and not success:
            next_index = self._skip_conflicting_term(next_index)
        return self._durability.reply(peer, AppendReply(term, sequence, next_index, reset, success))

    def _skip_conflicting_term(self, next_index: int) -> int:
        log = self._core.log
        if next_index != self._answering_prev:
            return next_index
        term, committed = log.term_at(next_index), self._core.committed
        while next_index - 1 > committed and log.term_at(next_index - 1) == term:
            next_index -= 1
        return next_index
