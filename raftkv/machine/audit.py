"""Finds a replica whose state has diverged, while it runs.

Each ``interval`` entries every replica digests a window of slots, the next one each time, so that the cost is bounded
and the whole state is covered in the long run. The leader then puts its digest into the log; whoever found another one
at the same entry has diverged from the leader and must not serve. The windows follow from the log index alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.errors import InvariantError
from raftkv.store.digest import StateDigest
from raftkv.store.slots import SLOTS

WINDOW_SLOTS: Final = 64
KEPT: Final = 64
"""Own digests remembered until the leader's arrives in the log."""


class Audit:
    """``on_digest(index, digest)`` is told of each digest taken here; the leader's server proposes it. Interval 0: none."""

    def __init__(
        self,
        digest: StateDigest,
        interval: int,
        audit_round: int = 0,
        on_digest: Callable[[int, int], None] | None = None,
    ) -> None:
        self.interval = interval
        self.round = audit_round
        """index // interval of the last digest taken."""
        self.on_digest = on_digest
        self.compared = 0
        self._digest = digest
        self._taken: dict[int, int] = {}

    def after(self, index: int) -> None:
        """An entry was applied: take a digest when its turn has come."""
        if not self.interval:
            return
        current = index // self.interval
        if current == self.round:
            return
        self.round = current
        window = self._digest.window(current * WINDOW_SLOTS % SLOTS, WINDOW_SLOTS)
        digest = int.from_bytes(window[:8], "big")
        while len(self._taken) >= KEPT:
            del self._taken[next(iter(self._taken))]
        self._taken[index] = digest
        if self.on_digest is not None:
            self.on_digest(index, digest)

    def compare(self, index: int, digest: int) -> None:
        """The leader's digest at ``index`` arrived. Raises InvariantError when ours differs."""
        own = self._taken.get(index)
        if own is None:
            return
        self.compared += 1
        if own != digest:
            msg = (
                f"state diverged: digest {own:016x} at entry {index}, the leader has {digest:016x}; this replica stops "
                "serving. Remove its data directory and let it rejoin, and keep a copy for analysis"
            )
            raise InvariantError(msg)
