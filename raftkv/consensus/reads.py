"""Linearizable reads without a log entry: ReadIndex (Raft thesis 6.4).

A leader notes its commit index, asks whether it still leads, and when a majority says yes, everything committed up to
that index is all that a read, which arrived before the question, can be required to see. One round of questions
serves all reads that waited for it. A follower asks the leader for such an index and waits until it has applied it.

With ``read_lease`` a round is worth more: for a while after it a leader answers at once
(:mod:`raftkv.consensus.lease`), and a read that finds the lease ageing sends the next round without waiting for it.

Two conditions are easy to forget: a new leader must have committed an entry of its own term first (its commit index may
lag behind what the old one acknowledged: RedisRaft #19), and the question must be sent after the read arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from raftkv.consensus.core import Core
from raftkv.consensus.lease import Lease
from raftkv.consensus.messages import ReadIndexReply, ReadIndexRequest, ReadProbe, ReadProbeAck
from raftkv.consensus.outcomes import Cause
from raftkv.errors import RaftKVError

Done = Callable[[int, RaftKVError | None], None]
"""(leader's time in ms, None) or (0, error)."""

WAITING_MAX: Final = 100_000
"""Barriers waiting at one node; one more is refused as busy."""
ROUNDS_MAX: Final = 1
"""Rounds in flight at once. What arrives meanwhile shares the next one: measured, fewer and larger rounds win."""
ROUND_BITS: Final = 48
WIDEN_S: Final = 0.005
"""A round begins with as many peers as a majority needs; after so long without it, everybody is asked."""


@dataclass(slots=True)
class _Round:
    index: int
    reads: list[_Waiting]
    deadline: float
    started: float = 0.0
    """When it was sent, or a moment before."""
    widened: bool = False
    """All peers were asked, not just as many as are needed."""
    acks: set[str] = field(default_factory=set)
    leader: str = ""
    """Of a follower's request: who was asked."""


@dataclass(slots=True)
class _Waiting:
    deadline: float
    done: Done
    late: Cause = Cause.READ_LATE
    """Why it failed when its time is over."""
    index: int = 0


@dataclass(slots=True)
class _Confirmed:
    index: int
    now_ms: int
    reads: list[_Waiting]


class ReadIndex:
    """Barriers of this node, and of followers when it leads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._waiting: list[_Waiting] = []
        self._rounds: dict[int, _Round] = {}
        # Not 0: an answer to a request of this node before its restart must not pass for one of after it.
        self._round = core.rng.getrandbits(ROUND_BITS)
        self._answered_last = list(core.peers)
        """Peers, the ones to ask first in front: a round needs the answers of half of them only."""
        self._requests: dict[int, _Round] = {}
        self._refusal = ("", 0.0)
        """Who said last that it does not lead, and until when it is not asked again."""
        self._confirmed: list[_Confirmed] = []
        self.lease = Lease(core)
        self.rounds_total = 0

    def barrier(self, done: Done) -> None:
        """Call ``done`` when the local state may be read; within the request timeout, or with an error."""
        core = self._core
        if core.halted:
            done(0, Cause.READ_STOPPED.error(core.halted))
        elif self.lease.holds:
            core.count("lease_reads")
            if self.lease.ages:
                self._start_round()
            self._when_applied(core.committed, core.wall_ms(), done)
        elif len(self._waiting) >= WAITING_MAX:
            done(0, Cause.READS_FULL.error(WAITING_MAX))
        else:
            self._waiting.append(_Waiting(core.monotonic() + core.timing.request_s, done))

    def await_applied(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        """Call ``done`` when entry ``index`` is applied here, whoever leads; within the request
        timeout, or with an error.
        """
        core = self._core
        if core.halted:
            done(Cause.READ_STOPPED.error(core.halted))
        elif len(self._confirmed) >= WAITING_MAX:
            done(Cause.READS_FULL.error(WAITING_MAX))
        else:
            self._when_applied(index, 0, lambda _, error: done(error), Cause.TOKEN_LATE)

    def _when_applied(self, index: int, now_ms: int, done: Done, late: Cause = Cause.READ_LATE) -> None:
        core = self._core
        if core.applied >= index:
            done(now_ms, None)
        else:
            waiting = _Waiting(core.monotonic() + core.timing.request_s, done, late, index)
            self._confirmed.append(_Confirmed(index, now_ms, [waiting]))

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not (self._waiting or self._rounds or self._requests or self._confirmed)

    # ------------------------------------------------------------ progress
    def finish(self) -> None:
        """Answer what is confirmed and applied, and start nothing: more reads may be about to arrive."""
        if self._confirmed:
            self._finish()

    def pump(self) -> None:
        """Start what can be started, finish what is confirmed and applied, fail what is too late."""
        if self.idle:
            return
        core = self._core
        if core.halted:
            self._fail_all(Cause.READ_STOPPED.error(core.halted))
            return
        # Before asking again: what is too late must not hide in one question after the other.
        self._finish()
        self._expire()
        if self._waiting:
            if core.is_leader:
                self._start_round()
            else:
                self._ask_leader()
        if self._rounds and core.is_leader:
            # Once deposed, a question asked again would carry the new leader's term: it took this node for a rival.
            self._probe_others()
        self._finish()

    def _start_round(self) -> None:
        core = self._core
        commit = int(core.engine.raftCommitIndex)
        if len(self._rounds) >= ROUNDS_MAX or core.log.term_at(commit) != core.term:
            return
        self._round += 1
        self.rounds_total += 1
        reads, self._waiting = self._waiting, []
        now = core.monotonic()
        started = _Round(commit, reads, now + core.timing.election_max_s, now)
        self._rounds[self._round] = started
        needed = (len(core.peers) + 1) // 2
        self._probe(self._round, self._answered_last[:needed])
        self._confirm(self._round, started)

    def _probe(self, number: int, peers: Iterable[str]) -> None:
        probe = ReadProbe(self._core.term, number)
        for peer in peers:
            self._core.wire.send(peer, probe)

    def _probe_others(self) -> None:
        """Who was asked first does not answer: ask everybody, and ask others first from now on."""
        now = self._core.monotonic()
        for number, waiting in self._rounds.items():
            if not waiting.widened and now - waiting.started >= WIDEN_S:
                waiting.widened = True
                slow = [peer for peer in self._answered_last if peer not in waiting.acks]
                self._answered_last = [*(peer for peer in self._answered_last if peer in waiting.acks), *slow[::-1]]
                self._probe(number, self._core.peers)

    def _ask_leader(self) -> None:
        core = self._core
        leader, now = core.engine.leader_id, core.monotonic()
        refused_by, until = self._refusal
        if not leader or len(self._requests) >= ROUNDS_MAX or (leader == refused_by and now < until):
            return
        self._round += 1
        reads, self._waiting = self._waiting, []
        self._requests[self._round] = _Round(0, reads, now + core.timing.election_max_s, leader=leader)
        core.wire.send(leader, ReadIndexRequest(self._round))

    def _confirm(self, number: int, waiting: _Round) -> None:
        if self._core.is_majority(len(waiting.acks)):
            del self._rounds[number]
            self.lease.extend(waiting.started)
            if waiting.reads:
                self._confirmed.append(_Confirmed(waiting.index, self._core.wall_ms(), waiting.reads))

    def _finish(self) -> None:
        applied = self._core.applied
        ready = [one for one in self._confirmed if one.index <= applied]
        if ready:
            self._confirmed = [one for one in self._confirmed if one.index > applied]
            for one in ready:
                for read in one.reads:
                    read.done(one.now_ms, None)

    def _expire(self) -> None:
        """Rounds that got no majority go back to waiting; reads past their own deadline fail."""
        now = self._core.monotonic()
        for pending in (self._rounds, self._requests):
            for number in [number for number, one in pending.items() if now > one.deadline]:
                self._wait_again(pending.pop(number))
        late: list[_Waiting] = []
        if self._waiting and self._waiting[0].deadline <= now:
            late = [one for one in self._waiting if one.deadline <= now]
            self._waiting = [one for one in self._waiting if one.deadline > now]
        for confirmed in self._confirmed:
            # Confirmed, but this node does not catch up: the link on which entries would come may be cut.
            if confirmed.reads and confirmed.reads[0].deadline <= now:
                late += [one for one in confirmed.reads if one.deadline <= now]
                confirmed.reads = [one for one in confirmed.reads if one.deadline > now]
        if late:
            self._confirmed = [one for one in self._confirmed if one.reads]
        for one in late:
            one.done(0, one.late.error(one.index))

    def _wait_again(self, asked: _Round) -> None:
        """Its reads go back to those that wait, oldest first: the first one's deadline stands for all."""
        self._waiting[:0] = asked.reads
        self._waiting.sort(key=lambda one: one.deadline)

    def _fail_all(self, error: RaftKVError) -> None:
        groups = [self._waiting, *(one.reads for one in (*self._rounds.values(), *self._requests.values()))]
        groups += [one.reads for one in self._confirmed]
        self._waiting, self._confirmed = [], []
        self._rounds.clear()
        self._requests.clear()
        for reads in groups:
            for read in reads:
                read.done(0, error)

    def leadership_changed(self) -> None:
        """Rounds of a former leadership prove nothing any more: their reads wait for the next leader."""
        self.lease.end()
        for pending in (self._rounds, self._requests):
            for number in sorted(pending):
                self._wait_again(pending.pop(number))

    def voters_changed(self) -> None:
        """Rounds in flight asked another group: their reads wait for a round of this one."""
        peers = self._core.peers
        self._answered_last = [peer for peer in self._answered_last if peer in peers]
        self._answered_last += [peer for peer in peers if peer not in self._answered_last]
        self.leadership_changed()

    # ------------------------------------------------------------ messages
    def on_probe(self, peer: str, message: ReadProbe) -> bool:
        """A leader asks; the caller has checked that it is ours. True: answered."""
        return self._core.wire.send(peer, ReadProbeAck(message.term, message.round))

    def on_probe_ack(self, peer: str, message: ReadProbeAck) -> None:
        waiting = self._rounds.get(message.round)
        if (
            waiting is not None
            and message.term == self._core.term
            and self._core.is_leader
            and peer in self._core.peers
        ):
            waiting.acks.add(peer)
            self._confirm(message.round, waiting)

    def on_request(self, peer: str, message: ReadIndexRequest) -> None:
        """A follower wants to serve reads."""
        core = self._core
        if not core.is_leader:
            core.wire.send(peer, ReadIndexReply(message.request, 0, 0))
            return

        def answer(now_ms: int, error: RaftKVError | None) -> None:
            index = 0 if error is not None else core.applied
            core.wire.send(peer, ReadIndexReply(message.request, index, now_ms))

        self.barrier(answer)

    def on_reply(self, message: ReadIndexReply) -> None:
        """The leader answered: wait until its index is applied here."""
        asked = self._requests.pop(message.request, None)
        if asked is None:
            return
        if message.index:
            self._confirmed.append(_Confirmed(message.index, message.now_ms, asked.reads))
        else:
            # It leads no more, and this node may not have heard of the next leader: asking at once would be a storm.
            self._refusal = (asked.leader, self._core.monotonic() + self._core.timing.heartbeat_s)
            self._wait_again(asked)
