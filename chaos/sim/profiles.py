"""What a run is made of: how the network, the disks and the clocks behave, and which faults come how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

CHUNK_BYTES: Final = 1500
"""Small, so that compaction and chunked transfer happen with little data."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of weather. Seconds are virtual."""

    name: str
    summary: str
    faults: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Kind (see :mod:`chaos.sim.faults`) and weight."""
    fault_gap_s: float = 0.8
    """Mean time between two faults."""
    storm_s: float = 10.0
    """How long faults come."""
    calm_s: float = 3.0
    """How long clients go on after everything was healed."""
    latency_s: float = 0.0008
    jitter_s: float = 0.0012
    """Mean of the exponential part of the latency."""
    loss: float = 0.0
    duplicates: float = 0.0
    reorder: float = 0.0
    """Shares of messages that are lost, delivered twice, or overtaken on a connection."""
    fsync_s: float = 0.0006
    clock_rate: float = 0.0
    """Clocks run up to this share too fast or too slow."""
    read_lease: bool = False
    election_s: tuple[float, float] = (0.4, 0.8)
    """Patience of followers, from and to. Close together: elections begin as soon as stickiness allows them."""
    request_s: float = 5.0
    trust: float = 0.95
    """How often a client writes where it was told that the leader is, rather than anywhere."""
    relaxed: float = 0.0
    """Share of reads in another mode than linearizable."""
    hot: float = 0.0
    """Share of reads that go to the key that all session clients write."""
    snapshot_entries: int = 400
    retain_bytes: int = 4096
    hold_bytes: int = 0
    """Log that is kept for followers that are behind."""
    segment_bytes: int = 32 << 10
    cache_bytes: int = 16 << 10
    preallocate: bool = False
    clients: int = 4
    think_s: float = 0.1
    value_bytes: int = 24
    large_share: float = 0.0
    """Share of list elements that have ``large_bytes`` instead."""
    large_bytes: int = 1 << 20
    bandwidth: int = 0
    """Bytes of entries and snapshots that a link carries a second; 0: any number at once."""
    chunk_bytes: int = CHUNK_BYTES
    """Snapshots are sent in pieces of so many bytes."""
    ambush: float = 0.0
    """Share of the faults that wait until somebody is receiving a snapshot."""
    reserve: int = 0
    """Nodes that may join; without any, nobody leaves or is replaced either."""
    drain_s: float = 9.0
    """After the last request, all nodes must be equal within so long."""
    steady_leader: bool = False
    """None of the faults may cost the leader its office."""


_NETWORK: Final = {"partition": 3, "isolate_leader": 2, "one_way": 3, "break": 3, "half_open": 2, "slow_link": 1}
_MEMBERS: Final = {"join": 4, "learner": 2, "remove": 4, "replace": 1, "wipe": 1, "move": 1}
_CRASHES: Final = {"kill": 3, "power": 3, "power_at_operation": 3, "power_all": 1, "kill_leader": 2}

_ALL: Final = (
    Profile("calm", "no fault at all", storm_s=6.0, think_s=0.01),
    Profile("partitions", "symmetric partitions and isolated leaders", {"partition": 3, "isolate_leader": 3, "break": 1}),
    Profile("asymmetric", "one-way cuts, half-open links", {"one_way": 4, "half_open": 3, "isolate_leader": 1}),
    Profile("unruly", "messages lost, repeated, overtaken", {"break": 3, "partition": 1}, 1.5, loss=0.03, duplicates=0.05, reorder=0.15),
    Profile("crashes", "kills, power cuts between and inside file operations", _CRASHES, 1.0, snapshot_entries=60),
    Profile("blackout", "power cuts of several nodes at once", {"power_all": 3, "power": 2, "power_at_operation": 2}, 1.5, fsync_s=0.004),
    Profile("snapshots", "a snapshot every few entries, followers that were away", _CRASHES | {"partition": 4}, 1.0, snapshot_entries=12, retain_bytes=0, think_s=0.02),
    Profile("compactions", "operators who say COMPACT all the time, beside crashes and followers that were away", _CRASHES | {"compact": 16, "partition": 4, "isolate_follower": 2, "transfer": 1}, 0.5, hold_bytes=1024, think_s=0.02),
    Profile("stale_snapshots", "snapshots on a network that repeats and delays", {"partition": 6, "kill": 4, "isolate_leader": 1, "break": 1}, 1.1, snapshot_entries=10, retain_bytes=0, duplicates=0.5, reorder=0.3, loss=0.01, think_s=0.02, value_bytes=12),
    Profile("transfers", "leadership handed over, with other faults", {"transfer": 8, "partition": 1, "kill": 1, "break": 1}, 0.5),
    Profile("clocks", "clocks too fast, too slow, jumping", {"clock_jump": 4, "partition": 2, "isolate_leader": 2}, clock_rate=0.1),
    Profile("disks", "full, slow and failing disks", {"disk_full": 2, "slow_disk": 4, "power": 1, "power_at_operation": 1}, preallocate=True, segment_bytes=16 << 10),
    Profile("stalls", "disks that hang for seconds, the leader's above all", {"stalled_disk": 5, "kill": 1, "transfer": 1, "isolate_follower": 1}, 2.0, think_s=0.05),
    Profile("full", "members that are full: alarms come and go, beside other faults", {"alarm": 5, "disk_full": 1, "kill": 1, "isolate_leader": 1, "transfer": 1}, 0.8, snapshot_entries=60, think_s=0.03),
    Profile("slow", "a network whose latency comes near the election timeout", {"slow_link": 3, "partition": 1, "break": 1}, latency_s=0.02, jitter_s=0.03),
    Profile("bulk", "now and then a value that keeps a link busy for longer than a follower waits", {"isolate_follower": 1}, 3.0, bandwidth=1 << 20, large_share=0.1, clients=6, think_s=0.02, steady_leader=True),
    Profile("rejoin", "one follower cut off for long, and back", {"isolate_follower": 1}, 3.0, steady_leader=True),
    Profile("deaf", "one follower that speaks but cannot hear", {"deaf_follower": 1}, 3.0, steady_leader=True),
    Profile("bursts", "many writers, long pipelines, links that break", {"break": 5, "half_open": 1, "partition": 1}, 0.7, think_s=0.002, clients=8, latency_s=0.004, jitter_s=0.004, value_bytes=200),
    Profile("churn", "leaders cut off and back within an election or two", {"isolate_leader": 5, "partition": 3, "transfer": 2, "one_way": 1}, 0.35, think_s=0.01, fsync_s=0.003),
    Profile("echoes", "leaders come and go while old messages keep arriving", {"isolate_leader": 4, "partition": 2, "transfer": 3, "break": 2}, 0.4, duplicates=0.15, reorder=0.1, loss=0.02, think_s=0.03),
    Profile("elections", "new leaders on slow disks, with many readers", {"isolate_leader": 3, "kill_leader": 3, "transfer": 2}, 0.7, fsync_s=0.015, think_s=0.008, clients=6),
    Profile("minority", "leaders cut off with a minority, and soon back in office", {"minority_leader": 4, "transfer": 5, "break": 1}, 0.4, duplicates=0.25, think_s=0.02, fsync_s=0.002),
    Profile("crowd", "many readers while leaders are cut off", {"isolate_leader": 4, "partition": 3}, 0.9, clients=24, think_s=0.02),
    Profile("lease", "leases of leaders that are cut off, on clocks that differ by as much as is allowed", {"deaf_transfer": 3, "slow_leader": 4, "forgetful_voter": 3, "isolate_leader": 1, "pause": 2, "kill": 1}, 1.2, think_s=0.03, clients=32, clock_rate=0.05, read_lease=True, election_s=(0.8, 0.84), request_s=0.2, trust=0.4, hot=0.7),
    Profile("relaxed", "bounded, local and token reads on nodes that are cut off, stopped or behind", {"isolate_follower": 3, "isolate_leader": 2, "partition": 2, "slow_link": 2, "pause": 3, "kill": 2, "transfer": 1}, 0.6, think_s=0.012, clients=12, relaxed=0.8, hot=0.4, clock_rate=0.05),
    Profile("rot", "damaged and removed snapshots and logs, beside kills and partitions", {"rot": 4, "rot_log": 3, "lose_log": 2, "kill": 2, "partition": 1, "kill_leader": 1, "power_at_operation": 1}, snapshot_entries=15, retain_bytes=0, drain_s=20.0, think_s=0.04),
    Profile("decay", "damaged and removed logs, while members change and leaders come and go", {"rot_log": 4, "lose_log": 2, "rot": 1, "join": 2, "remove": 1, "isolate_leader": 2, "transfer": 2, "kill_leader": 1, "power_at_operation": 2, "break": 1}, 0.7, reserve=2, drain_s=20.0, snapshot_entries=60, cache_bytes=256, think_s=0.03),
    Profile("members", "nodes added, promoted, removed, the leader too, with other faults", _MEMBERS | {"kill": 2, "partition": 2, "isolate_leader": 1, "transfer": 2, "break": 1}, 0.6, reserve=3, drain_s=20.0, think_s=0.05),
    Profile("replacements", "disks lost, nodes replaced, by log and by snapshot", {"replace": 4, "wipe": 4, "join": 2, "remove": 1, "move": 2, "power": 2, "kill_leader": 1}, 1.0, reserve=3, drain_s=20.0, snapshot_entries=25, retain_bytes=0, think_s=0.03),
    Profile("learners", "learners that come and go while leaders change", {"learner": 4, "join": 2, "remove": 3, "isolate_leader": 2, "kill_leader": 1, "transfer": 2}, 0.5, reserve=3, drain_s=20.0, snapshot_entries=60, think_s=0.03),
    Profile("expelled", "a removed node that goes on, and does not know", {"expel": 1}, 2.5, reserve=3, drain_s=20.0, steady_leader=True),
    Profile("catching_up", "followers that were away, state that takes long to send, a way that breaks", {"isolate_follower": 4, "kill": 4, "kill_leader": 1, "transfer": 1, "power": 2, "break": 6, "power_at_operation": 2}, 0.35, snapshot_entries=15, retain_bytes=0, think_s=0.05, value_bytes=400, latency_s=0.04, jitter_s=0.02, clients=8, chunk_bytes=100, ambush=0.6),
    Profile("storm", "everything at once", {**_NETWORK, **_CRASHES, "transfer": 3, "clock_jump": 1, "slow_disk": 2, "disk_full": 1}, 0.5, snapshot_entries=40, retain_bytes=1024, hold_bytes=2048, clock_rate=0.05, duplicates=0.02, reorder=0.05, loss=0.01),
)  # fmt: skip

PROFILES: Final[dict[str, Profile]] = {one.name: one for one in _ALL}
