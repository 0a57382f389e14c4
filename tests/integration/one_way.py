"""A way to a node that can be made to swallow what goes there, or to break, while the ways from it stand."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final, Self

LOOPBACK: Final = "127.0.0.1"
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: a closed connection is reset."""


class WayTo:
    """Forwards connections to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._target = (LOOPBACK, port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.address = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.swallows = False
        """What the dialling sides say from now on does not arrive, and nobody is told."""
        self.swallowed_bytes = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Break all connections."""
        pairs, self._pairs = self._pairs, []
        for end in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                dialler, _ = self._listener.accept()
                try:
                    target = socket.create_connection(self._target)
                except OSError:  # the node is down
                    dialler.close()
                    continue
                self._pairs.append((dialler, target))
                threading.Thread(target=self._carry, args=(dialler, target, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(target, dialler, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, there: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if there and self.swallows:
                    self.swallowed_bytes += len(data)
                else:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
