"""One member of the group: the engine, its guards, and the order in which they must act. No I/O of its own.

The contract with the caller (the same as etcd's raft states it): messages and time go in through
:meth:`Replica.receive` and :meth:`Replica.tick`; the log reports through :meth:`Replica.on_durable`; messages go out
through the wire at any of these calls. What must be durable before a message leaves is held back inside, so the caller
may write and send in any order. Callbacks of proposals and reads run at the end of a call, never in the middle of the
engine's own work.

Every way in ends with the same steps: engine tick (commit, apply), snapshots, reads, callbacks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Protocol

from persistence.errors import LogFailedError
from raftkv.consensus import seams
from raftkv.consensus.appends import AppendGuard
from raftkv.consensus.compaction import Compaction, Retention
from raftkv.consensus.configuration import CONFIGURATION, Configuration, unwrap
from raftkv.consensus.core import Core, Timing, Wire
from raftkv.consensus.durability import DurabilityGuard
from raftkv.consensus.election import ElectionGuard
from raftkv.consensus.engine import REGULAR, Deliver, Engine, EngineTransport, configuration
from raftkv.consensus.journal import JournalAdapter, WriteAheadLog
from raftkv.consensus.leadership import Transfer
from raftkv.consensus.membership import Membership
from raftkv.consensus.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    Message,
    PreVote,
    PreVoteGranted,
    ReadIndexReply,
    ReadIndexRequest,
    ReadProbe,
    ReadProbeAck,
    RequestVote,
    SnapshotAck,
    SnapshotChunk,
    TermNotice,
    TimeoutNow,
    Vote,
)
from raftkv.consensus.outcomes import Cause
from raftkv.consensus.reads import ReadIndex
from raftkv.consensus.replication import Replication
from raftkv.consensus.snapshot_receiver import Aside, Staged, at_once
from raftkv.consensus.snapshot_sender import Info
from raftkv.consensus.snapshots import Snapshots, Store, Writer, begins_late
from raftkv.consensus.stall import StallGuard
from raftkv.consensus.syncing import Syncing
from raftkv.errors import RaftKVError

Applied = Callable[[object, RaftKVError | None], None]

PENDING_MAX: Final = 4096
"""Proposals (batches) not yet applied; one more is refused as busy."""
COMPACT_CHECK_S: Final = 0.1
"""How often the compaction policy is asked."""


class Machine(Protocol):
    """The replicated state machine."""

    def apply(self, index: int, entry: bytes) -> object:
        """Apply one entry; the same on every replica. Raising stops the node."""
        ...

    def dump(self) -> Iterable[bytes]: ...
    def load(self, chunks: Iterable[bytes]) -> None: ...
    def stage(self) -> Staged: ...
    def adopt(self, staging: Any) -> None: ...


_READ_MESSAGES: Final = frozenset({ReadProbe, ReadProbeAck, ReadIndexRequest, ReadIndexReply})
"""Concern reads only."""
_QUIET_MESSAGES: Final = frozenset({AppendEntries, AppendReply, Heartbeat}) | _READ_MESSAGES
"""Their handlers ask for a tick when one is of use; all others always get one."""


@dataclass(slots=True)
class _Pending:
    index: int
    term: int
    deadline: float
    done: Applied


class Replica:
    """A member of the group, or a node that waits to become one."""

    def __init__(
        self,
        node_id: str,
        first: Configuration,
        *,
        disk: str = "",
        address: str = "",
        former: tuple[str, ...] = (),
        waits_to_join: bool = False,
        log: WriteAheadLog,
        store: Store,
        writer: Writer,
        machine: Machine,
        loaded: Info | None = None,
        wire: Wire,
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
        rng: Random,
        timing: Timing,
        compaction: Compaction,
        snapshot_file: str,
        aside: Aside = at_once,
    ) -> None:
        """``first`` is the configuration that the group began with; it counts until log or snapshot hold another.

        ``disk`` and ``address`` are what this node says of itself (see :mod:`raftkv.consensus.configuration`). A node
        that ``waits_to_join`` has an empty ``first`` and does nothing until a leader finds it; so does one that has
        ``former`` ids of its disk (:mod:`raftkv.consensus.readmission`).

        ``machine`` is empty, and the first tick loads the newest snapshot into it; or it holds the snapshot ``loaded``.

        ``snapshot_file`` is any existing file: the engine only tests that there is one when a snapshot exists.
        ``aside`` runs what may wait for the disk for long beside the loop.

        Raises InvariantError when the log begins after what a snapshot covers.
        """
        seams.install(monotonic, rng)
        newest = store.newest()
        covered = newest.meta.index if newest else 0
        journal = JournalAdapter(log, covered)
        self.core = core = Core(node_id, (), timing, log, journal, wire, monotonic, wall_ms, rng)
        self.machine = machine
        self.durability = DurabilityGuard(core)
        self.election = ElectionGuard(core)
        self.replication = Replication(core, self.durability)
        self.membership = Membership(core, self.replication, disk, address, waits_to_join=waits_to_join, former=former)
        self.membership.start((newest and unwrap(newest.meta.extra)[0]) or first, log, covered)
        self.appends = AppendGuard(core, self.election, self.durability)
        self.reads = ReadIndex(core)
        self.syncing = Syncing(core, self.reads)
        self.snapshots = Snapshots(core, self.replication, self.membership, store, writer, machine, loaded, aside)
        self.retention = Retention(core, compaction, self.snapshots, self.replication)
        self.transfer = Transfer(core, self.replication, self.reads.lease)
        self.stall = StallGuard(core, self.replication, self.transfer)
        if late := begins_late(log, covered):
            core.halt(late)
        self._make_engine(journal, snapshot_file if newest else None)
        self._pending: deque[_Pending] = deque()
        self._finished: list[tuple[Applied, object, RaftKVError | None]] = []
        self._compact_due = 0.0
        self._leader = self._told_leader = ""
        self._was_leader = False
        self._started = False
        self.leader_changes = 0
        self.on_leader_change: Callable[[str], None] | None = None
        self.on_reads: Callable[[], None] | None = None
        """Arranges for ``reads.pump()`` once what else has arrived is taken in, so that it shares the next round."""
        self._handlers = self._make_handlers()

    def _make_engine(self, journal: JournalAdapter, snapshot_file: str | None) -> None:
        core, membership = self.core, self.membership
        core.transport = EngineTransport(self._outgoing)
        conf = configuration(
            heartbeat_s=core.timing.heartbeat_s, fallback_s=core.timing.election_max_s, snapshot_file=snapshot_file
        )
        core.engine = Engine(
            core.node_id, core.peers, conf, journal, core.transport, self._apply, self.replication.send_all
        )
        core.engine.use_serializer(self.snapshots)
        journal.on_configuration = membership.appended
        journal.on_truncated = membership.truncated
        journal.committed = lambda: core.committed
        journal.first_kept = self.retention.first_kept
        membership.propose = self.propose
        membership.hand_over = lambda: self.transfer.start("", _forget)
        membership.on_voters = self.reads.voters_changed

    def _make_handlers(self) -> dict[type[Any], Callable[[str, Any], object]]:
        return {
            AppendEntries: self.appends.on_append,
            AppendReply: self.replication.on_reply,
            Heartbeat: self.appends.on_heartbeat,
            PreVote: self.election.on_pre_vote,
            PreVoteGranted: self.election.on_pre_vote_granted,
            RequestVote: self.election.on_request_vote,
            Vote: self.election.on_vote,
            TermNotice: self.election.on_term_notice,
            TimeoutNow: self.election.on_timeout_now,
            ReadProbe: self._on_probe,
            ReadProbeAck: self.reads.on_probe_ack,
            ReadIndexRequest: self.reads.on_request,
            ReadIndexReply: lambda _peer, message: self.reads.on_reply(message),
            SnapshotChunk: self._on_chunk,
            SnapshotAck: self.snapshots.sender.on_ack,
        }

    # ------------------------------------------------------------ in
    def receive(self, peer: str, message: Message) -> None:
        """A message of another member. Call :meth:`tick` soon after if ``core.wants_tick`` (once for many messages)."""
        core = self.core
        if core.halted or not self._started:
            return
        if peer in self.membership.strangers:
            core.count("strangers_ignored")
            return
        self.replication.heard_from(peer)
        if self.stall.stalled and self.stall.refuses(message):
            core.count("stalled_ignored")
            return
        handler = self._handlers.get(type(message))
        if handler is None:
            core.count("messages_ignored")
            return
        self._guarded(lambda: handler(peer, message))
        if self.transfer.target:
            core.wants_tick = True
        if core.log.sequence > core.log.durable_sequence:
            core.log.request_sync()
        if type(message) in _READ_MESSAGES:
            if self.on_reads is None:
                self.reads.pump()
            else:
                self.reads.finish()
                self.on_reads()
        elif type(message) not in _QUIET_MESSAGES or core.committed > core.applied or core.halted:
            core.wants_tick = True

    def tick(self) -> None:
        """Time has passed or something arrived: commit, apply, elect, send, answer."""
        core = self.core
        core.wants_tick = False
        if core.log.failed is not None:
            core.halt(_log_failed(core.log.failed))
        if not core.halted:
            self._guarded(self._tick)
        if core.halted:
            self._fail_pending()
            self.transfer.tick()
        self.reads.pump()
        self.syncing.tick()
        self._run_callbacks()

    @property
    def has_more_to_do(self) -> bool:
        """The next tick should come soon: a replay, or a snapshot that is being loaded, goes on piece by piece."""
        return self.core.committed > self.core.applied or self.snapshots.receiver.has_more_to_do

    def on_durable(self) -> None:
        """The log reports that more of it is durable."""
        self.stall.look()
        self.durability.on_durable()
        self.syncing.on_durable()
        if self.core.wants_tick or self.core.alone:
            self.tick()

    def _tick(self) -> None:
        core = self.core
        self.stall.look()
        if self.stall.stalled:
            self.election.restart_timer()  # a candidate votes for itself, and waits for its disk with everything
        elif self._started:
            self.election.tick()
        if not core.alone or core.log.durable_sequence >= core.log.sequence or not self._started:
            # Alone, the engine would commit what is not durable yet: it waits for its log instead.
            core.engine.pass_over_earlier_terms()
            core.engine.doTick(0.0)
            self.snapshots.settle()
        self._started = True
        if core.journal.view_first != core.log.first_index:
            core.journal.view_first = core.log.first_index
        self._note_leader()
        self.membership.tick()
        self.stall.tick()
        self.transfer.tick()
        self.snapshots.sender.send()
        self.snapshots.receiver.tick()
        self._expire_pending()
        if core.monotonic() >= self._compact_due:
            self._compact_due = core.monotonic() + COMPACT_CHECK_S
            self.retention.tick()
        if core.log.sequence > core.log.durable_sequence:
            core.log.request_sync()

    def _guarded(self, work: Callable[[], object]) -> None:
        """The apply guard (fault 10): an exception out of the engine or of apply stops the node, never an entry."""
        try:
            work()
        except RaftKVError as error:
            self.core.halt(str(error))
        except LogFailedError as error:  # the log's thread found it out in the middle of ``work``
            self.core.halt(_log_failed(error))
        except Exception as error:  # noqa: BLE001 -- whatever it is, going on could diverge or lose data
            where = _where(error)
            self.core.halt(f"{type(error).__name__}: {error} (at {where}, applied index {self.core.applied})")

    # ------------------------------------------------------------ the engine's messages
    def _outgoing(self, peer: str, message: Deliver) -> bool:
        kind = message["type"]
        if kind == "next_node_idx":
            return self.appends.send(peer, message["next_node_idx"], reset=message["reset"], success=message["success"])
        if kind == "request_vote":
            return self.election.send_request(
                peer, message["term"], message["last_log_index"], message["last_log_term"]
            )
        if kind == "response_vote":
            return self.election.send_vote(peer, message["term"])
        self.core.halt(f"the engine sent an unexpected {kind}")
        return False

    def _on_probe(self, peer: str, message: ReadProbe) -> None:
        if (
            self.appends.accept_leader(peer, message.term)
            and message.term == self.core.term
            and not self.core.engine.is_about_to_campaign  # the answer may be a lease: it promises not to
        ):
            self.reads.on_probe(peer, message)

    def _on_chunk(self, peer: str, message: SnapshotChunk) -> None:
        if self.appends.accept_leader(peer, message.term):
            self.snapshots.receiver.on_chunk(peer, message)

    # ------------------------------------------------------------ proposals
    def propose(self, payload: bytes, done: Applied) -> None:
        """Order ``payload``; ``done`` gets the result of apply, or an error.

        Its first byte says what it is: 0 for the state machine, :data:`CONFIGURATION` for a change of the group.
        """
        core = self.core
        if core.halted:
            done(None, Cause.STOPPED.error(core.halted))
        elif not core.engine.is_leader:
            done(None, Cause.NOT_LEADER.error())
        elif core.log.failed is not None:
            done(None, Cause.LOG_FAILED.error(core.log.failed))
        elif self.transfer.target:
            done(None, Cause.HANDING_OVER.error(self.transfer.target))
        elif len(self._pending) >= PENDING_MAX:
            done(None, Cause.QUEUE_FULL.error(PENDING_MAX))
        else:
            index = core.log.last_index + 1
            while self._pending and self._pending[-1].index >= index:
                # From an earlier leadership: its entry lost its place here, but another node may still hold it.
                self._fail(self._pending.pop(), Cause.DISPLACED)
            core.journal.add(payload, index, core.term)
            deadline = core.monotonic() + core.timing.request_s
            self._pending.append(_Pending(index, core.term, deadline, done))
            self.replication.send_all()
            core.log.request_sync()

    @property
    def pending(self) -> int:
        """Proposals without an answer."""
        return len(self._pending)

    def _apply(self, index: int, entry: bytes) -> None:
        """The engine found ``entry`` committed."""
        result: object = None
        if entry[0] == REGULAR:
            result = self.machine.apply(index, entry)
        elif entry[0] == CONFIGURATION:
            result = self.membership.on_applied(index, entry)
        pending = self._pending
        while pending and pending[0].index <= index:
            one = pending.popleft()
            if one.index == index and one.term == self.core.log.term_at(index):
                self._finished.append((one.done, result, None))
            elif one.index == index:
                self._fail(one, Cause.OVERWRITTEN)
            else:
                self._fail(one, Cause.COVERED)

    def _expire_pending(self) -> None:
        now = self.core.monotonic()
        while self._pending and self._pending[0].deadline <= now:
            self._fail(self._pending.popleft(), Cause.LATE)

    def _fail_pending(self) -> None:
        while self._pending:
            self._fail(self._pending.popleft(), Cause.STOPPED_MEANWHILE)

    def _fail(self, one: _Pending, cause: Cause) -> None:
        self._finished.append((one.done, None, cause.error(self.core.halted)))

    def _run_callbacks(self) -> None:
        while self._finished:
            finished, self._finished = self._finished, []
            for done, result, error in finished:
                done(result, error)

    # ------------------------------------------------------------ leadership
    @property
    def leader_id(self) -> str:
        """Who leads, as far as this node can tell; empty when that is nobody, or somebody who has fallen silent.

        The engine follows its leader until another term begins, which without a majority is never.
        """
        engine = self.core.engine
        return self._known(engine.leader_id, leads=engine.is_leader)

    def _known(self, leader: str, *, leads: bool) -> str:
        return "" if self.election.misses_leader and not leads else leader

    def _note_leader(self) -> None:
        core = self.core
        leader, leads = core.engine.leader_id, core.engine.is_leader
        if leads != self._was_leader:
            self._was_leader = leads
            self.reads.leadership_changed()
        if leader != self._leader:
            self._leader = leader
            self.reads.leadership_changed()
            if leader:
                self.leader_changes += 1
        known = self._known(leader, leads=leads)
        if known != self._told_leader:
            self._told_leader = known
            if self.on_leader_change is not None:
                self.on_leader_change(self._told_leader)

    # ------------------------------------------------------------ snapshots
    def take_snapshot(self) -> None:
        """Write a snapshot of the state as it is now, unless one is being written."""
        self.snapshots.request()

    def cut_log(self) -> None:
        """Drop all entries that the newest snapshot covers and nobody who is there needs
        (:meth:`Retention.first_needed`).

        Called between two calls, as everything else of this class.
        """
        core = self.core
        # A log continues from a snapshot that it overlaps by two entries.
        keep_from = min(self.snapshots.index - 1, self.retention.first_needed())
        if keep_from > core.log.first_index:
            core.log.compact_to(keep_from)
            core.journal.view_first = core.log.first_index
            core.log.request_sync()


def _forget(_error: RaftKVError | None) -> None:
    return None


def _log_failed(error: Exception) -> str:
    return f"the log cannot be written: {error}"


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    place = "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return place
