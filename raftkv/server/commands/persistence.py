"""SAVE, BGSAVE, BGREWRITEAOF, LASTSAVE; SYNC and COMPACT: snapshots and the log of this node.

Nothing depends on the first four for durability: an acknowledged write is in the log of a majority already. A
snapshot shortens the log, which is also all that an append-only file's rewrite would do. So BGSAVE and BGREWRITEAOF do
the same here, one at a time, and answer as Redis does while one of them runs.

SYNC and COMPACT are kvlite's words. Redis' SYNC, which makes the connection a replica's, is refused on any connection
that said REPLCONF or PSYNC before, as every Redis does (see :mod:`raftkv.server.commands.replication`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError, NodeStoppedError, RaftKVError
from raftkv.protocol.replies import OK, Reply
from raftkv.replicator import Compacted
from raftkv.server.commands.common import completed
from raftkv.server.commands.replication import REPLICA_REFUSED, acknowledged_index, synced_here, synced_there
from raftkv.server.state import Node, ServerContext

T = TypeVar("T")

_FLAGS = "admin noscript no_async_loading"
_COMPLEXITY = "O(N) with N the number of keys"
_IN_PROGRESS: Final = "Background save already in progress"
_OTHER_CHILD: Final = (
    "Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE "
    "whenever possible."
)


# ---------------------------------------------------------------- one snapshot at a time
def saving(node: Node) -> str:
    """What writes a snapshot now: ``save`` (the compaction policy's, too), ``rewrite``, or nothing."""
    return node.saves.running or ("save" if node.replicator.status().saving_s >= 0 else "")


def _begin(
    node: Node,
    kind: str,
    work: Callable[[Callable[[T, RaftKVError | None], None]], None],
    done: Callable[[T, RaftKVError | None], None],
) -> None:
    """Start ``work``, which writes a snapshot, and note its outcome in ``node.saves``.

    CommandError when one is under way, NodeStoppedError when the node is halted: nothing comes to an end there.
    """
    if halted := node.replicator.status().halted:
        raise NodeStoppedError(halted)
    if saving(node):
        raise CommandError(_IN_PROGRESS)
    saves = node.saves
    saves.running = kind

    def finished(result: T, error: RaftKVError | None) -> None:
        saves.running = ""
        saves.last_ok = error is None
        if error is None:
            saves.count += 1
            saves.last_s = node.clock.wall_ms() // 1000
        done(result, error)

    work(finished)


def begin_snapshot(node: Node, kind: str = "save") -> None:
    """Start to write a snapshot; its outcome is in INFO persistence. CommandError when one is under way."""
    _begin(node, kind, node.replicator.take_snapshot, lambda _index, _error: None)


def begin_compaction(node: Node, done: Callable[[Compacted | None, RaftKVError | None], None]) -> None:
    """Start what COMPACT does. CommandError when a snapshot is being written."""
    _begin(node, "save", node.replicator.compact, done)


def begin_scheduled(node: Node) -> None:
    """Start the snapshot that was asked for while another one was written; called now and then."""
    scheduled = node.saves.scheduled
    if scheduled and not saving(node):
        node.saves.scheduled = ""
        with suppress(NodeStoppedError):
            begin_snapshot(node, scheduled)


async def snapshot(node: Node) -> int:
    """Write a snapshot and wait for it; the log index that it covers. Raises the replicator's error."""
    return await completed(partial(_begin, node, "save", node.replicator.take_snapshot))


# ---------------------------------------------------------------- Redis' words
@command("SAVE", arity=1, flags=_FLAGS + " no_multi", group="server", since="1.0.0", scope="server",
         summary="Write a snapshot of this node and wait for it.", complexity=_COMPLEXITY)  # fmt: skip
async def save(context: ServerContext, _argv: Argv) -> Reply:
    await snapshot(context.node)
    return OK


@command("BGSAVE", arity=-1, flags=_FLAGS, group="server", since="1.0.0", scope="server", syntax="[SCHEDULE]",
         summary="Start to write a snapshot of this node.")  # fmt: skip
def bgsave(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() != b"SCHEDULE"):
        raise CommandError("syntax error")
    if saving(context.node) == "rewrite":
        if len(argv) == 1:
            raise CommandError(_OTHER_CHILD)
        context.node.saves.scheduled = "save"
        return "Background saving scheduled"
    begin_snapshot(context.node)
    return "Background saving started"


@command("BGREWRITEAOF", arity=1, flags=_FLAGS, group="server", since="1.0.0", scope="server",
         summary="Start to write a snapshot of this node, which lets its log be shortened.")  # fmt: skip
def bgrewriteaof(context: ServerContext, _argv: Argv) -> Reply:
    under_way = saving(context.node)
    if under_way == "rewrite":
        raise CommandError("Background append only file rewriting already in progress")
    if under_way:
        context.node.saves.scheduled = context.node.saves.scheduled or "rewrite"
        return "Background append only file rewriting scheduled"
    begin_snapshot(context.node, "rewrite")
    return "Background append only file rewriting started"


@command("LASTSAVE", arity=1, flags="loading stale fast dangerous", group="server", since="1.0.0", scope="server",
         summary="When this node last wrote or received a snapshot, seconds since the epoch; its start if it did not since.")  # fmt: skip
def lastsave(context: ServerContext, _argv: Argv) -> Reply:
    return last_save_s(context.node)


def last_save_s(node: Node) -> int:
    """As LASTSAVE answers it."""
    return node.saves.last_s or node.saves.begun_s


# ---------------------------------------------------------------- kvlite's words
def _on_all(argv: Argv) -> bool:
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() != b"ALL"):
        raise CommandError("syntax error")
    return len(argv) == 2


