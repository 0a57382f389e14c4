"""Counters and histograms of a node: plain additions on the hot path, Prometheus only when somebody scrapes.

The server adds to attributes of :class:`Metrics`; :class:`NodeCollector` turns them, and what replication and the
keyspace say of themselves, into Prometheus' families at the moment of a scrape. :data:`METRICS` declares each metric
once, with the function that reads it; ``docs/metrics.md`` is compared with it by a test.

Threads: all of it belongs to the event loop's thread but :meth:`Metrics.observe_fsync`, which the thread that
synchronises the log calls.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from raftkv import __version__
from raftkv.server import logs
from raftkv.server.state import CommandStatistics, Statistics
from raftkv.server.timing import SlowSyncs

if TYPE_CHECKING:
    from raftkv.commands.registry import Command
    from raftkv.replicator import PeerStatus, ReplicationStatus
    from raftkv.server.archiver import ArchiveState
    from raftkv.server.state import Node

LATENCY_BOUNDS_S: Final = (
    50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1.0, 2.0, 5.0,
)  # fmt: skip
"""Seconds; a histogram has one bucket more, for what takes longer."""
SNAPSHOT_BOUNDS_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
BATCH_COMMANDS_BOUNDS: Final = tuple(float(2**power) for power in range(15))
BATCH_BYTES_BOUNDS: Final = tuple(float(64 * 4**power) for power in range(11))
OVERFLOW_MICROS: Final = 3_600_000_000
"""Bound shown for calls above the last one: the longest request_timeout_ms allowed, so that nothing takes longer."""
ERROR_CODES_MAX: Final = 128
"""Error codes counted by name, as in Redis; any further one counts as ``OTHER``."""
RATE_SAMPLES_MAX: Final = 16
"""Samples that INFO's rates are averaged over; the oldest is dropped."""


class Histogram:
    """Counts of values at or below each bound, and the sum of all values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, count: int, value: float) -> None:
        """Count ``value`` ``count`` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += count * value

    @property
    def count(self) -> int:
        """Values counted."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """(bound, values at or below it), ascending, ``inf`` last."""
        rows, seen = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            rows.append((bound, seen))
        return rows

    def reset(self) -> None:
        """Forget everything."""
        self.counts = [0] * len(self.counts)
        self.total = 0.0


class CommandStat:
    """One command's counters. Keep the object and add to it: look-ups are not free on the hot path."""

    __slots__ = ("command", "errors", "latency", "name", "rejected")

    def __init__(self, command: Command) -> None:
        self.command = command
        """Kept, so that the id that :meth:`Metrics.stat` looks up by is not used again."""
        self.name = command.full_name.lower().replace(" ", "|")
        """As INFO has it: ``get``, ``config|set``."""
        self.latency = Histogram(LATENCY_BOUNDS_S)
        """From the last byte of the command read to its reply ready: with replication, for a write."""
        self.errors = 0
        """Ran (or was replicated) and answered an error; counted in :attr:`calls` too."""
        self.rejected = 0
        """Refused before it ran: arity, NOAUTH, MULTI errors, no leader; not in :attr:`calls`."""

    def observe_many(self, count: int, seconds: float) -> None:
        """``count`` commands of one pipeline were answered after ``seconds`` each."""
        latency = self.latency
        latency.counts[bisect_left(LATENCY_BOUNDS_S, seconds)] += count
        latency.total += count * seconds

    @property
    def calls(self) -> int:
        """Commands answered."""
        return self.latency.count

    @property
    def micros(self) -> int:
        """Latency of all calls together."""
        return round(self.latency.total * 1e6)

    def statistics(self) -> CommandStatistics:
        """As INFO and LATENCY HISTOGRAM want it."""
        rows: list[tuple[int, int]] = []
        for bound, seen in self.latency.cumulative():
            if seen > (rows[-1][1] if rows else 0):
                rows.append((OVERFLOW_MICROS if bound == float("inf") else round(bound * 1e6), seen))
        return CommandStatistics(
            calls=self.calls, micros=self.micros, rejected=self.rejected, failed=self.errors, histogram=tuple(rows)
        )


