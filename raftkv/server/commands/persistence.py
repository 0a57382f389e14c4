"""SAVE, BGSAVE, BGREWRITEAOF, LASTSAVE: Redis' names for writing a snapshot of this node.

Nothing depends on them for durability: an acknowledged write is in the log of a majority already. A snapshot
shortens the log, which is also all that an append-only file's rewrite would do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError, RaftKVError
from raftkv.protocol.replies import OK, Reply
from raftkv.server.commands.common import completed
from raftkv.server.state import Node, ServerContext

_FLAGS = "admin noscript no_async_loading"
_COMPLEXITY = "O(N) with N the number of keys"


def begin_snapshot(node: Node, done: Callable[[int, RaftKVError | None], None]) -> None:
    """Start to write a snapshot and note its outcome in ``node.saves``; ``done`` gets the index that it covers.

    Raises CommandError when one is under way.
    """
    saves = node.saves
    if saves.running:
        raise CommandError("Background save already in progress")
    saves.running = True

    def finished(index: int, error: RaftKVError | None) -> None:
        saves.running = False
        saves.last_ok = error is None
        if error is None:
            saves.count += 1
            saves.last_s = node.clock.wall_ms() // 1000
        done(index, error)

    node.replicator.take_snapshot(finished)


async def snapshot(node: Node) -> int:
    """Write a snapshot and wait for it; the log index that it covers. Raises the replicator's error."""
    return await completed(partial(begin_snapshot, node))


def _nobody_waits(_index: int, _error: RaftKVError | None) -> None:
    """BGSAVE's outcome is in INFO persistence."""


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
    begin_snapshot(context.node, _nobody_waits)
    return "Background saving started"


@command("BGREWRITEAOF", arity=1, flags=_FLAGS, group="server", since="1.0.0", scope="server",
         summary="Start to write a snapshot of this node, which lets its log be shortened.")  # fmt: skip
def bgrewriteaof(context: ServerContext, _argv: Argv) -> Reply:
    begin_snapshot(context.node, _nobody_waits)
    return "Background append only file rewriting started"


@command("LASTSAVE", arity=1, flags="loading stale fast dangerous", group="server", since="1.0.0", scope="server",
         summary="When this node last wrote a snapshot, seconds since the epoch; its start if it did not since.")  # fmt: skip
def lastsave(context: ServerContext, _argv: Argv) -> Reply:
    return last_save_s(context.node)


def last_save_s(node: Node) -> int:
    """As LASTSAVE answers it."""
    return node.saves.last_s or int(node.clock.wall_ms() / 1000 - (node.clock.monotonic() - node.started))
