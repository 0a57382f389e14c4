"""SENTINEL: clients that look for a master by name find the leader, on any member's ordinary port.

Every voter is a Sentinel, the leader is the master of each name in MASTER_NAMES, the other voters are its replicas. A
leader change is the failover, and needs no help from here. Learners are left out: they may lag, and elect nobody.
Formats: https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/ and redis-py, which reads ``flags``,
``ip``, ``port`` and ``num-other-sentinels`` and skips a master that is ``s_down`` or ``o_down``.
"""

from __future__ import annotations

from typing import Final

from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import NIL_ARRAY, Reply
from raftkv.server.commands import topology
from raftkv.server.commands.common import declare_help, flat_text
from raftkv.server.commands.topology import Member, cluster_name, leader
from raftkv.server.state import Node, ServerContext

MASTER_NAMES: Final = (b"raftkv", b"mymaster")
"""Names under which the leader is found: our own, and the one that every Sentinel example uses."""


def members(node: Node) -> list[Member]:
    """The voters; a node that is none sees the others."""
    return [one for one in topology.members(node) if one.voter]


def _others(found: list[Member]) -> int:
    return sum(not one.is_self for one in found)


def _require_known(name: bytes) -> None:
    if name not in MASTER_NAMES:
        raise CommandError("No such master with that name")


def _quorum(member_count: int) -> int:
    return member_count // 2 + 1


def _heard_ms(member: Member) -> int:
    """How long ago it was heard of, in ms; 0 of this node and of one that never was."""
    return max(0, int(member.last_contact_s * 1000))


def _flags(kind: str, member: Member) -> str:
    """``slave``, or ``slave,s_down,disconnected`` of a member that this node cannot reach."""
    return kind if member.is_self or member.reachable else f"s_down,{kind},disconnected"


def _link_fields(member: Member) -> dict[str, object]:
    heard_ms = _heard_ms(member)
    return {
        "link-pending-commands": 0,
        "link-refcount": 1,
        "last-ping-sent": 0,
        "last-ok-ping-reply": heard_ms,
        "last-ping-reply": heard_ms,
    }


def _master_state(node: Node, name: bytes, found: list[Member]) -> Reply:
    head = leader(found)
    # Until there is a leader, no member may be taken for the master: down for us, and for the quorum too.
    flags = _flags("master", head) if head is not None else "s_down,o_down,master"
    return flat_text({
        "name": name.decode(),
        "ip": head.host if head else "",
        "port": head.port if head else 0,
        "runid": head.cluster_name if head else "",
        "flags": flags,
        **(_link_fields(head) if head else {}),
        "down-after-milliseconds": node.settings.election_timeout_ms,
        "info-refresh": _heard_ms(head) if head else 0,
        "role-reported": "master",
        "config-epoch": node.replicator.status().term,
        "num-slaves": sum(not one.leads for one in found),
        "num-other-sentinels": _others(found),
        "quorum": _quorum(len(found)),
        "failover-timeout": node.settings.election_timeout_ms,
        "parallel-syncs": 1,
    })  # fmt: skip


@command("SENTINEL MASTERS", arity=2, flags="admin", group="sentinel", since="2.8.4", scope="server",
         summary="The leader, once under each name of a master.")  # fmt: skip
def sentinel_masters(context: ServerContext, _argv: Argv) -> Reply:
    found = members(context.node)
    return [_master_state(context.node, name, found) for name in MASTER_NAMES]


@command("SENTINEL MASTER", arity=3, flags="admin", group="sentinel", since="2.8.4", scope="server", syntax="master-name",
         summary="The leader, as the state of a master.")  # fmt: skip
def sentinel_master(context: ServerContext, argv: Argv) -> Reply:
    _require_known(argv[2])
    return _master_state(context.node, argv[2], members(context.node))


@command("SENTINEL GET-MASTER-ADDR-BY-NAME", arity=3, flags="admin", group="sentinel", since="2.8.4", scope="server",
         syntax="master-name", summary="Host and port of the leader; nil while none is known or for another name.")  # fmt: skip
def sentinel_get_master_addr_by_name(context: ServerContext, argv: Argv) -> Reply:
    head = leader(members(context.node))
    if argv[2] not in MASTER_NAMES or head is None or not head.address:
        return NIL_ARRAY
    return [head.host.encode(), str(head.port).encode()]


def _replica_state(member: Member, head: Member | None) -> Reply:
    return flat_text({
        "name": member.address,
        "ip": member.host,
        "port": member.port,
        "runid": member.cluster_name,
        "flags": _flags("slave", member),
        **_link_fields(member),
        "info-refresh": _heard_ms(member),
        "role-reported": "slave",
        "master-link-down-time": 0,
        "master-link-status": "ok" if head else "err",
        "master-host": head.host if head else "?",
        "master-port": head.port if head else 0,
        "slave-priority": 100,
        "slave-repl-offset": member.offset,
        "replica-announced": 1,
    })  # fmt: skip


def _replicas(context: ServerContext, argv: Argv) -> Reply:
    _require_known(argv[2])
    found = members(context.node)
    return [_replica_state(member, leader(found)) for member in found if not member.leads and member.address]


for _name, _since in (("REPLICAS", "5.0.0"), ("SLAVES", "2.8.4")):
    command(
        f"SENTINEL {_name}", arity=3, flags="admin", group="sentinel", since=_since, scope="server", syntax="master-name",
        summary="The voters that do not lead.", complexity="O(N) with N the number of members",
    )(_replicas)  # fmt: skip


@command("SENTINEL SENTINELS", arity=3, flags="admin", group="sentinel", since="2.8.4", scope="server",
         syntax="master-name", summary="The other voters, each of which answers SENTINEL too.",
         complexity="O(N) with N the number of members")  # fmt: skip
def sentinel_sentinels(context: ServerContext, argv: Argv) -> Reply:
    _require_known(argv[2])
    return [
        flat_text({
            "name": member.cluster_name,
            "ip": member.host,
            "port": member.port,
            "runid": member.cluster_name,
            "flags": _flags("sentinel", member),
            **_link_fields(member),
            "last-hello-message": _heard_ms(member),
            "voted-leader": "?",
            "voted-leader-epoch": 0,
        })
        for member in members(context.node)
        if not member.is_self and member.address
    ]  # fmt: skip


@command("SENTINEL CKQUORUM", arity=3, flags="admin", group="sentinel", since="3.0.0", scope="server",
         syntax="master-name", summary="Whether this node reaches a majority of the voters.")  # fmt: skip
def sentinel_ckquorum(context: ServerContext, argv: Argv) -> Reply:
    _require_known(argv[2])
    found = members(context.node)
    usable = sum(member.reachable for member in found)
    if usable < _quorum(len(found)):
        raise CommandError(
            f"{usable} usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover",
            code="NOQUORUM",
        )
    return f"OK {usable} usable Sentinels. Quorum and failover authorization can be reached"


@command("SENTINEL MYID", arity=2, flags="admin", group="sentinel", since="6.2.0", scope="server",
         summary="The 40 hex digits that name this node.")  # fmt: skip
def sentinel_myid(context: ServerContext, _argv: Argv) -> Reply:
    return cluster_name(context.node.replicator.status().node_id).encode()


declare_help("SENTINEL", "sentinel", "6.2.0")
