"""A replica on the event loop: links, timers, the log's committer. Implements :class:`raftkv.replicator.Replicator`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Final, Protocol

from raftkv.clock import Clock
from raftkv.consensus.aside import on_a_thread
from raftkv.consensus.compaction import Compaction
from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.core import Timing
from raftkv.consensus.journal import WriteAheadLog
from raftkv.consensus.links import Introduction, Links, PeerInfo
from raftkv.consensus.messages import Application, Message
from raftkv.consensus.replica import Machine, Replica
from raftkv.consensus.snapshot_sender import Info
from raftkv.consensus.snapshots import Store, Writer
from raftkv.errors import NodeStoppedError, NoLeaderError, RaftKVError
from raftkv.replicator import (
    Applied,
    Compacted,
    DiskStatus,
    MembershipChange,
    OpenSnapshot,
    PeerStatus,
    ReadReady,
    ReplicationStatus,
    Report,
)

TICKS_PER_HEARTBEAT: Final = 5
COMMIT_NOTICE_S: Final = 0.002
"""How long followers wait for a new commit index when no entry carries it to them."""
NOT_MET: Final = PeerInfo()
STOOD_STILL_HEARTBEATS: Final = 2
"""After so long without a tick the loop was busy with something else (a value of many megabytes, a stopped process)."""
READ_FIRST_S: Final = 0.001
"""Time for the loop to read what arrived meanwhile, before a member judges that nothing did."""


def _discard(_handle: object) -> None:
    return None


class CommittedLog(WriteAheadLog, Protocol):
    """A log with a group-commit thread."""

    torn_bytes: int

    @property
    def segment_count(self) -> int: ...
    def start_committer(self, on_durable: Callable[[int], None], on_failed: Callable[[Exception], None]) -> None: ...
    def close(self) -> None: ...


class RaftNode:
    """One member, running."""

    on_log_failed: Callable[[Exception], None] | None = None
    """Called once, after the replica has stopped because its log cannot be written."""

    def __init__(
        self,
        me: Introduction,
        first: Configuration,
        *,
        known: dict[str, str],
        waits_to_join: bool,
        listen: tuple[str, int],
        secret: bytes,
        log: CommittedLog,
        store: Store,
        writer: Writer,
        machine: Machine,
        loaded: Info | None,
        clock: Clock,
        timing: Timing,
        compaction: Compaction,
        snapshot_file: str,
        report: Report,
    ) -> None:
        """``first`` is the configuration that the cluster began with, ``known`` where members may be found besides the
        addresses in the configuration (id to host:port), ``loaded`` is the snapshot
        that ``machine`` holds already.
        """
        self.me = me
        self._known = known
        self._listen = listen
        self._log = log
        self._clock = clock
        self._report = report
        self._timing = timing
        self.links = Links(me, known, secret, SystemRandom(), report)
        self.replica = Replica(
            me.node_id,
            first,
            disk=me.disk,
            address=me.peer_address,
            former=me.former,
            waits_to_join=waits_to_join,
            log=log,
            store=store,
            writer=writer,
            machine=machine,
            loaded=loaded,
            wire=self.links,
            monotonic=clock.monotonic,
            wall_ms=clock.wall_ms,
            rng=Random(),  # noqa: S311 -- election timeouts, nothing secret
            timing=timing,
            compaction=compaction,
            snapshot_file=snapshot_file,
            aside=on_a_thread,
        )
        self._connect()
        self.on_leader_change: list[Callable[[str], None]] = []
        self.on_snapshot: list[Callable[[int, int, float], None]] = []
        """Called with (index, bytes, seconds) when a snapshot was written; bytes are 0 when that failed."""
        self.on_received: list[Callable[[], None]] = []
        """Called when a snapshot of the leader was taken."""
        self.on_link: list[Callable[[str, bool], None]] = []
        """Called when the connection to or from another member was made, or ended (False): then answers may be lost."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tick_scheduled = self._reads_scheduled = False
        self._ticked = 0.0
        self._commit_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._snapshot_waiters: deque[Callable[[int, RaftKVError | None], None]] = deque()
        self._reported_halt = self._snapshot_trouble = ""
        self._told_attempt = 0.0
        self._stopped = False

    def _connect(self) -> None:
        """Links and replica tell each other, and us, what happens."""
        self.links.gate = membership = self.replica.membership
        self.links.on_message = self._on_message
        self.links.on_link = self._on_link
        self.links.on_inbound = self._tell_of_link
        self.links.on_bytes = self._on_bytes
        membership.on_change = self._on_configuration
        membership.on_stranger = self.links.drop
        membership.on_hindrance = self._on_hindrance
        self.replica.replication.on_left = self._set_members
        self._set_members()
        self.replica.on_leader_change = self._on_leader_change
        self.replica.on_reads = self._schedule_reads
        self.replica.snapshots.on_written = self._on_snapshot
        self.replica.snapshots.receiver.on_end = self._on_received

    # ------------------------------------------------------------ life
    async def start(self) -> None:
        """Take up the snapshot (the first tick), listen, dial. Raises OSError when the address is taken."""
        self._loop = loop = asyncio.get_running_loop()
        # Both run on the log's own thread.
        self._log.start_committer(
            lambda _sequence: _discard(loop.call_soon_threadsafe(self._on_durable)),
            lambda _error: _discard(loop.call_soon_threadsafe(self._tick)),
        )
        self.replica.tick()
        await self.links.start(*self._listen)
        self._on_timer()

    async def stop(self) -> None:
        """Close links and log. Hand leadership over before (:meth:`transfer_leadership`), or the others wait."""
        self._stopped = True
        for timer in (self._timer, self._commit_timer):
            if timer is not None:
                timer.cancel()
        await self.links.stop()
        self._log.close()

    # ------------------------------------------------------------ events
    def _on_timer(self) -> None:
        if self._stopped or self._loop is None:
            return
        self._timer = self._loop.call_later(self._timing.heartbeat_s / TICKS_PER_HEARTBEAT, self._on_timer)
        self._tick()

    def _schedule_tick(self) -> None:
        if not self._tick_scheduled and self._loop is not None:
            self._tick_scheduled = True
            self._loop.call_soon(self._tick)

    def _schedule_reads(self) -> None:
        if not self._reads_scheduled and self._loop is not None:
            self._reads_scheduled = True
            self._loop.call_soon(self._pump_reads)

    def _pump_reads(self) -> None:
        self._reads_scheduled = False
        self.replica.reads.pump()

    def _tick(self) -> None:
        self._tick_scheduled = False
        if self._stopped or self._stood_still():
            return
        replica = self.replica
        replica.tick()
        core = replica.core
        if core.halted:
            if core.halted != self._reported_halt:
                self._reported_halt = core.halted
                self._report.error("node stopped serving", reason=core.halted)
            self._tell_snapshot_waiters(0, NodeStoppedError(core.halted))  # no tick comes that would see it written
            if core.log.failed is not None and self.on_log_failed is not None:
                tell, self.on_log_failed = self.on_log_failed, None
                tell(core.log.failed)
            return
        if replica.has_more_to_do:
            self._schedule_tick()  # a long replay goes on piece by piece, so that other work gets its turn
        if core.is_leader and self._commit_timer is None and self._loop is not None:
            self._commit_timer = self._loop.call_later(COMMIT_NOTICE_S, self._announce_commit)

    def _stood_still(self) -> bool:
        """Put a tick off that comes late: heartbeats and answers to them may be here, and unread.

        Else a follower would start an election, or a leader miss its quorum, for a silence of their own making.
        """
        now = self._clock.monotonic()
        late = now - self._ticked > STOOD_STILL_HEARTBEATS * self._timing.heartbeat_s
        self._ticked = now
        if late and self._loop is not None and not self._tick_scheduled:
            self._tick_scheduled = True
            self._loop.call_later(READ_FIRST_S, self._tick)
        return late

    def _announce_commit(self) -> None:
        self._commit_timer = None
        if self.replica.core.is_leader:
            self.replica.replication.announce_commit()

    def _on_message(self, peer: str, message: Message) -> None:
        self.replica.receive(peer, message)
        if self.replica.core.wants_tick:
            self._schedule_tick()

    def _on_bytes(self, peer: str) -> None:
        """Part of a large frame is progress too: its sender is alive."""
        self.replica.replication.heard_from(peer)

    def _on_link(self, peer: str, up: bool) -> None:
        if up:
            self.replica.replication.link_up(peer)
        else:
            self.replica.replication.link_down(peer)
        self._tell_of_link(peer, up)
        self._schedule_tick()

    def _tell_of_link(self, peer: str, up: bool) -> None:
        for listener in self.on_link:
            listener(peer, up)

    def _on_durable(self) -> None:
        if not self._stopped:
            self.replica.on_durable()

    def _on_hindrance(self, reason: str) -> None:
        self._report.warning("a damaged member cannot be taken back", reason=reason)

    def _on_configuration(self, configuration: Configuration) -> None:
        self._report.info("members", members=configuration.listed(), index=configuration.index)
        self._set_members()

    def _set_members(self) -> None:
        """Links to all other members, and to those that still have to be told that they are members no more."""
        me = self.me.node_id
        members = {one.node_id: one.address for one in self.replica.membership.latest.members if one.node_id != me}
        for peer in self.replica.replication.leaving:
            members.setdefault(peer, "")
        if self.me.former and not members:
            members = self._known  # it has lost the log that named them, and they may not find it where it is now
        self.links.set_members(members)

    def _on_leader_change(self, leader: str) -> None:
        self._report.info("leader changed", leader=leader or "none", term=self.replica.core.term)
        for listener in self.on_leader_change:
            listener(leader)

    def _on_snapshot(self, index: int, success: bool) -> None:
        snapshots = self.replica.snapshots
        if snapshots.started != self._told_attempt:  # else nothing was applied since the last one, and nothing written
            self._told_attempt = snapshots.started
            size = snapshots.newest.size_bytes if success and snapshots.newest is not None else 0
            for listener in self.on_snapshot:
                listener(index, size, self._clock.monotonic() - snapshots.started)
        reason = "" if success else snapshots.failure
        error = None if success else NoLeaderError(f"the snapshot could not be written: {reason}", code="ERR")
        if reason not in {"", self._snapshot_trouble}:  # attempts follow, and are not told of while nothing changes
            self._report.warning("snapshot failed, and will be tried again", index=index, reason=reason)
        self._snapshot_trouble = reason
        self._tell_snapshot_waiters(index if success else 0, error)

    def _tell_snapshot_waiters(self, index: int, error: RaftKVError | None) -> None:
        waiters, self._snapshot_waiters = self._snapshot_waiters, deque()
        for waiter in waiters:
            waiter(index, error)

    def _on_received(self, name: str, size: int, error: OSError | None) -> None:
        if error is None:
            self._report.info("the leader's snapshot was taken", snapshot=name, bytes=size)
            for listener in self.on_received:
                listener()
        else:
            self._report.warning("the leader's snapshot cannot be taken, and will be tried again", snapshot=name, bytes=size,
                         reason=error.strerror or str(error))  # fmt: skip

    # ------------------------------------------------------------ Replicator
    @property
    def is_leader(self) -> bool:
        """Whether this node believes to lead (only a read barrier proves it)."""
        return self.replica.core.is_leader

    @property
    def leader_id(self) -> str:
        """Empty when none is known."""
        return self.replica.leader_id

    def propose(self, payload: bytes, done: Applied) -> None:
        self.replica.propose(payload, done)

    def refusal(self) -> RaftKVError | None:
        """Why waiting for a leader is hopeless here; None while it is not.

        A node that was removed or not added yet is in order, and the cluster goes on elsewhere: it answers CLUSTERDOWN,
        at which cluster clients look for the members anew.
        """
        halted = self.replica.core.halted
        if not halted and self.leader_id:  # asked before every read
            return None
        if self.replica.membership.latest.get(self.me.node_id) is None:
            return NoLeaderError(halted or "this node is no member of the cluster yet; nothing was done")
        return NodeStoppedError(halted) if halted else None

    def read_barrier(self, done: ReadReady) -> None:
        refusal = self.refusal()
        if refusal is not None:
            done(0, refusal)
            return
        self.replica.reads.barrier(done)
        self._schedule_reads()

    def await_applied(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        repairing = self.replica.membership.repairing
        if repairing and not self.replica.core.halted:
            done(NoLeaderError(f"{repairing}; nothing was read"))  # what it had is gone, and it begins empty
        else:
            self.replica.reads.await_applied(index, done)

    def await_synced(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        self.replica.syncing.wait(index, done)

    def compact(self, done: Callable[[Compacted | None, RaftKVError | None], None]) -> None:
        log = self._log

        def written(_index: int, error: RaftKVError | None) -> None:
            if error is not None:
                done(None, error)
                return
            assert self._loop is not None  # a snapshot was written
            self._loop.call_soon(cut)  # this is in the middle of the engine's own compaction

        def cut() -> None:
            before = log.bytes_on_disk
            self.replica.cut_log()
            self.replica.syncing.wait(0, lambda failed: synced(before, failed))

        def synced(before: int, error: RaftKVError | None) -> None:
            freed = max(0, before - log.bytes_on_disk)
            done(None if error else Compacted(self.replica.snapshots.index, log.first_index, freed), error)

        self.take_snapshot(written)

    def halt(self, reason: str) -> None:
        """Stop serving for good; the next tick tells whoever waits."""
        self.replica.core.halt(reason)
        self._schedule_tick()

    def send_application(self, peer: str, data: bytes, *, answers: bool = False) -> bool:
        """Bytes for the same layer at ``peer``, or what it is answered; False when they certainly did not leave."""
        return self.links.send(peer, Application(data, answers))

    def status(self) -> ReplicationStatus:
        replica = self.replica
        core, log = replica.core, replica.core.log
        configuration = replica.membership.latest
        own = configuration.get(self.me.node_id)
        return ReplicationStatus(
            node_id=self.me.node_id,
            cluster_id=self.me.cluster_id,
            role=core.engine.role(),
            leader_id="" if core.halted else replica.leader_id,
            term=core.term,
            commit_index=int(core.engine.raftCommitIndex),
            applied_index=core.applied,
            last_index=log.last_index,
            first_index=log.first_index,
            durable_index=log.durable_index,
            synced_index=log.synced_index,
            saving_s=self._saving_s(),
            snapshot_index=replica.snapshots.index,
            pending=replica.pending,
            halted=core.halted,
            leader_changes=replica.leader_changes,
            voter=core.votes,
            is_member=own is not None and core.is_own(own.disk),
            disk=self.me.disk,
            promote=own is not None and own.promote,
            replaces="" if own is None else own.replaces,
            repairing="" if core.halted else replica.membership.repairing,
            configuration_index=configuration.index,
            changing=replica.membership.busy,
            peers={one.node_id: self._peer_status(one) for one in configuration.members if one is not own},
        )

    def _saving_s(self) -> float:
        snapshots = self.replica.snapshots
        if not snapshots.is_writing or self.replica.core.halted:  # halted, nobody looks whether it has ended
            return -1.0
        return self._clock.monotonic() - snapshots.started

    def disk(self) -> DiskStatus:
        log, newest = self._log, self.replica.snapshots.newest
        return DiskStatus(
            log_bytes=log.bytes_on_disk,
            log_segments=log.segment_count,
            log_failed="" if log.failed is None else str(log.failed),
            sync_pending=log.durable_sequence < log.sequence,
            torn_bytes=log.torn_bytes,
            snapshot_bytes=0 if newest is None else newest.size_bytes,
        )

    def _peer_status(self, member: Member) -> PeerStatus:
        peer = member.node_id
        replica, info = self.replica, self.links.info.get(peer, NOT_MET)
        progress = replica.replication.progress.get(peer) if replica.core.is_leader else None
        contact = replica.replication.contact.get(peer)
        return PeerStatus(
            node_id=peer,
            voter=member.voter,
            disk=member.disk,
            promote=member.promote,
            replaces=member.replaces,
            peer_address=next(iter(self.links.addresses(peer)), ""),
            client_address=info.client_address,
            http_address=info.http_address,
            connected=self.links.connected(peer),
            match_index=progress.match_index if progress else 0,
            last_contact_s=-1.0 if contact is None else max(0.0, self._clock.monotonic() - contact),
        )

    def transfer_leadership(self, node_id: str | None, done: Callable[[RaftKVError | None], None]) -> None:
        """New proposals are refused (definitely not done) until the follower has everything and takes over."""
        self.replica.transfer.start(node_id or "", done)
        self._schedule_tick()

    def change_membership(self, change: MembershipChange, done: Applied) -> None:
        """One change at a time; ``done`` gets the :class:`Configuration` once it is committed, or why not."""
        self.replica.membership.change(change, done)
        self._schedule_tick()

    def take_snapshot(self, done: Callable[[int, RaftKVError | None], None]) -> None:
        if self.replica.core.halted:
            done(0, NodeStoppedError(self.replica.core.halted))
            return
        self._snapshot_waiters.append(done)
        self.replica.take_snapshot()
        self._schedule_tick()

    def open_snapshot(self) -> OpenSnapshot | None:
        return self.replica.snapshots.open_newest()
