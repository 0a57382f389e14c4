"""What a dumped state says of itself, found while its bytes pass by, in constant memory."""

from __future__ import annotations

from typing import Final

from raftkv.errors import InvariantError
from raftkv.store.dump import END_BYTES, ends_with

_HEAD_BYTES: Final = 4 + 5 + 9 + 9 + 9
"""Length, the mark of an array, and three numbers of at most nine bytes: version, index, stamp."""
_NUMBERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
"""MessagePack's marks of unsigned numbers, and the bytes that follow them."""


class StateSummary:
    """Feed it what :meth:`StateMachine.dump` yields, cut anywhere."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        self._tail = (self._tail + piece[-END_BYTES:])[-END_BYTES:]

    def finish(self) -> tuple[int, int]:
        """(stamp of the last entry in ms, keys). Raises InvariantError when these were not a whole state's bytes."""
        keys, _ = ends_with(self._tail)
        try:
            at = 4 + (1 if self._head[4] >> 4 == 0x9 else 3)
            for _ in range(2):
                at = self._number(at)[1]
            return self._number(at)[0], keys
        except (IndexError, KeyError):
            msg = (
                "snapshot data is damaged: its first bytes are not those of a state. Choose another snapshot or backup"
            )
            raise InvariantError(msg) from None

    def _number(self, at: int) -> tuple[int, int]:
        """A MessagePack number, and where it ends."""
        mark = self._head[at]
        if mark < 0x80:
            return mark, at + 1
        end = at + 1 + _NUMBERS[mark]
        return int.from_bytes(self._head[at + 1 : end], "big"), end
