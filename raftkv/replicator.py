"""The port between commands and replication.

``consensus`` (linearizable) and later ``eventual`` (multi-master) implement it; dispatch does not know which.
All callbacks run on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from raftkv.errors import RaftKVError

Role: TypeAlias = Literal["leader", "follower", "candidate"]
Applied: TypeAlias = Callable[[object, RaftKVError | None], None]
"""(result of apply, None) or (None, error); ``error.definite`` says whether it certainly did not happen."""
ReadReady: TypeAlias = Callable[[int, RaftKVError | None], None]
"""(the leader's time in ms for expiry, None) or (0, error)."""


@dataclass(frozen=True, slots=True)
class Add:
    """A new learner. ``promote``: a voter once it has caught up, in the place of ``replaces`` if that is given."""

    node_id: str
    address: str
    promote: bool = True
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """A member that leaves for good: its disk is never admitted again."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Promote:
    """A learner that becomes a voter."""

    node_id: str


MembershipChange: TypeAlias = Add | Remove | Promote


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One other member, as this node sees it."""

    node_id: str
    peer_address: str
    client_address: str
    """host:port for clients, empty until it was met."""
    http_address: str
    connected: bool
    match_index: int
    """Highest index known to be durable there; 0 unless this node leads."""
    last_contact_s: float
    """Seconds since the last message from it; -1 if there was none."""
    voter: bool = True
    """False for a learner: it gets the log and does not count for commits."""
    disk: str = ""
    """Id of the data directory that its place belongs to; empty until the leader has met it."""
    promote: bool = False
    """A learner that becomes a voter when it has caught up."""
    replaces: str = ""
    """The voter that is removed right before that."""


@dataclass(frozen=True, slots=True)
class ReplicationStatus:
    """A picture of the replica at one moment."""

    node_id: str
    cluster_id: str
    role: Role
    leader_id: str
    """Empty when no leader is known."""
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    first_index: int
    """Oldest entry still in the log."""
    durable_index: int
    snapshot_index: int
    """Last entry that the newest snapshot covers; 0 if none."""
    pending: int
    """Proposals not yet applied."""
    halted: str
    """Why this replica stopped; empty while it works."""
    leader_changes: int = 0
    voter: bool = True
    """False for a learner, and for a node that was removed or not added yet."""
    is_member: bool = True
    """False for a node that was removed or not added yet."""
    disk: str = ""
    """Id of this node's data directory."""
    promote: bool = False
    replaces: str = ""
    """Both as in :class:`PeerStatus`, of this node."""
    configuration_index: int = 0
    """Log entry that made the newest configuration; 0: the one the cluster began with."""
    changing: bool = False
    """That entry is not committed yet."""
    peers: dict[str, PeerStatus] = field(default_factory=dict)
    """The other members by id."""

    @property
    def voters(self) -> int:
        """How many members vote, this node included if it does."""
        return self.voter + sum(peer.voter for peer in self.peers.values())

    @property
    def learners(self) -> int:
        """How many members do not vote."""
        return self.is_member + len(self.peers) - self.voters


class Replicator(Protocol):
    """What dispatch needs of a replica."""

    def propose(self, payload: bytes, done: Applied) -> None:
        """Order ``payload`` in the log; ``done`` gets what apply returned for it.

        On a node that does not lead, ``done`` gets a definite NoLeaderError at once.
        """
        ...

    def read_barrier(self, done: ReadReady) -> None:
        """Call ``done`` when a read of the local state is linearizable (ReadIndex, Raft thesis 6.4)."""
        ...

    def await_applied(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        """Call ``done`` when this node has applied entry ``index``, at once if it has.

        A definite BusyError when it has not within the request timeout; NodeStoppedError when it serves nothing any more.
        """
        ...

    def status(self) -> ReplicationStatus:
        """Cheap: no digest, no I/O."""
        ...

    def transfer_leadership(self, node_id: str | None, done: Callable[[RaftKVError | None], None]) -> None:
        """Hand leadership to ``node_id`` (or the most up-to-date follower)."""
        ...

    def change_membership(self, change: MembershipChange, done: Applied) -> None:
        """Add, remove or promote a member; ``done`` gets the new configuration once it is committed, or why not."""
        ...

    def take_snapshot(self, done: Callable[[int, RaftKVError | None], None]) -> None:
        """Write a snapshot now; ``done`` gets the index that it covers."""
        ...
