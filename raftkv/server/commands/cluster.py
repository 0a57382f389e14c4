"""CLUSTER, READONLY, READWRITE, ASKING: what cluster clients ask (topology.py says what they are told and why).

Formats: https://redis.io/docs/latest/commands/cluster-nodes/, cluster-slots, cluster-shards, cluster-info (7.0).
"""

from __future__ import annotations

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import OK, Reply
from raftkv.server.commands.common import declare_help, host_port, text
from raftkv.server.commands.topology import Member, cluster_name, is_master, leader, members
from raftkv.server.state import ServerContext
from raftkv.store.slots import SLOTS, key_slot


def _topology(context: ServerContext) -> list[Member]:
    """The members, for a client that is about to follow the map: from now on it understands MOVED."""
    context.client.redirect = context.node.settings.redirect == "moved"
    return members(context.node)


@command("CLUSTER INFO", arity=2, flags="stale", group="cluster", since="3.0.0", scope="server",
         summary="State of the cluster: ok while this node knows a leader.")  # fmt: skip
def cluster_info(context: ServerContext, _argv: Argv) -> Reply:
    status = context.node.replicator.status()
    found = members(context.node)
    serving = bool(status.leader_id) and not status.halted
    assigned = sum(len(member.slots) for member in found)
    fields = {
        "cluster_state": "ok" if serving else "fail",
        "cluster_slots_assigned": assigned,
        "cluster_slots_ok": assigned if serving else 0,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": 0 if serving else assigned,
        "cluster_known_nodes": len(found),
        "cluster_size": sum(bool(member.slots) for member in found),
        "cluster_current_epoch": status.term,
        "cluster_my_epoch": status.term,
    }
    return text("".join(f"{name}:{value}\r\n" for name, value in fields.items()))


def _nodes_line(member: Member, context: ServerContext, term: int, leader_name: str) -> str:
    master = is_master(member, context.node)
    flags = ("myself," if member.is_self else "") + ("master" if master else "slave")
    if not member.voter:
        flags += ",nofailover"
    if not member.reachable:
        flags += ",fail" if member.is_self else ",fail?"
    heard_ms = 0
    if not member.is_self and member.last_contact_s >= 0:
        heard_ms = context.node.clock.wall_ms() - int(member.last_contact_s * 1000)
    bus_port = host_port(member.peer_address)[1]
    link = "connected" if member.reachable or member.is_self else "disconnected"
    slots = f" {member.slots[0]}-{member.slots[-1]}" if member.slots else ""
    return (
        f"{member.cluster_name} {member.host}:{member.port}@{bus_port} {flags} {'-' if master else leader_name} "
        f"0 {heard_ms} {term} {link}{slots}\n"
    )


@command("CLUSTER NODES", arity=2, flags="stale", group="cluster", since="3.0.0", scope="server",
         summary="One line for each member: id, address, role, slots.", complexity="O(N) with N the number of members")  # fmt: skip
def cluster_nodes(context: ServerContext, _argv: Argv) -> Reply:
    found = _topology(context)
    head = leader(found)
    term = context.node.replicator.status().term
    return text("".join(_nodes_line(member, context, term, head.cluster_name if head else "-") for member in found))


def _replicas_of(owner: Member, found: list[Member], context: ServerContext) -> list[Member]:
    if not owner.leads:
        return []
    return [one for one in found if one.reachable and one.voter and not is_master(one, context.node)]


@command("CLUSTER SLOTS", arity=2, flags="stale", group="cluster", since="3.0.0", scope="server",
         summary="The slot ranges, each with the members that serve it, its master first.",
         complexity="O(N) with N the number of members")  # fmt: skip
def cluster_slots(context: ServerContext, _argv: Argv) -> Reply:
    found = _topology(context)

    def node_entry(member: Member) -> list[Reply]:
        return [member.host.encode(), member.port, member.cluster_name.encode(), {}]

    return [
        [owner.slots[0], owner.slots[-1], node_entry(owner), *map(node_entry, _replicas_of(owner, found, context))]
        for owner in found
        if owner.slots
    ]


def _shard_node(member: Member, context: ServerContext) -> Reply:
    return {
        b"id": member.cluster_name.encode(),
        b"port": member.port,
        b"ip": member.host.encode(),
        b"endpoint": member.host.encode(),
        b"role": b"master" if is_master(member, context.node) else b"replica",
        b"replication-offset": member.offset,
        b"health": (b"online" if member.voter else b"loading") if member.reachable else b"failed",
    }


@command("CLUSTER SHARDS", arity=2, flags="stale", group="cluster", since="7.0.0", scope="server",
         summary="The shards, each with its slot ranges and members.", complexity="O(N) with N the number of members")  # fmt: skip
