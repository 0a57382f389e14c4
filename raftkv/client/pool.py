"""Which connection serves an exchange: the bookkeeping of a bounded and fair pool, without I/O.

A connection that becomes free is handed to the caller that has waited longest, and not put up for grabs: the one that
gives it back would nearly always be the first to take it again, and the others would starve.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Grant(Generic[C]):
    """Leave to use a connection: an idle one, or a new one (``idle`` is None) after closing ``evict``."""

    idle: C | None = None
    evict: C | None = None


@dataclass(slots=True, eq=False)
class Turn(Generic[C]):
    """A caller in the queue. ``wake`` is called once, when there is a grant or the pool is closed."""

    address: str
    wake: Callable[[], None]
    grant: Grant[C] | None = None


class Slots(Generic[C]):
    """At most ``limit`` connections to all nodes together, busy ones and those being opened included.

    Every grant ends in one :meth:`give` or :meth:`drop`. Not safe for threads: the caller holds a lock.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: defaultdict[str, list[C]] = defaultdict(list)
        self._queue: deque[Turn[C]] = deque()
        self.open = 0
        """Connections granted or idle."""

    def enter(self, address: str, wake: Callable[[], None]) -> Turn[C]:
        """Ask for a connection to ``address``. If the turn has no grant yet, wait until it is woken."""
        turn: Turn[C] = Turn(address, wake)
        if not self._queue:
            turn.grant = self._take(address)
        if turn.grant is None:
            self._queue.append(turn)
        return turn

    def leave(self, turn: Turn[C]) -> C | None:
        """Stop waiting; a grant that came in the meantime goes to the next. Returns a connection to be closed."""
        grant = turn.grant
        if grant is None:
            if turn in self._queue:
                self._queue.remove(turn)
        elif grant.idle is not None:
            self.give(turn.address, grant.idle)
        else:
            self.drop()
            return grant.evict
        return None

    def give(self, address: str, connection: C) -> None:
        """Put back a connection that may be used again."""
        self._idle[address].append(connection)
        self._serve()

    def drop(self) -> None:
        """A granted connection is closed, or could not be opened."""
        self.open -= 1
        self._serve()

    def drain(self) -> list[C]:
        """Take out all idle connections, to be closed, and wake all that wait."""
        idle = [connection for connections in self._idle.values() for connection in connections]
        self._idle.clear()
        self.open -= len(idle)
        while self._queue:
            self._queue.popleft().wake()
        return idle

    def _serve(self) -> None:
        while self._queue:
            turn = self._queue[0]
            turn.grant = self._take(turn.address)
            if turn.grant is None:
                return
            self._queue.popleft()
            turn.wake()

    def _take(self, address: str) -> Grant[C] | None:
        """The connection used last comes first: it is the freshest. With none to ``address``, one to another goes."""
        if self._idle[address]:
            return Grant(idle=self._idle[address].pop())
        if self.open < self._limit:
            self.open += 1
            return Grant()
        for others in self._idle.values():
            if others:
                return Grant(evict=others.pop(0))
        return None
