"""RAFT.STATUS, RAFT.TOKEN, RAFT.SNAPSHOT: this replica, for which Redis has no word. Its group:
:mod:`raftkv.server.commands.membership`.

Indices and terms are those of the Raft log (Ongaro, Ousterhout 2014, figure 2).
"""

from __future__ import annotations

from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply
from raftkv.server.commands.alarms import alarm_texts
from raftkv.server.commands.persistence import snapshot
from raftkv.server.commands.replication import acknowledged_index
from raftkv.server.commands.topology import members
from raftkv.server.state import ServerContext

_SINCE = "raftkv 0.1.0"


@command("RAFT.STATUS", arity=-1, flags="loading stale", group="raft", since=_SINCE, scope="server", syntax="[field ...]",
         summary="State of this replica, or only the fields that are named; the digest of its data (digest, digest_index) "
         "only when it is named.",
         complexity="O(1); with the digest O(N) with N the number of keys in slots that changed since the last one")  # fmt: skip
def raft_status(context: ServerContext, argv: Argv) -> Reply:
    wanted = argv[1:]
    fields = _status_fields(context)
    if not {b"digest", b"digest_index"}.isdisjoint(wanted):  # half a second at a million keys: only for who asks
        digest, fields[b"digest_index"] = context.node.machine.digest()
        fields[b"digest"] = digest.encode()
    unknown = next((name for name in wanted if name not in fields), None)
    if unknown is not None:
        raise CommandError(f"unknown field '{unknown.decode('utf-8', 'replace')[:64]}'")
    return {name: fields[name] for name in wanted} if wanted else fields


def _status_fields(context: ServerContext) -> dict[bytes, Reply]:
    """Everything but the digest, which costs time."""
    node = context.node
    status = node.replicator.status()
    leader_address = node.client_address(status.leader_id) if status.leader_id else ""
    return {
        b"node": status.node_id.encode(),
        b"cluster": status.cluster_id.encode(),
        b"role": status.role.encode(),
        b"leader": leader_address.encode(),
        b"leader_id": status.leader_id.encode(),
        b"term": status.term,
        b"commit_index": status.commit_index,
        b"applied_index": status.applied_index,
        b"last_index": status.last_index,
        b"first_index": status.first_index,
        b"durable_index": status.durable_index,
        b"synced_index": status.synced_index,
        b"snapshot_index": status.snapshot_index,
        b"pending": status.pending,
        b"leader_changes": status.leader_changes,
        b"members": status.voters + status.learners,
        b"voter": int(status.voter),
        b"voters": status.voters,
        b"learners": status.learners,
        b"configuration_index": status.configuration_index,
        b"changing": int(status.changing),
        b"client_addresses": [one.address.encode() for one in members(node) if one.address],
        b"alarms": [one.encode() for one in alarm_texts(node)],
        b"halted": status.halted.encode(),
        b"repairing": status.repairing.encode(),
        b"uptime_s": int(node.clock.monotonic() - node.started),
    }


@command("RAFT.TOKEN", arity=1, flags="noscript", group="raft", since=_SINCE, scope="server",
         summary="A token for READ AT LEAST, at any node: it covers all that this connection was answered before.")  # fmt: skip
async def raft_token(context: ServerContext, _argv: Argv) -> Reply:
    return await acknowledged_index(context.node)


@command("RAFT.SNAPSHOT", arity=1, flags="admin noscript", group="raft", since=_SINCE, scope="server",
         summary="Write a snapshot of this node now; answers the log index that it covers.",
         complexity="O(N) with N the number of keys")  # fmt: skip
async def raft_snapshot(context: ServerContext, _argv: Argv) -> Reply:
    return await snapshot(context.node)
