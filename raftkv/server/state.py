"""What a server command may see: the client that called it, and the node it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from raftkv.commands.registry import Argv
from raftkv.server.consistency import LINEARIZABLE, Consistency

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.config import Settings
    from raftkv.machine.machine import StateMachine
    from raftkv.replicator import Applied, Replicator
    from raftkv.server.archiver import Archiver
    from raftkv.server.backups import Backups
    from raftkv.server.calls import PeerCalls
    from raftkv.server.clients import ClientRegistry
    from raftkv.server.metrics import Metrics
    from raftkv.server.progress import Progress
    from raftkv.server.slowlog import Slowlog


@dataclass(slots=True)
class Client:
    """State of one client connection (CLIENT LIST shows it)."""

    id: int
    address: str
    """host:port of the peer."""
    local_address: str
    created: float
    """Clock.monotonic() at accept."""
    close: Callable[[], None]
    """Flush what is buffered, then close the connection."""
    write: Callable[[bytes], None]
    """Send bytes out of band (push messages)."""
    buffers: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """(bytes in the query buffer, bytes in the output buffer)."""
    name: str = ""
    user: str = "default"
    authenticated: bool = False
    proto: int = 2
    db: int = 0
    lib_name: str = ""
    lib_ver: str = ""
    last_interaction: float = 0.0
    last_command: bytes | str = "NULL"
    """As the client spelt it (the quick way), or ``CONFIG GET``."""
    commands: int = 0
    no_evict: bool = False
    consistency: Consistency = LINEARIZABLE
    """READ: how fresh the reads of this connection have to be."""
    readonly: bool = False
    """READONLY was sent by a cluster client."""
    asking: bool = False
    redirect: bool = False
    """A cluster client: answer MOVED to the leader instead of forwarding (set by CLUSTER SLOTS/SHARDS/NODES)."""
    reply_on: bool = True
    reply_skip: int = 0
    """CLIENT REPLY SKIP: replies still to be swallowed (this one included)."""
    closing: bool = False
    blocked: bool = False
    """In WAIT or WAITAOF."""
    is_replica: bool = False
    """Said REPLCONF or PSYNC: a Redis server that takes this node for its master."""
    transaction: list[Argv] | None = None
    """Queued commands after MULTI; None outside."""
    transaction_failed: bool = False
    """A command was refused while queueing: EXEC answers EXECABORT."""
    watches: dict[tuple[int, bytes], int] = field(default_factory=dict)
    """(database, key) to the log index at which the watch was registered."""


@dataclass(frozen=True, slots=True)
class CommandStatistics:
    """What INFO commandstats, INFO latencystats and LATENCY HISTOGRAM say of one command."""

    calls: int
    micros: int
    """Time spent in all calls together."""
    rejected: int = 0
    """Refused before it ran (arity, NOAUTH, ...)."""
    failed: int = 0
    """Ran, and answered an error."""
    histogram: tuple[tuple[int, int], ...] = ()
    """(upper bound in microseconds, calls at or below it), ascending; only bounds that add calls."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of this node since it started or since CONFIG RESETSTAT."""

    commands_processed: int = 0
    ops_per_s: float = 0.0
    """Commands a second over the last seconds."""
    net_input_bytes: int = 0
    net_output_bytes: int = 0
    input_kbps: float = 0.0
    output_kbps: float = 0.0
    expired_keys: int = 0
    keyspace_hits: int = 0
    keyspace_misses: int = 0
    commands: dict[str, CommandStatistics] = field(default_factory=dict)
    """By lower-case name, a sub-command as ``config|get``."""
    errors: dict[str, int] = field(default_factory=dict)
    """Error replies by code: ``ERR``, ``WRONGTYPE``."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What the operating system says of this process (raftkv.server.process reads it)."""

    pid: int
    rss_bytes: int
    rss_peak_bytes: int
    system_memory_bytes: int
    cpu_user_s: float
    cpu_system_s: float


@dataclass(slots=True)
class SaveState:
    """Snapshots of this node: LASTSAVE and INFO persistence. The node notes its automatic ones here too."""

    begun_s: int = 0
    """When the node started, seconds since the epoch. Kept, because the clock may be set later."""
    last_s: int = 0
    """When the newest snapshot was finished or received, seconds since the epoch; 0: none since the start."""
    running: str = ""
    """What a command has begun and is being written: ``save`` or ``rewrite`` (the same here, and not in INFO)."""
    scheduled: str = ""
    """What begins when that is done."""
    last_ok: bool = True
    last_seconds: int = -1
    """How long the newest one took; -1: none since the start."""
    count: int = 0
    """Finished since the start."""
    base_bytes: int = 0
    """Bytes of the log after the newest snapshot, or at the start."""


@dataclass(slots=True)
class DiskState:
    """The disk that holds the data directory, as of the last look at it."""

    free_bytes: int = 0
    total_bytes: int = 0
    reserve_bytes: int = 0
    """Held now; 0 when it was given back, or there was no room for it."""
    slow_syncs: int = 0
    """Syncs of the log since the start that took longer than ``disk_slow_ms``."""
    waits_s: float = 0.0
    """How long what was written last has been waiting to be durable."""


class Node(Protocol):
    """The running node, as server commands, HTTP and metrics see it."""

    settings: Settings
    clock: Clock

    @property
    def replicator(self) -> Replicator:
        """How writes are ordered and reads are made linearizable."""
        ...

    machine: StateMachine
    clients: ClientRegistry
    metrics: Metrics
    slowlog: Slowlog
    started: float
    """Clock.monotonic() at start."""
    run_id: str
    """40 hex digits, new at every start."""
    saves: SaveState
    calls: PeerCalls
    """What this node asks of others, besides writes."""
    disk: DiskState
    backups: Backups
    """Snapshots that are being read by backups."""
    archiver: Archiver | None
    """None when the node archives nothing."""
    recovery: Progress
    """How far the start is, or how long it took."""

    def client_address(self, node_id: str) -> str:
        """host:port where clients reach a member (this node too); empty while unknown."""
        ...

    def order_alarm(self, words: Argv, done: Applied) -> None:
        """Have an ALARM group (:mod:`raftkv.machine.alarms`) committed, from any node; ``done``
        gets what it changed.
        """
        ...

    def pause_clients(self, until: float, *, writes_only: bool) -> None:
        """CLIENT PAUSE: hold commands back until ``clock.monotonic()`` reaches ``until`` (0: unpause)."""
        ...

    def change_settings(self, settings: Settings) -> None:
        """CONFIG SET: use ``settings``, already checked, from now on (``node.settings`` is it afterwards)."""
        ...

    def statistics(self) -> Statistics:
        """A picture of the counters."""
        ...

    def reset_statistics(self) -> None:
        """CONFIG RESETSTAT."""
        ...

    def process_usage(self) -> ProcessUsage:
        """Memory and processor time of this process, now."""
        ...


@dataclass(slots=True)
class ServerContext:
    """First argument of every function with ``scope="server"``."""

    node: Node
    client: Client
    may_block: bool = True
    """False inside a transaction, and when the client has closed its half: what would wait answers at once."""
