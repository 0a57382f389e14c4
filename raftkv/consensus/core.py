"""What the guards share: one member's engine, log and ways out. Each guard gets it and keeps its own state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raftkv.consensus.configuration import Configuration
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
    stall_s: float = 2.0
    """A leader whose log has been waiting for its disk for so long hands over; 0: never."""
    read_lease: bool = False
    """A leader may answer reads without a round for a while after one (:mod:`raftkv.consensus.lease`)."""


@dataclass(slots=True)
class Core:
    """Wired up by :class:`raftkv.consensus.replica.Replica`."""

    node_id: str
    peers: tuple[str, ...]
    """The other voting members, sorted, by the newest configuration in the log."""
    timing: Timing
    log: WriteAheadLog
    journal: JournalAdapter
    wire: Wire
    monotonic: Callable[[], float]
    wall_ms: Callable[[], int]
    rng: Random
    engine: Engine = field(init=False)
    transport: EngineTransport = field(init=False)
    learners: tuple[str, ...] = ()
    """The other members without a vote, sorted."""
    votes: bool = True
    """Whether this node is a voter."""
    disk: str = ""
    """Id of its data directory; empty where nobody asks."""
    former: tuple[str, ...] = ()
    """Ids that the directory had before what it held was damaged."""
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
        self.transport.deliver(self.engine.nodes[peer], message)

    def use(self, configuration: Configuration) -> bool:
        """From now on these are the members. True when other nodes vote than before."""
        own = configuration.get(self.node_id)
        others = [one for one in configuration.members if one is not own]
        self.votes = own is not None and own.voter and self.is_own(own.disk)
        self.learners = tuple(one.node_id for one in others if not one.voter)
        peers = tuple(one.node_id for one in others if one.voter)
        changed = peers != self.peers
        self.peers = peers
        return changed

    def is_own(self, disk: str) -> bool:
        """Whether the place of a member with this disk is this node's: not that of its life
        before its disk was damaged.
        """
        return disk == self.disk or not self.disk or (not disk and not self.former)

    @property
    def voters(self) -> tuple[str, ...]:
        """All that vote, sorted."""
        return tuple(sorted((*self.peers, self.node_id))) if self.votes else self.peers

    @property
    def others(self) -> tuple[str, ...]:
        """All other members."""
        return self.peers + self.learners

    @property
    def alone(self) -> bool:
        """Whether this node is the only voter: what is durable here is committed."""
        return self.votes and not self.peers

    @property
    def term(self) -> int:
        term: int = self.engine.raftCurrentTerm
        return term

    @property
    def is_leader(self) -> bool:
        return self.engine.is_leader and not self.halted

    @property
    def committed(self) -> int:
        """Highest index known to be committed here."""
        engine = self.engine
        commit: int = engine.raftCommitIndex
        applied: int = engine.raftLastApplied
        return commit if commit > applied else applied  # noqa: FURB136 -- asked for twice a message; max() costs more

    @property
    def applied(self) -> int:
        applied: int = self.engine.raftLastApplied
        return applied

    def is_majority(self, others: int) -> bool:
        """Whether this node and ``others`` further voters are more than half."""
        return 2 * (others + 1) > len(self.peers) + 1
