"""Commands that took long, newest first: SLOWLOG.

Arguments are shortened as Redis does, so that a slow MSET of a gigabyte costs the log a few kilobytes:
https://redis.io/docs/latest/commands/slowlog-get/. Passwords never reach it (:func:`redacted`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.commands.registry import Argv

ARGUMENTS_MAX: Final = 32
"""Arguments kept of one command; of a longer one the last of them says how many more there were."""
ARGUMENT_BYTES_MAX: Final = 128
"""Bytes kept of one argument; a longer one is cut and says how many more there were."""

_REDACTED: Final = b"(redacted)"
_SECRET_SETTINGS: Final = frozenset({b"requirepass", b"masterauth", b"peer_secret", b"peer-secret"})


@dataclass(frozen=True, slots=True)
class SlowEntry:
    """One slow command."""

    id: int
    """Grows by one with each entry; not reset by SLOWLOG RESET, as in Redis."""
    wall_s: int
    """When it was noted, seconds since the epoch."""
    micros: int
    """How long it took."""
    argv: tuple[bytes, ...]
    """Shortened and without secrets."""
    address: str
    """host:port of the client."""
    name: str
    """CLIENT SETNAME's, or empty."""


class Slowlog:
    """The newest ``max_len`` commands that took at least ``threshold_us`` microseconds.

    A threshold of 0 logs every command, a negative one none. Older entries are dropped when it is full.
    """

    __slots__ = ("_entries", "_next_id", "threshold_us")

    def __init__(self, max_len: int, threshold_us: int) -> None:
        self._entries: deque[SlowEntry] = deque(maxlen=max(0, max_len))
        self._next_id = 0
        self.threshold_us = threshold_us

    @property
    def max_len(self) -> int:
        """Entries kept; setting it drops the oldest that are too many (CONFIG SET slowlog-max-len)."""
        return self._entries.maxlen or 0

    @max_len.setter
    def max_len(self, value: int) -> None:
        self._entries = deque(self._entries, maxlen=max(0, value))

    def note(self, argv: Argv, micros: int, address: str, name: str, wall_s: int) -> None:
        """Record the command if it was slow enough. ``argv`` is copied, never kept."""
        if not 0 <= self.threshold_us <= micros:
            return
        entry = SlowEntry(self._next_id, wall_s, micros, shortened(redacted(argv)), address, name)
        self._next_id += 1
        self._entries.append(entry)

    def get(self, count: int = -1) -> list[SlowEntry]:
        """The newest ``count`` entries, newest first; all of them when ``count`` is negative."""
        newest_first = list(reversed(self._entries))
        return newest_first if count < 0 else newest_first[:count]

    def __len__(self) -> int:
        return len(self._entries)

    def reset(self) -> None:
        """Forget every entry."""
        self._entries.clear()


def redacted(argv: Sequence[bytes]) -> Sequence[bytes]:
    """``argv`` with passwords replaced: of AUTH, of HELLO ... AUTH, of CONFIG SET of a secret setting."""
    words = [word.lower() for word in argv[:2]]
    if words[0] == b"auth":
        return [argv[0], *([_REDACTED] * (len(argv) - 1))]
    if words[0] == b"hello":
        at = next((i for i, word in enumerate(argv) if i > 1 and word.lower() == b"auth"), len(argv))
        return [_REDACTED if at < i <= at + 2 else word for i, word in enumerate(argv)]
    if words == [b"config", b"set"]:
        return [_REDACTED if i > 2 and argv[i - 1].lower() in _SECRET_SETTINGS else w for i, w in enumerate(argv)]
    return argv


def shortened(argv: Sequence[bytes]) -> tuple[bytes, ...]:
    """At most ARGUMENTS_MAX words of at most ARGUMENT_BYTES_MAX bytes, with Redis' notes of what was cut."""
    if len(argv) <= ARGUMENTS_MAX:
        return tuple(_cut(word) for word in argv)
    kept = ARGUMENTS_MAX - 1
    return (*(_cut(word) for word in argv[:kept]), b"... (%d more arguments)" % (len(argv) - kept))


def _cut(word: bytes) -> bytes:
    if len(word) <= ARGUMENT_BYTES_MAX:
        return bytes(word)
    return bytes(word[:ARGUMENT_BYTES_MAX]) + b"... (%d more bytes)" % (len(word) - ARGUMENT_BYTES_MAX)
