"""``raftkv cli --pipe``: mass insertion. Bytes go to the server as they come; replies are only counted.

The end is an ECHO with a random text: when that comes back, every reply before it has come (redis-cli's way, see
https://redis.io/docs/latest/develop/use/patterns/bulk-loading/).
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Final

import hiredis

from raftkv.cli.resp import encode

CHUNK: Final = 256 * 1024
"""Bytes read from the input at a time; more is read only when this was sent, so that the server sets the pace."""
ERRORS_KEPT: Final = 10
"""First error replies whose text is shown."""


@dataclass(slots=True)
class Outcome:
    """What came back."""

    replies: int = 0
    errors: int = 0
    first_errors: list[str] = field(default_factory=list)
    problem: str = ""
    """Why it ended early; empty when every reply came."""


@dataclass(slots=True)
class _Pump:
    """Sends what it reads, counts what comes back."""

    sock: socket.socket
    source: int
    marker: bytes
    outcome: Outcome
    pending: memoryview = field(default_factory=lambda: memoryview(b""))
    ended: bool = False
    """The input is at its end and the marker is queued."""
    done: bool = False
    last: bytes = b"\n"
    reader: hiredis.Reader = field(default_factory=hiredis.Reader)

    def step(self, timeout_s: float) -> bool:
        """Move bytes either way; False when nothing moved within ``timeout_s``."""
        reads: list[socket.socket | int] = [self.sock]
        if not self.ended and not self.pending:
            reads.append(self.source)
        readable, writable, _ = select.select(reads, [self.sock] if self.pending else [], [], timeout_s)
        if self.source in readable:
            self._take_input()
        if writable:
            self.pending = self.pending[self.sock.send(self.pending) :]
        if self.sock in readable:
            self._take_replies()
        return bool(readable or writable)

    def _take_input(self) -> None:
        data = os.read(self.source, CHUNK)
        if data:
            self.last = data[-1:]
        else:
            self.ended = True
            # A last inline command without a line end would swallow the marker.
            data = (b"" if self.last == b"\n" else b"\r\n") + encode(["ECHO", self.marker])
        self.pending = memoryview(data)

    def _take_replies(self) -> None:
        data = self.sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self.reader.feed(data)
        while (reply := self.reader.gets()) is not False:
            if reply == self.marker:
                self.done = True
                return
            self.outcome.replies += 1
            if isinstance(reply, hiredis.ReplyError):
                self.outcome.errors += 1
                if len(self.outcome.first_errors) < ERRORS_KEPT:
                    self.outcome.first_errors.append(str(reply))


def pump(connection: int, source: int, *, timeout_s: float) -> Outcome:
    """Send everything from the file descriptor ``source``, RESP or inline commands, and count the replies.

    ``connection`` is a connected, authenticated socket's file descriptor (duplicated here). Gives up when nothing
    moved for ``timeout_s``; the outcome then says so.
    """
    outcome = Outcome()
    with socket.socket(fileno=os.dup(connection)) as sock:
        sock.setblocking(False)
        marker = secrets.token_hex(20).encode()
        pump = _Pump(sock, source, marker, outcome)
        began = time.monotonic()
        try:
            while not pump.done:
                # Only silence after the input's end counts: whoever writes the input may take their time.
                if pump.step(timeout_s) or not (pump.ended or pump.pending):
                    began = time.monotonic()
                elif time.monotonic() - began >= timeout_s:
                    outcome.problem = f"no reply for {timeout_s:g} s"
                    break
        except (OSError, hiredis.ProtocolError) as error:
            outcome.problem = str(error)
    return outcome
