"""Commands that the connection runs itself, because they replicate something or wait: EXEC, WATCH, RAFT.SESSION.

A function here returns a reply, or :data:`PENDING` after it arranged for a callback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv, Command, lookup
from raftkv.errors import CommandError, RaftKVError
from raftkv.machine.batch import OPEN, PLAIN, SESSION_ID_BYTES, TXN, WATCH, Group, Run, Watched
from raftkv.protocol.encoder import encode_command, encode_commands
from raftkv.protocol.replies import NIL_ARRAY, OK, Raw, Reply
from raftkv.server.commands.connection import leave_transaction
from raftkv.server.commands.transactions import exec_ as check_exec
from raftkv.server.commands.transactions import watch as check_watch
from raftkv.server.state import ServerContext
from raftkv.server.tickets import GroupTicket, Ticket

if TYPE_CHECKING:
    from raftkv.server.connection import Connection

PENDING: Final = object()
"""The reply comes later, from a callback."""

RUN: Final = "RAFT.SESSION RUN"


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """Returned instead of a reply: the connection makes a ticket of it, so that such requests can be pipelined."""

    inner: Argv
    group: Group


_SELECT: Final = b"SELECT"


class _Answered(Ticket):
    """A read of several commands whose replies go to a function."""

    __slots__ = ("_done",)

    def __init__(self, commands: list[Argv], database: int, done: Callable[[Any, RaftKVError | None], None]) -> None:
        super().__init__(commands, None, database)
        self._done = done

    def answer(self, replies: Any) -> None:
        self._done(replies, None)

    def fail(self, error: RaftKVError) -> None:
        self._done(None, error)


def _later(
    connection: Connection, command: Command, argv: Argv, convert: Callable[[Any], Reply]
) -> Callable[[Any, RaftKVError | None], None]:
    """A callback that answers ``argv`` with the converted result, and lets the connection go on."""
    started = connection.node.clock.monotonic()
    connection.wait()

    def done(result: Any, error: RaftKVError | None) -> None:
        if error is None and isinstance(result, RaftKVError):
            error = result
        if not connection.client.closing or connection.node.clients.get(connection.client.id) is not None:
            connection.finish(command, argv, started, error if error is not None else convert(result))
            connection.resume()

    return done


# ---------------------------------------------------------------- WATCH
def watch(connection: Connection, argv: Argv) -> Reply:
    """Register the keys through the log; they are watched from that entry on."""
    client = connection.client
    if client.transaction is not None:
        return check_watch(connection.context, argv)
    keys = argv[1:]
    database = client.db

    def registered(index: int) -> Reply:
        for key in keys:
            client.watches.setdefault((database, key), index)
        return OK

    group = Group(WATCH, database, 1, encode_command(keys))
    done = _later(connection, lookup(argv), argv, registered)
    connection.node.forwarder.submit(GroupTicket(group, [keys], client.proto, done))
    return PENDING


# ---------------------------------------------------------------- EXEC
def exec_(connection: Connection, argv: Argv, run: Run | None = None) -> Reply:
    """Run the queue of MULTI as one entry (or, when it only reads, as one read)."""
    client = connection.client
    if client.transaction is None:
        return check_exec(connection.context, argv)
    queue, failed = client.transaction, client.transaction_failed
    watches = tuple(Watched(database, key, index) for (database, key), index in client.watches.items())
    leave_transaction(client)
    if failed:
        raise CommandError("Transaction discarded because of previous errors.", code="EXECABORT")
    if not queue and not watches:
        return []
    commands = [lookup(one) for one in queue]
    refusal = connection.node.refusal(*commands)
    if refusal is not None and not _is_answered(connection, run):
        raise CommandError(f"Transaction discarded because of: {refusal}", code="EXECABORT")
    replicated = [one.scope == "data" or one.name == "SELECT" for one in commands]
    data = [one for one, is_data in zip(queue, replicated, strict=True) if is_data]
    if run is not None and len(data) < len(queue):
        raise CommandError("a session's transaction may hold data commands only")

    def merge(result: Any) -> Reply:
        if result is NIL_ARRAY or run is not None:
            return result if run is None else run_reply(connection, result)
        return _merge(connection, queue, commands, replicated, list(result))

    done = _later(connection, lookup([b"EXEC"]), argv, merge)
    reads_only = not watches and run is None and not any(one.write or one.name == "SELECT" for one in commands)
    if reads_only:
        connection.reader.add(_Answered(data, client.db, done))
    else:
        group = Group(TXN, client.db, len(data), encode_commands(data), watches, run)
        connection.node.forwarder.submit(GroupTicket(group, data, client.proto, done))
    return PENDING


def _merge(
    connection: Connection, queue: list[Argv], commands: list[Command], replicated: list[bool], results: list[Reply]
) -> Reply:
    """Replies in the order of the queue; commands of the connection itself run now."""
    replies: list[Reply] = []
    for argv, command, is_data in zip(queue, commands, replicated, strict=True):
        if is_data:
            reply = results.pop(0)
            if command.name == "SELECT" and reply in (OK, Raw(b"+OK\r\n")):
                connection.client.db = int(argv[1])
        else:
            reply = _run_here(connection, command, argv)
        replies.append(reply)
    return replies


def _run_here(connection: Connection, command: Command, argv: Argv) -> Reply:
    try:
        reply = command.function(ServerContext(connection.node, connection.client, may_block=False), argv)
    except RaftKVError as error:
        return error
    if isinstance(reply, Awaitable):
        close = getattr(reply, "close", None)
        if close is not None:
            close()
        return CommandError(f"'{command.full_name.lower()}' cannot run inside a transaction")
    return reply


# ---------------------------------------------------------------- client sessions
def session_open(connection: Connection, argv: Argv) -> Reply:
    """RAFT.SESSION OPEN: a new session, replicated."""
    ttl_ms = connection.node.settings.session_ttl_s * 1000
    group = Group(OPEN, 0, 0, b"", numbers=(ttl_ms,))
    done = _later(connection, lookup(argv), argv, lambda identity: identity)
    connection.node.forwarder.submit(GroupTicket(group, [], connection.client.proto, done))
    return PENDING


def session_run(connection: Connection, argv: Argv) -> Reply:
    """RAFT.SESSION RUN id sequence acknowledged command [arg ...]: at most once, with the first attempt's reply."""
    run = _parse_run(argv)
    inner = argv[5:]
    if inner[0].upper() == b"EXEC" and len(inner) == 1:
        return exec_(connection, inner, run)
    client = connection.client
    if client.transaction is not None:
        raise CommandError("RAFT.SESSION RUN inside MULTI takes EXEC only")
    if lookup(inner).scope != "data":
        raise CommandError(f"'{lookup(inner).full_name.lower()}' is not a data command: a session cannot repeat it")
    refusal = connection.node.refusal(lookup(inner))
    if refusal is not None and not _is_answered(connection, run):
        raise refusal
    return SessionRequest(inner, Group(PLAIN, client.db, 1, encode_command(inner), run=run))


def _is_answered(connection: Connection, run: Run | None) -> bool:
    """Whether this is the repetition of a request that was done: it asks for no space, but for its reply."""
    return run is not None and connection.node.machine.sessions.has_answered(run)


def _parse_run(argv: Argv) -> Run:
    try:
        identity = bytes.fromhex(argv[2].decode())
    except ValueError:
        identity = b""
    if len(identity) != SESSION_ID_BYTES:
        raise CommandError(f"session id must be {2 * SESSION_ID_BYTES} hex digits, as RAFT.SESSION OPEN answers")
    sequence = parse_int(argv[3], "session sequence must be a positive integer", low=1)
    acknowledged = parse_int(argv[4], "acknowledged sequence must be below the sequence", low=0, high=sequence - 1)
    return Run(identity, sequence, acknowledged)


def run_reply(connection: Connection, result: Any) -> Reply:
    """The leader answers with both forms, another node with the one that was asked for."""
    return Raw(result[connection.client.proto - 2]) if isinstance(result, tuple) else result


SPECIAL: Final[dict[str, Callable[[Connection, Argv], Reply]]] = {
    "EXEC": exec_,
    "WATCH": watch,
    "RAFT.SESSION OPEN": session_open,
    RUN: session_run,
}
