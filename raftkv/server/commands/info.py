"""INFO: the state of this node, in Redis' names where Redis has one, and in a section ``# Raft`` of our own.

A field that Redis has and raftkv has no figure for is left out rather than answered with an invented one.
No secret is in here. Source of the names: https://redis.io/docs/latest/commands/info/ (7.0).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from raftkv import __version__
from raftkv.commands.registry import Argv, command
from raftkv.protocol.replies import Reply
from raftkv.replicator import ReplicationStatus
from raftkv.server.commands.common import host_port, human_bytes, text
from raftkv.server.commands.connection import REDIS_VERSION
from raftkv.server.commands.persistence import last_save_s, saving
from raftkv.server.commands.topology import cluster_name, leader, members
from raftkv.server.state import CommandStatistics, Node, ServerContext
from raftkv.store.keyspace import Database, Keyspace

Fields: TypeAlias = dict[str, object]

TTL_SAMPLE: Final = 100
"""Expiries that ``avg_ttl`` of a database is the mean of."""
_OS: Final = f"{platform.system()} {platform.release()} {platform.machine()}"
_LOSS: Final = {
    "always": "nothing",
    "everysec": "the last second of acknowledged writes if a majority loses power at once",
    "no": "acknowledged writes that the operating system had not written if a majority loses power at once",
}


def _server(node: Node, status: ReplicationStatus) -> Fields:
    uptime_s = int(node.clock.monotonic() - node.started)
    return {
        "redis_version": REDIS_VERSION,
        "raftkv_version": __version__,
        "redis_mode": "cluster",
        "os": _OS,
        "arch_bits": sys.maxsize.bit_length() + 1,
        "multiplexing_api": "epoll" if sys.platform == "linux" else "kqueue",
        "python_version": platform.python_version(),
        "process_id": node.process_usage().pid,
        "run_id": node.run_id,
        "tcp_port": host_port(node.client_address(status.node_id) or node.settings.listen)[1],
        "server_time_usec": node.clock.wall_ms() * 1000,
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86_400,
        "executable": sys.executable,
    }


def _clients(node: Node, _status: ReplicationStatus) -> Fields:
    buffers = [client.buffers() for client in node.clients]
    return {
        "connected_clients": node.clients.count,
        "maxclients": node.settings.maxclients,
        "client_recent_max_input_buffer": max((one[0] for one in buffers), default=0),
        "client_recent_max_output_buffer": max((one[1] for one in buffers), default=0),
        "blocked_clients": sum(client.blocked for client in node.clients),
        "tracking_clients": 0,
    }


def _memory(node: Node, _status: ReplicationStatus) -> Fields:
    """``used_memory`` is the resident size: Python's allocator keeps no count of its own."""
    usage = node.process_usage()
    peak_percent = 100 * usage.rss_bytes / usage.rss_peak_bytes if usage.rss_peak_bytes else 0.0
    return {
        "used_memory": usage.rss_bytes,
        "used_memory_human": human_bytes(usage.rss_bytes),
        "used_memory_rss": usage.rss_bytes,
        "used_memory_rss_human": human_bytes(usage.rss_bytes),
        "used_memory_peak": usage.rss_peak_bytes,
        "used_memory_peak_human": human_bytes(usage.rss_peak_bytes),
        "used_memory_peak_perc": f"{peak_percent:.2f}%",
        "total_system_memory": usage.system_memory_bytes,
        "total_system_memory_human": human_bytes(usage.system_memory_bytes),
        "maxmemory": 0,
        "maxmemory_human": "0B",
        "maxmemory_policy": "noeviction",
        "mem_clients_normal": sum(sum(client.buffers()) for client in node.clients),
    }


