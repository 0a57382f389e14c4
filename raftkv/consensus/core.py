"""What the guards share: one member's engine, log and ways out. Each guard gets it and keeps its own state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raftkv.consensus.engine import Deliver, Engine, EngineTransport
    from raftkv.consensus.journal import JournalAdapter, WriteAheadLog
    from raftkv.consensus.messages import Message


class Wire(Protocol):
    """Sends to other members; may lose, never blocks."""

    def send(self, peer: str, message: Message) -> bool:
        """False when it was certainly not sent (no link, or its buffer is full)."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``heartbeat_s`` must be well below ``election_min_s``."""

    heartbeat_s: float = 0.05
    election_min_s: float = 0.4
    election_max_s: float = 0.8
    request_s: float = 5.0
    """After so long a proposal or a read gets an answer: unknown, or failed."""


@dataclass(slots=True)
class Core:
    """Wired up by :class:`raftkv.consensus.replica.Replica`."""

    node_id: str
    peers: tuple[str, ...]
    """The other voting members, sorted."""
    timing: Timing
    log: WriteAheadLog
    journal: JournalAdapter
    wire: Wire
    monotonic: Callable[[], float]
    wall_ms: Callable[[], int]
    rng: Random
    engine: Engine = field(init=False)
    transport: EngineTransport = field(init=False)
    halted: str = ""
    wants_tick: bool = True
    """Something changed that the engine's tick acts on. Without it a message costs no tick: the timer's suffices."""
    counters: dict[str, int] = field(default_factory=dict)
    """How often each guard had to act, for metrics and simulation coverage."""

    def halt(self, reason: str) -> None:
        """Stop for good: nothing is acknowledged, counted or voted from now on. The first reason stays."""
        self.halted = self.halted or reason

    def count(self, what: str) -> None:
        """Note that a guard acted."""
        self.counters[what] = self.counters.get(what, 0) + 1

    def deliver(self, peer: str, message: Deliver) -> None:
        """Hand a message of ``peer`` to the engine."""
        self.transport.deliver(self.engine.nodes.get(peer), message)

    @property
    def term(self) -> int:
        return int(self.engine.raftCurrentTerm)

    @property
    def is_leader(self) -> bool:
        return self.engine.is_leader and not self.halted

    @property
    def committed(self) -> int:
        """Highest index known to be committed here."""
        return max(int(self.engine.raftCommitIndex), int(self.engine.raftLastApplied))

    @property
    def applied(self) -> int:
        return int(self.engine.raftLastApplied)

    def is_majority(self, others: int) -> bool:
        """Whether this node and ``others`` further voters are more than half."""
        return 2 * (others + 1) > len(self.peers) + 1