def cluster_shards(context: ServerContext, _argv: Argv) -> Reply:
    found = _topology(context)
    masters = [member for member in found if is_master(member, context.node)]
    replicas = [member for member in found if not is_master(member, context.node)]
    return [
        {
            b"slots": [owner.slots[0], owner.slots[-1]] if owner.slots else [],
            b"nodes": [_shard_node(member, context) for member in [owner, *(replicas if owner.leads else [])]],
        }
        for owner in masters
    ]


@command("CLUSTER MYID", arity=2, flags="stale", group="cluster", since="3.0.0", scope="server",
         summary="The 40 hex digits that name this node in CLUSTER NODES.")  # fmt: skip
def cluster_myid(context: ServerContext, _argv: Argv) -> Reply:
    return cluster_name(context.node.replicator.status().node_id).encode()


def _replicas(context: ServerContext, argv: Argv) -> Reply:
    found = members(context.node)
    asked = argv[2].decode("ascii", "replace").lower()
    owner = next((member for member in found if member.cluster_name == asked), None)
    if owner is None:
        raise CommandError(f"Unknown node {argv[2].decode('utf-8', 'replace')[:128]}")
    if not is_master(owner, context.node):
        raise CommandError("The specified node is not a master")
    term = context.node.replicator.status().term
    lines = [_nodes_line(one, context, term, owner.cluster_name) for one in _replicas_of(owner, found, context)]
    return [line.rstrip("\n").encode() for line in lines]


for _name, _since in (("REPLICAS", "5.0.0"), ("SLAVES", "3.0.0")):
    command(
        f"CLUSTER {_name}", arity=3, flags="admin stale", group="cluster", since=_since, scope="server", syntax="node-id",
        summary="The lines of CLUSTER NODES about the replicas of a master.",
        complexity="O(N) with N the number of members",
    )(_replicas)  # fmt: skip


@command("CLUSTER LINKS", arity=2, flags="stale", group="cluster", since="7.0.0", scope="server",
         summary="Links of the Redis Cluster bus: none, RAFT.NODES shows the links between members.")  # fmt: skip
def cluster_links(_context: ServerContext, _argv: Argv) -> Reply:
    return []


# ---------------------------------------------------------------- keys and slots
@command("CLUSTER KEYSLOT", arity=3, flags="stale", group="cluster", since="3.0.0", scope="server", syntax="key",
         summary="The hash slot of a key.", complexity="O(N) with N the length of the key")  # fmt: skip
def cluster_keyslot(_context: ServerContext, argv: Argv) -> Reply:
    return key_slot(argv[2])


@command("CLUSTER COUNTKEYSINSLOT", arity=3, flags="readonly stale", group="cluster", since="3.0.0", syntax="slot",
         summary="How many keys a hash slot holds in the selected database.",
         complexity="O(N) with N the number of keys in the slot")  # fmt: skip
def cluster_countkeysinslot(context: Context, argv: Argv) -> Reply:
    slot = parse_int(argv[2])
    if not 0 <= slot < SLOTS:
        raise CommandError("Invalid slot")
    return len(context.db.keys_in_slot(slot))


@command("CLUSTER GETKEYSINSLOT", arity=4, flags="readonly stale", group="cluster", since="3.0.0", syntax="slot count",
         summary="At most count keys of a hash slot in the selected database.",
         complexity="O(N) with N the number of keys in the slot")  # fmt: skip
def cluster_getkeysinslot(context: Context, argv: Argv) -> Reply:
    slot, count = parse_int(argv[2]), parse_int(argv[3])
    if not 0 <= slot < SLOTS or count < 0:
        raise CommandError("Invalid slot or number of keys")
    return context.db.keys_in_slot(slot)[:count]


# ---------------------------------------------------------------- state of the connection
@command("READONLY", arity=1, flags="loading stale fast", group="cluster", since="3.0.0", scope="server",
         summary="Let replicas serve reads of this connection; here every member's reads are linearizable anyway.")  # fmt: skip
def readonly(context: ServerContext, _argv: Argv) -> Reply:
    context.client.readonly = True
    return OK


@command("READWRITE", arity=1, flags="loading stale fast", group="cluster", since="3.0.0", scope="server",
         summary="Undo READONLY.")  # fmt: skip
def readwrite(context: ServerContext, _argv: Argv) -> Reply:
    context.client.readonly = False
    return OK


@command("ASKING", arity=1, flags="fast", group="cluster", since="3.0.0", scope="server",
         summary="Announce a command that was redirected with ASK; accepted, no slot ever migrates here.")  # fmt: skip
def asking(context: ServerContext, _argv: Argv) -> Reply:
    context.client.asking = True
    return OK


declare_help("CLUSTER", "cluster", "5.0.0")