def _persistence(node: Node, status: ReplicationStatus) -> Fields:
    """The log is what Redis calls the append-only file, a snapshot what it calls RDB; ours are the
    fields from ``fsync_policy`` on.

    One job writes a snapshot and shortens the log, so what Redis says of a save and of a rewrite is said of it.
    """
    saves, disk = node.saves, node.replicator.disk()
    under_way, current_s = saving(node), int(status.saving_s)
    outcome = "ok" if saves.last_ok else "err"
    return {
        "loading": int(not node.recovery.over and status.applied_index < status.commit_index),
        "async_loading": 0,
        "rdb_changes_since_last_save": max(0, status.applied_index - status.snapshot_index),
        "rdb_bgsave_in_progress": int(under_way == "save"),
        "rdb_last_save_time": last_save_s(node),
        "rdb_last_bgsave_status": outcome,
        "rdb_last_bgsave_time_sec": saves.last_seconds,
        "rdb_current_bgsave_time_sec": current_s if under_way == "save" else -1,
        "rdb_saves": saves.count,
        "aof_enabled": 1,
        "aof_rewrite_in_progress": int(under_way == "rewrite"),
        "aof_rewrite_scheduled": int(saves.scheduled == "rewrite"),
        "aof_last_rewrite_time_sec": saves.last_seconds,
        "aof_current_rewrite_time_sec": current_s if under_way == "rewrite" else -1,
        "aof_last_bgrewrite_status": outcome,
        "aof_last_write_status": "err" if disk.log_failed else "ok",
        "aof_current_size": disk.log_bytes,
        "aof_base_size": saves.base_bytes,
        "aof_pending_rewrite": 0,
        "aof_pending_bio_fsync": int(disk.sync_pending),
        "fsync_policy": node.settings.fsync,
        "fsync_can_lose": _LOSS[node.settings.fsync],
        "log_first_index": status.first_index,
        "log_last_index": status.last_index,
        "log_durable_index": status.durable_index,
        "log_synced_index": status.synced_index,
        "log_segments": disk.log_segments,
        "log_torn_bytes": disk.torn_bytes,
        "recovery_seconds": f"{sum(node.recovery.seconds.values()):.3f}",
        "snapshot_index": status.snapshot_index,
        "snapshot_bytes": disk.snapshot_bytes,
        "snapshot_age_seconds": max(0, node.clock.wall_ms() // 1000 - saves.last_s) if saves.last_s else -1,
        "disk_free_bytes": node.disk.free_bytes,
        "disk_total_bytes": node.disk.total_bytes,
        "disk_reserve_bytes": node.disk.reserve_bytes,
        "disk_slow_syncs": node.disk.slow_syncs,
        "disk_wait_ms": round(1000 * node.disk.waits_s),
        "disk_alarms": ",".join(f"{one.node}:{one.kind}" for one in node.machine.alarms.standing),
        **_archive(node, status),
    }


def _archive(node: Node, status: ReplicationStatus) -> Fields:
    if node.archiver is None:
        return {"archive_enabled": 0}
    state = node.archiver.state
    return {
        "archive_enabled": 1,
        "archive_status": "err" if state.error else "ok",
        "archive_error": state.error.replace("\r", " ").replace("\n", " "),
        "archive_index": state.index,
        "archive_lag_entries": max(0, status.applied_index - state.index),
        "archive_lag_seconds": f"{state.lag_s(node.clock.monotonic()):.1f}",
        "archive_run": state.run,
        "archive_base_index": state.base_index,
        "archive_failures": state.failures,
        "archive_gaps": state.gaps,
    }


def _stats(node: Node, _status: ReplicationStatus) -> Fields:
    statistics = node.statistics()
    return {
        "total_connections_received": node.clients.total_received,
        "total_commands_processed": statistics.commands_processed,
        "instantaneous_ops_per_sec": round(statistics.ops_per_s),
        "total_net_input_bytes": statistics.net_input_bytes,
        "total_net_output_bytes": statistics.net_output_bytes,
        "instantaneous_input_kbps": f"{statistics.input_kbps:.2f}",
        "instantaneous_output_kbps": f"{statistics.output_kbps:.2f}",
        "rejected_connections": node.clients.total_rejected,
        "expired_keys": statistics.expired_keys,
        "evicted_keys": 0,
        "keyspace_hits": statistics.keyspace_hits,
        "keyspace_misses": statistics.keyspace_misses,
        "pubsub_channels": 0,
        "pubsub_patterns": 0,
        "total_error_replies": sum(statistics.errors.values()),
    }


def _replication(node: Node, status: ReplicationStatus) -> Fields:
    """The leader is the master, the others its replicas; an offset is an index of the Raft log."""
    found = members(node)
    fields: Fields
    if status.role == "leader":
        replicas = [one for one in found if not one.is_self and one.reachable]
        fields = {"role": "master", "connected_slaves": len(replicas)}
        for at, one in enumerate(replicas):
            lag_s = max(0, int(one.last_contact_s))
            fields[f"slave{at}"] = f"ip={one.host},port={one.port},state=online,offset={one.offset},lag={lag_s}"
    else:
        head = leader(found)
        fields = {
            "role": "slave",
            "master_host": head.host if head else "",
            "master_port": head.port if head else 0,
            "master_link_status": "up" if head is not None and head.reachable else "down",
            "master_last_io_seconds_ago": int(head.last_contact_s) if head else -1,
            "master_sync_in_progress": 0,
            "slave_read_repl_offset": status.last_index,
            "slave_repl_offset": status.applied_index,
            "slave_priority": 100,
            "slave_read_only": 0,
            "connected_slaves": 0,
        }
    fields |= {
        "master_failover_state": "no-failover",
        "master_replid": cluster_name(status.cluster_id),
        "master_repl_offset": status.commit_index,
    }
    return fields


def _cpu(node: Node, _status: ReplicationStatus) -> Fields:
    usage = node.process_usage()
    return {"used_cpu_sys": f"{usage.cpu_system_s:.6f}", "used_cpu_user": f"{usage.cpu_user_s:.6f}"}


def _modules(_node: Node, _status: ReplicationStatus) -> Fields:
    return {}


def _commandstats(node: Node, _status: ReplicationStatus) -> Fields:
    return {
        f"cmdstat_{name}": (
            f"calls={one.calls},usec={one.micros},usec_per_call={one.micros / one.calls if one.calls else 0:.2f},"
            f"rejected_calls={one.rejected},failed_calls={one.failed}"
        )
        for name, one in sorted(node.statistics().commands.items())
    }


def _errorstats(node: Node, _status: ReplicationStatus) -> Fields:
    return {f"errorstat_{code}": f"count={count}" for code, count in sorted(node.statistics().errors.items())}


def percentile_us(statistics: CommandStatistics, percent: float) -> int:
    """Upper bound, in microseconds, of the histogram's bucket that the percentile falls into; 0 without calls."""
    wanted = statistics.calls * percent / 100
    return next((bound for bound, seen in statistics.histogram if seen >= wanted), 0)


def _latencystats(node: Node, _status: ReplicationStatus) -> Fields:
    return {
        f"latency_percentiles_usec_{name}": ",".join(
            f"p{percent:g}={percentile_us(one, percent):.3f}" for percent in (50, 99, 99.9)
        )
        for name, one in sorted(node.statistics().commands.items())
        if one.calls
    }


def _cluster(_node: Node, _status: ReplicationStatus) -> Fields:
    return {"cluster_enabled": 1}


def _mean_ttl_ms(database: Database, now_ms: int) -> int:
    ttls = [max(0, at_ms - now_ms) for at_ms in islice(database.expiries.values(), TTL_SAMPLE)]
    return sum(ttls) // len(ttls) if ttls else 0


def _keyspace(node: Node, _status: ReplicationStatus) -> Fields:
    keyspace: Keyspace = node.machine.keyspace
    now_ms = max(keyspace.now_ms, node.clock.wall_ms())
    return {
        f"db{index}": f"keys={one.size},expires={one.expires_count},avg_ttl={_mean_ttl_ms(one, now_ms)}"
        for index, one in enumerate(keyspace.databases)
        if one.size
    }


def _raft(node: Node, status: ReplicationStatus) -> Fields:
    leader_address = node.client_address(status.leader_id) if status.leader_id else ""
    return {
        "raft_node": status.node_id,
        "raft_cluster": status.cluster_id,
        "raft_role": status.role,
        "raft_leader": leader_address,
        "raft_leader_id": status.leader_id,
        "raft_term": status.term,
        "raft_commit_index": status.commit_index,
        "raft_applied_index": status.applied_index,
        "raft_last_index": status.last_index,
        "raft_first_index": status.first_index,
        "raft_durable_index": status.durable_index,
        "raft_snapshot_index": status.snapshot_index,
        "raft_pending": status.pending,
        "raft_leader_changes": status.leader_changes,
        "raft_members": status.voters + status.learners,
        "raft_voter": int(status.voter),
        "raft_voters": status.voters,
        "raft_learners": status.learners,
        "raft_configuration_index": status.configuration_index,
        "raft_changing": int(status.changing),
        "raft_connected_peers": sum(peer.connected for peer in status.peers.values()),
        "raft_repairing": status.repairing,
        "raft_halted": status.halted.replace("\r", " ").replace("\n", " "),
    }


SECTIONS: Final[dict[str, Callable[[Node, ReplicationStatus], Fields]]] = {
    "Server": _server,
    "Clients": _clients,
    "Memory": _memory,
    "Persistence": _persistence,
    "Stats": _stats,
    "Replication": _replication,
    "CPU": _cpu,
    "Modules": _modules,
    "Commandstats": _commandstats,
    "Errorstats": _errorstats,
    "Latencystats": _latencystats,
    "Cluster": _cluster,
    "Keyspace": _keyspace,
    "Raft": _raft,
}
"""Title to what fills it, in the order of the answer."""

_ONLY_ON_REQUEST: Final = frozenset({"Commandstats", "Latencystats"})


def chosen_sections(words: list[bytes]) -> list[str]:
    """Titles for INFO's arguments; nothing stands for ``default``, unknown names for nothing."""
    asked = {word.decode("utf-8", "replace").lower() for word in words} or {"default"}
    everything = bool(asked & {"all", "everything"})
    default = "default" in asked
    return [
        title
        for title in SECTIONS
        if everything or title.lower() in asked or (default and title not in _ONLY_ON_REQUEST)
    ]


def render_info(node: Node, titles: list[str]) -> str:
    """The text of INFO."""
    status = node.replicator.status()
    parts = []
    for title in titles:
        fields = SECTIONS[title](node, status)
        parts.append(f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items()))
    return "\r\n".join(parts)


@command("INFO", arity=-1, flags="loading stale dangerous", group="server", since="1.0.0", scope="server",
         syntax="[section [section ...]]", summary="State and counters of this node.",
         complexity="O(N) with N the number of connections and commands")  # fmt: skip
def info(context: ServerContext, argv: Argv) -> Reply:
    return text(render_info(context.node, chosen_sections(argv[1:])))
