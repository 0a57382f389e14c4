# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Strings and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raftkv.client.commands.caller import Caller, T, flags, option
from raftkv.client.words import Word, done


class StringCommands(Caller[T]):
    """A value is bytes; a counter is a value that reads as a number."""

    def get(self, key: Word) -> T | None:
        """The value of ``key``."""
        return self._call("GET", key)

    def set(
        self, key: Word, value: Word, *, ex: int | None = None, px: int | None = None, exat: int | None = None,
        pxat: int | None = None, nx: bool = False, xx: bool = False, keepttl: bool = False,
    ) -> bool:  # fmt: skip
        """Store ``value``; expiry in seconds or milliseconds. False when ``nx`` or ``xx`` forbade it."""
        expiry = [*option("EX", ex), *option("PX", px), *option("EXAT", exat), *option("PXAT", pxat)]
        return self._call("SET", key, value, *expiry, *flags(nx=nx, xx=xx, keepttl=keepttl), shape=done)

    def put(self, key: Word, value: Word) -> bool:
        """Store ``value``."""
        return self._call("SET", key, value, shape=done)

    def set_and_get(
        self, key: Word, value: Word, *, ex: int | None = None, px: int | None = None, nx: bool = False,
        xx: bool = False, keepttl: bool = False,
    ) -> T | None:  # fmt: skip
        """Store ``value`` as :meth:`set` does; the old value (SET ... GET)."""
        expiry = [*option("EX", ex), *option("PX", px)]
        return self._call("SET", key, value, *expiry, *flags(nx=nx, xx=xx, keepttl=keepttl), "GET")

    def setnx(self, key: Word, value: Word) -> bool:
        """Store ``value`` if ``key`` does not exist."""
        return self._call("SETNX", key, value, shape=bool)

    def setex(self, key: Word, seconds: int, value: Word) -> bool:
        """Store ``value`` for some seconds."""
        return self._call("SETEX", key, seconds, value, shape=done)

    def psetex(self, key: Word, milliseconds: int, value: Word) -> bool:
        """Store ``value`` for some milliseconds."""
        return self._call("PSETEX", key, milliseconds, value, shape=done)

    def getset(self, key: Word, value: Word) -> T | None:
        """Store ``value``; the old one."""
        return self._call("GETSET", key, value)

    def getdel(self, key: Word) -> T | None:
        """Delete ``key``; its value."""
        return self._call("GETDEL", key)

    def getex(
        self, key: Word, *, ex: int | None = None, px: int | None = None, exat: int | None = None,
        pxat: int | None = None, persist: bool = False,
    ) -> T | None:  # fmt: skip
        """The value of ``key``, with a new expiry or (``persist``) none."""
        expiry = [*option("EX", ex), *option("PX", px), *option("EXAT", exat), *option("PXAT", pxat)]
        return self._call("GETEX", key, *expiry, *flags(persist=persist))

    def mget(self, *keys: Word) -> list[T | None]:
        """The values of ``keys``, in order."""
        return self._call("MGET", *keys)

    def mset(self, items: Mapping[Any, Word]) -> bool:
        """Store all items as one."""
        return self._call("MSET", *(word for item in items.items() for word in item), shape=done)

    def msetnx(self, items: Mapping[Any, Word]) -> bool:
        """Store all items if none of the keys exists."""
        return self._call("MSETNX", *(word for item in items.items() for word in item), shape=bool)

    def append(self, key: Word, value: Word) -> int:
        """Append to the value; its length."""
        return self._call("APPEND", key, value)

    def strlen(self, key: Word) -> int:
        """Length of the value in bytes."""
        return self._call("STRLEN", key)

    def getrange(self, key: Word, start: int, end: int) -> T:
        """Bytes ``start`` to ``end``, both included; negative from the end."""
        return self._call("GETRANGE", key, start, end)

    def substr(self, key: Word, start: int, end: int) -> T:
        """As :meth:`getrange`."""
        return self._call("SUBSTR", key, start, end)

    def setrange(self, key: Word, offset: int, value: Word) -> int:
        """Overwrite from ``offset``; the new length."""
        return self._call("SETRANGE", key, offset, value)

    def incr(self, key: Word) -> int:
        """Add one; the new value."""
        return self._call("INCR", key)

    def decr(self, key: Word) -> int:
        """Subtract one; the new value."""
        return self._call("DECR", key)

    def incrby(self, key: Word, amount: int) -> int:
        """Add ``amount``; the new value."""
        return self._call("INCRBY", key, amount)

    def decrby(self, key: Word, amount: int) -> int:
        """Subtract ``amount``; the new value."""
        return self._call("DECRBY", key, amount)

    def incrbyfloat(self, key: Word, amount: float) -> float:
        """Add ``amount``; the new value."""
        return self._call("INCRBYFLOAT", key, amount, shape=float)

    def lcs(self, first: Word, second: Word) -> T:
        """The longest common subsequence of two values."""
        return self._call("LCS", first, second)

    def lcs_length(self, first: Word, second: Word) -> int:
        """The length of :meth:`lcs`."""
        return self._call("LCS", first, second, "LEN")
