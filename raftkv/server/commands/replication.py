"""ROLE, WAIT, WAITAOF: replication in the words of a Redis that has one master and its
replicas; and PSYNC, which is refused.

Sources: https://redis.io/docs/latest/commands/role/, wait/, waitaof/ (7.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError, NodeStoppedError, RaftKVError
from raftkv.protocol.replies import Reply
from raftkv.replicator import ReplicationStatus
from raftkv.server.commands.common import completed
from raftkv.server.commands.topology import leader, members
from raftkv.server.state import Node, ServerContext

_WAIT_POLL_S: Final = 0.005
"""How often WAIT looks again. A follower confirms within a heartbeat, which takes longer than this."""
_ASK_AGAIN_S: Final = 0.1
"""Pause before a member is asked again that gave no answer, and between two looks at who the members are."""
_NOT_NEGATIVE: Final = "value is out of range, must be positive"


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


# ---------------------------------------------------------------- WAIT
def followers_holding(status: ReplicationStatus, index: int) -> int:
    """How many voters beside the leader are known to hold the log up to the committed ``index`` on disk.

    What is committed is on a majority, the leader among them: that much is known on any member. Of which voters, is in
    doubt while a change of one of them is not committed: then it may be one follower less. The leader also knows how
    far each follower is. A learner's copy does not count: no election would find it.
    """
    by_commit = (status.voters - status.changing) // 2
    if status.role != "leader":
        return by_commit
    return max(by_commit, sum(peer.voter and peer.match_index >= index for peer in status.peers.values()))


def _timeout_ms(word: bytes) -> int:
    timeout_ms = parse_int(word, "timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise CommandError("timeout is negative")
    return timeout_ms


@command("WAIT", arity=3, flags="noscript", group="connection", since="3.0.0", scope="server",
         syntax="numreplicas timeout",
         summary="How many followers, numreplicas at most, hold every write that was acknowledged before.")  # fmt: skip
def wait(context: ServerContext, argv: Argv) -> Reply | Awaitable[Reply]:
    """An acknowledged write is on a majority already: this waits only for followers beyond it.

    Unlike in Redis, asking for more followers than there are does not wait for ever: it answers how many there are.
    """
    wanted, timeout_ms = parse_int(argv[1]), _timeout_ms(argv[2])
    if context.may_block:
        return _blocked(context, _wait(context.node, wanted, timeout_ms))
    status = context.node.replicator.status()
    return max(0, min(wanted, followers_holding(status, status.commit_index)))


async def _wait(node: Node, wanted: int, timeout_ms: int) -> Reply:
    status = node.replicator.status()
    index = status.commit_index
    deadline = node.clock.monotonic() + timeout_ms / 1000
    while True:
        held = followers_holding(status, index)
        if held >= min(wanted, status.voters - 1) or (timeout_ms and node.clock.monotonic() >= deadline):
            return max(0, min(wanted, held))
        await asyncio.sleep(_WAIT_POLL_S)
        status = node.replicator.status()


def _blocked(context: ServerContext, work: Awaitable[Reply]) -> Awaitable[Reply]:
    """``work``; from now on until it is done the client counts as blocked, and its end ends the wait."""
    client = context.client
    client.blocked = True

    async def waiting() -> Reply:
        try:
            return await work
        finally:
            client.blocked = False

    return waiting()


# ---------------------------------------------------------------- WAITAOF
async def acknowledged_index(node: Node) -> int:
    """A committed index that covers all that clients of this node were answered before; it is applied here.

    A write may have been applied at the leader only when its answer came: a read barrier covers that, too. Raises its
    error.
    """
    replicator = node.replicator

    def start(done: Callable[[int, RaftKVError | None], None]) -> None:
        replicator.read_barrier(
            lambda _, error: done(0 if error is not None else replicator.status().applied_index, error)
        )

    return await completed(start)


async def synced_here(node: Node, index: int) -> int:
    """Sync this node's log, which then has the committed entry ``index`` on disk. Returns how far it is synced."""

    def start(done: Callable[[None, RaftKVError | None], None]) -> None:
        node.replicator.await_synced(index, lambda error: done(None, error))

    await completed(start)
    return node.replicator.status().synced_index


async def synced_there(node: Node, peer: str, index: int) -> int:
    """Have another member do the same; ``index`` once it has. Raises RaftKVError when it does not say so."""
    await completed(partial(node.calls.ask, peer, "sync", index))
    return index


@dataclass(slots=True)
class _Synced:
    """What is known to be on disk."""

    here: bool = False
    there: set[str] = field(default_factory=set)


