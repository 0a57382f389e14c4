"""Snapshots that backups are reading: held open, by an id, for as long as somebody reads.

A held snapshot stays whole when newer ones take its place, because an open file outlives its name; it costs its size on
the disk until it is let go. Ids, not connections, own it: a client whose connection broke goes on over another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftkv.errors import BusyError, CommandError
from raftkv.replicator import OpenSnapshot

HELD_MAX: Final = 8
"""Backups at once; one more is refused."""
HELD_S: Final = 60.0
"""One that nobody read for so long is let go."""
PIECE_BYTES_MAX: Final = 1024 * 1024
"""One read answers this much at most."""


@dataclass(slots=True)
class _Held:
    snapshot: OpenSnapshot
    used: float
    readers: int = 0
    ended: bool = False


class Backups:
    """``monotonic`` tells the time in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._held: dict[int, _Held] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, snapshot: OpenSnapshot) -> int:
        """Its id. Raises BusyError (and closes it) when too many are held."""
        if len(self._held) >= HELD_MAX:
            snapshot.file.close()
            raise BusyError(f"{HELD_MAX} backups are being read from this node; wait until one is done")
        self._last += 1
        self._held[self._last] = _Held(snapshot, self._monotonic())
        return self._last

    async def read(self, number: int, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes (at most PIECE_BYTES_MAX) of the file; read on a thread, the loop goes on."""
        held = self._get(number)
        held.used = self._monotonic()
        held.readers += 1
        try:
            return await asyncio.to_thread(held.snapshot.file.pread, min(length, PIECE_BYTES_MAX), offset)
        except OSError as error:
            raise CommandError(f"the snapshot cannot be read: {error.strerror or error}; ask another node") from error
        finally:
            held.readers -= 1
            held.used = self._monotonic()
            self._close_if_done(held)

    def end(self, number: int) -> None:
        """Let it go."""
        held = self._get(number)
        del self._held[number]
        held.ended = True
        self._close_if_done(held)

    def sweep(self) -> None:
        """Let go what nobody reads any more."""
        oldest = self._monotonic() - HELD_S
        for number in [number for number, held in self._held.items() if held.used < oldest and not held.readers]:
            self.end(number)

    def _get(self, number: int) -> _Held:
        held = self._held.get(number)
        if held is None:
            raise CommandError(
                f"no backup {number} is being read: it was ended, nobody read it for {HELD_S:g} s, or the node "
                "was started anew; begin another one"
            )
        return held

    @staticmethod
    def _close_if_done(held: _Held) -> None:
        if (
            held.ended and not held.readers
        ):  # never under a thread that reads: its descriptor could be another file's by then
            held.snapshot.file.close()