class Metrics:
    """What the server counts. Attributes are added to directly; all are totals since the start (or a reset)."""

    __slots__ = (
        "_fsync",
        "_fsync_lock",
        "_samples",
        "_stats",
        "apply_seconds",
        "auth_failures",
        "batch_bytes",
        "batch_commands",
        "bytes_in",
        "bytes_out",
        "commands_forwarded",
        "commands_moved",
        "errors",
        "idle_clients_closed",
        "protocol_errors",
        "raft_events",
        "slow_readers_closed",
        "slow_syncs",
        "snapshot_bytes_last",
        "snapshot_seconds",
        "snapshots_failed",
    )  # fmt: skip

    def __init__(self) -> None:
        self._stats: dict[int, CommandStat] = {}
        self.errors: dict[str, int] = {}
        self.bytes_in = 0
        self.bytes_out = 0
        self.commands_forwarded = 0
        self.commands_moved = 0
        self.protocol_errors = 0
        self.auth_failures = 0
        self.slow_readers_closed = 0
        self.idle_clients_closed = 0
        self.batch_commands = Histogram(BATCH_COMMANDS_BOUNDS)
        self.batch_bytes = Histogram(BATCH_BYTES_BOUNDS)
        self.apply_seconds = Histogram(LATENCY_BOUNDS_S)
        self.snapshot_seconds = Histogram(SNAPSHOT_BOUNDS_S)
        self.snapshot_bytes_last = 0
        self.snapshots_failed = 0
        self.raft_events: Mapping[str, int] = {}
        """The replica's own counters of its guards; whoever composes the node sets it. Never reset."""
        self._fsync = Histogram(LATENCY_BOUNDS_S)
        self._fsync_lock = Lock()
        self.slow_syncs = SlowSyncs()
        self._samples: deque[tuple[float, int, int, int]] = deque(maxlen=RATE_SAMPLES_MAX)

    # ---------------------------------------------------------------- hot path
    def stat(self, command: Command) -> CommandStat:
        """The counters of ``command``, always the same object for the same declaration."""
        found = self._stats.get(id(command))
        if found is None:
            found = self._stats[id(command)] = CommandStat(command)
        return found

    def error(self, code: str, count: int = 1) -> None:
        """``count`` error replies began with ``code`` (``ERR``, ``WRONGTYPE``)."""
        if code not in self.errors and len(self.errors) >= ERROR_CODES_MAX:
            code = "OTHER"
        self.errors[code] = self.errors.get(code, 0) + count

    def observe_batch(self, commands: int, size_bytes: int) -> None:
        """This node proposed one log entry."""
        self.batch_commands.observe(commands)
        self.batch_bytes.observe(size_bytes)

    def observe_fsync(self, seconds: float) -> None:
        """The log was synchronised. The only method that another thread may call."""
        with self._fsync_lock:
            self._fsync.observe(seconds)
            self.slow_syncs.observe(seconds)

    def observe_snapshot(self, seconds: float, size_bytes: int) -> None:
        """A snapshot was written."""
        self.snapshot_seconds.observe(seconds)
        self.snapshot_bytes_last = size_bytes

    # ---------------------------------------------------------------- reading
    @property
    def commands(self) -> list[CommandStat]:
        """Every command that was called or rejected, by name."""
        used = (one for one in self._stats.values() if one.rejected or one.calls)
        return sorted(used, key=lambda one: one.name)

    def fsync_copy(self) -> Histogram:
        """The fsync histogram at one moment."""
        copy = Histogram(LATENCY_BOUNDS_S)
        with self._fsync_lock:
            copy.counts, copy.total = list(self._fsync.counts), self._fsync.total
        return copy

    def sample(self, now: float) -> None:
        """Note the totals at ``now`` (Clock.monotonic()); call it a few times a second for INFO's rates."""
        self._samples.append((now, sum(one.calls for one in self._stats.values()), self.bytes_in, self.bytes_out))

    def statistics(self, *, expired_keys: int = 0, keyspace_hits: int = 0, keyspace_misses: int = 0) -> Statistics:
        """What INFO shows; the arguments are what the keyspace's owner counted. Rates come from :meth:`sample`."""
        first, last = (self._samples[0], self._samples[-1]) if self._samples else ((0.0, 0, 0, 0),) * 2
        span_s = last[0] - first[0]
        ops, read, written = (((last[at] - first[at]) / span_s if span_s > 0 else 0.0) for at in (1, 2, 3))
        stats = self.commands
        return Statistics(
            commands_processed=sum(one.calls for one in stats),
            ops_per_s=ops,
            net_input_bytes=self.bytes_in,
            net_output_bytes=self.bytes_out,
            input_kbps=read / 1024,
            output_kbps=written / 1024,
            expired_keys=expired_keys,
            keyspace_hits=keyspace_hits,
            keyspace_misses=keyspace_misses,
            commands={one.name: one.statistics() for one in stats},
            errors=dict(sorted(self.errors.items())),
        )

    def reset(self) -> None:
        """CONFIG RESETSTAT: everything to zero, in place, because others keep :class:`CommandStat` objects."""
        for one in self._stats.values():
            one.latency.reset()
            one.errors = one.rejected = 0
        self.errors.clear()
        self._samples.clear()
        self.bytes_in = self.bytes_out = self.commands_forwarded = self.commands_moved = 0
        self.protocol_errors = self.auth_failures = self.slow_readers_closed = self.idle_clients_closed = 0
        self.snapshots_failed = 0
        for histogram in (self.batch_commands, self.batch_bytes, self.apply_seconds, self.snapshot_seconds):
            histogram.reset()
        with self._fsync_lock:
            self._fsync.reset()


