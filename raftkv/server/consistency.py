"""How fresh the reads of a connection have to be, and what they wait for.

====================  ===================================================================================================
linearizable          a barrier (ReadIndex): all that was acknowledged anywhere before the read was sent
bounded *ms*          nothing, if a barrier that completed here began at most so long ago, else a barrier: all that was
                      acknowledged anywhere more than *ms* before. Exact, because it counts from when the barrier
                      **began**, on this node's own monotonic clock
at least *token*      that this node has applied the log up to *token*: all that the connection knew that asked for it
local                 nothing: some earlier state. On one connection it never goes back
====================  ===================================================================================================

Whatever the mode, one read sees one state: data and time of the same moment. Time, which decides what has expired, is
the newest of the stamps that were applied and of the times that leaders gave with barriers completed here, and no clock
of this node. So a read without a barrier shows no key that a linearizable read at this node did not show any more, and
none disappears before its time because this node's clock is ahead; where nothing arrives, time stands still with the
data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from raftkv.commands.args import parse_int
from raftkv.commands.registry import Argv
from raftkv.errors import CommandError, RaftKVError

if TYPE_CHECKING:
    from raftkv.replicator import ReadReady

Gate = Callable[["ReadReady"], None]
"""Calls its argument with (time in ms for expiry, None) once the local state may be read, or with (0, error)."""

BOUND_MS_MAX: Final = 2**31 - 1
NEVER_S: Final = -1e9


@dataclass(frozen=True, slots=True)
class Consistency:
    """One mode. ``number`` is the bound in milliseconds, or the token."""

    mode: Literal["linearizable", "local", "bounded", "at least"] = "linearizable"
    number: int = 0

    def __str__(self) -> str:
        return f"{self.mode} {self.number}" if self.mode in {"bounded", "at least"} else self.mode


LINEARIZABLE: Final = Consistency()
LOCAL: Final = Consistency("local")


def parse(words: Argv) -> Consistency:
    """The arguments of READ. Raises CommandError."""
    match [words[0].upper(), *words[1:]]:
        case [b"LINEARIZABLE"]:
            return LINEARIZABLE
        case [b"LOCAL"]:
            return LOCAL
        case [b"BOUNDED", bound]:
            wrong = f"the bound must be a number of milliseconds from 0 to {BOUND_MS_MAX}"
            return Consistency("bounded", parse_int(bound, wrong, low=0, high=BOUND_MS_MAX))
        case [b"AT", least, token] if least.upper() == b"LEAST":
            return Consistency("at least", parse_int(token, "the token must be what RAFT.TOKEN answered", low=0))
    raise CommandError("syntax error, READ takes LINEARIZABLE, LOCAL, BOUNDED milliseconds or AT LEAST token")


class Replica(Protocol):
    """The part of :class:`raftkv.replicator.Replicator` that reads need."""

    def read_barrier(self, done: ReadReady) -> None: ...
    def await_applied(self, index: int, done: Callable[[RaftKVError | None], None]) -> None: ...


class Gates:
    """What reads of this node wait for, and what it knows of the freshness of its state."""

    def __init__(self, replicator: Replica, monotonic: Callable[[], float]) -> None:
        self._replicator = replicator
        self._monotonic = monotonic
        self._fresh_at = NEVER_S
        """When the newest barrier began of those that were completed."""
        self._now_ms = 0
        """The latest time that a leader gave with a barrier."""

    def gate(self, consistency: Consistency) -> Gate:
        """What a read has to pass."""
        match consistency.mode:
            case "local":
                return self._local
            case "bounded":
                return lambda done: self._bounded(consistency.number / 1000, done)
            case "at least":
                return lambda done: self._at_least(consistency.number, done)
            case "linearizable":
                return self._barrier

    def _barrier(self, done: ReadReady) -> None:
        began = self._monotonic()

        def completed(now_ms: int, error: RaftKVError | None) -> None:
            if error is None:
                self._fresh_at = max(self._fresh_at, began)
                self._now_ms = max(self._now_ms, now_ms)
            done(now_ms, error)

        self._replicator.read_barrier(completed)

    def _bounded(self, bound_s: float, done: ReadReady) -> None:
        if self._monotonic() - self._fresh_at <= bound_s:
            self._local(done)
        else:
            self._barrier(done)

    def _local(self, done: ReadReady) -> None:
        self._at_least(0, done)

    def _at_least(self, index: int, done: ReadReady) -> None:
        self._replicator.await_applied(index, lambda error: done(self._now_ms, error))
