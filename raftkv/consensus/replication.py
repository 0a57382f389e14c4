"""What a leader sends, and what it believes of the replies: the reply guard.

Theory: ``next`` is a guess of where a follower's log goes on, ``match`` is knowledge (figure 2). Entries are pipelined
optimistically after ``next``; a follower whose log is not known yet is probed with one append at a time (as etcd's
raft calls it).

Faults of the engine that this stops (consensus.md 1, 12, 15):

* an acknowledgement of an older leadership raises ``match``: **replies echo (term, sequence)**, and one that is
  not of this term changes nothing;
* after a conflict, every append of the same flight asks for a reset, and each starts the flight again: only a
  reply to an append **sent after the last reset** may reset;
* what is in flight is sent again and again: each follower has a **bounded window** and its own position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from raftkv.consensus.core import Core
from raftkv.consensus.durability import DurabilityGuard
from raftkv.consensus.messages import AppendEntries, AppendReply, Heartbeat

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Entries in flight to one follower; when full, it gets heartbeats only until it acknowledges."""
APPEND_ENTRIES_MAX: Final = 64
APPEND_BYTES_MAX: Final = 4 * 1024 * 1024
"""One append carries at most so much (or one larger entry)."""
SLOWEST_LINK_BYTES_S: Final = 1024 * 1024
"""What is in flight is not taken for lost as long as such a link could still be busy with it."""

FIRST_SENT: Final = 2
"""Entry 1 is the engine's own and the same on every node; it is only ever compared with."""


@dataclass(slots=True)
class Progress:
    """What the leader knows of one follower, in one term."""

    next_index: int
    match_index: int = 0
    probing: bool = True
    probe_sent: float = -1e9
    floor: int = 0
    """Resets that answer an append up to this sequence are of an older flight."""
    began: int = 0
    """Replies to appends up to this sequence are of another life of this follower as a member."""
    leaves_at: int = 0
    """Index of the configuration that removes it; 0 for a member. It still learns that this is committed."""
    told_at: int = 0
    """Sequence of the append that tells it so: it holds that entry when it answers."""
    in_flight: deque[tuple[int, int]] = field(default_factory=deque)
    """(last index, bytes) of each unacknowledged append."""
    in_flight_bytes: int = 0
    last_sent: float = -1e9
    last_progress: float = 0.0
    sent_commit: int = 0
    needs_snapshot: bool = False

    def restart(self, next_index: int) -> None:
        """Forget what is in flight and probe from ``next_index``."""
        self.next_index = max(next_index, self.match_index + 1, FIRST_SENT)
        self.probing = True
        self.probe_sent = -1e9
        self.in_flight.clear()
        self.in_flight_bytes = 0


def _nothing() -> None:
    return None


