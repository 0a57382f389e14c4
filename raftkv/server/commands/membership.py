"""RAFT.MEMBERS and its changes: who belongs to the cluster, who joins, who leaves, who leads.

Only the leader changes anything. Any other node refuses (CLUSTERDOWN: certainly not done) and names the leader's
address for clients. A change is acknowledged once it is committed; one that the leader has to wait with, because
another is under way or a learner lags, is refused as TRYAGAIN. Source: Raft thesis, chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from raftkv.commands.registry import Argv, command
from raftkv.config_values import Members, is_wildcard, split_address
from raftkv.errors import CommandError, NodeStoppedError, NoLeaderError, RaftKVError
from raftkv.protocol.replies import OK, Reply
from raftkv.replicator import Add, MembershipChange, Promote, Remove, ReplicationStatus
from raftkv.server.commands.common import completed
from raftkv.server.commands.topology import Member, members
from raftkv.server.state import Node, ServerContext

_SINCE = "raftkv 0.1.0"


# ---------------------------------------------------------------- looking
def _role_of(member: Member, status: ReplicationStatus) -> str:
    """``learner`` of whoever has no vote, else what Raft calls it."""
    if member.leads:
        return "leader"
    if not member.voter:
        return "learner" if status.is_member or not member.is_self else "none"
    return status.role if member.is_self else "follower"


def _lag(member: Member, status: ReplicationStatus) -> int:
    """Entries that it is behind, as the leader knows it; -1 on any other node."""
    if status.role != "leader":
        return -1
    return 0 if member.is_self else status.last_index - member.offset


def _last_contact_ms(member: Member) -> int:
    return int(member.last_contact_s * 1000) if member.last_contact_s >= 0 else -1


@command("RAFT.NODES", arity=1, flags="loading stale", group="raft", since=_SINCE, scope="server",
         summary="Every member as this node sees it; match_index is known to the leader only.",
         complexity="O(N) with N the number of members")  # fmt: skip
def raft_nodes(context: ServerContext, _argv: Argv) -> Reply:
    status = context.node.replicator.status()
    http = {peer.node_id: peer.http_address for peer in status.peers.values()}
    http[status.node_id] = context.node.settings.http_listen
    return [
        {
            b"node": member.node_id.encode(),
            b"cluster_name": member.cluster_name.encode(),
            b"role": _role_of(member, status).encode(),
            b"voter": int(member.voter),
            b"self": int(member.is_self),
            b"client_address": member.address.encode(),
            b"peer_address": member.peer_address.encode(),
            b"http_address": http.get(member.node_id, "").encode(),
            b"connected": int(member.is_self or member.reachable),
            b"match_index": status.durable_index if member.is_self else member.offset,
            b"last_contact_ms": _last_contact_ms(member),
        }
        for member in members(context.node)
    ]


@command("RAFT.MEMBERS", arity=1, flags="loading stale", group="raft", since=_SINCE, scope="server",
         summary="The configuration of the cluster by the newest entry in this node's log, and how each member does; "
         "match_index and lag (entries behind) are known to the leader only.",
         complexity="O(N) with N the number of members")  # fmt: skip
def raft_members(context: ServerContext, _argv: Argv) -> Reply:
    status = context.node.replicator.status()
    return {
        b"cluster": status.cluster_id.encode(),
        b"leader_id": status.leader_id.encode(),
        b"term": status.term,
        b"configuration_index": status.configuration_index,
        b"changing": int(status.changing),
        b"members": [_member_fields(one, status) for one in members(context.node)],
    }


def _member_fields(member: Member, status: ReplicationStatus) -> Reply:
    said = status if member.is_self else status.peers[member.node_id]
    return {
        b"node": member.node_id.encode(),
        b"role": _role_of(member, status).encode(),
        b"voter": int(member.voter),
        b"peer_address": member.peer_address.encode(),
        b"client_address": member.address.encode(),
        b"connected": int(member.is_self or member.reachable),
        b"match_index": status.durable_index if member.is_self else member.offset,
        b"lag": _lag(member, status),
        b"last_contact_ms": _last_contact_ms(member),
        b"disk": said.disk.encode(),
        b"promote": int(said.promote),
        b"replaces": said.replaces.encode(),
    }


# ---------------------------------------------------------------- changing
def _refuse_as_follower(node: Node, status: ReplicationStatus) -> NoReturn:
    if status.halted:
        raise NodeStoppedError(status.halted)
    if not status.leader_id and not status.is_member:
        raise NoLeaderError(f"{status.node_id} is no member of the cluster yet; ask one that is")
    if not status.leader_id:
        raise NoLeaderError(f"{status.node_id} does not lead, and knows nobody who does; try again")
    address = node.client_address(status.leader_id) or "an address that is not known yet"
    raise NoLeaderError(f"{status.node_id} does not lead; the leader is {status.leader_id}, for clients at {address}")


async def _changed(context: ServerContext, change: MembershipChange) -> Reply:
    """Have the leader commit ``change``."""
    node = context.node
    status = node.replicator.status()
    if status.role != "leader" or status.halted:
        _refuse_as_follower(node, status)

    def start(done: Callable[[object, RaftKVError | None], None]) -> None:
        node.replicator.change_membership(change, done)

    await completed(start)
    return OK


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")[:128]


@command("RAFT.ADD", arity=-3, flags="admin noscript", group="raft", since=_SINCE, scope="server",
         syntax="node host:port [LEARNER] [REPLACES member]",
         summary="Add a node that listens for its peers at host:port. It gets the log as a learner and becomes a voter once it has "
         "caught up, in the place of member if that is given; with LEARNER it stays one until RAFT.PROMOTE.")  # fmt: skip
async def raft_add(context: ServerContext, argv: Argv) -> Reply:
    try:
        ((node_id, address),) = Members().read({_text(argv[1]): _text(argv[2])}).items()
    except ValueError as error:
        raise CommandError(str(error)) from None
    if is_wildcard(split_address(address)[0]):
        raise CommandError(
            f"nobody can connect to {address}; give the address at which the other nodes reach {node_id}"
        )
    promote, replaces = True, ""
    rest = argv[3:]
    while rest:
        match rest[0].upper(), rest[1:]:
            case b"LEARNER", rest:
                promote = False
            case b"REPLACES", [member, *rest]:
                replaces = _text(member)
            case _:
                raise CommandError("syntax error")
    if replaces and not promote:
        raise CommandError("LEARNER and REPLACES do not go together: what replaces a member has to become a voter")
    return await _changed(context, Add(node_id, address, promote, replaces))


@command("RAFT.REMOVE", arity=2, flags="admin noscript", group="raft", since=_SINCE, scope="server", syntax="member",
         summary="Remove a member for good: it stops, and its data directory is never admitted again. A leader that is to be "
         "removed hands over first and answers CLUSTERDOWN: ask the next one.")  # fmt: skip
async def raft_remove(context: ServerContext, argv: Argv) -> Reply:
    return await _changed(context, Remove(_text(argv[1])))


@command("RAFT.PROMOTE", arity=2, flags="admin noscript", group="raft", since=_SINCE, scope="server", syntax="member",
         summary="Make a learner that has caught up a voter.")  # fmt: skip
async def raft_promote(context: ServerContext, argv: Argv) -> Reply:
    return await _changed(context, Promote(_text(argv[1])))


@command("RAFT.TRANSFER", arity=-1, flags="admin noscript", group="raft", since=_SINCE, scope="server", syntax="[member]",
         summary="Hand leadership to a voter, or to the one that has most of the log.")  # fmt: skip
async def raft_transfer(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) > 2:
        raise CommandError("wrong number of arguments for 'raft.transfer' command")
    replicator = context.node.replicator
    target = _text(argv[1]) if len(argv) == 2 else None
    status = replicator.status()
    if target is not None and target not in status.peers and target != status.node_id:
        known = ", ".join(sorted([status.node_id, *status.peers]))
        raise CommandError(f"No member with the id '{target}'; the members are: {known}")
    if status.role != "leader" or status.halted:
        _refuse_as_follower(context.node, status)

    def start(done: Callable[[None, RaftKVError | None], None]) -> None:
        replicator.transfer_leadership(target, lambda error: done(None, error))

    await completed(start)
    return OK
