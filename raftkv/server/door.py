"""The clients' port. It listens before the node serves: until then every command is answered ``-LOADING``, as Redis
does.

A client so learns at once that the node is there and that nothing was done, and clients that know the code
go elsewhere or wait. What connected meanwhile is handed to the node when it serves; no client has to
connect again, but for those whose next commands may rest on a refused one: after a ``SELECT`` or ``MULTI``
that was refused, a ``SET`` would be another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from raftkv.commands.registry import TABLE, Argv
from raftkv.config import Settings
from raftkv.config_values import split_address
from raftkv.errors import RaftKVError
from raftkv.protocol.encoder import encode
from raftkv.protocol.parser import Limits, RequestParser
from raftkv.server.progress import Progress

WAITING_MAX: Final = 1024
"""Clients that may be connected while the node recovers; one more is turned away, as at maxclients."""

STATEFUL: Final = frozenset({"connection", "transactions"})
"""Groups of commands that say how later ones of the connection are meant,"""
STATELESS: Final = frozenset({"PING", "ECHO", "WAIT", "WAITAOF"})
"""but for these,"""
CLUSTER_STATE: Final = frozenset({"READONLY", "READWRITE", "ASKING"})
"""and these of another group."""


class LoadingError(RaftKVError):
    """The node recovers and serves nothing yet; nothing was done."""

    code = "LOADING"


def limits_of(settings: Settings) -> Limits:
    """What a client that has just connected may declare."""
    return Limits(
        bulk=settings.proto_max_bulk_len,
        query_buffer=settings.client_query_buffer_limit,
        unauthenticated=bool(settings.requirepass),
    )


class _Waiting(asyncio.Protocol):
    """A client of a node that recovers."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._parser = RequestParser(limits_of(door.settings))
        self._misled = False
        """Something was refused that commands to come may rest on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._door.entered(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._door.waiting.discard(self)

    def data_received(self, data: bytes) -> None:
        commands = self._parser.feed(data)
        if commands:
            self._misled = self._misled or any(map(_sets_state, commands))
            self.transport.write(encode(LoadingError(self._door.reason()), 2) * len(commands))
        if self._parser.error is not None:
            self.transport.write(encode(self._parser.error, 2))
            self.transport.close()

    def pause_writing(self) -> None:
        """It does not read its replies."""
        self.transport.abort()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """To the node; one that is in the middle of a command, or of what it began with a
        refused one, is closed instead.
        """
        if self._parser.buffered or self._misled or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)


def _sets_state(argv: Argv) -> bool:
    command = TABLE.get(argv[0].upper())
    if command is None:
        return False
    return command.name in CLUSTER_STATE or (command.group in STATEFUL and command.name not in STATELESS)


class Door:
    """The listening socket, and who is behind it."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings = settings
        self._progress = progress
        self._server: asyncio.Server | None = None
        self._serve: Callable[[], asyncio.Protocol] | None = None
        self.waiting: set[_Waiting] = set()
        """Clients that hear LOADING."""

    async def listen(self) -> None:
        """Raises OSError when the address is taken."""
        host, port = split_address(self.settings.listen)
        self._server = await asyncio.get_running_loop().create_server(
            self._accept, host, port, backlog=self.settings.tcp_backlog, reuse_address=True
        )

    def open(self, serve: Callable[[], asyncio.Protocol]) -> None:
        """From now on ``serve`` makes the protocol of each connection, of those that wait too."""
        self._serve = serve
        waiting, self.waiting = self.waiting, set()
        for one in waiting:
            one.hand_over(serve())

    def close(self) -> None:
        """Listen no more. Idempotent; connections that the node serves are the node's to close."""
        if self._server is not None:
            self._server.close()
        for one in list(self.waiting):
            one.transport.close()

    def reason(self) -> str:
        """For whoever asks too early."""
        return f"raftkv is loading its data from disk ({self._progress.picture()}); nothing was done"

    def entered(self, client: _Waiting) -> None:
        """Somebody connected before the node serves."""
        if len(self.waiting) >= WAITING_MAX:
            client.transport.write(b"-ERR max number of clients reached\r\n")
            client.transport.close()
        else:
            self.waiting.add(client)

    def _accept(self) -> asyncio.Protocol:
        return _Waiting(self) if self._serve is None else self._serve()
