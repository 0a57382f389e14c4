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
    """Up to here the log counts as durable, as the setting ``fsync`` understands it."""
    snapshot_index: int
    """Last entry that the newest snapshot covers; 0 if none."""
    pending: int
    """Proposals not yet applied."""
    halted: str
    """Why this replica stopped; empty while it works."""
    synced_index: int = 0
    """Up to here a sync has covered the log, whatever ``fsync`` says."""
    saving_s: float = -1.0
    """For how long a snapshot has been being written; -1: none is."""
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
    repairing: str = ""
    """What a node whose disk was damaged waits for, until it is again what it was; empty for all others."""
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


class SnapshotFile(Protocol):
    """The open file of a snapshot."""

    def pread(self, length: int, offset: int) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenSnapshot:
    """A snapshot whose file stays whole until it is closed, even when newer ones have taken its place."""

    index: int
    """Last entry that it covers."""
    term: int
    size_bytes: int
    file: SnapshotFile


@dataclass(frozen=True, slots=True)
class Compacted:
    """What COMPACT did."""

    index: int
    """Last entry that the newest snapshot covers."""
    first_index: int
    """Oldest entry that is still in the log."""
    freed_bytes: int
    """Of whole segments of the log that are not needed any more."""


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """Log and snapshots of this replica."""

    log_bytes: int
    """Of the segments that the log needs."""
    log_segments: int
    log_failed: str
    """Why the log cannot be written any more; empty while it can."""
    sync_pending: bool
    """Records wait for the next round of the log's thread, or are in it."""
    torn_bytes: int
    """Of a record that was not finished, cut off the log at the start."""
    snapshot_bytes: int
    """Of the newest snapshot; 0 if there is none."""


class Report(Protocol):
    """A logger."""

    def info(self, event: str, /, **fields: object) -> object: ...
    def warning(self, event: str, /, **fields: object) -> object: ...
    def error(self, event: str, /, **fields: object) -> object: ...


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

        A definite BusyError when it has not within the request timeout; NodeStoppedError when it serves nothing any
        more; NoLeaderError while it is being repaired, and holds less than it did.
        """
        ...

    def await_synced(self, index: int, done: Callable[[RaftKVError | None], None]) -> None:
        """Call ``done`` when this node has applied the committed entry ``index`` and a sync has covered its log so far.

        That is: whatever happens to this machine, the entry is on its disk. Errors as of :meth:`await_applied`.
        """
        ...

    def compact(self, done: Callable[[Compacted | None, RaftKVError | None], None]) -> None:
        """Write a snapshot, then drop what it covers and nobody who is there needs from the log."""
        ...

    def status(self) -> ReplicationStatus:
        """Cheap: no digest, no I/O."""
        ...

    def disk(self) -> DiskStatus:
        """As cheap as :meth:`status`."""
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

    def open_snapshot(self) -> OpenSnapshot | None:
        """The newest one, for whoever closes its file; None while there is none."""
        ...
