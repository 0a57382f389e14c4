"""A node and a client that are made of plain values, and a harness that calls commands on them by name."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest

import raftkv.commands
import raftkv.server.commands  # noqa: F401 -- both are imported for their declarations
from raftkv.commands.registry import Context, lookup
from raftkv.config import Settings
from raftkv.errors import RaftKVError
from raftkv.machine.alarms import Alarms
from raftkv.protocol.encoder import encode
from raftkv.replicator import Compacted, DiskStatus, MembershipChange, OpenSnapshot, PeerStatus, ReplicationStatus
from raftkv.server.archiver import Archiver
from raftkv.server.backups import Backups
from raftkv.server.clients import ClientRegistry
from raftkv.server.slowlog import Slowlog
from raftkv.server.state import Client, DiskState, ProcessUsage, SaveState, ServerContext, Statistics
from raftkv.store.keyspace import Keyspace

PEERS = {"n1": "127.0.0.1:17379", "n2": "127.0.0.1:17380", "n3": "127.0.0.1:17381"}
WALL_MS = 1_700_000_000_123


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.now_ms = WALL_MS

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return self.now_ms


def make_peer(node_id: str, *, connected: bool = True, match_index: int = 0) -> PeerStatus:
    return PeerStatus(
        node_id=node_id, peer_address=PEERS[node_id], client_address="", http_address="127.0.0.1:8380",
        connected=connected, match_index=match_index, last_contact_s=0.5,
    )  # fmt: skip


class FakeReplicator:
    """Leads a cluster of three; tests replace ``state`` and read what was asked of it."""

    def __init__(self) -> None:
        self.state = ReplicationStatus(
            node_id="n1", cluster_id="c1", role="leader", leader_id="n1", term=7, commit_index=100, applied_index=99,
            last_index=101, first_index=5, durable_index=100, snapshot_index=4, pending=2, halted="",
            peers={"n2": make_peer("n2", match_index=100), "n3": make_peer("n3", match_index=90)},
        )  # fmt: skip
        self.snapshot_error: RaftKVError | None = None
        self.transfer_error: RaftKVError | None = None
        self.barrier_error: RaftKVError | None = None
        self.transfers: list[str | None] = []
        self.change_error: RaftKVError | None = None
        self.changes: list[MembershipChange] = []
        self.waiting_snapshots: list[Callable[[int, RaftKVError | None], None]] = []
        self.hold_snapshots = False
        self.syncs: list[int] = []
        self.sync_error: RaftKVError | None = None
        self.hold_syncs = False
        self.disk_state = DiskStatus(
            log_bytes=50_000, log_segments=2, log_failed="", sync_pending=False, torn_bytes=17, snapshot_bytes=12_345
        )
        self.on_status: Callable[[], None] = lambda: None
        self.snapshot: OpenSnapshot | None = None
        self.snapshots: list[int] = []
        """Indices that the next ones cover; when there are none, each covers all that was applied."""
        self.snapshots_taken = 0

    def status(self) -> ReplicationStatus:
        self.on_status()
        return self.state

    def change(self, **fields: Any) -> None:
        self.state = replace(self.state, **fields)

    def follow(self, leader_id: str) -> None:
        """Become a follower of ``leader_id``; empty: no leader is known."""
        peers = {name: replace(peer, match_index=0) for name, peer in self.state.peers.items()}
        role = "follower" if leader_id else "candidate"
        self.change(role=role, leader_id=leader_id, peers=peers)

    def disconnect(self, node_id: str) -> None:
        self.change(peers={**self.state.peers, node_id: replace(self.state.peers[node_id], connected=False)})

    def read_barrier(self, done: Callable[[int, RaftKVError | None], None]) -> None:
        done(WALL_MS, self.barrier_error)

    def take_snapshot(self, done: Callable[[int, RaftKVError | None], None]) -> None:
        if self.hold_snapshots:
            self.waiting_snapshots.append(done)
        else:
            self.snapshots_taken += 1
            covered = self.snapshots.pop(0) if self.snapshots else self.state.applied_index
            if self.snapshot is not None and not self.snapshot_error:
                self.change(snapshot_index=covered)
                self.snapshot = replace(self.snapshot, index=covered)
            done(0 if self.snapshot_error else self.state.applied_index, self.snapshot_error)

    def open_snapshot(self) -> OpenSnapshot | None:
        return self.snapshot

    def await_synced(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        self.syncs.append(index)
        if self.sync_error is None:
            self.change(synced_index=self.state.last_index)
        if not self.hold_syncs:
            done(self.sync_error)

    def compact(self, done: Callable[[Compacted | None, RaftKVError | None], None]) -> None:
        def written(index: int, error: RaftKVError | None) -> None:
            done(None if error else Compacted(index, index - 1, 4096), error)

        self.take_snapshot(written)

    def disk(self) -> DiskStatus:
        return self.disk_state

    def transfer_leadership(self, node_id: str | None, done: Callable[[RaftKVError | None], None]) -> None:
        self.transfers.append(node_id)
        done(self.transfer_error)

    def change_membership(self, change: MembershipChange, done: Callable[[object, RaftKVError | None], None]) -> None:
        self.changes.append(change)
        done(None, self.change_error)


class FakeMachine:
    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.alarms = Alarms()

    def digest(self) -> tuple[str, int]:
        return ("ab" * 16, 99)


class FakeCalls:
    """Other members that do what they are asked at once, except those that ``fail``; ``silent`` ones never answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.fail: dict[str, RaftKVError] = {}
        self.silent: set[str] = set()

    def ask(
        self, peer: str, task: str, index: int, done: Callable[[Compacted | None, RaftKVError | None], None]
    ) -> None:
        self.asked.append((peer, task, index))
        if peer not in self.silent:
            error = self.fail.get(peer)
            done(Compacted(90, 80, 4096) if task == "compact" and error is None else None, error)


