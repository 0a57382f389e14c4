"""A bare socket to a node: bytes as a test wants them, replies with their kind, and where the connection ends."""

from __future__ import annotations

import socket
from typing import Self

from tests.differential.resp import Connection, Seen

PONG: Seen = ("simple", "PONG")
OK: Seen = ("simple", "OK")
QUEUED: Seen = ("simple", "QUEUED")


def resp(*words: bytes | str | int) -> bytes:
    """One command."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


class Wire(Connection):
    """:class:`Connection` that also writes raw bytes, closes its half, and reads to the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> Seen:
        return self._read()

    def do(self, *words: bytes | str | int) -> Seen:
        """The reply to one command."""
        self.send(resp(*words))
        return self.read()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        """Everything until the server closes; a reset counts as the end."""
        found = []
        try:
            while data := self._file.read1(1 << 16):
                found.append(data)
        except ConnectionResetError:
            pass
        return b"".join(found)

    def is_closed(self) -> bool:
        """Whether the server ended the connection without another byte; waits for it."""
        return self.rest() == b""
