"""RAFT.BACKUP: the state of this node as a file, in pieces. ``raftkv backup`` makes a backup of it.

What is handed out is a snapshot, byte for byte, with the checksums that it was written with.
"""

from __future__ import annotations

from typing import Final

from raftkv import __version__
from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError, NoLeaderError
from raftkv.protocol.replies import OK, Reply
from raftkv.server.backups import PIECE_BYTES_MAX
from raftkv.server.commands.common import completed, declare_help
from raftkv.server.state import Node, ServerContext

_SINCE = "raftkv 0.1.0"
_ATTEMPTS: Final = 3
"""One snapshot may be under way that began too early, and one may fail to begin."""

declare_help("RAFT.BACKUP", "raft", _SINCE)


@command("RAFT.BACKUP BEGIN", arity=-2, flags="admin noscript no_multi", group="raft", since=_SINCE, scope="server",
         syntax="[STALE]",
         summary="Hold a snapshot of this node for reading; it covers all that was acknowledged before, or is the newest there is "
         "with STALE (which needs no leader). Answers its id, what it covers and its size.",
         complexity="O(N) with N the number of keys; O(1) with STALE")  # fmt: skip
async def backup_begin(context: ServerContext, argv: Argv) -> Reply:
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() != b"STALE"):
        raise CommandError("syntax error")
    node = context.node
    if len(argv) == 2:
        await _snapshot_of_now(node)
    try:
        found = node.replicator.open_snapshot()
        if found is None and len(argv) == 2:  # what covers it was removed by hand
            await completed(node.replicator.take_snapshot)
            found = node.replicator.open_snapshot()
    except OSError as error:
        raise CommandError(f"the snapshot cannot be opened: {error.strerror or error}; ask another node") from error
    if found is None:
        raise CommandError("this node has no snapshot yet; ask without STALE, or write one with RAFT.SNAPSHOT")
    status = node.replicator.status()
    return {
        b"id": node.backups.hold(found),
        b"index": found.index,
        b"term": found.term,
        b"size": found.size_bytes,
        b"cluster": status.cluster_id.encode(),
        b"node": status.node_id.encode(),
        b"program": f"raftkv {__version__}".encode(),
        b"piece": PIECE_BYTES_MAX,
    }


async def _snapshot_of_now(node: Node) -> None:
    """Have a snapshot that covers every write acknowledged before, anywhere in the cluster."""
    await completed(node.replicator.read_barrier)
    wanted = node.replicator.status().applied_index
    for _ in range(_ATTEMPTS):
        if node.replicator.status().snapshot_index >= wanted:
            return
        await completed(node.replicator.take_snapshot)
    if node.replicator.status().snapshot_index < wanted:
        raise NoLeaderError(
            f"no snapshot of entry {wanted} came about; see the node's log, or ask another one", code="ERR"
        )


@command("RAFT.BACKUP READ", arity=5, flags="admin noscript no_multi", group="raft", since=_SINCE, scope="server",
         syntax="id offset length",
         summary="Bytes of the snapshot; fewer than length at its end, and never more than the piece that BEGIN answered.",
         complexity="O(N) with N the length")  # fmt: skip
async def backup_read(context: ServerContext, argv: Argv) -> Reply:
    number, offset, length = (parse_int(one, low=0) for one in argv[2:])
    return await context.node.backups.read(number, offset, length)


@command("RAFT.BACKUP END", arity=3, flags="admin noscript no_multi", group="raft", since=_SINCE, scope="server", syntax="id",
         summary="Let the snapshot go. One that nobody read for a minute goes by itself.")  # fmt: skip
def backup_end(context: ServerContext, argv: Argv) -> Reply:
    context.node.backups.end(parse_int(argv[2], low=0))
    return OK
