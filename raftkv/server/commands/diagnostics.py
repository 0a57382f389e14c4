"""SLOWLOG, LATENCY, MEMORY, MODULE: what people and tools ask when something is slow or large.

Formats: https://redis.io/docs/latest/commands/slowlog-get/, latency-histogram, memory-stats (7.0).
"""

from __future__ import annotations

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, command
from raftkv.protocol.replies import OK, Reply
from raftkv.server.commands.common import declare_help, text
from raftkv.server.state import CommandStatistics, ServerContext

_LOG = "admin loading stale"
_LATENCY = "admin noscript loading stale"
_SLOWLOG_DEFAULT = 10


# ---------------------------------------------------------------- SLOWLOG
@command("SLOWLOG GET", arity=-2, flags=_LOG, group="server", since="2.2.12", scope="server", syntax="[count]",
         summary="The newest slow commands of this node; -1: all.", complexity="O(N) with N the number of entries answered")  # fmt: skip
def slowlog_get(context: ServerContext, argv: Argv) -> Reply:
    count = _SLOWLOG_DEFAULT
    if len(argv) > 2:
        count = parse_int(argv[2], "count should be greater than or equal to -1", low=-1)
    return [
        [entry.id, entry.wall_s, entry.micros, list(entry.argv), entry.address.encode(), entry.name.encode()]
        for entry in context.node.slowlog.get(count)
    ]


@command("SLOWLOG LEN", arity=2, flags=_LOG, group="server", since="2.2.12", scope="server",
         summary="How many slow commands are kept.")  # fmt: skip
def slowlog_len(context: ServerContext, _argv: Argv) -> Reply:
    return len(context.node.slowlog)


@command("SLOWLOG RESET", arity=2, flags=_LOG, group="server", since="2.2.12", scope="server",
         summary="Forget all slow commands.", complexity="O(N) with N the number of entries")  # fmt: skip
def slowlog_reset(context: ServerContext, _argv: Argv) -> Reply:
    context.node.slowlog.reset()
    return OK


declare_help("SLOWLOG", "server", "6.2.0")


# ---------------------------------------------------------------- LATENCY
@command("LATENCY LATEST", arity=2, flags=_LATENCY, group="server", since="2.8.13", scope="server",
         summary="Latency events: none, the metrics and LATENCY HISTOGRAM have the figures.")  # fmt: skip
def latency_latest(_context: ServerContext, _argv: Argv) -> Reply:
    return []


@command("LATENCY HISTORY", arity=3, flags=_LATENCY, group="server", since="2.8.13", scope="server", syntax="event",
         summary="Samples of a latency event: none.")  # fmt: skip
def latency_history(_context: ServerContext, _argv: Argv) -> Reply:
    return []


@command("LATENCY RESET", arity=-2, flags=_LATENCY, group="server", since="2.8.13", scope="server", syntax="[event [event ...]]",
         summary="How many latency events were forgotten: 0.")  # fmt: skip
def latency_reset(_context: ServerContext, _argv: Argv) -> Reply:
    return 0


@command("LATENCY DOCTOR", arity=2, flags=_LATENCY, group="server", since="2.8.13", scope="server",
         summary="Where to look when something is slow.")  # fmt: skip
def latency_doctor(context: ServerContext, _argv: Argv) -> Reply:
    entries = context.node.slowlog.get()
    slowest = max((entry.micros for entry in entries), default=0)
    return text(
        "raftkv keeps no latency events. LATENCY HISTOGRAM shows how long commands take, /metrics how long fsync does, "
        f"SLOWLOG GET the slow ones: {len(entries)} kept, the slowest took {slowest} microseconds.\n"
    )


def _histogram(statistics: CommandStatistics) -> Reply:
    return {b"calls": statistics.calls, b"histogram_usec": dict(statistics.histogram)}


@command("LATENCY HISTOGRAM", arity=-2, flags=_LATENCY, group="server", since="7.0.0", scope="server",
         syntax="[command [command ...]]", summary="Cumulative distribution of how long commands took, in microseconds.",
         complexity="O(N) with N the number of commands")  # fmt: skip
def latency_histogram(context: ServerContext, argv: Argv) -> Reply:
    known = {name: one for name, one in sorted(context.node.statistics().commands.items()) if one.calls}
    asked = [word.decode("utf-8", "replace").lower() for word in argv[2:]] or list(known)
    chosen: dict[str, CommandStatistics] = {}
    for name in asked:
        # A container's name stands for all of its sub-commands, as in Redis.
        chosen.update({one: found for one, found in known.items() if one == name or one.startswith(name + "|")})
    return {name.encode(): _histogram(statistics) for name, statistics in chosen.items()}


declare_help("LATENCY", "server", "2.8.13")


# ---------------------------------------------------------------- MEMORY
@command("MEMORY DOCTOR", arity=2, flags="", group="server", since="4.0.0", scope="server",
         summary="How much memory this process takes, and of how much.")  # fmt: skip
def memory_doctor(context: ServerContext, _argv: Argv) -> Reply:
    usage = context.node.process_usage()
    keys = sum(database.size for database in context.node.machine.keyspace.databases)
    return text(
        f"{keys} keys; the process takes {usage.rss_bytes} bytes, {usage.rss_peak_bytes} at its peak, "
        f"of {usage.system_memory_bytes} that the machine has.\n"
    )


@command("MEMORY STATS", arity=2, flags="", group="server", since="4.0.0", scope="server",
         summary="Memory of this process and of its connections, in bytes.",
         complexity="O(N) with N the number of connections")  # fmt: skip
def memory_stats(context: ServerContext, _argv: Argv) -> Reply:
    node = context.node
    usage = node.process_usage()
    keys = sum(database.size for database in node.machine.keyspace.databases)
    buffers = sum(sum(client.buffers()) for client in node.clients)
    return {
        b"peak.allocated": usage.rss_peak_bytes,
        b"total.allocated": usage.rss_bytes,
        b"clients.normal": buffers,
        b"keys.count": keys,
        b"peak.percentage": 100.0 * usage.rss_bytes / usage.rss_peak_bytes if usage.rss_peak_bytes else 0.0,
    }


declare_help("MEMORY", "server", "4.0.0")


# ---------------------------------------------------------------- MODULE
@command("MODULE LIST", arity=2, flags="admin noscript", group="server", since="4.0.0", scope="server",
         summary="Loaded modules: none, there is nothing to load them with.")  # fmt: skip
def module_list(_context: ServerContext, _argv: Argv) -> Reply:
    return []


declare_help("MODULE", "server", "5.0.0")
