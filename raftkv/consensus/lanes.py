"""The sending end of a link: two lanes on one connection, so that what is urgent overtakes what is large.

A connection delivers in order, so an entry of many megabytes in front of a heartbeat would keep it back for longer than
a follower waits before it suspects its leader (the head-of-line blocking for which etcd has a second connection). Here
there are two lanes instead:

* *urgent*: heartbeats, replies, votes, probes, term notices. Written at once;
* *bulk*: appends with entries, chunks of snapshots, parcels of the layer above. In order among themselves. A frame
  above ``FRAGMENT_BYTES`` is cut, and the next fragment is written when the transport has taken the one before.

So an urgent frame waits for about a fragment in this process and another in the kernel (``TCP_NOTSENT_LOWAT``), however
much is queued behind them. As long as nothing is queued, a small bulk frame is written at once as well.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterator
from typing import Final

from raftkv.consensus.messages import (
    FRAGMENT_BYTES,
    AppendEntries,
    Application,
    Buffer,
    Message,
    encode,
    fragments,
    frame_bytes,
)

BUFFER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Unsent bytes on one link; above it consensus messages are dropped (forwarded commands are refused).
Answers to those have so much again: one large entry fills the link to a follower, and others may have
committed what its client waits for."""
HIGH_WATER_BYTES: Final = FRAGMENT_BYTES // 2
"""With so much in the transport's buffer no bulk is added until all of it has left."""
FRAGMENTS_A_TURN: Final = 8
"""A link as fast as memory would take all there is; other work gets its turn in between."""
NOT_SENT_BYTES: Final = FRAGMENT_BYTES
"""The kernel takes no more than about so much that it cannot send yet; by default it takes megabytes."""


class Outbound(asyncio.Protocol):
    """What leaves on one connection. Nothing ever arrives on it; ``ended`` is done when it is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the connection over from its streams. Raises ConnectionResetError if it has ended already."""
        if reader.at_eof() or writer.transport.is_closing():
            raise ConnectionResetError
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self.transport = writer.transport
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.direct = True
        """Nothing is queued and the transport takes more: bulk needs no queue."""
        self._queue: deque[tuple[int, Iterator[list[Buffer]]]] = deque()
        """Bytes of each frame of bulk, and what of it is still to be written."""
        self.queued_bytes = 0
        self._paused = False
        self._scheduled = False
        self.transport.set_protocol(self)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES, low=0)
        raw = writer.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_BYTES)

    def send(self, message: Message) -> bool:
        """Write or queue; False when the link is closed or full."""
        transport = self.transport
        if transport.is_closing():  # nobody was told yet, and a closed transport raises
            return False
        unsent = transport.get_write_buffer_size()
        limit = BUFFER_BYTES_MAX * (2 if type(message) is Application and message.answers else 1)
        if unsent > limit:
            return False
        parts = encode(message)
        if len(parts) == 1:
            transport.write(parts[0])
        elif (self.direct and frame_bytes(parts) <= FRAGMENT_BYTES) or _is_probe(message):
            transport.writelines(parts)
        elif unsent + self.queued_bytes > limit:
            return False
        else:
            self._enqueue(parts)
        return True

    def close(self) -> None:
        """End the connection; what is queued is dropped."""
        self._drop()
        self._writer.close()

    # ------------------------------------------------------------ bulk
    def _enqueue(self, parts: list[bytes]) -> None:
        size = frame_bytes(parts)
        self.direct = False
        self.queued_bytes += size
        self._queue.append((size, fragments(parts) if size > FRAGMENT_BYTES else iter([[*parts]])))
        if not self._scheduled:
            self._pump()

    def _pump(self) -> None:
        """Write what the transport takes, for this turn of the loop."""
        queue, left = self._queue, FRAGMENTS_A_TURN
        self._scheduled = False
        while queue and left and not self._paused:
            if self.transport.is_closing():
                self._drop()
                return
            size, rest = queue[0]
            piece = next(rest, None)
            if piece is None:
                queue.popleft()
                self.queued_bytes -= size
            else:
                left -= 1
                self.transport.writelines(piece)
        if queue and not self._paused:
            self._scheduled = True
            self._loop.call_soon(self._pump)
        self.direct = not queue and not self._paused

    def _drop(self) -> None:
        self._queue.clear()
        self.queued_bytes = 0

    # ------------------------------------------------------------ the transport's word
    def pause_writing(self) -> None:
        self._paused = True
        self.direct = False

    def resume_writing(self) -> None:
        self._paused = False
        if not self._scheduled:
            self._pump()

    def data_received(self, _data: bytes) -> None:
        self.transport.abort()  # no member says anything on this side

    def connection_lost(self, _error: Exception | None) -> None:
        self._drop()
        if not self.ended.done():
            self.ended.set_result(None)


def _is_probe(message: Message) -> bool:
    """An append without entries: urgent, as the heartbeat that it is."""
    return type(message) is AppendEntries and not message.entries
