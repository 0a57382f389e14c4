"""Changing the group while it serves: the membership guard.

Theory: a server uses the newest configuration in its log, committed or not (Raft thesis 4.1). One change at a time,
each by at most one voter, and only after the leader has committed an entry of its own term: two majorities then always
share a server (the last condition is the mended bug of the thesis' single-server change). A new member is a
learner first and is promoted when it has caught up, so that it never stands in the way of commits (4.2.1).

Faults of the engine that this stops (consensus.md 7a to 7e):

* two changes under way at once: **a change is refused** until the one before it is committed;
* the configuration of a restart is the old one, or an uncommitted one: it is **the fold of the log over the snapshot's
  committed one**, and a truncated entry takes its configuration with it;
* a removed node deposes the leader: who is no voter in its own newest configuration **never campaigns**;
* a follower that missed an addition refuses the new leader: links admit everybody who knows the cluster's secret, but
  **not a disk that another member's place was given to** (a wiped node under its old id, or a removed one). A node that
  says which disk it had before that was damaged gets its place back (:mod:`raftkv.consensus.readmission`).

A leader never removes itself: it hands over first, and the next leader does it. So a leader always counts as a voter.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from raftkv.consensus.configuration import CONFIGURATION, Change, Configuration, Member, Readmit, Register
from raftkv.consensus.core import Core
from raftkv.consensus.readmission import Readmission, is_former
from raftkv.errors import BusyError, NoLeaderError, RaftKVError
from raftkv.replicator import Promote, Remove

if TYPE_CHECKING:
    from raftkv.consensus.journal import WriteAheadLog
    from raftkv.consensus.replication import Replication

Done = Callable[[object, RaftKVError | None], None]
LEAVE_AGAIN: Final = 5
"""A leader that is to be replaced tries to hand over, at most once in this many of the longest election timeouts. An
attempt takes one of them at most, and no writes are taken meanwhile."""

Refusal = Literal["", "removed", "foreign disk", "repairing"]
"""Why a node may not join the conversation; empty: it may."""


@dataclass(slots=True)
class _CatchUp:
    """One round of a learner's catching up (thesis 4.2.1).

    It ends when the learner holds the entries that there were when it began, up to ``target``. ``after_quick``: the
    round before it was quick.
    """

    target: int
    began: float
    after_quick: bool = False


@dataclass(frozen=True, slots=True)
class _Met:
    """What a node said of itself when it was admitted."""

    disk: str
    address: str
    index: int = 0
    former: tuple[str, ...] = ()
    outdated: bool = False
    """The id has been given to another node since: only a new handshake can say that this node has the place."""


class Membership:
    """The configuration of this node, how it follows from the log, and how a leader changes it."""

    def __init__(
        self,
        core: Core,
        replication: Replication,
        disk: str,
        address: str,
        *,
        waits_to_join: bool,
        former: tuple[str, ...] = (),
    ) -> None:
        """``former``: ids of this node's disk before it was damaged."""
        self._core = core
        core.disk, core.former = disk, former
        self._replication = replication
        self.disk = disk
        self._waits_to_join = waits_to_join
        self._base = Configuration()
        self._changes: list[Configuration] = []
        """Those of entries after the base, in the order of the log."""
        self._applied = Configuration()
        self._met: dict[str, _Met] = {core.node_id: _Met(disk, address)} if disk else {}
        self._readmission = Readmission(core)
        self.strangers: set[str] = set()
        """Nodes that were admitted, and would not be by the configuration as it is now: what they say does not
        count."""
        self._catch_up: dict[str, _CatchUp] = {}
        self._hindrance = ""
        self._register_due = 0.0
        self._leave_due = -1e9
        self.propose: Callable[[bytes, Done], None] = _unset
        self.hand_over: Callable[[], None] = _unset
        self.on_change: Callable[[Configuration], None] | None = None
        self.on_voters: Callable[[], None] | None = None
        self.on_stranger: Callable[[str], None] = _nobody
        """Links to this node are to be made anew."""
        self.on_hindrance: Callable[[str], None] = _nobody
        """Why a member cannot be taken back."""

    # ------------------------------------------------------------ what it is
    @property
    def latest(self) -> Configuration:
        """The newest in the log: what this node acts by."""
        return self._changes[-1] if self._changes else self._base

    @property
    def applied(self) -> Configuration:
        """The newest that is known to be committed."""
        return self._applied

    @property
    def for_snapshot(self) -> Configuration:
        """The one as of the last applied entry. A newer one may never be committed (fault 7c of consensus.md)."""
        return self._applied

    @property
    def index(self) -> int:
        """Log entry of the newest one."""
        return self.latest.index

    @property
    def standing(self) -> int:
        """Log entry of the newest one, if this node votes by it; else 0.

        A node gets a vote after the entry that gave it its place was committed. One that has the place and no vote may
        have it by an entry that is taken back.
        """
        return self.latest.index if self._core.votes else 0

    @property
    def repairing(self) -> str:
        """What this node, whose disk was damaged, waits for; empty when nothing is left to do."""
        core = self._core
        if not core.former or core.votes:
            return ""
        own = self.latest.get(core.node_id)
        if core.engine.leader_id or (own is not None and own.disk == self.disk):
            waits = own is None or own.promote or own.disk != self.disk
            return "repairing: this node gets from the leader what was damaged, and votes again after that" * waits
        return (
            f"repairing: what disk {core.former[-1]} held was damaged; waits for a leader to take this node back with disk "
            f"{self.disk}, for which a majority of the other voters must be up"
        )

    def start(self, base: Configuration, log: WriteAheadLog, covered: int) -> None:
        """Fold the log after entry ``covered`` over ``base``."""
        self._base = self._applied = base
        self._changes.extend(configurations(log, covered))
        self._core.use(self.latest)

    # ------------------------------------------------------------ what the log says
    def appended(self, index: int, payload: bytes) -> None:
        """The log got a configuration: it counts from now on."""
        before = self.latest
        self._changes.append(Configuration.decode(payload, index))
        for one in self.latest.members:
            if one.node_id != self._core.node_id and _is_another(before.get(one.node_id), one):
                if met := self._met.get(one.node_id):
                    # Who had this id before was somebody else. Remembered all the same: its link may stand.
                    self._met[one.node_id] = replace(met, outdated=met.disk != one.disk)
                self._catch_up.pop(one.node_id, None)
                self._replication.begin_anew(one.node_id)
        self._use()

    def truncated(self, index: int) -> None:
        """The log lost its entries from ``index`` on, and their configurations with them."""
        kept = bisect_left(self._changes, index, key=lambda one: one.index)
        if kept < len(self._changes):
            self._core.count("configurations_rolled_back")
            del self._changes[kept:]
            self._use()

    def reset(self, base: Configuration) -> None:
        """A snapshot takes the place of the log up to its last entry."""
        self._base = self._applied = base
        self._changes = [one for one in self._changes if one.index > base.index]
        self._use()

    def on_applied(self, index: int, payload: bytes) -> Configuration:
        """Entry ``index`` is committed. What came before it is needed no more."""
        self._applied = Configuration.decode(payload, index)
        if index > self._base.index:
            self._base = self._applied
            self._changes = [one for one in self._changes if one.index > index]
        mine = self._applied.get(self._core.node_id)
        if mine is None and self.disk and self.disk in self._applied.removed:
            self._core.halt(
                f"this node was removed from the cluster by entry {index}; its data directory may be deleted"
            )
        return self._applied

    def _use(self) -> None:
        core = self._core
        others_vote = core.use(self.latest)
        core.wants_tick = True
        if others_vote:
            core.engine.use_voters(core.peers, core.monotonic())
        self._replication.members_changed(self.latest.index)
        if others_vote and self.on_voters is not None:
            self.on_voters()
        self._look_again()
        if self.on_change is not None:
            self.on_change(self.latest)

    # ------------------------------------------------------------ who may talk to us
    def greet(self, peer: str, disk: str, address: str, index: int, former: tuple[str, ...]) -> Refusal:
        """``peer`` introduced itself, and proved to know the secret: whether it may be talked to. See :meth:`admit`."""
        verdict = self.admit(peer, disk, index, former)
        if verdict == "repairing":
            self._readmission.ask(Readmit(peer, disk, former, address))
        elif not verdict:
            self.met(peer, disk, address, index, former)
        return verdict

    def admit(self, peer: str, disk: str, index: int, former: tuple[str, ...] = ()) -> Refusal:
        """Whether the node that says to be ``peer``, with this disk, may be talked to.

        ``index`` is its :attr:`standing`. One that has a newer configuration than this node may have been given its
        place by an entry that this node lacks. Whether somebody was removed is believed once that is committed; which
        disk somebody had is a fact, committed or not.
        """
        if disk and disk in self._applied.removed:
            return "removed"
        latest = self.latest
        known = latest.get(peer)
        if known is None or not disk or known.disk == disk or index > latest.index:
            return ""
        if is_former(known, disk, former):
            return "repairing"
        return "foreign disk" if known.disk else ""

    def _look_again(self) -> None:
        """Links outlive the configuration that they were made under."""
        for peer, met in list(self._met.items()):
            verdict = self.admit(peer, met.disk, met.index, met.former)
            # Who was removed has to be told, over its link, unless another node has its id by now.
            if not verdict or (verdict == "removed" and self.latest.get(peer) is None):
                self.strangers.discard(peer)
            elif peer not in self.strangers and peer != self._core.node_id:
                self._core.count("strangers")
                self.strangers.add(peer)
                self.on_stranger(peer)

    def refused(self, peer: str, reason: str) -> None:
        """Another member does not admit this node."""
        if reason == "removed":
            self._core.halt(f"this node was removed from the cluster ({peer} says); its data directory may be deleted")
        elif reason == "foreign disk" and self.latest.index == 0 and not self._waits_to_join:
            self._core.halt(
                f"{peer} knows this node with another data directory: its data was wiped or replaced, and it must not pass for "
                "what it was; remove it from the cluster and add it again, or add a node with a new id"
            )

    def met(self, peer: str, disk: str, address: str, index: int = 0, former: tuple[str, ...] = ()) -> None:
        """``peer`` introduced itself and was admitted."""
        self.strangers.discard(peer)
        self._readmission.forget(peer)
        if disk:
            self._met[peer] = _Met(disk, address, index, former)

    # ------------------------------------------------------------ changes, by the leader
    def change(self, change: Change, done: Done) -> None:
        """Order a change; ``done`` gets the configuration once it is committed, or why not."""
        try:
            self._check_ready()
            changed = self.latest.changed(change)  # before: what is wrong with the change itself is said first
            self._check(change)
        except RaftKVError as error:
            done(None, error)
            return
        self.propose(changed.encode(), done)

    def _check_ready(self) -> None:
        core = self._core
        if not core.is_leader:
            raise NoLeaderError("this node does not lead; ask the leader")
        if self.busy:
            raise BusyError("another membership change is not committed yet; one at a time")
        if not self._leads_surely:
            raise BusyError("this leader has not committed an entry of its term yet; try again")

    @property
    def busy(self) -> bool:
        """A change is in the log and not committed."""
        return self.latest.index > self._core.applied

    @property
    def _leads_surely(self) -> bool:
        return self._core.log.term_at(self._core.committed) == self._core.term

    def _check(self, change: Change) -> None:
        core = self._core
        if isinstance(change, Remove | Readmit):
            self._check_leader(change.node_id)
            self._check_quorum(tuple(one for one in self.latest.voters if one != change.node_id), change.node_id)
        if isinstance(change, Promote):
            self._check_quorum((*self.latest.voters, change.node_id), change.node_id)
            if not self._caught_up(change.node_id):
                progress = self._replication.progress.get(change.node_id)
                behind = core.log.last_index - (progress.match_index if progress is not None else 0)
                raise BusyError(f"{change.node_id} has not caught up ({behind} entries behind)")

    def _check_leader(self, removed: str) -> None:
        """The engine of a leader counts its own copy of each entry: it must be a voter as long as it leads."""
        core = self._core
        if removed == core.node_id and core.peers:
            self.hand_over()
            raise NoLeaderError(f"{removed} leads and is handing over, so that another leader can remove it")

    def _check_quorum(self, voters: tuple[str, ...], changed: str) -> None:
        """The voters that answer must be a majority of what there will be."""
        core = self._core
        alive = [one for one in voters if one == core.node_id or self._replication.is_alive(one)]
        if 2 * len(alive) <= len(voters):
            raise RaftKVError(
                f"with this change of {changed} only {len(alive)} of {len(voters)} voters would answer ({', '.join(alive)}): no "
                "quorum; bring the others back first"
            )

    # ------------------------------------------------------------ what a leader does by itself
    def tick(self) -> None:
        """On a leader: register disks and addresses, promote learners that have caught up."""
        core = self._core
        if not core.is_leader:
            self._catch_up.clear()
            return
        if not core.learners and core.monotonic() < self._register_due:
            return
        for one in core.learners:
            self._follow(one)
        if self.busy or not self._leads_surely:
            return
        self._register()
        back = self._readmission.next(self.latest)
        if back is not None:
            self.change(back, self._taken_back)
        for learner in self.latest.members:
            if not learner.voter and learner.promote and self._caught_up(learner.node_id):
                self._promote(learner.node_id, learner.replaces)
                return

    def _register(self) -> None:
        core = self._core
        if core.monotonic() < self._register_due:
            return
        self._register_due = core.monotonic() + core.timing.heartbeat_s
        news = []
        for one in self.latest.members:
            met = self._met.get(one.node_id)
            if met is None or met.outdated or (one.disk and one.disk != met.disk) or met.disk in self.latest.removed:
                continue  # not met yet, or what was met is its former life
            if not one.disk or (met.address and met.address != one.address):
                news.append((one.node_id, met.disk, met.address))
        if news:
            self.change(Register(tuple(news)), _ignored)

    def _taken_back(self, _result: object, error: RaftKVError | None) -> None:
        reason = "" if error is None or isinstance(error, BusyError) else error.message
        if reason and reason != self._hindrance:
            self.on_hindrance(reason)
        self._hindrance = reason or self._hindrance

    def _follow(self, learner: str) -> None:
        """End its round when it holds what there was at the beginning, and begin the next one."""
        core = self._core
        progress = self._replication.progress.get(learner)
        if progress is None or progress.needs_snapshot or not self._replication.is_alive(learner):
            self._catch_up.pop(learner, None)
            return
        now, last = core.monotonic(), core.log.last_index
        catch_up = self._catch_up.setdefault(learner, _CatchUp(last, now))
        if progress.match_index >= catch_up.target:
            self._catch_up[learner] = _CatchUp(last, now, self._is_quick(catch_up))

    def _is_quick(self, catch_up: _CatchUp) -> bool:
        return self._core.monotonic() - catch_up.began <= self._core.timing.election_min_s

    def _caught_up(self, learner: str) -> bool:
        """Whether a round took less than an election timeout, and this one has not: a commit would not wait longer for
        it.

        It may lack entries: while clients write there are always some under way.
        """
        catch_up = self._catch_up.get(learner)
        return catch_up is not None and catch_up.after_quick and self._is_quick(catch_up)

    def _promote(self, learner: str, replaces: str) -> None:
        core = self._core
        if replaces == core.node_id:
            if core.monotonic() < self._leave_due:
                return
            self._leave_due = core.monotonic() + LEAVE_AGAIN * core.timing.election_max_s
        if replaces and self.latest.get(replaces) is not None:
            self.change(Remove(replaces), _ignored)
        else:
            self.change(Promote(learner), _ignored)


def configurations(log: WriteAheadLog, covered: int) -> Iterator[Configuration]:
    """Those in the log after entry ``covered``, in order. Looks at the first byte of every entry there."""
    for payload, index, _ in log.beginning_with(CONFIGURATION, covered + 1):
        yield Configuration.decode(payload, index)


def _is_another(old: Member | None, new: Member) -> bool:
    """Whether the member of this id is another node than before, or one that has lost what it held."""
    return old is None or (old.voter and not new.voter) or old.disk not in {"", new.disk}


def _nobody(_peer: str) -> None:
    return None


def _unset(*_: object) -> None:
    raise AssertionError


def _ignored(_result: object, _error: RaftKVError | None) -> None:
    """What a leader tries by itself it tries again."""
