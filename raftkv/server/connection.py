"""One client connection: bytes in, replies out, in order.

Commands run in the order in which they were sent, and each sees what those before it did. To be fast as well, whole
pipelines travel as one ticket: all reads, or all data commands with a write among them (those go through the log
together, reads too, so that a mixed pipeline costs one round trip). Everything else is stepped through one by one:
commands of the connection itself, transactions, clients that are not plain (no AUTH yet, replies switched off).

Bounds: reading stops while TICKETS_MAX pieces of work wait; a client that does not read its replies is disconnected at
``client_output_buffer_limit``; what may be declared and left unfinished is the parser's business.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from itertools import dropwhile, islice
from typing import TYPE_CHECKING, Any, Final, cast

from raftkv.commands.registry import Argv, Command, lookup
from raftkv.errors import AuthError, CommandError, RaftKVError
from raftkv.protocol.encoder import encode, encode_many
from raftkv.protocol.parser import RequestParser
from raftkv.protocol.replies import QUEUED, Reply
from raftkv.protocol.sizes import exceeds, payload_bytes
from raftkv.server import flow
from raftkv.server.consistency import LINEARIZABLE
from raftkv.server.door import limits_of
from raftkv.server.state import Client, ServerContext
from raftkv.server.tickets import Ticket

if TYPE_CHECKING:
    from raftkv.server.node import ServerNode

TICKETS_MAX: Final = 64
"""Tickets and unparsed-on chunks of one connection; reading stops at this many and goes on below half."""

READ: Final = 1
WRITE: Final = 2
ERROR_REPLY: Final = ord("-")

_IMMEDIATE: Final = frozenset({"EXEC", "DISCARD", "MULTI", "WATCH", "RESET", "QUIT", "RAFT.SESSION RUN"})
"""Commands that are not queued inside MULTI."""


class Connection(asyncio.Protocol):
    """Implements asyncio.Protocol for one accepted socket."""

    __slots__ = (
        "_backlog", "_blocked", "_closed", "_ended", "_kind", "_locked", "_node", "_parser", "_reading", "_task",
        "_tickets", "_transport", "client", "context", "plain", "reader",
    )  # fmt: skip

    def __init__(self, node: ServerNode) -> None:
        self._node = node
        settings = node.settings
        self._parser = RequestParser(limits_of(settings))
        self._tickets: deque[_ConnectionTicket] = deque()
        self._kind = 0
        self._backlog: deque[tuple[list[Argv], bytes | None]] = deque()
        self._blocked = False
        self._closed = False
        self._ended = False
        self._locked = bool(settings.requirepass)
        self._reading = True
        self._task: asyncio.Task[None] | None = None
        self.plain = True
        self.reader = node.readers.linearizable
        """Where its reads go, by the consistency that it chose."""

    # ------------------------------------------------------------ asyncio
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        node = self._node
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport.set_write_buffer_limits(high=node.settings.client_output_buffer_limit)
        now = node.clock.monotonic()
        self.client = Client(
            id=node.clients.next_id(),
            address=_address(transport.get_extra_info("peername")),
            local_address=_address(transport.get_extra_info("sockname")),
            created=now,
            close=self.close,
            write=self.write,
            buffers=self._buffers,
            authenticated=not node.settings.requirepass,
            last_interaction=now,
        )
        self.context = ServerContext(node, self.client)
        if node.clients.count >= node.clients_max:
            node.clients.reject()
            self.write(b"-ERR max number of clients reached\r\n")
            self._transport.close()
            return
        node.clients.add(self.client)
        self._judge()

    def data_received(self, data: bytes) -> None:
        node, client = self._node, self.client
        node.metrics.bytes_in += len(data)
        parser = self._parser
        command = parser.feed_one(data)
        if command is None:
            commands = parser.feed(data)
            raw = data if parser.aligned else None
        elif self.plain and not (self._blocked or self._tickets or self._backlog) and self._read_alone(command):
            return
        else:
            commands, raw = [command], data
        if commands and not client.closing:
            client.commands += len(commands)
            client.last_interaction = node.now
            if self._blocked or self._backlog:
                self._backlog.append((commands, raw))
            else:
                self._run(commands, raw)
                if self._backlog and not self._blocked:
                    self._pump()  # what AUTH made readable
            if self._reading and len(self._tickets) + len(self._backlog) >= TICKETS_MAX:
                self._reading = False
                self._transport.pause_reading()
        if parser.error is not None and not client.closing:
            if self._reading:
                self._reading = False
                self._transport.pause_reading()
            self._backlog.append(([], None))  # answered when everything before it is
            self._pump()

    def pause_writing(self) -> None:
        """The client does not read, or asked for more at once than it may leave unread: replies
        must not fill our memory.
        """
        self._refuse_replies(self._transport.get_write_buffer_size())

    def _refuse_replies(self, size: int) -> None:
        node = self._node
        node.metrics.slow_readers_closed += 1
        node.log.warning(
            "client disconnected: its unread replies are above client_output_buffer_limit", client=self.client.address,
            id=self.client.id, bytes=size, limit=node.settings.client_output_buffer_limit, remedy="read, or ask for, less at once",
        )  # fmt: skip
        self._closed = self.client.closing = True
        self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        client = self.client
        self._closed = client.closing = True
        self._backlog.clear()
        if self._task is not None:
            self._task.cancel()
        self._node.clients.remove(client)

    def eof_received(self) -> bool:
        """Half-closed: what was sent is still answered (``printf ... | nc``), then the connection ends.

        But nothing waits on behalf of a client that may be gone: WAIT and WAITAOF end with it, or answer at once.
        """
        if self.client.blocked or not (self._tickets or self._backlog or self._blocked):
            return False
        self._ended = True
        self.context.may_block = False
        return True

    # ------------------------------------------------------------ out
    def write(self, data: bytes) -> None:
        """Send bytes that are RESP already."""
        if not self._transport.is_closing():
            self._node.metrics.bytes_out += len(data)
            self._transport.write(data)

    def close(self) -> None:
        """Flush what is buffered, then close."""
        self._closed = self.client.closing = True
        self._transport.close()

    def reply(self, value: Reply) -> None:
        """Answer one stepped command, unless CLIENT REPLY says not to."""
        client = self.client
        if isinstance(value, RaftKVError):
            self._node.metrics.error(value.code)
        if client.reply_skip:
            client.reply_skip -= 1
            self._judge()
        elif client.reply_on:
            if exceeds((value,), self._node.settings.client_output_buffer_limit):
                self._refuse_replies(payload_bytes(value))
            else:
                self.write(encode(value, client.proto))

    def _buffers(self) -> tuple[int, int]:
        return self._parser.buffered, self._transport.get_write_buffer_size()

    # ------------------------------------------------------------ pipelines
    def _judge(self) -> None:
        """Whether pipelines of this client may take the short way, and which way its reads take."""
        client = self.client
        # What is read between WATCH and EXEC must not be older than the watch.
        consistency = LINEARIZABLE if client.watches else client.consistency
        if consistency is not self.reader.consistency:
            self.reader = self._node.readers.of(consistency)
        self.plain = client.authenticated and client.transaction is None and client.reply_on and not client.reply_skip

    def _run(self, commands: list[Argv], raw: bytes | None) -> None:
        node = self._node
        if self.plain and not node.detour:
            name: bytes | None = commands[0][0]
            if len(commands) == 1:
                kind = node.kinds.get(commands[0][0], 0)
            else:
                names = {argv[0] for argv in commands}
                kind = node.classify(names)
                name = name if len(names) == 1 else None
            if kind:
                if self._tickets and kind != self._kind:
                    self._block(commands, raw)
                else:
                    self._start(kind, commands, raw, name, mute=False)
                return
        self._step(commands)

    def _read_alone(self, argv: Argv) -> bool:
        """The most frequent case by the shortest way: one read, and nothing else under way. Blocks until answered."""
        node, client = self._node, self.client
        command = node.reads_alone.get(argv[0])
        if command is None or len(argv) != command.arity or node.detour or client.closing:
            return False
        client.commands += 1
        client.last_interaction = node.now
        client.last_command = argv[0]
        self._blocked = True
        self.reader.add_alone(self, command, argv)
        return True

    def answer_alone(self, reply: Reply, argv: Argv) -> None:
        """The answer to :meth:`_read_alone`."""
        if not self._closed:
            if type(reply) is bytes:
                data = b"$%d\r\n%b\r\n" % (len(reply), reply)
            else:
                data = encode(reply, self.client.proto)
                if data[0] == ERROR_REPLY:
                    self._node.errors([argv], [reply])
            self._node.metrics.bytes_out += len(data)
            self._transport.write(data)
        self._blocked = False
        if self._backlog or self._ended:
            self._pump()

    def _start(self, kind: int, commands: list[Argv], raw: bytes | None, name: bytes | None, *, mute: bool) -> None:
        self._kind = kind
        self.client.last_command = commands[-1][0]
        ticket = _ConnectionTicket(self, commands, raw, name, mute=mute)
        self._tickets.append(ticket)
        if kind == READ:
            self.reader.add(ticket)
        else:
            self._node.forwarder.submit(ticket)

    def completed(self, ticket: _ConnectionTicket) -> None:
        """A ticket has its replies: send all that are next in order."""
        tickets = self._tickets
        if tickets[0] is not ticket:
            return
        while tickets:
            reply = tickets[0].reply
            if reply is None:
                return
            if not tickets.popleft().mute and not self._closed:
                self._node.metrics.bytes_out += len(reply)
                self._transport.write(reply)
        if self._blocked or self._ended:
            self._blocked = False
            self._pump()
        if not self._reading and not self._closed and len(tickets) + len(self._backlog) < TICKETS_MAX // 2:
            self._reading = True
            self._transport.resume_reading()

    def _block(self, commands: list[Argv], raw: bytes | None) -> None:
        """Go on with ``commands`` when what is under way is answered."""
        self._backlog.appendleft((commands, raw))
        self._blocked = True

    def resume(self) -> None:
        """What blocked is over."""
        self._blocked = False
        self._pump()

    def _pump(self) -> None:
        backlog = self._backlog
        while backlog and not self._blocked:
            commands, raw = backlog.popleft()
            if commands:
                self._run(commands, raw)
            elif self._tickets:
                self._block(commands, raw)
            else:
                self._protocol_error()
        if self._ended and not (backlog or self._tickets or self._blocked):
            self.close()

    def _protocol_error(self) -> None:
        error = self._parser.error
        self._node.metrics.protocol_errors += 1
        if error is not None:
            self.write(encode(error, 2))
        self.close()

    # ------------------------------------------------------------ one by one
    def _step(self, commands: list[Argv]) -> None:
        at = 0
        while at < len(commands) and not self.client.closing:
            if self._blocked:
                self._backlog.appendleft((commands[at:], None))
                return
            argv = commands[at]
            try:
                command = lookup(argv)
                self._check(command)
            except RaftKVError as error:
                if self._tickets:
                    self._block(commands[at:], None)
                    return
                self._refuse(argv, error)
                at += 1
                continue
            if command.scope == "data" and self.client.transaction is None:
                count = self._start_data(command, commands, at)
                if not count:
                    return
                at += count
                continue
            pipelined = command.full_name == flow.RUN and self.client.transaction is None
            if (self._tickets and not (pipelined and self._kind == WRITE)) or self._node.holds(self, command):
                self._block(commands[at:], None)
                return
            at += 1
            self._execute(command, argv)

    def _check(self, command: Command) -> None:
        if not self.client.authenticated and "no_auth" not in command.flags:
            raise AuthError("Authentication required.")
        if self.client.transaction is not None and "no_multi" in command.flags:
            raise CommandError("Command not allowed inside a transaction")
        refusal = self._node.refusal(command)
        if refusal is not None:
            raise refusal

    def _refuse(self, argv: Argv, error: RaftKVError) -> None:
        """A command that cannot run; inside MULTI it spoils the transaction."""
        self._node.count_rejected(argv)
        if self.client.transaction is not None:
            self.client.transaction_failed = True
        self.reply(error)

    def _start_data(self, command: Command, commands: list[Argv], at: int) -> int:
        """Start the commands from ``at`` on that fit into one ticket; 0 when they have to wait."""
        if self._node.holds(self, command):
            self._block(commands[at:], None)
            return 0
        kind = WRITE if command.write else READ
        if self._tickets and kind != self._kind:
            self._block(commands[at:], None)
            return 0
        moved = self._node.moved(command, commands[at], self.reader.consistency)
        if moved is not None:
            if self._tickets:
                self._block(commands[at:], None)
                return 0
            self._node.metrics.commands_moved += 1
            self.reply(moved)
            return 1
        end = at + 1
        client = self.client
        if self.plain and not self._node.detour:
            while end < len(commands) and self._node.classify({commands[end][0]}) == kind:
                end += 1
        mute = not client.reply_on or client.reply_skip > 0
        if client.reply_skip:
            client.reply_skip -= 1
            self._judge()
        self._start(kind, commands[at:end], None, None, mute=mute)
        if end - at == 1:
            client.last_command = command.full_name  # of a container the name alone would not say it
        return end - at

    def _execute(self, command: Command, argv: Argv) -> None:
        client, node = self.client, self._node
        client.last_command = command.full_name
        if client.transaction is not None and command.full_name not in _IMMEDIATE:
            client.transaction.append(argv)
            self.reply(QUEUED)
            return
        started = node.clock.monotonic()
        try:
            special = flow.SPECIAL.get(command.full_name)
            result = command.function(self.context, argv) if special is None else special(self, argv)
        except RaftKVError as error:
            result = error
        if isinstance(result, Awaitable):
            self._blocked = True
            self._task = asyncio.ensure_future(self._finish_later(command, argv, started, result))
        elif isinstance(result, flow.SessionRequest):
            self._start_session_request(argv, result)
        elif result is not flow.PENDING:
            self.finish(command, argv, started, result)

    def _start_session_request(self, argv: Argv, request: flow.SessionRequest) -> None:
        """Requests of a session that follow each other need not wait: the log keeps their
        order, the tickets the replies'.
        """
        client = self.client
        mute = not client.reply_on or client.reply_skip > 0
        if client.reply_skip:
            client.reply_skip -= 1
            self._judge()
        self._kind = WRITE
        ticket = _SessionTicket(self, argv, request, mute=mute)
        self._tickets.append(ticket)
        self._node.forwarder.submit(ticket)

    async def _finish_later(self, command: Command, argv: Argv, started: float, result: Awaitable[Reply]) -> None:
        try:
            value: Reply = await result
        except RaftKVError as error:
            value = error
        self._task = None
        self.finish(command, argv, started, value)
        self.resume()

    def finish(self, command: Command, argv: Argv, started: float, value: Reply) -> None:
        """Count and answer a stepped command."""
        node = self._node
        node.count(command, argv, started, value, self.client)
        self.reply(value)
        self._judge()
        if self._locked is self.client.authenticated:
            self._relock()
        if self.client.closing:  # QUIT, or CLIENT KILL of itself
            self.close()

    def _relock(self) -> None:
        """AUTH succeeded, or RESET took it back: what may be declared changes.

        What came after AUTH in the same packet may be larger than was allowed before. What came after RESET in
        its packet is parsed already, and took no more memory than was allowed then.
        """
        self._locked = not self.client.authenticated
        if self._locked:
            self._parser.unauthenticated()
            return
        self._parser.authenticated()
        held_back = self._parser.feed(b"")
        if held_back:
            self._backlog.append((held_back, None))

    def wait(self) -> None:
        """A special command goes on in a callback, which calls :meth:`finish` and :meth:`resume`."""
        self._blocked = True

    @property
    def node(self) -> ServerNode:
        """The node that this connection belongs to."""
        return self._node


class _ConnectionTicket(Ticket):
    """Commands of one pipeline of one connection."""

    __slots__ = ("_connection", "client", "mute", "name", "reply")

    def __init__(
        self, connection: Connection, commands: list[Argv], raw: bytes | None, name: bytes | None, *, mute: bool
    ) -> None:
        # Made for each pipeline: the fields of the base class are set here, to save a call.
        self.commands = commands
        self.raw = raw
        self.client = client = connection.client
        self.database = client.db
        self.name = name
        self.mute = mute
        self.reply: bytes | None = None
        self._connection = connection

    @property
    def proto(self) -> int:
        return self._connection.client.proto

    def later(self) -> Iterable[Ticket]:
        return islice(dropwhile(lambda one: one is not self, self._connection._tickets), 1, None)

    def answer(self, replies: Sequence[Reply]) -> None:
        connection = self._connection
        if exceeds(replies, connection.node.settings.client_output_buffer_limit):
            self.reply = b""
            connection._refuse_replies(sum(map(payload_bytes, replies)))
            connection.completed(self)
            return
        proto = connection.client.proto
        self.reply = reply = encode(replies[0], proto) if len(replies) == 1 else encode_many(replies, proto)
        if reply[0] == ERROR_REPLY or (len(replies) > 1 and b"\r\n-" in reply):
            connection.node.errors(self.commands, replies)
        connection.completed(self)

    def answer_raw(self, replies: bytes) -> None:
        self.reply = replies
        self._connection.completed(self)

    def fail(self, error: RaftKVError) -> None:
        self.answer([error] * len(self.commands))


class _SessionTicket(_ConnectionTicket):
    """One RAFT.SESSION RUN."""

    __slots__ = ("_argv", "_started", "group")

    def __init__(self, connection: Connection, argv: Argv, request: flow.SessionRequest, *, mute: bool) -> None:
        super().__init__(connection, [request.inner], bytes(request.group.data), None, mute=mute)
        self.group = request.group
        self._argv = argv
        self._started = connection.node.clock.monotonic()

    def answer(self, replies: Sequence[Reply]) -> None:
        connection = self._connection
        value = flow.run_reply(connection, replies[0])
        connection.node.count(lookup(self._argv), self._argv, self._started, value, connection.client)
        if isinstance(value, RaftKVError):
            connection.node.metrics.error(value.code)
        self.reply = encode(value, connection.client.proto)
        connection.completed(self)

    def fail(self, error: RaftKVError) -> None:
        self.answer([error])


def _address(name: Any) -> str:
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(name or "?:0")