class Replication:
    """The leader's side: one Progress a follower, fresh in every term."""

    def __init__(self, core: Core, durability: DurabilityGuard) -> None:
        self._core = core
        self._durability = durability
        self._sequence = 0
        self._term = -1
        self.progress: dict[str, Progress] = {}
        self.contact: dict[str, float] = {}
        self._down: set[str] = set()
        self.leaving: tuple[str, ...] = ()
        """Former members that still have to be told."""
        self.on_left: Callable[[], None] = _nothing

    # ------------------------------------------------------------ links
    def link_up(self, peer: str) -> None:
        """Whatever was in flight may be lost."""
        self._down.discard(peer)
        progress = self.progress.get(peer)
        if progress is not None:
            # Without a match the guess stays: going back to the beginning would ask for a snapshot.
            progress.restart(progress.match_index + 1 if progress.match_index else progress.next_index)

    def link_down(self, peer: str) -> None:
        self._down.add(peer)

    def heard_from(self, peer: str) -> None:
        """Anything arrived from ``peer``."""
        self.contact[peer] = self._core.monotonic()

    # ------------------------------------------------------------ sending
    def send_all(self) -> None:
        """Send what each follower lacks, and heartbeats where they are due. Only on the leader."""
        core = self._core
        if core.halted:
            return
        if self._term != core.term:
            self._term = core.term
            start = core.log.last_index + 1
            now = core.monotonic()
            self.progress = {peer: Progress(start, last_progress=now) for peer in core.others}
            self.leaving = ()
            self._durability.elected()
        for peer, progress in self.progress.items():
            self._send(peer, progress)
        if self.leaving:
            self._let_go()

    def begin_anew(self, peer: str) -> None:
        """The member of this id is another one than before: nothing that was acknowledged under it says anything."""
        self.progress.pop(peer, None)

    def members_changed(self, index: int) -> None:
        """The configuration of entry ``index`` counts from now on."""
        core = self._core
        if not core.is_leader or self._term != core.term:
            return
        for peer in core.others:
            progress = self.progress.get(peer)
            if progress is None or progress.leaves_at:
                self._durability.forget(peer)
                start = core.log.last_index + 1
                self.progress[peer] = Progress(start, last_progress=core.monotonic(), began=self._sequence)
        self.leaving = tuple(peer for peer in self.progress if peer not in core.others)
        for peer in self.leaving:
            self.progress[peer].leaves_at = self.progress[peer].leaves_at or index
        self._durability.pass_on_all()

    def _let_go(self) -> None:
        """Forget those that do not answer any more."""
        for peer in self.leaving:
            if self._core.committed >= self.progress[peer].leaves_at and not self.is_alive(peer):
                self._forget(peer)

    def _forget(self, peer: str) -> None:
        del self.progress[peer]
        self._durability.forget(peer)
        self.leaving = tuple(one for one in self.leaving if one != peer)
        self.on_left()

    def is_alive(self, peer: str) -> bool:
        """Whether it was heard of lately, and can be told something."""
        heard = self._core.monotonic() - self.contact.get(peer, -1e9) < self._core.timing.election_min_s
        return heard and peer not in self._down

    def _send(self, peer: str, progress: Progress) -> None:
        core, log = self._core, self._core.log
        now = core.monotonic()
        due = now - progress.last_sent >= core.timing.heartbeat_s
        if peer in self._down and not due:
            return
        if progress.in_flight and now - progress.last_progress > self.patience_s(progress.in_flight_bytes):
            progress.restart(
                progress.match_index + 1
            )  # a lost append or reply: go back to what is known, which may be compacted
            core.count("flight_restarts")
        if progress.next_index <= log.first_index or progress.needs_snapshot:
            progress.needs_snapshot = True
            if due:
                self._heartbeat(peer, progress, now)
            return
        if progress.probing:
            if now - progress.probe_sent >= core.timing.heartbeat_s:
                progress.probe_sent = now
                self._append(peer, progress, [], now)
            return
        while progress.next_index <= log.last_index and progress.in_flight_bytes < WINDOW_BYTES:
            entries = self._take(progress.next_index)
            if not self._append(peer, progress, entries, now):
                return
            due = False
        if due and progress.in_flight:
            self._heartbeat(peer, progress, now)
        elif due:
            self._append(peer, progress, [], now)

    def patience_s(self, size: int) -> float:
        """How long ``size`` bytes may stay without an answer before they are sent again."""
        return self._core.timing.election_max_s + size / SLOWEST_LINK_BYTES_S

    def _heartbeat(self, peer: str, progress: Progress, now: float) -> None:
        """Without a log position: it may overtake the entries or the snapshot that are on their way."""
        core = self._core
        self._sequence += 1
        progress.last_sent = now
        commit = min(int(core.engine.raftCommitIndex), progress.match_index)
        if core.wire.send(peer, Heartbeat(core.term, self._sequence, commit)):
            progress.sent_commit = max(progress.sent_commit, commit)

    def _take(self, next_index: int) -> list[tuple[bytes, int, int]]:
        log = self._core.log
        if next_index == log.last_index:
            return [log.entry(next_index)]
        count = min(APPEND_ENTRIES_MAX, log.last_index - next_index + 1)
        entries = log.entries(next_index, count, APPEND_BYTES_MAX)
        size = 0
        for at, entry in enumerate(entries):
            size += len(entry[0])
            if size > APPEND_BYTES_MAX and at:
                return entries[:at]
        return entries

    def _append(self, peer: str, progress: Progress, entries: list[tuple[bytes, int, int]], now: float) -> bool:
        core = self._core
        prev = progress.next_index - 1
        prev_term = core.log.term_at(prev)
        if prev_term is None:
            core.halt(f"entry {prev} before the one to send to {peer} is missing from the log")
            return False
        self._sequence += 1
        commit = int(core.engine.raftCommitIndex)
        sent = core.wire.send(peer, AppendEntries(core.term, self._sequence, commit, prev, prev_term, entries))
        progress.last_sent = now
        if not sent:
            return False
        progress.sent_commit = commit
        if progress.leaves_at and not progress.told_at and min(commit, prev + len(entries)) >= progress.leaves_at:
            progress.told_at = self._sequence
        if entries:
            if not progress.in_flight:
                progress.last_progress = now
            size = sum(len(entry[0]) for entry in entries)
            progress.next_index = entries[-1][1] + 1
            progress.in_flight.append((entries[-1][1], size))
            progress.in_flight_bytes += size
        return True

    def announce_commit(self) -> bool:
        """Tell followers that nothing else is on its way to of a new commit index. True when any was told."""
        core = self._core
        commit = int(core.engine.raftCommitIndex)
        now = core.monotonic()
        told = False
        for peer, progress in self.progress.items():
            idle = not (progress.probing or progress.needs_snapshot or progress.in_flight or peer in self._down)
            if idle and progress.sent_commit < commit and progress.next_index > core.log.first_index:
                told |= self._append(peer, progress, [], now)
        return told

    # ------------------------------------------------------------ replies
    def on_reply(self, peer: str, message: AppendReply) -> None:
        """Believe only what answers this leadership."""
        core = self._core
        progress = self.progress.get(peer)
        if message.term != core.term or not core.is_leader or progress is None or self._term != core.term:
            core.count("stale_replies")
            return
        if message.sequence <= progress.began:
            core.count("stale_replies")
            return
        if progress.told_at and message.sequence >= progress.told_at and message.success:
            self._forget(peer)
            return
        if message.reset and not message.success:
            self._reset(peer, progress, message)
        elif message.success:
            self._advance(peer, progress, message)
        else:
            self._durability.heard(peer)

    def _reset(self, peer: str, progress: Progress, message: AppendReply) -> None:
        self._durability.heard(peer)
        self._core.wants_tick = True
        if message.sequence <= progress.floor:
            self._core.count("stale_resets")
            return
        progress.floor = self._sequence
        if message.next_index <= progress.match_index:
            # It acknowledged more than it says to hold now: a wiped or damaged disk under the same
            # identity. In this term it is asked for what it acknowledged, and says no; the next leader
            # knows nothing of that and goes back.
            self._core.count("follower_lost_acknowledged_data")
            progress.restart(message.next_index)
            progress.probe_sent = self._core.monotonic()  # not as fast as the two can talk
            return
        progress.restart(message.next_index)

    def _advance(self, peer: str, progress: Progress, message: AppendReply) -> None:
        acked = message.next_index - 1
        if acked > self._core.log.last_index:
            self._core.halt(f"{peer} acknowledged {acked}, beyond this leader's last entry in its own term")
            return
        if progress.probing or progress.in_flight_bytes >= WINDOW_BYTES:
            self._core.wants_tick = True  # there may be more to send now
        progress.probing = False
        if acked > progress.match_index:
            progress.match_index = acked
            progress.last_progress = self._core.monotonic()
        progress.next_index = max(progress.next_index, acked + 1)
        flight = progress.in_flight
        while flight and flight[0][0] <= acked:
            progress.in_flight_bytes -= flight.popleft()[1]
        self._durability.acknowledged(peer, acked)