# -------------------------------------------------------------------- Prometheus


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one scrape reads, taken at its beginning."""

    node: Node
    status: ReplicationStatus

    @property
    def metrics(self) -> Metrics:
        """The node's own counters."""
        return self.node.metrics


Labels: TypeAlias = tuple[str, ...]
Value: TypeAlias = float | Histogram
Reader: TypeAlias = Callable[[Scrape], Iterable[tuple[Labels, Value]]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: how it is called, what it means, and how it is read."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    read: Reader
    labels: Labels = ()


def _one(read: Callable[[Scrape], Value]) -> Reader:
    """A reader for a metric without labels."""
    return lambda scrape: [((), read(scrape))]


def _outcomes(scrape: Scrape) -> Iterator[tuple[Labels, Value]]:
    for one in scrape.metrics.commands:
        yield (one.name, "ok"), one.calls - one.errors
        yield (one.name, "error"), one.errors
        yield (one.name, "rejected"), one.rejected


def _peers(read: Callable[[PeerStatus], float]) -> Reader:
    return lambda scrape: [((peer,), read(one)) for peer, one in sorted(scrape.status.peers.items())]


def _databases(*, expiring: bool) -> Reader:
    def read(scrape: Scrape) -> Iterator[tuple[Labels, Value]]:
        for index, database in enumerate(scrape.node.machine.keyspace.databases):
            if database.size or not index:
                yield (f"db{index}",), database.expires_count if expiring else database.size

    return read


def _connections() -> tuple[Metric, ...]:
    return (
        Metric("raftkv_connected_clients", "gauge", "Client connections open now.", _one(lambda s: len(s.node.clients))),
        Metric("raftkv_connections_received_total", "counter", "Client connections accepted or turned away.",
               _one(lambda s: s.node.clients.total_received)),
        Metric("raftkv_connections_rejected_total", "counter", "Client connections turned away at maxclients.",
               _one(lambda s: s.node.clients.total_rejected)),
        Metric("raftkv_slow_readers_closed_total", "counter",
               "Clients closed because they left more replies unread than client_output_buffer_limit.",
               _one(lambda s: s.metrics.slow_readers_closed)),
        Metric("raftkv_idle_clients_closed_total", "counter", "Clients closed by timeout.",
               _one(lambda s: s.metrics.idle_clients_closed)),
        Metric("raftkv_protocol_errors_total", "counter", "Connections closed for bytes that are not RESP.",
               _one(lambda s: s.metrics.protocol_errors)),
        Metric("raftkv_auth_failures_total", "counter", "AUTH or HELLO with a wrong password.",
               _one(lambda s: s.metrics.auth_failures)),
        Metric("raftkv_network_received_bytes_total", "counter", "Bytes from clients.",
               _one(lambda s: s.metrics.bytes_in)),
        Metric("raftkv_network_sent_bytes_total", "counter", "Bytes to clients.",
               _one(lambda s: s.metrics.bytes_out)),
    )  # fmt: skip


def _commands() -> tuple[Metric, ...]:
    return (
        Metric("raftkv_commands_total", "counter",
               "Commands: ok, error (ran and answered an error), rejected (refused before they ran).",
               _outcomes, ("command", "outcome")),
        Metric("raftkv_command_duration_seconds", "histogram",
               "From the command read to its reply ready, replication included.",
               lambda s: [((one.name,), one.latency) for one in s.metrics.commands], ("command",)),
        Metric("raftkv_errors_total", "counter", "Error replies by their first word.",
               lambda s: [((code,), count) for code, count in sorted(s.metrics.errors.items())], ("code",)),
        Metric("raftkv_commands_forwarded_total", "counter", "Commands that this follower passed on to the leader.",
               _one(lambda s: s.metrics.commands_forwarded)),
        Metric("raftkv_commands_moved_total", "counter", "Commands answered with MOVED.",
               _one(lambda s: s.metrics.commands_moved)),
    )  # fmt: skip


def _keyspace() -> tuple[Metric, ...]:
    return (
        Metric("raftkv_keys", "gauge", "Keys (db0 always, other databases when they have any).",
               _databases(expiring=False), ("db",)),
        Metric("raftkv_keys_expiring", "gauge", "Keys that have an expiry.", _databases(expiring=True), ("db",)),
    )  # fmt: skip


def _raft() -> tuple[Metric, ...]:
    gauges = (
        ("term", "Current term.", lambda s: s.status.term),
        ("leader_known", "1 while this node knows a leader.", lambda s: bool(s.status.leader_id)),
        ("commit_index", "Highest index known to be committed.", lambda s: s.status.commit_index),
        ("applied_index", "Highest index applied to the keyspace.", lambda s: s.status.applied_index),
        ("last_index", "Highest index in the log.", lambda s: s.status.last_index),
        ("first_index", "Lowest index still in the log.", lambda s: s.status.first_index),
        ("durable_index", "Highest index on this node's disk.", lambda s: s.status.durable_index),
        ("snapshot_index", "Last index that the newest snapshot covers.", lambda s: s.status.snapshot_index),
        ("pending", "Proposals of this node that are not applied yet.", lambda s: s.status.pending),
        ("voter", "1 while this node is a voting member.", lambda s: s.status.voter),
        ("voters", "Voting members of the cluster.", lambda s: s.status.voters),
        ("learners", "Members that get the log and have no vote.", lambda s: s.status.learners),
        ("configuration_index", "Log entry of the newest configuration; 0: the first one.",
         lambda s: s.status.configuration_index),
        ("changing", "1 while a change of the members is not committed.", lambda s: s.status.changing),
        ("repairing", "1 while a node whose disk was damaged is not yet again what it was.",
         lambda s: bool(s.status.repairing)),
        ("halted", "1 when this replica stopped; /health says why.", lambda s: bool(s.status.halted)),
    )  # fmt: skip
    return (
        Metric("raftkv_raft_role", "gauge", "1 for the role that this node has, 0 for the others.",
               lambda s: [((role,), s.status.role == role) for role in ("candidate", "follower", "leader")], ("role",)),
        *(Metric(f"raftkv_raft_{name}", "gauge", meaning, _one(read)) for name, meaning, read in gauges),
        Metric("raftkv_raft_leader_changes_total", "counter", "Changes of the leader that this node saw.",
               _one(lambda s: s.status.leader_changes)),
        Metric("raftkv_raft_elections_total", "counter", "Elections that this node began (rounds of pre-votes).",
               _one(lambda s: s.metrics.raft_events.get("pre_votes", 0))),
        Metric("raftkv_raft_events_total", "counter", "How often each guard of the consensus layer had to act.",
               lambda s: [((event,), count) for event, count in sorted(s.metrics.raft_events.items())], ("event",)),
        Metric("raftkv_raft_peer_connected", "gauge", "1 while there is a link to the other member.",
               _peers(lambda peer: peer.connected), ("peer",)),
        Metric("raftkv_raft_peer_match_index", "gauge", "Highest index known to be on the peer's disk; 0 unless leader.",
               _peers(lambda peer: peer.match_index), ("peer",)),
        Metric("raftkv_raft_peer_last_contact_seconds", "gauge", "Since the peer's last message; -1: none yet.",
               _peers(lambda peer: peer.last_contact_s), ("peer",)),
    )  # fmt: skip


def _replication() -> tuple[Metric, ...]:
    return (
        Metric("raftkv_batch_commands", "histogram", "Commands in one log entry that this node proposed.",
               _one(lambda s: s.metrics.batch_commands)),
        Metric("raftkv_batch_size_bytes", "histogram", "Bytes of one log entry that this node proposed.",
               _one(lambda s: s.metrics.batch_bytes)),
        Metric("raftkv_apply_duration_seconds", "histogram", "Applying one log entry to the keyspace.",
               _one(lambda s: s.metrics.apply_seconds)),
        Metric("raftkv_fsync_duration_seconds", "histogram", "Synchronising the log with the disk.",
               _one(lambda s: s.metrics.fsync_copy())),
        Metric("raftkv_snapshot_duration_seconds", "histogram", "Writing one snapshot.",
               _one(lambda s: s.metrics.snapshot_seconds)),
        Metric("raftkv_snapshot_size_bytes", "gauge", "Size of the newest snapshot that this process wrote.",
               _one(lambda s: s.metrics.snapshot_bytes_last)),
        Metric("raftkv_snapshots_failed_total", "counter", "Snapshots that could not be written.",
               _one(lambda s: s.metrics.snapshots_failed)),
    )  # fmt: skip


def _archive() -> tuple[Metric, ...]:
    def read(value: Callable[[ArchiveState, Scrape], float]) -> Reader:
        def rows(scrape: Scrape) -> Iterable[tuple[Labels, Value]]:
            archiver = scrape.node.archiver
            return [] if archiver is None else [((), value(archiver.state, scrape))]

        return rows

    return (
        Metric("raftkv_archive_working", "gauge", "0 while the last attempt to archive failed; no archive metric without archive_dir.",
               read(lambda state, _: not state.error)),
        Metric("raftkv_archive_index", "gauge", "Last log entry in a complete file of the archive.",
               read(lambda state, _: state.index)),
        Metric("raftkv_archive_lag_entries", "gauge", "Entries applied here and not archived.",
               read(lambda state, scrape: max(0, scrape.status.applied_index - state.index))),
        Metric("raftkv_archive_lag_seconds", "gauge", "Since the oldest of them came.",
               read(lambda state, scrape: state.lag_s(scrape.node.clock.monotonic()))),
        Metric("raftkv_archive_base_index", "gauge", "Entry of the archive's newest base.",
               read(lambda state, _: state.base_index)),
        Metric("raftkv_archive_written_bytes_total", "counter", "Bytes of entries written into the archive.",
               read(lambda state, _: state.written_bytes)),
        Metric("raftkv_archive_failures_total", "counter", "Attempts to archive that failed.",
               read(lambda state, _: state.failures)),
        Metric("raftkv_archive_gaps_total", "counter", "Times that a new run had to begin: points in between are lost to the archive.",
               read(lambda state, _: state.gaps)),
    )  # fmt: skip


def _node() -> tuple[Metric, ...]:
    return (
        Metric("raftkv_build_info", "gauge", "Always 1; the labels say what runs here.",
               lambda s: [((__version__, platform.python_version(), s.status.node_id, s.status.cluster_id), 1.0)],
               ("version", "python", "node", "cluster")),
        Metric("raftkv_log_lines_dropped_total", "counter", "Log lines that standard error did not take in time.",
               _one(lambda _: logs.lines_dropped())),
        Metric("raftkv_uptime_seconds", "gauge", "Since the start of this node.",
               _one(lambda s: s.node.clock.monotonic() - s.node.started)),
        Metric("raftkv_recovery_seconds", "gauge",
               "How long the last start took in each phase: log (checked), snapshot (loaded), replay (of the log, with the others).",
               lambda s: [((phase,), seconds) for phase, seconds in s.node.recovery.seconds.items()], ("phase",)),
    )  # fmt: skip


def _disk() -> tuple[Metric, ...]:
    return (
        Metric("raftkv_disk_free_bytes", "gauge", "Free on the file system of the data directory.",
               _one(lambda s: s.node.disk.free_bytes)),
        Metric("raftkv_disk_size_bytes", "gauge", "Size of that file system.", _one(lambda s: s.node.disk.total_bytes)),
        Metric("raftkv_disk_reserve_bytes", "gauge", "Held in the reserve file; 0 while it is given back.",
               _one(lambda s: s.node.disk.reserve_bytes)),
        Metric("raftkv_disk_slow_syncs_total", "counter", "Syncs of the log that took longer than disk_slow_ms.",
               _one(lambda s: s.node.disk.slow_syncs)),
        Metric("raftkv_disk_wait_seconds", "gauge", "How long what was written to the log has been waiting to be durable.",
               _one(lambda s: s.node.disk.waits_s)),
        Metric("raftkv_alarm", "gauge", "1 for each alarm that stands; while one does, nothing that takes space is run.",
               lambda s: [((one.node, one.kind), 1.0) for one in s.node.machine.alarms.standing], ("member", "kind")),
    )  # fmt: skip


METRICS: Final = (
    *_node(),
    *_connections(),
    *_commands(),
    *_keyspace(),
    *_raft(),
    *_replication(),
    *_disk(),
    *_archive(),
)
"""Every metric of ours, in the order of the document."""


class NodeCollector(Collector):
    """Reads a node when Prometheus asks."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Family]:
        """One family a metric, also without samples, so that a dashboard knows its name from the first scrape on."""
        scrape = Scrape(self._node, self._node.replicator.status())
        for one in METRICS:
            yield _family(one, one.read(scrape))


def _family(metric: Metric, samples: Iterable[tuple[Labels, Value]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in samples:
            assert isinstance(value, Histogram)
            rows = [
                ("+Inf" if bound == float("inf") else repr(bound), float(seen)) for bound, seen in value.cumulative()
            ]
            histogram.add_metric(labels, rows, value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    plain = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in samples:
        assert not isinstance(value, Histogram)
        plain.add_metric(labels, float(value))
    return plain


def make_registry(node: Node) -> CollectorRegistry:
    """A registry of this node alone, with the metrics of its process (``process_...``)."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    ProcessCollector(registry=registry)
    return registry


def metrics_table() -> str:
    """The table of ``docs/metrics.md``, in Markdown."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for one in METRICS:
        labels = " ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.meaning} |")
    return "\n".join(lines) + "\n"
