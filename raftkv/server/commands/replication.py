"""ROLE and WAIT: replication in the words of a Redis that has one master and its replicas.

Sources: https://redis.io/docs/latest/commands/role/, https://redis.io/docs/latest/commands/wait/.
"""

from __future__ import annotations

import asyncio
from typing import Final

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply
from raftkv.replicator import ReplicationStatus
from raftkv.server.commands.topology import leader, members
from raftkv.server.state import ServerContext

_WAIT_POLL_S: Final = 0.005
"""How often WAIT looks again. A follower confirms within a heartbeat, which takes longer than this."""


@command("ROLE", arity=1, flags="noscript loading stale fast dangerous", group="server", since="2.8.12", scope="server",
         summary="master and its replicas on the leader; slave and where its master is on the others.")  # fmt: skip
def role(context: ServerContext, _argv: Argv) -> Reply:
    status = context.node.replicator.status()
    found = members(context.node)
    if status.role == "leader":
        replicas = [one for one in found if not one.is_self and one.reachable]
        return [
            b"master",
            status.commit_index,
            [[one.host.encode(), str(one.port).encode(), str(one.offset).encode()] for one in replicas],
        ]
    head = leader(found)
    if head is None:
        return [b"slave", b"", 0, b"connect", status.applied_index]
    return [b"slave", head.host.encode(), head.port, b"connected", status.applied_index]


def followers_holding(status: ReplicationStatus, index: int) -> int:
    """How many voters beside the leader are known to hold the log up to the committed ``index`` on disk.

    What is committed is on a majority, the leader among them: that much is known on any member. The leader also
    knows how far each follower is. A learner's copy does not count: no election would find it.
    """
    by_commit = status.voters // 2
    if status.role != "leader":
        return by_commit
    return max(by_commit, sum(peer.voter and peer.match_index >= index for peer in status.peers.values()))


@command("WAIT", arity=3, flags="noscript", group="connection", since="3.0.0", scope="server",
         syntax="numreplicas timeout",
         summary="How many followers, numreplicas at most, hold every write that was acknowledged before.")  # fmt: skip
async def wait(context: ServerContext, argv: Argv) -> Reply:
    """An acknowledged write is on a majority already: this waits only for followers beyond it.

    Unlike in Redis, asking for more followers than there are does not wait for ever: it answers how many there are.
    """
    wanted = parse_int(argv[1])
    timeout_ms = parse_int(argv[2], "timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise CommandError("timeout is negative")
    node = context.node
    status = node.replicator.status()
    index = status.commit_index
    deadline = node.clock.monotonic() + timeout_ms / 1000
    while True:
        held = followers_holding(status, index)
        if held >= min(wanted, status.voters - 1) or (timeout_ms and node.clock.monotonic() >= deadline):
            return max(0, min(wanted, held))
        await asyncio.sleep(_WAIT_POLL_S)
        status = node.replicator.status()
