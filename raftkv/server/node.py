"""The composition root: one server node, from its settings to a listening socket, and back down again."""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import socket
import sys
from pathlib import Path
from random import Random
from typing import Any, Final

import uvloop

import raftkv.commands
import raftkv.server.commands
from persistence.directory import IDENTITY, DataDirectory
from persistence.errors import PersistenceError
from persistence.files import OsFiles
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv import __version__
from raftkv.clock import Clock, SystemClock
from raftkv.config import Settings
from raftkv.config_values import split_address
from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.core import Timing
from raftkv.consensus.fork import ForkedWriter
from raftkv.consensus.links import Introduction
from raftkv.consensus.node import RaftNode
from raftkv.consensus.replica import Compaction
from raftkv.errors import RaftKVError
from raftkv.machine.machine import StateMachine
from raftkv.server import logs
from raftkv.server.accounting import Accounting
from raftkv.server.clients import ClientRegistry
from raftkv.server.connection import Connection
from raftkv.server.forwarding import Forwarder
from raftkv.server.http import HttpServer
from raftkv.server.metrics import Metrics
from raftkv.server.process import clients_possible, read_process_usage
from raftkv.server.proposer import Proposer, digest_group, tick_group
from raftkv.server.reader import Readers
from raftkv.server.routing import Routing
from raftkv.server.slowlog import Slowlog
from raftkv.server.state import ProcessUsage, SaveState, Statistics
from raftkv.server.tickets import GroupTicket, Ticket
from raftkv.server.timing import TimedFiles

HOUSEKEEPING_S: Final = 0.1
"""How often time-outs, held writes, due keys and idle clients are looked at."""
DRAIN_S: Final = 2.0
"""How long a stopping leader tries to hand leadership over."""
EXIT_STOPPED: Final = 0
EXIT_REFUSED: Final = 2
GC_GENERATIONS: Final = (50_000, 20, 50)
"""Collections are rare: the state holds no cycles, and a full one over a million objects stops the node."""


class ServerNode(Routing, Accounting):
    """Everything that one process holds. Implements :class:`raftkv.server.state.Node`."""

    def __init__(self, settings: Settings, directory: DataDirectory, clock: Clock) -> None:
        """Opens log and snapshots (and so recovers them). Raises PersistenceError when they cannot be trusted."""
        self.settings = settings
        self.clock = clock
        self.log = logs.get_logger("raftkv.server")
        self.started = self.now = clock.monotonic()
        """``now`` is brought up to date by housekeeping: exact enough for idle times, and free."""
        self.run_id = secrets.token_hex(20)
        self.clients_max = self._limit_clients(settings.maxclients)
        self.clients = ClientRegistry()
        self.metrics = Metrics()
        self.slowlog = Slowlog(settings.slowlog_max_len, settings.slowlog_log_slower_than)
        self.saves = SaveState()
        self._directory = directory
        self.machine = StateMachine(digest_interval=settings.digest_interval)
        self.raft = _make_raft(settings, directory, clock, self.machine, self.run_id, self.metrics)
        self.metrics.raft_events = self.raft.replica.core.counters
        self.machine.audit.on_digest = self._on_digest
        self.raft.on_leader_change.append(self._on_leader_change)
        self.raft.on_snapshot.append(self._on_snapshot)
        self._loop = asyncio.get_running_loop()
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
        self.raft.links.on_application = self.forwarder.on_parcel
        self.raft.on_link.append(self.forwarder.on_link)
        self._server: asyncio.Server | None = None
        self._http = HttpServer(self)
        self._housekeeper: asyncio.TimerHandle | None = None
        self._ticking = False
        self._init_routing()
        self._init_accounting()

    # ------------------------------------------------------------ life
    async def start(self) -> None:
        """Listen everywhere. Raises OSError when an address is taken."""
        settings = self.settings
        host, port = split_address(settings.listen)
        self._server = await self._loop.create_server(
            lambda: Connection(self), host, port, backlog=settings.tcp_backlog, reuse_address=True
        )
        await self.raft.start()
        await self._http.start()
        self._housekeep()
        self.log.info(
            "node started", id=settings.node_id, cluster=settings.cluster_id, clients=settings.listen,
            peers=settings.peer_listen, http=settings.http_listen, version=__version__,
        )  # fmt: skip
        if settings.insecure:
            self.log.warning("running with insecure=true: anybody who reaches this port can read and write everything")

    async def stop(self) -> None:
        """Hand leadership over, close clients, make everything durable."""
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        if self._server is not None:
            self._server.close()
        if self.raft.is_leader and not self.raft.replica.core.alone:
            await self._hand_over()
        for client in self.clients:
            client.close()
        await self._http.stop()
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

    def _on_leader_change(self, leader: str) -> None:
        self.leadership_changed()
        if leader != self.settings.node_id:
            self.forwarder.take_back(self.proposer.take_back())
        self._loop.call_soon(self.forwarder.retry)

    def _on_snapshot(self, index: int, size_bytes: int, seconds: float) -> None:
        """A snapshot was written, or failed (size 0)."""
        if not size_bytes:
            self.metrics.snapshots_failed += 1
        if not self.saves.running:  # else a command asked for it, and notes the outcome itself
            self.saves.last_ok = size_bytes > 0
            self.saves.count += bool(size_bytes)
            self.saves.last_s = self.wall_s if size_bytes else self.saves.last_s
        if not size_bytes:
            return
        self.metrics.observe_snapshot(seconds, size_bytes)
        self.log.info("snapshot written", index=index, bytes=size_bytes, seconds=round(seconds, 3))

    def _refused(self, tickets: list[Ticket]) -> None:
        self.forwarder.take_back(tickets)

    def _on_digest(self, index: int, digest: int) -> None:
        if self.raft.is_leader:
            self.proposer.add(GroupTicket(digest_group(index, digest), [], 2, _forget))

    def _housekeep(self) -> None:
        self._housekeeper = self._loop.call_later(HOUSEKEEPING_S, self._housekeep)
        self.now = now = self.clock.monotonic()
        self.forwarder.sweep()
        self.metrics.sample(now)
        self.release_paused(now)
        self._close_idle(now)
        due = self.machine.next_expiry_ms
        if due is not None and due <= self.clock.wall_ms() and self.raft.is_leader and not self._ticking:
            self._ticking = True
            self.proposer.add(GroupTicket(tick_group(), [], 2, self._ticked))

    def _ticked(self, _result: object, _error: RaftKVError | None) -> None:
        self._ticking = False

    def _close_idle(self, now: float) -> None:
        limit_s = self.settings.timeout
        if limit_s:
            for client in self.clients:
                if now - client.last_interaction > limit_s:
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

    def change_settings(self, settings: Settings) -> None:
        if settings.maxclients != self.settings.maxclients:
            self.clients_max = self._limit_clients(settings.maxclients)
        self.settings = settings
        self.slowlog.max_len = settings.slowlog_max_len
        self.slowlog.threshold_us = settings.slowlog_log_slower_than
        logs.configure(settings.loglevel, settings.logformat, secrets=(settings.requirepass, settings.peer_secret))
        self.settings_changed()

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


