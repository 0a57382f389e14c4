"""Which connection serves an exchange: the bookkeeping of a bounded pool, without I/O."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Grant(Generic[C]):
    """Leave to use a connection: an idle one, or a new one (``idle`` is None) after closing ``evict``."""

    idle: C | None = None
    evict: C | None = None


class Slots(Generic[C]):
    """At most ``limit`` connections to all nodes together, busy ones and those being opened included.

    Every grant ends in one :meth:`give` or :meth:`drop`. Not safe for threads: the caller holds a lock.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: defaultdict[str, list[C]] = defaultdict(list)
        self.open = 0
        """Connections granted or idle."""

    def take(self, address: str) -> Grant[C] | None:
        """A connection to ``address``; None when all are busy. The one used last comes first: it is the freshest."""
        if self._idle[address]:
            return Grant(idle=self._idle[address].pop())
        if self.open < self._limit:
            self.open += 1
            return Grant()
        for others in self._idle.values():
            if others:
                return Grant(evict=others.pop(0))
        return None

    def give(self, address: str, connection: C) -> None:
        """Put back a connection that may be used again."""
        self._idle[address].append(connection)

    def drop(self) -> None:
        """A granted connection is closed, or could not be opened."""
        self.open -= 1

    def drain(self) -> list[C]:
        """Take out all idle connections, to be closed."""
        idle = [connection for connections in self._idle.values() for connection in connections]
        self._idle.clear()
        self.open -= len(idle)
        return idle
