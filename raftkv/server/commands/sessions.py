"""RAFT.SESSION: exactly-once writes for clients that retry (raftkv's own does).

The functions are run by the connection (:mod:`raftkv.server.flow`), because they replicate; declared here, so that the
table is complete.
"""

from __future__ import annotations

from raftkv.commands.registry import Argv, command
from raftkv.errors import InvariantError
from raftkv.protocol.replies import Reply
from raftkv.server.commands.common import declare_help
from raftkv.server.state import ServerContext

declare_help("RAFT.SESSION", "raft", "0.1.0")


@command("RAFT.SESSION OPEN", arity=2, flags="write noscript fast", group="raft", since="0.1.0", scope="server",
         summary="Open a client session in the replicated state; answers its id, 32 hex digits.")  # fmt: skip
def session_open(_context: ServerContext, _argv: Argv) -> Reply:
    raise InvariantError("RAFT.SESSION OPEN reached the command table; the connection runs it")


@command("RAFT.SESSION RUN", arity=-6, flags="write noscript", group="raft", since="0.1.0", scope="server",
         syntax="id sequence acknowledged command [arg ...]",
         summary="Run a data command (or EXEC) at most once: a repeated sequence gets the first attempt's reply.",
         complexity="Depends on the command")  # fmt: skip
def session_run(_context: ServerContext, _argv: Argv) -> Reply:
    raise InvariantError("RAFT.SESSION RUN reached the command table; the connection runs it")
