"""Switches that turn one guard of the consensus layer off, for the simulation only: it must be able to fail.

Each replaces one method or property by what the code would be without the guard. :data:`GUARDS` says what the guard
stops; ``tests/simulation`` shows, for each, a profile and seeds in which the simulation finds the violation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest import mock

from chaos.sim.member import TimedLog
from chaos.sim.network import Network
from persistence.directory import DataDirectory
from persistence.incoming import IncomingSnapshot
from raftkv.consensus.appends import AppendGuard
from raftkv.consensus.configuration import Configuration, Readmit
from raftkv.consensus.core import Core
from raftkv.consensus.durability import DurabilityGuard
from raftkv.consensus.election import ElectionGuard
from raftkv.consensus.journal import JournalAdapter
from raftkv.consensus.lease import Lease
from raftkv.consensus.membership import Membership
from raftkv.consensus.messages import (
    AppendEntries,
    AppendReply,
    PreVote,
    PreVoteGranted,
    Vote,
)
from raftkv.consensus.reads import ReadIndex
from raftkv.consensus.replication import Replication
from raftkv.consensus.snapshot_receiver import SnapshotReceiver
from raftkv.consensus.stall import StallGuard
from raftkv.machine.batch import Run
from raftkv.machine.sessions import Session, Sessions
from raftkv.server.consistency import Gates

Replacement = tuple[type, str, Any]


@dataclass(frozen=True, slots=True)
class Guard:
    """What it stops, and what stands in its place when it is off."""

    stops: str
    replacements: tuple[Replacement, ...]


# -- durability
def _set_term_unsynced(self: JournalAdapter, term: int, voted_for: str | None) -> None:
    self.log.set_hard_state(term, voted_for)


def _reply_at_once(self: DurabilityGuard, peer: str, message: AppendReply) -> bool:
    return self._core.wire.send(peer, message)


def _pass_on_in_any_term(self: DurabilityGuard) -> None:
    self._term = self._core.term
    _on_durable(self)


def _count_own_copy_at_once(self: DurabilityGuard, peer: str) -> None:
    with mock.patch.object(type(self._core.log), "durable_index", property(lambda log: log.last_index)):
        _pass_on(self, peer)


# -- log and replies
_on_durable = DurabilityGuard.on_durable
_pass_on = DurabilityGuard._pass_on
_on_reply = Replication.on_reply
_on_vote = ElectionGuard.on_vote


def _believe_every_reply(self: Replication, peer: str, message: AppendReply) -> None:
    _on_reply(self, peer, replace(message, term=self._core.term))


def _truncate_always(self: AppendGuard, peer: str, message: AppendEntries) -> None:
    entries = list(message.entries)
    self._to_engine(peer, message, message.prev_index, message.prev_term, entries, message.commit)


def _agree_unclipped(self: AppendGuard, peer: str, message: AppendEntries, verified: int) -> None:
    self.follow(peer, message.term, message.commit)
    self.send(peer, verified + 1, reset=False, success=True)


def _keep_acknowledged(self: DurabilityGuard, peer: str, match_index: int) -> None:
    self._term = self._core.term
    self._acked[peer] = max(match_index, self._acked.get(peer, 0))
    self._pass_on(peer)


# -- elections
def _campaign_at_once(self: ElectionGuard) -> None:
    self._campaign()


def _count_every_vote(self: ElectionGuard, peer: str, message: Vote) -> None:
    self._votes = set()
    _on_vote(self, peer, message)


def _no_term_notice(_self: ElectionGuard, _peer: str, _message: object) -> None:
    return None


def _grant_always(self: ElectionGuard, peer: str, message: PreVote) -> None:
    self._core.wire.send(peer, PreVoteGranted(message.term))


# -- snapshots and reads
def _confirm_at_once(self: ReadIndex, number: int, waiting: Any) -> None:
    with mock.patch.object(Core, "is_majority", return_value=True):
        _confirm(self, number, waiting)


_confirm = ReadIndex._confirm
_start_round = ReadIndex._start_round


def _start_without_own_entry(self: ReadIndex) -> None:
    core = self._core
    with mock.patch.object(type(core.log), "term_at", return_value=core.term):
        _start_round(self)


_boot_guard = ElectionGuard.__init__


def _forget_the_leader(self: ElectionGuard, core: Core) -> None:
    _boot_guard(self, core)
    self._contact = -1e9


def _run_again(self: Sessions, run: Run, now_ms: int) -> None:
    self.by_id.setdefault(run.session, Session(1 << 40, now_ms))


# -- membership
_use = Core.use


def _vote_always(self: Core, configuration: Configuration) -> bool:
    changed = _use(self, configuration)
    self.votes = True
    return changed


def _believe_a_former_life(self: Replication, peer: str, message: AppendReply) -> None:
    if peer in self.progress:
        self.progress[peer].began = 0
    _on_reply(self, peer, message)


# -- readmission
_readmitted = Configuration._readmitted
_set_aside = DataDirectory.set_aside


def _a_voter_at_once(self: Configuration, change: Readmit) -> Configuration:
    changed = _readmitted(self, change)
    members = (replace(one, voter=True, promote=False) if one.promote else one for one in changed.members)
    return replace(changed, members=tuple(members))


def _under_the_old_id(self: DataDirectory, new_disk_id: str, notes: bytes) -> str:
    before = self.identity
    path = _set_aside(self, new_disk_id, notes)
    self._identify(before._replace(log_id=""))
    return path


GUARDS: Final[dict[str, Guard]] = {
    "fsync": Guard(
        "what was acknowledged from memory is lost with the power",
        (
            (TimedLog, "durable_sequence", property(lambda log: log.sequence)),
            (TimedLog, "durable_index", property(lambda log: log.last_index)),
            (TimedLog, "sync", lambda _log: None),
        ),
    ),
    "follower-durability": Guard(
        "a follower acknowledges what it may forget", ((DurabilityGuard, "reply", _reply_at_once),)
    ),
    "leader-durability": Guard(
        "a leader counts its own copy of an entry before it is on its disk",
        ((DurabilityGuard, "_pass_on", _count_own_copy_at_once),),
    ),
    "alone-first-entry": Guard(
        "a node that votes alone commits its first entry from memory",
        ((DurabilityGuard, "elected", lambda _self: None),),
    ),
    "vote-sync": Guard(
        "a vote is forgotten and given again", ((JournalAdapter, "setCurrentTerm", _set_term_unsynced),)
    ),
    "acknowledged-term": Guard(
        "what was acknowledged to an earlier leadership of the same node counts once its log is durable",
        ((DurabilityGuard, "on_durable", _pass_on_in_any_term), (DurabilityGuard, "acknowledged", _keep_acknowledged)),
    ),
    "stale-replies": Guard(
        "an acknowledgement of an older leadership counts in this one",
        ((Replication, "on_reply", _believe_every_reply),),
    ),
    "truncation": Guard(
        "a late append cuts entries that match and were acknowledged", ((AppendGuard, "_compare", _truncate_always),)
    ),
    "commit-clip": Guard(
        "a tail that was never compared with the leader's is committed", ((AppendGuard, "_agree", _agree_unclipped),)
    ),
    "lanes": Guard(
        "heartbeats wait behind a large entry for so long that the leader is deposed",
        ((Network, "_urgent", staticmethod(lambda _message: False)),),
    ),
    "pre-vote": Guard(
        "a node that was cut off comes back with a higher term and deposes the leader",
        (
            (ElectionGuard, "_start_pre_vote", _campaign_at_once),
            (ElectionGuard, "_hears_leader", property(lambda _: False)),
        ),
    ),
    "stickiness": Guard(
        "a node that cannot hear the leader deposes it",
        ((ElectionGuard, "on_pre_vote", _grant_always), (ElectionGuard, "_hears_leader", property(lambda _: False))),
    ),
    "vote-count": Guard("a repeated message is a second vote", ((ElectionGuard, "on_vote", _count_every_vote),)),
    "term-notice": Guard(
        "a node with a higher term stays outside", ((ElectionGuard, "on_term_notice", _no_term_notice),)
    ),
    "snapshot-newer": Guard(
        "an older snapshot takes the place of acknowledged entries",
        ((SnapshotReceiver, "_is_needed", lambda _self, _index, _term: True),),
    ),
    "snapshot-durable": Guard(
        "a snapshot takes the place of log and state before its file is on the disk",
        ((IncomingSnapshot, "sync", lambda _self: None),),
    ),
    "read-majority": Guard("a deposed leader answers reads", ((ReadIndex, "_confirm", _confirm_at_once),)),
    "read-own-entry": Guard(
        "a new leader reads before it knows what is committed", ((ReadIndex, "_start_round", _start_without_own_entry),)
    ),
    "read-bound": Guard(
        "a node that is cut off goes on with bounded reads",
        ((Gates, "_bounded", lambda self, _bound_s, done: self._local(done)),),
    ),
    "read-token": Guard(
        "a node that is behind does not wait for what a token covers",
        ((Gates, "_at_least", lambda self, _index, done: done(self._now_ms, None)),),
    ),
    "lease-margin": Guard(
        "a leader with a slow clock reads when its voters are free already",
        ((Lease, "length_s", property(lambda self: self._core.timing.election_min_s)),),
    ),
    "lease-transfer": Guard(
        "a leader that handed over reads while its successor writes", ((Lease, "give_up", lambda _self: None),)
    ),
    "lease-restart": Guard(
        "a voter that restarted helps to elect another leader during a lease",
        ((ElectionGuard, "__init__", _forget_the_leader),),
    ),
    "member-own-entry": Guard(
        "a new leader changes the voters before it knows which change was the last",
        ((Membership, "_leads_surely", True),),
    ),
    "member-rollback": Guard(
        "a node acts by a configuration that was truncated", ((Membership, "truncated", lambda _self, _index: None),)
    ),
    "member-one-change": Guard(
        "a second change of the voters begins while nobody else may know of the first", ((Membership, "busy", False),)
    ),
    "member-snapshot": Guard(
        "a snapshot hands out a configuration that may never be committed",
        ((Membership, "for_snapshot", Membership.latest),),
    ),
    "member-leader": Guard(
        "a leader removes itself, and counts itself all the same",
        ((Membership, "_check_leader", lambda _self, _removed: None),),
    ),
    "member-disk": Guard(
        "a node that lost its disk passes for the one it was",
        ((Membership, "admit", lambda *_: ""),),
    ),
    "member-reply": Guard(
        "an acknowledgement of a member's former life keeps from its new one what it lacks",
        ((Replication, "on_reply", _believe_a_former_life),),
    ),
    "member-vote": Guard(
        "who is no member, or not yet a voter, campaigns and counts itself", ((Core, "use", _vote_always),)
    ),
    "repair-learner": Guard(
        "a node whose disk was damaged is a voter again at once",
        ((Configuration, "_readmitted", _a_voter_at_once),),
    ),
    "repair-disk": Guard(
        "a node whose disk was damaged begins empty, and says nothing of it",
        ((DataDirectory, "set_aside", _under_the_old_id),),
    ),
    "lost-log": Guard(
        "a node whose log was removed, or changed for an older one, says nothing of it",
        ((DataDirectory, "lost_log", ""),),
    ),
    "repair-strangers": Guard(
        "links to a damaged node outlive a configuration by which it would not be admitted",
        ((Membership, "_look_again", lambda _self: None),),
    ),
    "repair-own": Guard(
        "a node whose disk was damaged votes by a configuration of its former life, which it finds in the log that it is sent",
        ((Core, "is_own", lambda _self, _disk: True),),
    ),
    "repair-standing": Guard(
        "a node whose disk was damaged is let in for a place that is not committed, and has no vote",
        ((Membership, "standing", Membership.index),),
    ),
    "stall": Guard(
        "a leader whose disk does not answer stays in office, and nothing is committed",
        ((StallGuard, "tick", lambda _self: None),),
    ),
    "sessions": Guard("a write that is repeated is applied again", ((Sessions, "find", _run_again),)),
}


@contextmanager
def switched_off(names: Iterable[str]) -> Iterator[None]:
    """Inside, the guards of these names do not act."""
    with ExitStack() as stack:
        for name in names:
            for owner, attribute, replacement in GUARDS[name].replacements:
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield
