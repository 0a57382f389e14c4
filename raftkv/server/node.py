"""The composition root: one server node, made of its settings and what its disk holds."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from random import Random
from typing import Any, Final

import raftkv.commands
import raftkv.server.commands
from persistence.directory import IDENTITY, DataDirectory
from persistence.snapshots import SnapshotMeta
from raftkv import __version__
from raftkv.clock import Clock
from raftkv.config import Settings
from raftkv.config_values import split_address
from raftkv.consensus.compaction import Compaction
from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.core import Timing
from raftkv.consensus.fork import ForkedWriter
from raftkv.consensus.links import Introduction
from raftkv.consensus.node import RaftNode
from raftkv.errors import RaftKVError
from raftkv.server import logs
from raftkv.server.accounting import Accounting
from raftkv.server.archiver import make_archiver
from raftkv.server.backups import Backups
from raftkv.server.calls import MARK, PeerCalls
from raftkv.server.clients import ClientRegistry
from raftkv.server.commands.persistence import begin_compaction, begin_scheduled
from raftkv.server.connection import Connection
from raftkv.server.disk import Disk
from raftkv.server.disk_care import DiskCare
from raftkv.server.disk_failure import end_soon
from raftkv.server.door import Door
from raftkv.server.forwarding import Forwarder
from raftkv.server.http import HttpServer, make_app
from raftkv.server.metrics import Metrics
from raftkv.server.process import clients_possible, read_process_usage
from raftkv.server.progress import Progress
from raftkv.server.proposer import Proposer, digest_group, tick_group
from raftkv.server.reader import Readers
from raftkv.server.repair import known_members
from raftkv.server.routing import Routing
from raftkv.server.slowlog import Slowlog
from raftkv.server.state import ProcessUsage, SaveState, Statistics
from raftkv.server.tickets import GroupTicket, Ticket

HOUSEKEEPING_S: Final = 0.1
"""How often time-outs, held writes, due keys and idle clients are looked at."""
_DEFAULTS: Final = Settings()
DEFAULT_SIZES: Final = (_DEFAULTS.proto_max_bulk_len, _DEFAULTS.client_output_buffer_limit)
"""With the defaults 512 MiB can be written at once, but only 256 MiB be read. No warning says so: nobody chose it."""
DRAIN_S: Final = 2.0
"""How long a stopping leader tries to hand leadership over."""


class ServerNode(Routing, Accounting, DiskCare):
    """Everything that one process holds. Implements :class:`raftkv.server.state.Node`."""

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        clock: Clock,
        metrics: Metrics,
        disk: Disk,
        recovery: Progress,
    ) -> None:
        """``disk`` is the node's to close from now on; ``recovery`` is in its last phase, which ends here."""
        self.settings = settings
        self.clock = clock
        self.log = logs.get_logger("raftkv.server")
        self.started = recovery.began
        self.now = clock.monotonic()
        """Brought up to date by housekeeping: exact enough for idle times, and free."""
        self.run_id = secrets.token_hex(20)
        self.clients_max = self._limit_clients(settings.maxclients)
        self.clients = ClientRegistry()
        self.metrics = metrics
        self.slowlog = Slowlog(settings.slowlog_max_len, settings.slowlog_log_slower_than)
        self.saves = SaveState(begun_s=int(clock.wall_ms() / 1000 - (clock.monotonic() - self.started)))
        self.backups = Backups(clock.monotonic)
        self._directory = directory
        self.recovery = recovery
        self.machine = disk.machine
        self.reserve = disk.reserve
        self.raft = _make_raft(settings, directory, clock, disk, self.run_id)
        self.metrics.raft_events = self.raft.replica.core.counters
        self.saves.base_bytes = self.raft.disk().log_bytes
        self.machine.audit.on_digest = self._on_digest
        self.raft.on_leader_change.append(self._on_leader_change)
        self.raft.on_snapshot.append(self._on_snapshot)
        self.raft.on_received.append(self._on_snapshot_received)
        self._loop = asyncio.get_running_loop()
        self.archiver = make_archiver(settings, self.raft, clock, self.log, self._loop.call_soon_threadsafe)
        self.proposer = Proposer(
            self.raft, self.machine, clock, self.metrics, self._loop.call_soon,
            entry_bytes_max=settings.max_batch_bytes, pending_bytes_max=settings.max_pending_bytes, refused=self._refused,
            account=self,
        )  # fmt: skip
        self.readers = Readers(self.raft, self.machine, Random(), self._loop.call_soon, self)  # noqa: S311 -- SRANDMEMBER & co
        self.forwarder = Forwarder(
            self.raft, self.machine, self.proposer, clock, self.metrics, self._loop.call_soon,
            request_s=settings.request_timeout_ms / 1000, account=self,
        )  # fmt: skip
        self.calls = PeerCalls(
            self.raft, clock, lambda done: begin_compaction(self, done),
            request_s=settings.request_timeout_ms / 1000,
        )  # fmt: skip
        self.raft.links.on_application = self._on_application
        self.raft.on_link += [self.forwarder.on_link, self.calls.on_link]
        self._replay_from = self.raft.replica.snapshots.index
        self._replay_asked = False
        self._housekeeper: asyncio.TimerHandle | None = None
        self._ticking = False
        self._init_routing()
        self._init_accounting()
        self._init_disk(directory)

    # ------------------------------------------------------------ life
    async def start(self, door: Door, http: HttpServer) -> None:
        """Join the others, and serve at ``door`` and ``http``. Raises OSError when the peers' address is taken."""
        settings = self.settings
        await self.raft.start()
        await http.use(make_app(self))
        door.open(lambda: Connection(self))
        self._housekeep()
        self._watch.start()
        self.log.info(
            "node started", id=settings.node_id, cluster=settings.cluster_id, clients=settings.listen,
            peers=settings.peer_listen, http=settings.http_listen, version=__version__,
        )  # fmt: skip
        if settings.insecure:
            self.log.warning("running with insecure=true: anybody who reaches this port can read and write everything")
        self._warn_of_unreadable()

    async def stop(self) -> None:
        """Hand leadership over, close clients, make everything durable. The door is closed already."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        self._watch.stop()
        if self.raft.replica.stall.stalled:
            end_soon()  # closing the log would wait for the disk
        if self.raft.is_leader and not self.raft.replica.core.alone:
            await self._hand_over()
        for client in self.clients:
            client.close()
        if self.archiver is not None:
            await self.archiver.stop()
        await self.raft.stop()
        self._directory.close()
        self.log.info("node stopped", id=self.settings.node_id)

    async def _hand_over(self) -> None:
        done = self._loop.create_future()

        def finished(error: RaftKVError | None) -> None:
            if not done.done():
                done.set_result(error)

        self.raft.transfer_leadership(None, finished)
        try:
            async with asyncio.timeout(DRAIN_S):
                await done
        except TimeoutError:
            self.log.warning("leadership was not handed over in time")

    # ------------------------------------------------------------ events
    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: somebody may wait for ever for what it was to do, so the node must not look healthy."""
        error = context.get("exception")
        if isinstance(error, OSError | None):  # a connection that broke in a way of its own
            self.log.warning("event loop", message=str(context.get("message")), error=repr(error))
            return
        loop.default_exception_handler(context)
        self.raft.halt(f"a callback of the event loop raised {error!r}")

    def _on_application(self, peer: str, data: bytes) -> None:
        if data[:1] == MARK:
            self.calls.on_message(peer, data)
        else:
            self.forwarder.on_parcel(peer, data)

    def _on_leader_change(self, leader: str) -> None:
        self.leadership_changed()
        if leader != self.settings.node_id:
            self.forwarder.take_back(self.proposer.take_back())
        self._loop.call_soon(self.forwarder.retry)

    def _on_snapshot(self, index: int, size_bytes: int, seconds: float) -> None:
        """A snapshot was written, or failed (size 0)."""
        if not size_bytes:
            self.metrics.snapshots_failed += 1
        saves = self.saves
        saves.last_seconds = round(seconds)
        if not saves.running:  # else a command asked for it, and notes the outcome itself
            saves.last_ok = size_bytes > 0
            saves.count += bool(size_bytes)
            saves.last_s = self.wall_s if size_bytes else saves.last_s
        if not size_bytes:
            return
        saves.base_bytes = self.raft.disk().log_bytes
        self.metrics.observe_snapshot(seconds, size_bytes)
        self.log.info("snapshot written", index=index, bytes=size_bytes, seconds=round(seconds, 3))

    def _on_snapshot_received(self) -> None:
        self.saves.last_s = self.wall_s
        self.saves.base_bytes = self.raft.disk().log_bytes

    def _refused(self, tickets: list[Ticket]) -> None:
        self.forwarder.take_back(tickets)

    def _on_digest(self, index: int, digest: int) -> None:
        if self.raft.is_leader:
            self.proposer.add(GroupTicket(digest_group(index, digest), [], 2, _forget))

    def _housekeep(self) -> None:
        self._housekeeper = self._loop.call_later(HOUSEKEEPING_S, self._housekeep)
        self.now = now = self.clock.monotonic()
        self.forwarder.sweep()
        self.calls.sweep()
        begin_scheduled(self)
        # The log is cut only after its snapshot, once the permission to do so is synced.
        self.saves.base_bytes = min(self.saves.base_bytes, self.raft.disk().log_bytes)
        self.metrics.sample(now)
        self.backups.sweep()
        if self.archiver is not None:
            self.archiver.step()
        self.release_paused(now)
        self._close_idle(now)
        self._look_at_syncs(now)
        if not self.recovery.over:
            self._follow_replay()
        due = self.machine.next_expiry_ms
        if due is not None and due <= self.clock.wall_ms() and self.raft.is_leader and not self._ticking:
            self._ticking = True
            self.proposer.add(GroupTicket(tick_group(), [], 2, self._ticked))

    def _follow_replay(self) -> None:
        """Recovery is over when a read could be answered: all that was committed before is applied then."""
        core = self.raft.replica.core
        start = self._replay_from
        self.recovery.at(core.applied - start, core.committed - start)
        if self.raft.refusal() is not None:
            self.recovery.end()  # no member, or halted: there is nothing to catch up with
        elif not self._replay_asked:
            self._replay_asked = True
            self.raft.read_barrier(self._replay_answered)

    def _replay_answered(self, _now_ms: int, error: RaftKVError | None) -> None:
        self._replay_asked = False
        if error is None and not self.recovery.over:
            self.recovery.end()
            seconds = {f"{phase}_s": round(taken, 3) for phase, taken in self.recovery.seconds.items()}
            self.log.info(
                "recovered", snapshot=self._replay_from, applied=self.raft.replica.core.applied,
                keys=sum(one.size for one in self.machine.keyspace.databases), **seconds,
            )  # fmt: skip

    def _ticked(self, _result: object, _error: RaftKVError | None) -> None:
        self._ticking = False

    def _close_idle(self, now: float) -> None:
        limit_s = self.settings.timeout
        if limit_s:
            for client in self.clients:
                if now - client.last_interaction > limit_s and not client.blocked:
                    self.metrics.idle_clients_closed += 1
                    client.close()

    # ------------------------------------------------------------ the Node protocol
    @property
    def replicator(self) -> RaftNode:
        return self.raft

    def client_address(self, node_id: str) -> str:
        if node_id == self.settings.node_id:
            return self.settings.advertise
        info = self.raft.links.info.get(node_id)
        return info.client_address if info is not None else ""

    def _limit_clients(self, wanted: int) -> int:
        """Clients allowed at once: ``maxclients``, or what the limit of open files leaves for them."""
        possible = clients_possible(wanted)
        if possible < wanted:
            self.log.warning("fewer clients than maxclients: raise the limit of open files", clients=possible)
        return possible

    def _warn_of_unreadable(self) -> None:
        """Somebody chose limits with which a value can be written and not be read in one reply."""
        settings = self.settings
        sizes = (settings.proto_max_bulk_len, settings.client_output_buffer_limit)
        if sizes[0] > sizes[1] and sizes != DEFAULT_SIZES:
            self.log.warning(
                "a value above client_output_buffer_limit can be written, and GET of it closes the client (GETRANGE reads parts)",
                proto_max_bulk_len=sizes[0], client_output_buffer_limit=sizes[1],
            )  # fmt: skip

    def change_settings(self, settings: Settings) -> None:
        if settings.maxclients != self.settings.maxclients:
            self.clients_max = self._limit_clients(settings.maxclients)
        sizes = (self.settings.proto_max_bulk_len, self.settings.client_output_buffer_limit)
        self.settings = settings
        self.slowlog.max_len = settings.slowlog_max_len
        self.slowlog.threshold_us = settings.slowlog_log_slower_than
        self.metrics.slow_syncs.bound_s = settings.disk_slow_ms / 1000
        logs.configure(settings.loglevel, settings.logformat, secrets=(settings.requirepass, settings.peer_secret))
        self.settings_changed()
        if sizes != (settings.proto_max_bulk_len, settings.client_output_buffer_limit):
            self._warn_of_unreadable()

    def statistics(self) -> Statistics:
        return self.metrics.statistics(
            expired_keys=self.machine.expired_keys, keyspace_hits=self.hits, keyspace_misses=self.misses
        )

    def reset_statistics(self) -> None:
        self.metrics.reset()
        self.clients.reset_counters()
        self.hits = self.misses = 0

    def process_usage(self) -> ProcessUsage:
        return read_process_usage()


