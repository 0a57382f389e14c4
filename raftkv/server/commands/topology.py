"""Who the members are, and which hash slots clients are told each of them serves.

All slots belong to one Raft group: any member can serve any key, a follower by asking the leader. What is
advertised is therefore a choice, and made for clients (setting ``redirect``):

* ``forward``: each reachable member is a master with an equal, contiguous range. Cluster clients spread their
  connections over the members (redis-benchmark --cluster insists on two masters), and followers forward.
* ``moved``: the leader owns every slot and the others are its replicas, so that cluster clients go straight to it.

A member that this node cannot reach owns no slots: its share goes to the others at once, and clients that refresh
their map after a connection error find it there. For a moment two nodes may tell different maps. That is harmless,
because no member ever refuses a key for its slot. Nor does a learner own any, which may lag behind, or a node that is
no member or has stopped: whoever asks that one for a map has to ask another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha1

from raftkv.replicator import ReplicationStatus
from raftkv.server.commands.common import host_port
from raftkv.server.state import Node
from raftkv.store.slots import SLOTS


@dataclass(frozen=True, slots=True)
class Member:
    """One member, this node included, as this node sees it."""

    node_id: str
    cluster_name: str
    """40 hex digits derived from the node id: what Redis Cluster calls the id of a node."""
    address: str
    """host:port for clients; empty while unknown."""
    peer_address: str
    is_self: bool
    voter: bool
    """False for a learner, which serves clients only for as long as it must."""
    leads: bool
    reachable: bool
    """Connected to this node, and its address is known; of this node: it serves."""
    last_contact_s: float
    """Seconds since it was heard of; 0 of this node, -1 if never."""
    offset: int
    """Highest log index known to be there; 0 if this node does not know, because it does not lead."""
    slots: range = range(0)

    @property
    def host(self) -> str:
        """Host for clients."""
        return host_port(self.address)[0]

    @property
    def port(self) -> int:
        """Port for clients; 0 while unknown."""
        return host_port(self.address)[1]


def cluster_name(node_id: str) -> str:
    """The same 40 hex digits on every node and after every restart."""
    return sha1(node_id.encode(), usedforsecurity=False).hexdigest()


def _unassigned(node: Node, status: ReplicationStatus) -> list[Member]:
    own_address = node.client_address(status.node_id)
    found = [
        Member(
            node_id=status.node_id, cluster_name=cluster_name(status.node_id), address=own_address,
            peer_address=node.settings.peer_advertise, is_self=True, voter=status.voter, leads=status.role == "leader",
            reachable=bool(own_address) and status.is_member and not status.halted, last_contact_s=0.0,
            offset=status.applied_index,
        )
    ]  # fmt: skip
    for peer in status.peers.values():
        address = node.client_address(peer.node_id) or peer.client_address
        found.append(
            Member(
                node_id=peer.node_id, cluster_name=cluster_name(peer.node_id), address=address,
                peer_address=peer.peer_address, is_self=False, voter=peer.voter, leads=status.leader_id == peer.node_id,
                reachable=peer.connected and bool(address), last_contact_s=peer.last_contact_s, offset=peer.match_index,
            )
        )  # fmt: skip
    return sorted(found, key=lambda member: member.node_id)


def members(node: Node) -> list[Member]:
    """All members by node id, and this node even if it is none, each with the slots that are advertised for it."""
    found = _unassigned(node, node.replicator.status())
    owners = [one for one in found if one.reachable and is_master(one, node)]
    shares = {
        owner.node_id: range(at * SLOTS // len(owners), (at + 1) * SLOTS // len(owners))
        for at, owner in enumerate(owners)
    }
    return [replace(one, slots=shares.get(one.node_id, one.slots)) for one in found]


def is_master(member: Member, node: Node) -> bool:
    """Whether ``member`` is shown as a master: all voters are when this cluster forwards, else the leader is."""
    return member.leads or (member.voter and node.settings.redirect == "forward")


def leader(found: list[Member]) -> Member | None:
    """The leader among members, if this node knows of one."""
    return next((member for member in found if member.leads), None)
