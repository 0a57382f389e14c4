# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Keys of any type: existence, expiry, names."""

from __future__ import annotations

from raftkv.client.commands.caller import Caller, T, flags, option
from raftkv.client.words import Word, cursor, done, text


class KeyCommands(Caller[T]):
    """A key may have an expiry; when it is due, the key is gone."""

    def delete(self, *keys: Word) -> int:
        """Delete keys; how many there were."""
        return self._call("DEL", *keys)

    def mdel(self, *keys: Word) -> int:
        """Delete keys; how many there were."""
        return self._call("MDEL", *keys)

    def unlink(self, *keys: Word) -> int:
        """As :meth:`delete`."""
        return self._call("UNLINK", *keys)

    def exists(self, *keys: Word) -> int:
        """How many of ``keys`` exist; one that is named twice counts twice."""
        return self._call("EXISTS", *keys)

    def touch(self, *keys: Word) -> int:
        """How many of ``keys`` exist."""
        return self._call("TOUCH", *keys)

    def type(self, key: Word) -> str:
        """``string``, ``list``, ``set``, ``zset``, ``hash`` or ``none``."""
        return self._call("TYPE", key, shape=text)

    def keys(self, pattern: Word = "*") -> list[T]:
        """All keys that match; :meth:`scan` is kinder to a large database."""
        return self._call("KEYS", pattern)

    def scan(
        self, cursor_: int = 0, *, match: Word | None = None, count: int | None = None, type_: str | None = None
    ) -> tuple[int, list[T]]:
        """Next cursor (0 at the end) and some keys."""
        return self._call("SCAN", cursor_, *_scan(match, count), *option("TYPE", type_), shape=cursor)

    def randomkey(self) -> T | None:
        """Any key."""
        return self._call("RANDOMKEY")

    def rename(self, key: Word, new: Word) -> bool:
        """Give ``key`` a new name, replacing what had it."""
        return self._call("RENAME", key, new, shape=done)

    def renamenx(self, key: Word, new: Word) -> bool:
        """Give ``key`` a new name if nobody has it."""
        return self._call("RENAMENX", key, new, shape=bool)

    def copy(self, source: Word, destination: Word, *, db: int | None = None, replace: bool = False) -> bool:
        """Copy a key, its expiry too; False when there is nothing to copy or the destination exists."""
        return self._call("COPY", source, destination, *option("DB", db), *flags(replace=replace), shape=bool)

    def move(self, key: Word, db: int) -> bool:
        """Move a key to another database, unless it has that key."""
        return self._call("MOVE", key, db, shape=bool)

    def expire(
        self, key: Word, seconds: int, *, nx: bool = False, xx: bool = False, gt: bool = False, lt: bool = False
    ) -> bool:
        """Let ``key`` expire in some seconds, if it exists and the conditions hold."""
        return self._call("EXPIRE", key, seconds, *flags(nx=nx, xx=xx, gt=gt, lt=lt), shape=bool)

    def pexpire(
        self, key: Word, milliseconds: int, *, nx: bool = False, xx: bool = False, gt: bool = False, lt: bool = False
    ) -> bool:
        """As :meth:`expire`, in milliseconds."""
        return self._call("PEXPIRE", key, milliseconds, *flags(nx=nx, xx=xx, gt=gt, lt=lt), shape=bool)

    def expireat(
        self, key: Word, unix_s: int, *, nx: bool = False, xx: bool = False, gt: bool = False, lt: bool = False
    ) -> bool:
        """Let ``key`` expire at a time, in seconds since the epoch."""
        return self._call("EXPIREAT", key, unix_s, *flags(nx=nx, xx=xx, gt=gt, lt=lt), shape=bool)

    def pexpireat(
        self, key: Word, unix_ms: int, *, nx: bool = False, xx: bool = False, gt: bool = False, lt: bool = False
    ) -> bool:
        """As :meth:`expireat`, in milliseconds."""
        return self._call("PEXPIREAT", key, unix_ms, *flags(nx=nx, xx=xx, gt=gt, lt=lt), shape=bool)

    def ttl(self, key: Word) -> int:
        """Seconds left; -1 without expiry, -2 without key."""
        return self._call("TTL", key)

    def pttl(self, key: Word) -> int:
        """As :meth:`ttl`, in milliseconds."""
        return self._call("PTTL", key)

    def expiretime(self, key: Word) -> int:
        """When ``key`` expires, in seconds since the epoch; -1 without expiry, -2 without key."""
        return self._call("EXPIRETIME", key)

    def pexpiretime(self, key: Word) -> int:
        """As :meth:`expiretime`, in milliseconds."""
        return self._call("PEXPIRETIME", key)

    def persist(self, key: Word) -> bool:
        """Take the expiry away; False if there was none."""
        return self._call("PERSIST", key, shape=bool)

    def object_encoding(self, key: Word) -> T | None:
        """How the value would be called in Redis (OBJECT ENCODING)."""
        return self._call("OBJECT", "ENCODING", key)


def _scan(match: Word | None, count: int | None) -> list[Word]:
    return [*option("MATCH", match), *option("COUNT", count)]
