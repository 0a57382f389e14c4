"""Who may lead: the election guard.

Theory: Raft elects with majorities and terms. A node that was cut off counts its term up, and when it comes back its
higher term deposes a leader that works (thesis 9.6); a leader that is cut off goes on believing (thesis 6.2).

Faults of the engine that this stops (consensus.md 4, 7d, 9):

* no pre-vote, so a stale node deposes the leader: **pre-vote** asks first, and changes nothing where it asks;
* a node that hears its leader votes for another one: **stickiness**, unless the leader itself handed
  over, which is a licence for the term after its own. A restarted node has forgotten when it heard
  the leader: it waits as if it just had;
* an append with a low term gets no answer, so a node with a higher term is stuck outside: **term notice**;
* 30 s of an isolated leader: **check-quorum** within one election timeout (the engine's own, set short);
* a removed node deposes the leader: who has **no vote does not campaign**.
"""

from __future__ import annotations

from raftkv.consensus.core import Core
from raftkv.consensus.messages import PreVote, PreVoteGranted, RequestVote, TermNotice, TimeoutNow, Vote


class ElectionGuard:
    """Timing of elections, pre-vote, votes in and out."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._contact = core.monotonic() if core.log.last_index else -1e9
        self._deadline: float | None = None
        self._pre_vote_term = 0
        self._pre_votes: set[str] = set()
        self._votes: set[tuple[int, str]] = set()
        self._transfer_term = -1
        """The term for which a leader told this node to campaign."""
        self.misses_leader = False
        """Another node's leadership is known only from messages that are older than an election timeout."""
        self.elections = 0

    # ------------------------------------------------------------ time
    def heard_leader(self) -> None:
        """A valid message of this term's leader arrived."""
        self._contact = self._core.monotonic()
        self.misses_leader = False
        self._pre_vote_term = 0
        self.restart_timer()

    def restart_timer(self) -> None:
        """Wait a random election timeout from now."""
        timing = self._core.timing
        span = timing.election_max_s - timing.election_min_s
        self._deadline = self._core.monotonic() + timing.election_min_s + span * self._core.rng.random()

    @property
    def _hears_leader(self) -> bool:
        return self._core.monotonic() - self._contact < self._core.timing.election_min_s

    def tick(self) -> None:
        """Ask for pre-votes when the leader has been silent for too long."""
        now = self._core.monotonic()
        if now - self._contact >= self._core.timing.election_max_s:
            self.misses_leader = True
        if self._deadline is None or self._core.engine.is_leader or not self._core.votes:
            self.restart_timer()
        elif now >= self._deadline:
            self.restart_timer()
            self._start_pre_vote()

    # ------------------------------------------------------------ pre-vote
    def _start_pre_vote(self) -> None:
        core = self._core
        self._pre_vote_term = core.term + 1
        self._pre_votes = set()
        core.count("pre_votes")
        question = PreVote(self._pre_vote_term, core.log.last_index, core.log.last_term)
        for peer in core.peers:
            core.wire.send(peer, question)
        self._campaign_if_granted()

    def on_pre_vote(self, peer: str, message: PreVote) -> None:
        """Grant when no leader is heard and the other's log is at least as up to date as ours."""
        core = self._core
        if message.term <= core.term:
            core.wire.send(peer, TermNotice(core.term))
            return
        if core.engine.is_leader or self._hears_leader:
            core.count("pre_vote_refused")
            return
        if (message.last_term, message.last_index) >= (core.log.last_term, core.log.last_index):
            core.wire.send(peer, PreVoteGranted(message.term))

    def on_pre_vote_granted(self, peer: str, message: PreVoteGranted) -> None:
        if self._pre_vote_term == message.term and peer in self._core.peers:
            self._pre_votes.add(peer)
            self._campaign_if_granted()

    def _campaign_if_granted(self) -> None:
        core = self._core
        wanted = self._pre_vote_term
        granted = self._pre_votes.intersection(core.peers)
        if wanted == core.term + 1 and core.votes and not core.engine.is_leader and core.is_majority(len(granted)):
            self._pre_vote_term = 0
            self._campaign()

    def _campaign(self) -> None:
        """The engine's official trigger of an election at its next tick."""
        core = self._core
        self.elections += 1
        core.transport.deliver(core.engine._getLeader(), {"type": "timeout_now", "term": core.term})

    # ------------------------------------------------------------ votes
    def send_request(self, peer: str, term: int, last_index: int, last_term: int) -> bool:
        """The engine asks for a vote. Its own vote was made durable by the journal before it got here."""
        return self._core.wire.send(peer, RequestVote(term, last_index, last_term, term == self._transfer_term))

    def send_vote(self, peer: str, term: int) -> bool:
        """The engine grants a vote; durable already (journal.setCurrentTerm syncs)."""
        self.restart_timer()
        return self._core.wire.send(peer, Vote(term))

    def on_request_vote(self, peer: str, message: RequestVote) -> None:
        """Ignored while this node leads or hears a leader, unless that leader hands over."""
        core = self._core
        if not message.transfer and (core.engine.is_leader or self._hears_leader):
            core.count("sticky")
            return
        core.deliver(
            peer,
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )

    def on_vote(self, peer: str, message: Vote) -> None:
        """Count each voter once a term: a repeated message is not a second vote."""
        vote = (message.term, peer)
        if peer in self._core.peers and vote not in self._votes:
            self._votes = {one for one in self._votes if one[0] >= message.term} | {vote}
            self._core.deliver(peer, {"type": "response_vote", "term": message.term})

    # ------------------------------------------------------------ terms
    def adopt_term(self, peer: str, term: int) -> None:
        """Step down into a higher term: a request for a vote that nobody could grant makes the engine do it."""
        if term > self._core.term:
            self._core.count("term_adopted")
            self._core.deliver(peer, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1})

    def on_term_notice(self, peer: str, message: TermNotice) -> None:
        self.adopt_term(peer, message.term)

    def on_timeout_now(self, peer: str, message: TimeoutNow) -> None:
        """The leader hands over to this node."""
        core = self._core
        if message.term >= core.term and peer == core.engine.leader_id and core.votes:
            self._transfer_term = message.term + 1
            self.elections += 1
            core.deliver(peer, {"type": "timeout_now", "term": message.term})
