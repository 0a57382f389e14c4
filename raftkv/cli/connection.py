"""One blocking connection to a node, for the prompt and for whoever waits for a cluster."""

from __future__ import annotations

import socket
from typing import Final, Self

from raftkv.cli.resp import ErrorText, Map, Parser, Push, Value, encode
from raftkv.errors import RaftKVError

RECEIVE_SIZE: Final = 1024 * 1024
CONNECT_TIMEOUT_S: Final = 5.0


class ReplyError(RaftKVError):
    """The server answered with an error; ``str(error)`` is its text."""

    def __init__(self, text: str) -> None:
        code, _, message = text.partition(" ")
        super().__init__(message, code=code)


class Connection:
    """Send a command, read its reply. Raises OSError (refused, timed out, closed) and ProtocolError.

    ``timeout_s`` bounds each wait for bytes; None waits as long as the server takes.
    """

    def __init__(self, host: str, port: int, *, timeout_s: float | None = None) -> None:
        self._socket = socket.create_connection((host, port), timeout_s or CONNECT_TIMEOUT_S)
        self._socket.settimeout(timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = Parser()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; closing twice does nothing."""
        self._socket.close()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Write bytes that are already RESP or inline commands."""
        self._socket.sendall(data)

    def read(self) -> Value:
        """The next reply or push message; an error reply is a value here."""
        while (found := self._parser.next_reply()) is None:
            data = self._socket.recv(RECEIVE_SIZE)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._parser.feed(data)
        return found[0]

    def call(self, *argv: bytes | str | int) -> Value:
        """The reply to one command; push messages that come before it are skipped."""
        self.send(encode(argv))
        while isinstance(reply := self.read(), Push):
            pass
        return reply

    def ask(self, *argv: bytes | str | int) -> Value:
        """As :meth:`call`, but an error reply raises ReplyError."""
        reply = self.call(*argv)
        if isinstance(reply, ErrorText):
            raise ReplyError(reply)
        return reply

    def greet(self, *, password: str = "", user: str = "", database: int = 0, resp3: bool = False) -> None:
        """Authenticate, choose protocol and database as asked. Raises ReplyError when one is refused."""
        if password:
            self.ask("AUTH", *([user] if user else []), password)
        if resp3:
            self.ask("HELLO", 3)
        if database:
            self.ask("SELECT", database)


def as_fields(reply: Value) -> dict[str, str]:
    """A reply of field and value (a map, or a flat array) with text on both sides.

    Raises ReplyError when it is an error, ValueError when it has no such shape.
    """
    if isinstance(reply, ErrorText):
        raise ReplyError(reply)
    if isinstance(reply, Map):
        pairs = list(reply.pairs)
    elif isinstance(reply, list) and len(reply) % 2 == 0:
        pairs = list(zip(reply[::2], reply[1::2], strict=True))
    else:
        raise ValueError(f"expected fields and values, not {reply!r}")
    return {_text(field): _text(value) for field, value in pairs}


def _text(value: Value) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)
