# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raftkv.client.commands.caller import Caller, T, option
from raftkv.client.words import Word, cursor_of_fields, done, pairs


class HashCommands(Caller[T]):
    """Fields and their values under one key."""

    def hset(self, key: Word, items: Mapping[Any, Word]) -> int:
        """Set fields; how many are new."""
        return self._call("HSET", key, *(word for item in items.items() for word in item))

    def hmset(self, key: Word, items: Mapping[Any, Word]) -> bool:
        """Set fields."""
        return self._call("HMSET", key, *(word for item in items.items() for word in item), shape=done)

    def hsetnx(self, key: Word, field: Word, value: Word) -> bool:
        """Set a field that does not exist."""
        return self._call("HSETNX", key, field, value, shape=bool)

    def hget(self, key: Word, field: Word) -> T | None:
        """The value of a field."""
        return self._call("HGET", key, field)

    def hmget(self, key: Word, *fields: Word) -> list[T | None]:
        """The values of fields, in order."""
        return self._call("HMGET", key, *fields)

    def hgetall(self, key: Word) -> dict[T, T]:
        """All fields with their values."""
        return self._call("HGETALL", key)

    def hdel(self, key: Word, *fields: Word) -> int:
        """Remove fields; how many there were."""
        return self._call("HDEL", key, *fields)

    def hexists(self, key: Word, field: Word) -> bool:
        """Whether the field exists."""
        return self._call("HEXISTS", key, field, shape=bool)

    def hlen(self, key: Word) -> int:
        """Number of fields."""
        return self._call("HLEN", key)

    def hstrlen(self, key: Word, field: Word) -> int:
        """Length of a field's value in bytes."""
        return self._call("HSTRLEN", key, field)

    def hkeys(self, key: Word) -> list[T]:
        """All fields."""
        return self._call("HKEYS", key)

    def hvals(self, key: Word) -> list[T]:
        """All values."""
        return self._call("HVALS", key)

    def hincrby(self, key: Word, field: Word, amount: int) -> int:
        """Add to a field; its new value."""
        return self._call("HINCRBY", key, field, amount)

    def hincrbyfloat(self, key: Word, field: Word, amount: float) -> float:
        """Add to a field; its new value."""
        return self._call("HINCRBYFLOAT", key, field, amount, shape=float)

    def hrandfield(self, key: Word) -> T | None:
        """Any field."""
        return self._call("HRANDFIELD", key)

    def hrandfield_many(self, key: Word, count: int) -> list[T]:
        """Up to ``count`` fields; with a negative count exactly as many, repeated at will."""
        return self._call("HRANDFIELD", key, count)

    def hrandfield_with_values(self, key: Word, count: int) -> list[tuple[T, T]]:
        """As :meth:`hrandfield_many`, with values."""
        return self._call("HRANDFIELD", key, count, "WITHVALUES", shape=pairs)

    def hscan(
        self, key: Word, cursor_: int = 0, *, match: Word | None = None, count: int | None = None
    ) -> tuple[int, dict[T, T]]:
        """Next cursor (0 at the end) and some fields with values."""
        words = [*option("MATCH", match), *option("COUNT", count)]
        return self._call("HSCAN", key, cursor_, *words, shape=cursor_of_fields)