def _forget(_result: object, _error: RaftKVError | None) -> None:
    return None


def _make_raft(settings: Settings, directory: DataDirectory, clock: Clock, disk: Disk, boot_id: str) -> RaftNode:
    store, report = disk.store, logs.get_logger("raftkv.consensus")
    writer = ForkedWriter(
        lambda index, term, extra: store.begin(SnapshotMeta(index, term, extra), settings.snapshot_level),
        lambda index, term, extra: store.adopt(SnapshotMeta(index, term, extra)),
        lambda index, term, extra: store.discard(SnapshotMeta(index, term, extra)),
    )
    waits = settings.join or bool(directory.repairs)
    first = Configuration.of(Member(peer, address) for peer, address in settings.peers.items() if not waits)
    known = {peer: address for peer, address in settings.peers.items() if peer != settings.node_id}
    if directory.repairs:
        known |= known_members(directory)
    me = Introduction(
        settings.cluster_id, settings.node_id, boot_id, settings.advertise, settings.http_listen,
        settings.peer_advertise, directory.disk_id, directory.repairs,
    )  # fmt: skip
    minimum_s = settings.election_timeout_ms / 1000
    return RaftNode(
        me,
        first,
        known=known,
        waits_to_join=waits,
        listen=split_address(settings.peer_listen),
        secret=settings.peer_secret.encode(),
        log=disk.log,
        store=store,
        writer=writer,
        machine=disk.machine,
        loaded=disk.snapshot,
        clock=clock,
        timing=Timing(
            settings.heartbeat_ms / 1000,
            minimum_s,
            2 * minimum_s,
            settings.request_timeout_ms / 1000,
            settings.disk_stall_ms / 1000,
            settings.read_lease,
        ),
        compaction=Compaction(
            settings.snapshot_log_bytes,
            settings.snapshot_entries,
            settings.log_retain_bytes,
            hold_bytes=settings.snapshot_log_bytes,
        ),
        snapshot_file=str(Path(directory.path) / IDENTITY),
        report=report,
    )


__all__ = ["ServerNode"]
_REGISTERED = (raftkv.commands, raftkv.server.commands)
