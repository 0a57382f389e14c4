"""Finds a replica whose state has diverged, while it runs.

In the course of each ``interval`` entries every replica digests a window of slots, the next one each time, so
that the cost is bounded and the whole state is covered in the long run. The leader then puts its digest into the
log; whoever found another one at the same entry has diverged from the leader and must not serve. The windows
follow from the log index alone.

A window is digested in steps, slot by slot where the interval allows: 64 slots of a million keys at once stop the node
for 20 ms while a forked child writes a snapshot, because looking at an object changes, and so copies, its page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.errors import InvariantError
from raftkv.store.digest import StateDigest, joined
from raftkv.store.slots import SLOTS

WINDOW_SLOTS: Final = 64
"""At least so many are digested in an interval."""
DIGEST_BITS: Final = 48
"""What is left for the interval: where nodes have different ones, for a while, their digests are not of the same
slots."""
KEPT: Final = 64
"""Own digests remembered until the leader's arrives in the log."""


class Audit:
    """``on_digest(index, digest)`` is told of each digest taken here; the leader's server proposes it.

    Interval 0: none.
    """

    def __init__(
        self,
        digest: StateDigest,
        interval: int,
        on_digest: Callable[[int, int], None] | None = None,
        index: int = 0,
    ) -> None:
        """``index`` is the last entry applied: a replica that begins within a round takes no digest of that one."""
        self.interval = interval
        self.round = index // interval if interval else 0
        """In which the last entry was."""
        self.on_digest = on_digest
        self.compared = 0
        self._digest = digest
        self._step_entries = max(1, interval // WINDOW_SLOTS)
        self._step_slots = -(-WINDOW_SLOTS * self._step_entries // interval) if interval else 0
        self._step = index // self._step_entries
        self._tag = interval % (1 << 64 - DIGEST_BITS) << DIGEST_BITS
        self._windows: list[bytes] | None = [] if index == 0 else None
        """Of the steps of this round; None when some of them were not seen."""
        self._taken: dict[int, int] = {}

    def after(self, index: int) -> None:
        """An entry was applied: digest what is due, and take the window's digest when its turn has come."""
        if not self.interval:
            return
        step = index // self._step_entries
        if step == self._step:
            return
        self._step = step
        if self._windows is not None:
            self._windows.append(self._digest.window(step * self._step_slots % SLOTS, self._step_slots))
        current = index // self.interval
        if current != self.round:
            self.round = current
            windows, self._windows = self._windows, []
            if windows is not None:
                digest = int.from_bytes(joined(windows)[: DIGEST_BITS // 8], "big")
                self._take(index, digest | self._tag)

    def _take(self, index: int, digest: int) -> None:
        while len(self._taken) >= KEPT:
            del self._taken[next(iter(self._taken))]
        self._taken[index] = digest
        if self.on_digest is not None:
            self.on_digest(index, digest)

    def compare(self, index: int, digest: int) -> None:
        """The leader's digest at ``index`` arrived. Raises InvariantError when ours differs."""
        own = self._taken.get(index)
        if own is None or own >> DIGEST_BITS != digest >> DIGEST_BITS:
            return
        self.compared += 1
        if own != digest:
            msg = (
                f"state diverged: digest {own:016x} at entry {index}, the leader has {digest:016x}; this replica stops "
                "serving. Remove its data directory and let it rejoin, and keep a copy for analysis"
            )
            raise InvariantError(msg)
