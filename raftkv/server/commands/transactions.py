"""MULTI, EXEC, DISCARD, WATCH, UNWATCH: declared here, so that the table is complete.

What only changes the state of the connection is done here. Queueing, EXEC (one log entry) and WATCH (which
needs the index of a linearizable read) are the connection's: it never calls their functions past the checks.
Source: https://redis.io/docs/latest/develop/interact/transactions/.
"""

from __future__ import annotations

from raftkv.commands.registry import Argv, command
from raftkv.errors import CommandError, InvariantError
from raftkv.protocol.replies import OK, Reply
from raftkv.server.commands.connection import leave_transaction
from raftkv.server.state import ServerContext

_FLAGS = "noscript loading stale fast allow_busy"


@command("MULTI", arity=1, flags=_FLAGS, group="transactions", since="1.2.0", scope="server",
         summary="Queue what follows until EXEC.")  # fmt: skip
def multi(context: ServerContext, _argv: Argv) -> Reply:
    client = context.client
    if client.transaction is not None:
        raise CommandError("MULTI calls can not be nested")
    client.transaction = []
    client.transaction_failed = False
    return OK


@command("DISCARD", arity=1, flags=_FLAGS, group="transactions", since="2.0.0", scope="server",
         summary="Forget the queued commands and all watches.", complexity="O(N) with N the number of queued commands")  # fmt: skip
def discard(context: ServerContext, _argv: Argv) -> Reply:
    if context.client.transaction is None:
        raise CommandError("DISCARD without MULTI")
    leave_transaction(context.client)
    return OK


@command("EXEC", arity=1, flags="noscript loading stale skip_slowlog", group="transactions", since="1.2.0", scope="server",
         summary="Run the queued commands as one log entry, unless a watched key changed.",
         complexity="Depends on the queued commands")  # fmt: skip
def exec_(context: ServerContext, _argv: Argv) -> Reply:
    if context.client.transaction is None:
        raise CommandError("EXEC without MULTI")
    raise InvariantError("EXEC reached the command table; the connection runs it")


@command("WATCH", arity=-2, flags=_FLAGS, group="transactions", since="2.2.0", scope="server", keys=(1, -1, 1),
         syntax="key [key ...]", summary="Let the next EXEC fail if one of the keys changes before it is applied.",
         complexity="O(N) with N the number of keys")  # fmt: skip
def watch(context: ServerContext, _argv: Argv) -> Reply:
    if context.client.transaction is not None:
        raise CommandError("WATCH inside MULTI is not allowed")
    raise InvariantError("WATCH reached the command table; the connection runs it")


@command("UNWATCH", arity=1, flags=_FLAGS, group="transactions", since="2.2.0", scope="server",
         summary="Forget all watches of this connection.")  # fmt: skip
def unwatch(context: ServerContext, _argv: Argv) -> Reply:
    context.client.watches.clear()
    return OK
