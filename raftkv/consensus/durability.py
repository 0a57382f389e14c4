"""Nothing is acknowledged or counted before it is on disk: the durability guard.

Fault 3 of consensus.md: the engine acknowledges from memory, so that a power cut loses what clients were told is safe.

Writing the log and sending overlap, so there are two gates. A follower's reply waits until what it covers is durable
there. A leader, which the engine always counts as one holder of every entry, gets its followers'
acknowledgements only up to what is durable at the leader itself. Terms and votes do not pass here: the journal writes
them synchronously, for they are rare.
"""

from __future__ import annotations

from collections import deque

from raftkv.consensus.core import Core
from raftkv.consensus.messages import AppendReply


class DurabilityGuard:
    """Holds back replies (follower) and acknowledgements (leader) until the local log is durable."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._held: deque[tuple[int, str, AppendReply]] = deque()
        self._acked: dict[str, int] = {}
        self._term = -1

    def reply(self, peer: str, message: AppendReply) -> bool:
        """Send a follower's reply once everything written so far is durable."""
        log = self._core.log
        if log.durable_sequence >= log.sequence and not self._held:
            return self._core.wire.send(peer, message)
        self._held.append((log.sequence, peer, message))
        log.request_sync()
        return True

    def on_durable(self) -> None:
        """The log got further: let go what waited for it."""
        core = self._core
        durable = core.log.durable_sequence
        held = self._held
        while held and held[0][0] <= durable:
            _, peer, message = held.popleft()
            if message.term == core.term and not core.halted:
                core.wire.send(peer, message)
        self.pass_on_all()

    def elected(self) -> None:
        """This node leads, and has written its first entry. Alone, the engine counts that in the same step: sync it."""
        if self._core.alone:
            self._core.log.sync()
            self._core.engine.pass_over_earlier_terms()

    def acknowledged(self, peer: str, match_index: int) -> None:
        """A follower holds everything up to ``match_index`` durably; tell the engine what counts."""
        core = self._core
        if self._term != core.term:
            self._term = core.term
            self._acked.clear()
        self._acked[peer] = max(match_index, self._acked.get(peer, 0))
        if peer in core.peers:  # a learner's count once it votes
            self._pass_on(peer)

    def forget(self, peer: str) -> None:
        """It is no member any more: what it acknowledged says nothing should it come back."""
        self._acked.pop(peer, None)

    def pass_on_all(self) -> None:
        """Tell the engine again what counts: the log is durable further, or other members vote."""
        core = self._core
        # In a new term, what followers acknowledged to an earlier leadership of this node says nothing any more.
        if core.is_leader and self._term == core.term:
            for peer in core.peers:
                if peer in self._acked:
                    self._pass_on(peer)

    def _pass_on(self, peer: str) -> None:
        core = self._core
        counted = min(self._acked[peer], core.log.durable_index)
        if counted < core.engine.first_own:
            self.heard(peer)  # commits nothing yet, and the engine would read every entry up to it to see that
            return
        if counted > core.engine.raftCommitIndex:
            core.wants_tick = True
        core.deliver(peer, {"type": "next_node_idx", "next_node_idx": counted + 1, "reset": False, "success": True})

    def heard(self, peer: str) -> None:
        """A follower answered without acknowledging anything new: it counts for check-quorum only."""
        if peer not in self._core.peers:
            return
        self._core.deliver(peer, {"type": "next_node_idx", "next_node_idx": 1, "reset": False, "success": False})