@dataclass
class FakeMetrics:
    auth_failures: int = 0


@dataclass
class FakeNode:
    settings: Settings = field(default_factory=lambda: Settings(node_id="n1", peers=PEERS))
    clock: FakeClock = field(default_factory=FakeClock)
    replicator: FakeReplicator = field(default_factory=FakeReplicator)
    machine: FakeMachine = field(default_factory=FakeMachine)
    clients: ClientRegistry = field(default_factory=ClientRegistry)
    metrics: FakeMetrics = field(default_factory=FakeMetrics)
    slowlog: Slowlog = field(default_factory=lambda: Slowlog(16, 0))
    saves: SaveState = field(default_factory=lambda: SaveState(begun_s=WALL_MS // 1000 - 100))
    recovery: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(over=True, seconds={"log": 0.25, "replay": 1.0})
    )
    calls: FakeCalls = field(default_factory=FakeCalls)
    disk: DiskState = field(default_factory=DiskState)
    backups: Backups = field(default_factory=lambda: Backups(lambda: 0.0))
    archiver: Archiver | None = None
    started: float = 900.0
    run_id: str = "f" * 40
    stats: Statistics = field(default_factory=Statistics)
    resets: int = 0
    pauses: list[tuple[float, bool]] = field(default_factory=list)
    addresses: dict[str, str] = field(
        default_factory=lambda: {"n1": "127.0.0.1:7379", "n2": "127.0.0.1:7380", "n3": "127.0.0.1:7381"}
    )

    def client_address(self, node_id: str) -> str:
        return self.addresses.get(node_id, "")

    def pause_clients(self, until: float, *, writes_only: bool) -> None:
        self.pauses.append((until, writes_only))

    def change_settings(self, settings: Settings) -> None:
        self.settings = settings

    def statistics(self) -> Statistics:
        return self.stats

    def reset_statistics(self) -> None:
        self.resets += 1

    def process_usage(self) -> ProcessUsage:
        return ProcessUsage(4711, 50_000_000, 100_000_000, 8_000_000_000, 1.5, 0.25)


class Harness:
    """One client's connection to one node."""

    def __init__(self) -> None:
        self.node = FakeNode()
        self.closed: list[int] = []
        self.client = self.connect()

    def connect(self, **fields: Any) -> Client:
        client_id = self.node.clients.next_id()
        client = Client(
            id=client_id, address=f"127.0.0.1:{50_000 + client_id}", local_address="127.0.0.1:7379", created=990.0,
            close=lambda: self.closed.append(client_id), write=lambda _: None, authenticated=True,
        )  # fmt: skip
        for name, value in fields.items():
            setattr(client, name, value)
        self.node.clients.add(client)
        return client

    def set(self, **settings: Any) -> None:
        """Change settings of the node."""
        self.node.settings = replace(self.node.settings, **settings)

    def call(self, *words: bytes, client: Client | None = None) -> Any:
        """The reply to a command, as the connection would get it; raises what the command raises."""
        client = client or self.client
        found = lookup(list(words))
        if found.scope == "data":
            return found.function(Context(self.node.machine.keyspace, client.db), list(words))
        reply = found.function(ServerContext(self.node, client), list(words))
        return asyncio.run(_value(reply)) if inspect.isawaitable(reply) else reply

    def line(self, command: str) -> Any:
        """:meth:`call` of words separated by spaces."""
        return self.call(*command.encode().split(b" "))


async def _value(reply: Any) -> Any:
    return await reply


@pytest.fixture
def server() -> Harness:
    return Harness()


def _answer(server: Harness, connection: socket.socket) -> None:
    client, reader = server.connect(), hiredis.Reader()
    with connection:
        while data := connection.recv(65_536):
            reader.feed(data)
            while (argv := reader.gets()) is not False:
                try:
                    reply = server.call(*argv, client=client)
                except RaftKVError as error:
                    reply = error
                connection.sendall(encode(reply, client.proto))
    server.node.clients.remove(client)


@pytest.fixture
def port(server: Harness) -> Iterator[int]:
    """A port of loopback on which ``server`` answers real clients, without replication, one thread a connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=_answer, args=(server, connection), daemon=True).start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    acceptor.join(timeout=5)
