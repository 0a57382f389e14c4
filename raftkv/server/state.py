"""What a server command may see: the client that called it, and the node it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from raftkv.commands.registry import Argv

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.config import Settings
    from raftkv.machine.machine import StateMachine
    from raftkv.replicator import Replicator
    from raftkv.server.clients import ClientRegistry
    from raftkv.server.metrics import Metrics
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
    last_command: str = "NULL"
    commands: int = 0
    no_evict: bool = False
    readonly: bool = False
    """READONLY was sent by a cluster client."""
    asking: bool = False
    redirect: bool = False
    """A cluster client: answer MOVED to the leader instead of forwarding (set by CLUSTER SLOTS/SHARDS/NODES)."""
    reply_on: bool = True
    reply_skip: int = 0
    """CLIENT REPLY SKIP: replies still to be swallowed (this one included)."""
    closing: bool = False
    transaction: list[Argv] | None = None
    """Queued commands after MULTI; None outside."""
    transaction_failed: bool = False
    """A command was refused while queueing: EXEC answers EXECABORT."""
    watches: dict[tuple[int, bytes], int] = field(default_factory=dict)
    """(database, key) to the log index at which the watch was registered."""


class Node(Protocol):
    """The running node, as server commands, HTTP and metrics see it."""

    settings: Settings
    clock: Clock
    replicator: Replicator
    machine: StateMachine
    clients: ClientRegistry
    metrics: Metrics
    slowlog: Slowlog
    started: float
    """Clock.monotonic() at start."""
    run_id: str
    """40 hex digits, new at every start."""

    def client_address(self, node_id: str) -> str:
        """host:port where clients reach a member (this node too); empty while unknown."""
        ...

    def pause_clients(self, until: float, *, writes_only: bool) -> None:
        """CLIENT PAUSE: hold commands back until ``clock.monotonic()`` reaches ``until`` (0: unpause)."""
        ...


@dataclass(slots=True)
class ServerContext:
    """First argument of every function with ``scope="server"``."""

    node: Node
    client: Client
