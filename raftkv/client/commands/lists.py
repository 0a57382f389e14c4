# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Lists."""

from __future__ import annotations

from typing import Literal

from raftkv.client.commands.caller import Caller, T, option
from raftkv.client.words import Word, done, pair

End = Literal["LEFT", "RIGHT"]


class ListCommands(Caller[T]):
    """Sequences that grow and shrink at both ends. Indices count from 0, negative ones from the end."""

    def lpush(self, key: Word, *values: Word) -> int:
        """Add at the head, one after the other; the new length."""
        return self._call("LPUSH", key, *values)

    def rpush(self, key: Word, *values: Word) -> int:
        """Add at the tail; the new length."""
        return self._call("RPUSH", key, *values)

    def lpushx(self, key: Word, *values: Word) -> int:
        """As :meth:`lpush`, if the list exists."""
        return self._call("LPUSHX", key, *values)

    def rpushx(self, key: Word, *values: Word) -> int:
        """As :meth:`rpush`, if the list exists."""
        return self._call("RPUSHX", key, *values)

    def lpop(self, key: Word) -> T | None:
        """Remove and return the head."""
        return self._call("LPOP", key)

    def rpop(self, key: Word) -> T | None:
        """Remove and return the tail."""
        return self._call("RPOP", key)

    def lpop_many(self, key: Word, count: int) -> list[T] | None:
        """Remove and return up to ``count`` from the head; None without list."""
        return self._call("LPOP", key, count)

    def rpop_many(self, key: Word, count: int) -> list[T] | None:
        """Remove and return up to ``count`` from the tail; None without list."""
        return self._call("RPOP", key, count)

    def lmpop(self, *keys: Word, end: End = "LEFT", count: int = 1) -> tuple[T, list[T]] | None:
        """Pop from the first of ``keys`` that has elements; its name, and what was popped."""
        return self._call("LMPOP", len(keys), *keys, end, "COUNT", count, shape=pair)

    def llen(self, key: Word) -> int:
        """Number of elements."""
        return self._call("LLEN", key)

    def lrange(self, key: Word, start: int, stop: int) -> list[T]:
        """Elements ``start`` to ``stop``, both included."""
        return self._call("LRANGE", key, start, stop)

    def lindex(self, key: Word, index: int) -> T | None:
        """One element."""
        return self._call("LINDEX", key, index)

    def lset(self, key: Word, index: int, value: Word) -> bool:
        """Replace one element."""
        return self._call("LSET", key, index, value, shape=done)

    def ltrim(self, key: Word, start: int, stop: int) -> bool:
        """Keep ``start`` to ``stop`` only."""
        return self._call("LTRIM", key, start, stop, shape=done)

    def lrem(self, key: Word, count: int, value: Word) -> int:
        """Remove ``count`` equal elements from the head (negative: the tail; 0: all); how many went."""
        return self._call("LREM", key, count, value)

    def linsert(self, key: Word, where: Literal["BEFORE", "AFTER"], pivot: Word, value: Word) -> int:
        """Insert beside ``pivot``; the new length, -1 without pivot, 0 without list."""
        return self._call("LINSERT", key, where, pivot, value)

    def lpos(self, key: Word, value: Word, *, rank: int | None = None, maxlen: int | None = None) -> int | None:
        """Index of the first (``rank``: n-th) equal element."""
        return self._call("LPOS", key, value, *option("RANK", rank), *option("MAXLEN", maxlen))

    def lpos_many(
        self, key: Word, value: Word, count: int, *, rank: int | None = None, maxlen: int | None = None
    ) -> list[int]:
        """Indices of ``count`` equal elements (0: all)."""
        return self._call("LPOS", key, value, *option("RANK", rank), "COUNT", count, *option("MAXLEN", maxlen))

    def lmove(self, source: Word, destination: Word, take: End = "LEFT", put: End = "RIGHT") -> T | None:
        """Move one element from an end of one list to an end of another."""
        return self._call("LMOVE", source, destination, take, put)

    def rpoplpush(self, source: Word, destination: Word) -> T | None:
        """Move the tail of one list to the head of another."""
        return self._call("RPOPLPUSH", source, destination)