async def _everywhere(node: Node, here: Awaitable[Reply], there: Callable[[str], Awaitable[Reply]]) -> Reply:
    """What each member answers, by its id; an error where one did not do it."""
    status = node.replicator.status()
    works = {status.node_id: here} | {peer: there(peer) for peer in status.peers}
    answers = await asyncio.gather(*map(_answer, works.values()))
    return {name.encode(): answer for name, answer in sorted(zip(works, answers, strict=True))}


async def _answer(work: Awaitable[Reply]) -> Reply:
    try:
        return await work
    except RaftKVError as error:
        return error


@command("SYNC", arity=-1, flags="admin noscript no_multi", group="raft", since="raftkv 0.1.0", scope="server",
         syntax="[ALL]", summary="Sync the log of this node, or of all members; how far it is on disk then.")  # fmt: skip
async def sync(context: ServerContext, argv: Argv) -> Reply:
    """The log index up to which a power cut can take nothing; with ALL a map of them by member."""
    node = context.node
    if context.client.is_replica:
        raise CommandError(REPLICA_REFUSED)
    if not _on_all(argv):
        return await synced_here(node, 0)
    index = await acknowledged_index(node)
    return await _everywhere(node, synced_here(node, index), lambda peer: synced_there(node, peer, index))


async def _compacted(start: Callable[[Callable[[Compacted | None, RaftKVError | None], None]], None]) -> Reply:
    done = await completed(start)
    assert done is not None  # without an error there is an outcome
    return {b"index": done.index, b"first_index": done.first_index, b"freed_bytes": done.freed_bytes}


@command("COMPACT", arity=-1, flags="admin noscript no_multi", group="raft", since="raftkv 0.1.0", scope="server",
         syntax="[ALL]", summary="Write a snapshot of this node, or of all members, and cut what it covers off the log.",
         complexity=_COMPLEXITY)  # fmt: skip
async def compact(context: ServerContext, argv: Argv) -> Reply:
    """Index that the snapshot covers, first entry still in the log, bytes of the log that were freed; with ALL by
    member.

    What a live follower lacks stays in the log of the leader. A segment of the log is freed as a whole, and the newest
    one never.
    """
    node = context.node
    on_all = _on_all(argv)
    here = _compacted(partial(begin_compaction, node))
    if not on_all:
        return await here
    return await _everywhere(node, here, lambda peer: _compacted(partial(node.calls.ask, peer, "compact", 0)))
