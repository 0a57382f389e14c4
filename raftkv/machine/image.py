"""A state machine's state as a snapshot holds it, and a second one that is built of it beside the one that serves.

The stream is u32 length (big-endian), so many bytes of msgpack (:class:`State`), and the keyspace
(:mod:`raftkv.store.dump`).

To load a million keys takes a second or two. A node that receives a snapshot builds its state as the pieces come, each
in a few milliseconds, and serves what it had until :meth:`raftkv.machine.machine.StateMachine.adopt` puts one into the
place of the other. Meanwhile it holds both: that is what it costs.
"""

from __future__ import annotations

from typing import Final

import msgspec

from raftkv.errors import InvariantError
from raftkv.store.dump import Loading
from raftkv.store.keyspace import Keyspace

HEADER_BYTES: Final = 4
VERSION: Final = 2
"""Of what a snapshot holds besides the keyspace: 1 had no alarms."""


class State(msgspec.Struct, array_like=True):
    """What a snapshot holds besides the keyspace."""

    version: int
    index: int
    stamp_ms: int
    sessions: list[tuple[bytes, int, int, int, list[tuple[int, bytes, bytes]]]]
    watches: list[tuple[int, bytes, int, int, bool]]
    audit_round: int
    """Follows from ``index``; written because these formats have it."""
    alarms: list[tuple[str, str, str, int]] = []


def encode_state(state: State) -> bytes:
    """The beginning of the stream."""
    head = msgspec.msgpack.encode(state)
    return len(head).to_bytes(HEADER_BYTES, "big") + head


class Staging:
    """A state that is being loaded."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._loading = Loading()
        self.state: State | None = None
        """Known once its bytes were fed."""
        self.keyspace = Keyspace()
        """Complete after :meth:`finish`; the one that was replaced after it was adopted."""

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the stream, cut anywhere.

        Raises InvariantError when they are damaged or of another version.
        """
        if self.state is not None:
            self._loading.feed(chunk)
            return
        self._head += chunk
        end = HEADER_BYTES + int.from_bytes(self._head[:HEADER_BYTES], "big")
        if len(self._head) >= HEADER_BYTES and len(self._head) >= end:
            self.state = _decode(bytes(self._head[HEADER_BYTES:end]))
            self._loading.feed(bytes(self._head[end:]))
            self._head.clear()

    def finish(self) -> None:
        """The stream has ended. Raises InvariantError when it ends too early."""
        if self.state is None:
            msg = f"snapshot ends inside its header, after {len(self._head)} bytes"
            raise InvariantError(msg)
        self.keyspace = self._loading.finish()

    def release(self, slots: int) -> bool:
        """Free a part of the keyspace that was replaced; False when nothing is left of it."""
        return self.keyspace.release(slots)


def _decode(head: bytes) -> State:
    try:
        state = msgspec.msgpack.decode(head, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for text that is no UTF-8
        msg = f"snapshot header is damaged: {error}"
        raise InvariantError(msg) from error
    if not 1 <= state.version <= VERSION:
        msg = f"snapshot of version {state.version}, this node reads 1 to {VERSION}: upgrade it"
        raise InvariantError(msg)
    return state
