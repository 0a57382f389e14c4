"""Commands that run on the node that got them: connection, introspection, configuration, cluster, Raft.

Importing this package declares them in :data:`raftkv.commands.registry.TABLE`.
"""

from __future__ import annotations

from raftkv.server.commands import (
    acl,
    alarms,
    backup,
    client,
    cluster,
    config,
    connection,
    diagnostics,
    info,
    introspection,
    membership,
    persistence,
    raft,
    replication,
    sentinel,
    sessions,
    transactions,
)

__all__ = [
    "acl",
    "alarms",
    "backup",
    "client",
    "cluster",
    "config",
    "connection",
    "diagnostics",
    "info",
    "introspection",
    "membership",
    "persistence",
    "raft",
    "replication",
    "sentinel",
    "sessions",
    "transactions",
]