def _make_raft(
    settings: Settings, directory: DataDirectory, clock: Clock, machine: StateMachine, boot_id: str, metrics: Metrics
) -> RaftNode:
    log = Log.open(
        directory.log_path,
        LogOptions(segment_bytes=settings.segment_bytes, fsync=settings.fsync),
        TimedFiles(OsFiles(), clock.monotonic, metrics.observe_fsync),
    )
    store = SnapshotStore(directory.snapshot_path)
    report = logs.get_logger("raftkv.consensus")
    for name, reason in store.damaged.items():
        report.error("damaged snapshot skipped", file=name, reason=reason)
    writer = ForkedWriter(
        lambda index, term, extra: store.begin(SnapshotMeta(index, term, extra), settings.snapshot_level),
        lambda index, term, extra: store.adopt(SnapshotMeta(index, term, extra)),
    )
    first = Configuration.of(Member(peer, address) for peer, address in settings.peers.items() if not settings.join)
    known = {peer: address for peer, address in settings.peers.items() if peer != settings.node_id}
    me = Introduction(
        settings.cluster_id, settings.node_id, boot_id, settings.advertise, settings.http_listen,
        settings.peer_advertise, directory.disk_id,
    )  # fmt: skip
    minimum_s = settings.election_timeout_ms / 1000
    return RaftNode(
        me,
        first,
        known=known,
        waits_to_join=settings.join,
        listen=split_address(settings.peer_listen),
        secret=settings.peer_secret.encode(),
        log=log,
        store=store,
        writer=writer,
        machine=machine,
        clock=clock,
        timing=Timing(
            settings.heartbeat_ms / 1000,
            minimum_s,
            2 * minimum_s,
            settings.request_timeout_ms / 1000,
            settings.read_lease,
        ),
        compaction=Compaction(settings.snapshot_log_bytes, settings.snapshot_entries, settings.log_retain_bytes),
        snapshot_file=str(Path(directory.path) / IDENTITY),
        report=report.info,
    )


def run(settings: Settings) -> int:
    """Run a node until SIGTERM or SIGINT. Returns the exit code; a refused start is said on standard error."""
    logs.configure(settings.loglevel, settings.logformat, secrets=(settings.requirepass, settings.peer_secret))
    gc.set_threshold(*GC_GENERATIONS)
    sys.setswitchinterval(0.0001)  # the log's thread must not wait 5 ms for the interpreter when its fsync is done
    try:
        directory = DataDirectory.open(
            str(settings.data_dir), node_id=settings.node_id, cluster_id=settings.cluster_id,
            new_disk_id=secrets.token_hex(8),
        )  # fmt: skip
    except PersistenceError as error:
        return _refuse(str(error))
    try:
        return uvloop.run(_serve(settings, directory))
    except (PersistenceError, RaftKVError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(_explain(settings, error))
    finally:
        directory.close()


async def _serve(settings: Settings, directory: DataDirectory) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = ServerNode(settings, directory, SystemClock())
    loop.set_exception_handler(node.on_loop_error)
    try:
        await node.start()
        gc.collect()
        gc.freeze()
        await stop.wait()
    finally:
        await node.stop()
    return EXIT_STOPPED


def _explain(settings: Settings, error: OSError) -> str:
    taken = [
        f"{name} {address}"
        for name, address in (
            ("listen", settings.listen), ("peer_listen", settings.peer_listen), ("http_listen", settings.http_listen),
        )
        if not _free(address)
    ]  # fmt: skip
    if taken:
        return f"cannot listen on {', '.join(taken)}: in use by another process or not an address of this machine"
    return f"cannot start: {error}"


def _free(address: str) -> bool:
    host, port = split_address(address)
    try:
        with socket.create_server((host, port), reuse_port=False):
            return True
    except OSError:
        return False


def _refuse(message: str) -> int:
    sys.stderr.write(f"raftkv: {message}\n")
    return EXIT_REFUSED


__all__ = ["ServerNode", "run"]
_REGISTERED = (raftkv.commands, raftkv.server.commands)