async def _sync_here(node: Node, index: int, reached: _Synced) -> None:
    while not reached.here:
        try:
            await synced_here(node, index)
            reached.here = True
        except NodeStoppedError:
            raise  # its disk fails: waiting is of no use
        except RaftKVError:
            await asyncio.sleep(_ASK_AGAIN_S)


async def _sync_there(node: Node, peer: str, index: int, reached: _Synced) -> None:
    while peer not in reached.there:
        try:
            await synced_there(node, peer, index)
            reached.there.add(peer)
        except RaftKVError:
            await asyncio.sleep(_ASK_AGAIN_S)


async def _sync_until(node: Node, wants_local: bool, wanted: int, reached: _Synced) -> None:
    """Until this node (if ``wants_local``) and ``wanted`` other voters, or all there are, have synced."""
    index = await acknowledged_index(node)
    status = node.replicator.status()
    tasks: dict[str, asyncio.Task[None]] = {}
    try:
        reached.here = status.synced_index >= index
        if wants_local and not reached.here:
            tasks[status.node_id] = asyncio.create_task(_sync_here(node, index, reached))
        while True:
            voters = {peer.node_id for peer in node.replicator.status().peers.values() if peer.voter}
            reached.there &= voters
            for gone in tasks.keys() - voters - {status.node_id}:
                tasks.pop(gone).cancel()  # should it come back, it has to sync what it holds then
            if wants_local <= reached.here and len(reached.there) >= min(wanted, len(voters)):
                return
            for peer in sorted(voters - tasks.keys()) if wanted else ():
                tasks[peer] = asyncio.create_task(_sync_there(node, peer, index, reached))
            pending = [task for task in tasks.values() if not task.done()]
            finished, _ = await asyncio.wait(pending, timeout=_ASK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()  # raises what it raised
    finally:
        for task in tasks.values():
            task.cancel()


async def _waitaof(node: Node, wants_local: bool, wanted: int, timeout_ms: int) -> Reply:
    reached = _Synced()
    try:
        async with asyncio.timeout(timeout_ms / 1000 or None):
            await _sync_until(node, wants_local, wanted, reached)
    except TimeoutError:
        pass  # then the answer is less than was wanted
    return [int(reached.here), len(reached.there)]


@command("WAITAOF", arity=4, flags="noscript blocking", group="connection", since="7.2.0", scope="server",
         syntax="numlocal numreplicas timeout",
         summary="Have all writes that were acknowledged before synced on this node, and on so many others.")  # fmt: skip
def waitaof(context: ServerContext, argv: Argv) -> Reply | Awaitable[Reply]:
    """[1 if this node has synced them, how many other voters have]: what a sync covers, whatever ``fsync`` says.

    Unlike in Redis it causes the syncs instead of waiting for them, any member answers it for itself, and asking for
    more members than there are does not wait for ever. In MULTI it asks nobody, and answers what is known.
    """
    wants_local = parse_int(argv[1], "value is out of range, value must between 0 and 1", low=0, high=1) == 1
    wanted = parse_int(argv[2], _NOT_NEGATIVE, low=0)
    timeout_ms = _timeout_ms(argv[3])
    if context.may_block:
        return _blocked(context, _waitaof(context.node, wants_local, wanted, timeout_ms))
    status = context.node.replicator.status()
    leads = status.role == "leader"  # elsewhere the write before may be known to the leader only
    return [int(leads and status.synced_index >= status.commit_index), 0]


# ---------------------------------------------------------------- Redis' own replication
REPLICA_REFUSED: Final = (
    "raftkv does not replicate to a Redis server: add a raftkv node with RAFT.ADD (docs/cluster.md), or copy the data "
    "with a client"
)


@command("PSYNC", arity=-3, flags="admin noscript no_async_loading no_multi", group="server", since="2.8.0", scope="server",
         syntax="replicationid offset", summary="Refused: raftkv does not replicate to a Redis server.")  # fmt: skip
@command("REPLCONF", arity=-1, flags="admin noscript loading stale allow_busy", group="server", since="3.0.0", scope="server",
         syntax="[option value ...]", summary="Refused: raftkv does not replicate to a Redis server.")  # fmt: skip
def refuse_replica(context: ServerContext, _argv: Argv) -> Reply:
    """A Redis that was told REPLICAOF goes on after an error to REPLCONF, and from PSYNC to SYNC, which means something
    else here: the connection is marked.
    """
    context.client.is_replica = True
    raise CommandError(REPLICA_REFUSED)
