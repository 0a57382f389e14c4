# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Sets."""

from __future__ import annotations

from typing import Any

from raftkv.client.commands.caller import Caller, T, option
from raftkv.client.words import Word, bools, cursor, members


class SetCommands(Caller[T]):
    """Members, each once, in no order."""

    def sadd(self, key: Word, *values: Word) -> int:
        """Add members; how many are new."""
        return self._call("SADD", key, *values)

    def srem(self, key: Word, *values: Word) -> int:
        """Remove members; how many there were."""
        return self._call("SREM", key, *values)

    def sismember(self, key: Word, value: Word) -> bool:
        """Whether ``value`` is a member."""
        return self._call("SISMEMBER", key, value, shape=bool)

    def smismember(self, key: Word, *values: Word) -> list[bool]:
        """For each value whether it is a member."""
        return self._call("SMISMEMBER", key, *values, shape=bools)

    def smembers(self, key: Word) -> set[T]:
        """All members."""
        return self._call("SMEMBERS", key, shape=members)

    def scard(self, key: Word) -> int:
        """Number of members."""
        return self._call("SCARD", key)

    def spop(self, key: Word) -> T | None:
        """Remove and return any member."""
        return self._call("SPOP", key)

    def spop_many(self, key: Word, count: int) -> set[T]:
        """Remove and return up to ``count`` members."""
        return self._call("SPOP", key, count, shape=members)

    def srandmember(self, key: Word) -> T | None:
        """Any member."""
        return self._call("SRANDMEMBER", key)

    def srandmember_many(self, key: Word, count: int) -> list[T]:
        """Up to ``count`` members; with a negative count exactly as many, repeated at will."""
        return self._call("SRANDMEMBER", key, count)

    def smove(self, source: Word, destination: Word, value: Word) -> bool:
        """Move a member; False if it was none."""
        return self._call("SMOVE", source, destination, value, shape=bool)

    def sinter(self, *keys: Word) -> set[T]:
        """Members of all the sets."""
        return self._call("SINTER", *keys, shape=members)

    def sunion(self, *keys: Word) -> set[T]:
        """Members of any of the sets."""
        return self._call("SUNION", *keys, shape=members)

    def sdiff(self, *keys: Word) -> set[T]:
        """Members of the first set that are in none of the others."""
        return self._call("SDIFF", *keys, shape=members)

    def sinterstore(self, destination: Word, *keys: Word) -> int:
        """Store :meth:`sinter`; its size."""
        return self._call("SINTERSTORE", destination, *keys)

    def sunionstore(self, destination: Word, *keys: Word) -> int:
        """Store :meth:`sunion`; its size."""
        return self._call("SUNIONSTORE", destination, *keys)

    def sdiffstore(self, destination: Word, *keys: Word) -> int:
        """Store :meth:`sdiff`; its size."""
        return self._call("SDIFFSTORE", destination, *keys)

    def sintercard(self, *keys: Word, limit: int | None = None) -> int:
        """Size of :meth:`sinter`, counted up to ``limit``."""
        return self._call("SINTERCARD", len(keys), *keys, *option("LIMIT", limit))

    def sscan(
        self, key: Word, cursor_: int = 0, *, match: Word | None = None, count: int | None = None
    ) -> tuple[int, list[T]]:
        """Next cursor (0 at the end) and some members."""
        words: list[Any] = [*option("MATCH", match), *option("COUNT", count)]
        return self._call("SSCAN", key, cursor_, *words, shape=cursor)
