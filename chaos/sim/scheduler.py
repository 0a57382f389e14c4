"""Virtual time: one queue of events, ordered by time, then by when they were scheduled."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

START_S: Final = 1.0
"""Time begins after 0: the engine's "at once" is the instant 0."""


class Scheduler:
    """Runs callbacks in the order of their (virtual) times."""

    def __init__(self) -> None:
        self.now = START_S
        self.steps = 0
        self._order = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay_s: float, work: Callable[..., None], *args: object) -> None:
        """Call ``work(*args)`` in ``delay_s`` seconds."""
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s if delay_s > 0 else self.now, self._order, work, args))

    def at(self, time_s: float, work: Callable[..., None], *args: object) -> None:
        """Call ``work(*args)`` at ``time_s``, or now if that has passed."""
        self._order += 1
        heapq.heappush(self._queue, (max(time_s, self.now), self._order, work, args))

    def run_until(self, end_s: float) -> None:
        """Run everything that is due before ``end_s``, then let it be ``end_s``."""
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] < end_s:
            self.now, _, work, args = pop(queue)
            self.steps += 1
            work(*args)
        self.now = end_s
