"""What must hold at every moment: Raft's own properties (figure 3 of the paper) and what they rest on."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from raftkv.consensus.messages import AppendEntries, AppendReply, Message, RequestVote, Vote

if TYPE_CHECKING:
    from chaos.sim.member import Member

COMPARED_MAX: Final = 2000
"""Newest committed entries that a new leader's log is compared with."""

_looks: Final = attrgetter(
    "engine._SyncObj__raftCurrentTerm",
    "engine._SyncObj__raftState",
    "engine._SyncObj__raftCommitIndex",
    "engine._SyncObj__raftLastApplied",
    "log.last_index",
    "halted",
)
"""All of a member's core that :meth:`Checks.after` judges, in one call: it is asked after every step."""


class Violation(BaseException):
    """A property does not hold. Not an Exception: no handler of the code under test may swallow it."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text
        super().__init__(f"{kind}: {text}")


class Checks:
    """Sees every step of every node."""

    def __init__(self, on_leader: Callable[[Member, int], None] = lambda _member, _term: None) -> None:
        """``on_leader`` is told of each node that begins to lead, and its term."""
        self.on_leader = on_leader
        self.leaders: dict[int, str] = {}
        self.elections = 0
        self._votes: dict[tuple[str, int], str] = {}
        self._entries: dict[tuple[int, int], int] = {}
        self._committed: dict[int, tuple[int, int]] = {}
        self._commit_terms: dict[int, int] = {}
        self._terms: dict[str, int] = {}
        self._progress: dict[str, tuple[int, int]] = {}
        self._leading: dict[str, int] = {}
        self._acknowledged: dict[str, tuple[int, int]] = {}
        self._voters: dict[str, tuple[str, ...]] = {}
        """By whose majority each member counts."""
        self._found_good: dict[str, tuple[object, ...]] = {}
        """How each member looked when nothing was wrong: as long as it looks the same, nothing is."""
        self._committed_in: dict[int, int] = {}
        """By term: the last entry that its leader committed."""
        self.highest = 0
        """The last entry that was applied anywhere."""
        self.lives: dict[str, tuple[int, int]] = {}
        """Of each node: its newest incarnation that recovered, and what was applied anywhere when it did."""

    # -- events
    def sent(self, member: Member, peer: str, message: Message) -> None:
        """Before it leaves: votes once a term, entries that match."""
        if isinstance(message, AppendEntries):
            for payload, index, term in message.entries:
                self._match(member, index, term, payload)
        elif isinstance(message, AppendReply):
            if message.success:
                self._acknowledge(member, message.term, message.next_index - 1)
        elif isinstance(message, Vote):
            self._vote(member, message.term, peer)
        elif isinstance(message, RequestVote):
            self._vote(member, message.term, member.id)

    def _acknowledge(self, member: Member, term: int, index: int) -> None:
        if member.durable_index() < index:
            raise Violation(
                "acknowledged too early", f"{member.id} acknowledges {index}, {member.durable_index()} is durable"
            )
        before = self._acknowledged.get(member.key, (0, 0))
        self._acknowledged[member.key] = max(before, (term, index))
        self._found_good.pop(member.key, None)

    def _vote(self, member: Member, term: int, candidate: str) -> None:
        first = self._votes.setdefault((member.key, term), candidate)
        if first != candidate:
            raise Violation("vote doubled", f"{member.id} voted in term {term} for {first} and for {candidate}")
        if member.durable_sequence() < member.log.sequence:
            raise Violation("vote too early", f"{member.id} votes in term {term} for {candidate}, which it may forget")

    def _match(self, member: Member, index: int, term: int, payload: bytes) -> None:
        checksum = zlib.crc32(payload)
        if self._entries.setdefault((index, term), checksum) != checksum:
            raise Violation("log matching", f"{member.id} sends another entry {index} of term {term} than was there")

    def applied(self, member: Member, index: int, entry: bytes) -> None:
        """An entry is about to be applied."""
        term = member.log.term_at(index) or 0
        value = (term, zlib.crc32(entry))
        known = self._committed.setdefault(index, value)
        if known != value:
            raise Violation(
                "state machine safety",
                f"{member.id} applies entry {index} of term {term}, another one of term {known[0]} was applied",
            )
        if index != member.replica.core.applied + 1:
            raise Violation("order", f"{member.id} applies {index} after {member.replica.core.applied}")
        self.highest = max(self.highest, index)

    def booted(self, member: Member) -> None:
        """A node recovered; what it knew of commits is not durable."""
        self._progress[member.key] = (0, 0)
        self._leading.pop(member.key, None)
        self._voters.pop(member.key, None)
        self._found_good.pop(member.key, None)
        self.lives[member.key] = (member.incarnation, self.highest)

    def after(self, member: Member) -> None:
        """After each step of a node."""
        core = member.replica.core
        looks = _looks(core)
        if looks == self._found_good.get(member.key):
            return
        if core.halted:
            if not (member.disk_faulted or member.rotten or member.wiped or self._is_removed(member)):
                raise Violation("halt", f"{member.id} stopped: {core.halted}")
            self._found_good[member.key] = looks  # who knew that it is removed may restart, and not know it any more
            return
        term = core.term
        if term < self._terms.get(member.key, 0):
            raise Violation("term lost", f"{member.id} is in term {term} after {self._terms[member.key]}")
        self._terms[member.key] = term
        promised = self._acknowledged.get(member.key)
        if promised is not None and promised[0] == term and member.log.last_index < promised[1]:
            text = f"{member.id} holds {member.log.last_index} after it acknowledged {promised[1]} in the same term"
            raise Violation("acknowledged entries lost", text)
        committed, applied = core.committed, core.applied
        before = self._progress.get(member.key, (0, 0))
        if (committed, applied) != before:
            self._progressed(member, before, (committed, applied))
        if core.engine.is_leader and self._leading.get(member.key) != term:
            self._leading[member.key] = term
            self._elected(member, term)
        self._voters[member.key] = core.voters
        self._found_good[member.key] = looks

    @staticmethod
    def _is_removed(member: Member) -> bool:
        """Whether a committed configuration says so: then it has to stop."""
        return any(
            member.disk_id in one.replica.membership.applied.removed
            for one in member.world.members.values()
            if hasattr(one, "replica")
        )

    def _progressed(self, member: Member, before: tuple[int, int], now: tuple[int, int]) -> None:
        if now[0] < before[0] or now[1] < before[1]:
            raise Violation("commit lost", f"{member.id} went from (committed, applied) {before} to {now}")
        self._progress[member.key] = now
        term = member.log.term_at(now[0])
        if term is not None and self._commit_terms.setdefault(now[0], term) != term:
            was = self._commit_terms[now[0]]
            raise Violation("commit", f"{member.id} commits entry {now[0]} of term {term}; it was of term {was}")
        if now[0] > before[0] and member.replica.core.is_leader and term == member.replica.core.term:
            self._committed_in[term] = now[0]
            self._held_by_majority(member, now[0], term)

    def _held_by_majority(self, leader: Member, index: int, term: int) -> None:
        """What a leader commits lies, synced, on a majority of its voters.

        They are those of before this step, or of after it: a leader that has committed an entry may change them at
        once.
        """
        now = leader.replica.core.voters
        lacking = [self._lacking(leader, voters, index, term) for voters in (now, self._voters.get(leader.key, now))]
        if all(lacking):
            text = (
                f"{leader.id} commits entry {index} of term {term}, which {', '.join(lacking[0])} do not hold durably"
            )
            raise Violation("commit without a majority", text)

    @staticmethod
    def _lacking(leader: Member, voters: tuple[str, ...], index: int, term: int) -> list[str]:
        """Who does not hold the entry, if that leaves no majority of these voters.

        Who is down has the benefit of the doubt, and who has another disk than it acknowledged with.
        """
        # Of a voter that was damaged and is a learner since this step, the place before was another disk's.
        known = {one.node_id: one.disk for one in leader.replica.membership.latest.members if one.voter}
        lacking = [
            one.id
            for one in map(leader.world.members.__getitem__, voters)
            if one.up
            and (known.get(one.id, "") or one.disk_id * (not one.former)) == one.disk_id
            and (one is leader or one.replica.core.applied < index)
            and not (one.durable_index() >= index and one.log.term_at(index) == term)
        ]
        return lacking if 2 * len(lacking) >= len(voters) else []

    def _elected(self, member: Member, term: int) -> None:
        self.elections += 1
        self.on_leader(member, term)
        other = self.leaders.setdefault(term, member.id)
        if other != member.id:
            raise Violation("two leaders", f"{other} and {member.id} in term {term}")
        log = member.log
        if not member.replica.core.votes:
            raise Violation("leader without a vote", f"{member.id} leads term {term}")
        # Of higher terms than it was committed in: a candidate may win late, when others have gone on (section 5.4.3).
        complete = max((index for committed, index in self._committed_in.items() if committed < term), default=0)
        if log.last_index < complete:
            raise Violation("leader completeness", f"{member.id} leads with {log.last_index} < {complete}")
        # Behind a snapshot the log begins with a stand-in for the entry before the snapshot's last.
        for index in range(max(log.first_index + 1, complete - COMPARED_MAX), complete + 1):
            known = self._committed.get(index)
            if known is not None and log.term_at(index) != known[0]:
                raise Violation(
                    "leader completeness",
                    f"{member.id} leads term {term} with entry {index} of term {log.term_at(index)}, not {known[0]}",
                )
