"""Databases of typed values.

A database is 16384 small dicts, one per hash slot, and not one big dict, for four reasons:

* a Python dict of a million keys is rebuilt in one go when it grows (a stop of 30 ms and more);
* SCAN needs a cursor that means the same after any change, on any node: it is the slot number;
* CLUSTER COUNTKEYSINSLOT and GETKEYSINSLOT are a look-up;
* the digest of the state is cached per slot, so that only what changed is hashed again.

Time: every look-up compares expiry with :attr:`Keyspace.now_ms`, which the state machine sets from the
stamp of the entry it applies (or of the read it serves). An expired key is invisible at once and removed
later by :meth:`Database.expire_due`, which runs inside apply and so at the same entry on every replica.

Iteration order anywhere is insertion order, never hash order: two replicas give the same answer.
"""

from __future__ import annotations

import heapq
from binascii import crc_hqx
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from raftkv.errors import CommandError, WrongTypeError
from raftkv.store.slots import SLOTS, key_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftkv.store.sets import IndexedSet
    from raftkv.store.zset import ZSet

Value: TypeAlias = "bytes | deque[bytes] | dict[bytes, bytes] | IndexedSet | ZSet"
"""string, list, hash, set, sorted set."""

_TYPE_NAMES: Final = {"bytes": "string", "deque": "list", "dict": "hash", "IndexedSet": "set", "ZSet": "zset"}

DATABASES: Final = 16
HEAP_SLACK: Final = 64
"""Stale expiry-heap items tolerated beyond twice the live ones before the heap is rebuilt."""

EXPIRIES_PER_SLOT: Final = 64
"""To free so many expiries counts as much as to free a slot."""


def type_name(value: Value) -> str:
    """What TYPE answers for ``value``: string, list, hash, set or zset."""
    return _TYPE_NAMES[type(value).__name__]


def copy_value(value: Any) -> Any:
    """A value that shares nothing mutable with ``value``."""
    return value if type(value) is bytes else value.copy()


class Database:
    """One numbered database. Keys and values are ``bytes``; containers never stay empty.

    Call :meth:`touch` after changing a container in place; all other mutators do so themselves.
    """

    __slots__ = ("_buckets", "_dirty", "_expires", "_heap", "_keyspace", "size", "watched")

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._buckets: list[dict[bytes, Any]] = []
        self._dirty = bytearray()
        self._expires: dict[bytes, int] = {}
        self._heap: list[tuple[int, bytes]] = []
        self.size = 0
        self.watched: Callable[[bytes], None] | None = None
        """Called with each changed key while any key of this database is watched; else None."""

    # ---------------------------------------------------------------- look-up
    def get(self, key: bytes) -> Any:
        """The value, or None if there is none or it has expired."""
        if not self.size:
            return None
        # key_slot inlined: this and set() are the hot path, where each call costs as much as the work.
        slot = key_slot(key) if b"{" in key else crc_hqx(key, 0) & 0x3FFF
        value = self._buckets[slot].get(key)
        if value is not None and self._expires:
            at_ms = self._expires.get(key)
            if at_ms is not None and at_ms <= self._keyspace.now_ms:
                return None
        return value

    def get_many(self, keys: Iterable[bytes]) -> list[Any]:
        """:meth:`get` for each key."""
        if not self.size:
            return [None for _ in keys]
        if self._expires:
            return [self.get(key) for key in keys]
        buckets = self._buckets
        return [buckets[key_slot(key) if b"{" in key else crc_hqx(key, 0) & 0x3FFF].get(key) for key in keys]

    def typed(self, key: bytes, kind: type[Any]) -> Any:
        """The value if it is of ``kind`` (bytes, deque, dict, IndexedSet, ZSet), None if missing.

        Raises WrongTypeError when the key holds something else.
        """
        value = self.get(key)
        if value is not None and type(value) is not kind:
            raise WrongTypeError
        return value

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    # ---------------------------------------------------------------- change
    def _allocate(self) -> None:
        self._buckets = [{} for _ in range(SLOTS)]
        if not self._dirty:
            self._dirty = bytearray(SLOTS)

    def touch(self, key: bytes) -> None:
        """Say that the value (or the expiry) at ``key`` was changed in place."""
        self._dirty[key_slot(key)] = 1
        if self.watched is not None:
            self.watched(key)

    def set(self, key: bytes, value: Any) -> None:
        """Store ``value`` and forget any expiry."""
        slot = key_slot(key) if b"{" in key else crc_hqx(key, 0) & 0x3FFF
        try:
            bucket = self._buckets[slot]
        except IndexError:
            self._allocate()
            bucket = self._buckets[slot]
        if key not in bucket:
            self.size += 1
        bucket[key] = value
        self._dirty[slot] = 1
        if self._expires:
            self._expires.pop(key, None)
        if self.watched is not None:
            self.watched(key)

    def set_many(self, commands: Iterable[Sequence[bytes]]) -> None:
        """:meth:`set` for each (anything, key, value), at a third of the cost: nothing is looked up twice."""
        if not self._buckets:
            self._allocate()
        buckets, dirty, expires, watched = self._buckets, self._dirty, self._expires, self.watched
        size = self.size
        for _, key, value in commands:
            slot = key_slot(key) if b"{" in key else crc_hqx(key, 0) & 0x3FFF
            bucket = buckets[slot]
            before = len(bucket)
            bucket[key] = value
            if len(bucket) != before:
                size += 1
            dirty[slot] = 1
            if expires:
                expires.pop(key, None)
            if watched is not None:
                watched(key)
        self.size = size

    def replace(self, key: bytes, value: Any) -> None:
        """Store ``value`` and keep the expiry (an expired key counts as missing, and so loses it)."""
        at_ms = self.expire_at(key)
        self.set(key, value)
        if at_ms is not None:
            self.set_expiry(key, at_ms)

    def delete(self, key: bytes) -> bool:
        """Remove ``key``; True if it was there and had not expired.

        A key that is not there is not a change: no slot becomes dirty and no watch breaks.
        """
        if not self.size or self._buckets[key_slot(key)].pop(key, None) is None:
            return False
        self.size -= 1
        at_ms = self._expires.pop(key, None)
        self.touch(key)
        return at_ms is None or at_ms > self._keyspace.now_ms

    def store(self, key: bytes, container: Any) -> None:
        """Store a container without expiry, or delete the key when the container is empty."""
        if len(container):
            self.set(key, container)
        else:
            self.delete(key)

    def touch_or_drop(self, key: bytes, container: Any) -> None:
        """After removing from the container at ``key`` in place: touch it, or delete it when empty."""
        if len(container):
            self.touch(key)
        else:
            self.delete(key)

    # ---------------------------------------------------------------- expiry
    def expire_at(self, key: bytes) -> int | None:
        """When ``key`` expires (ms since the epoch); None if never, missing or expired."""
        at_ms = self._expires.get(key)
        return at_ms if at_ms is not None and at_ms > self._keyspace.now_ms else None

    def set_expiry(self, key: bytes, at_ms: int) -> None:
        """Let an existing key expire at ``at_ms``; at or before now removes it."""
        if at_ms <= self._keyspace.now_ms:
            self.delete(key)
            return
        self._expires[key] = at_ms
        self.touch(key)
        heapq.heappush(self._heap, (at_ms, key))
        if len(self._heap) > 2 * len(self._expires) + HEAP_SLACK:
            self._heap = [(when, name) for name, when in self._expires.items()]
            heapq.heapify(self._heap)

    def persist(self, key: bytes) -> bool:
        """Remove the expiry; True if there was one."""
        if self.expire_at(key) is None:
            return False
        del self._expires[key]
        self.touch(key)
        return True

    def expire_due(self, limit: int) -> int:
        """Remove at most ``limit`` keys that are due, in order of (time, key). Returns how many."""
        removed = 0
        heap, now_ms = self._heap, self._keyspace.now_ms
        while heap and heap[0][0] <= now_ms and removed < limit:
            at_ms, key = heapq.heappop(heap)
            if self._expires.get(key) == at_ms:
                self.delete(key)
                removed += 1
        return removed

    @property
    def next_expiry_ms(self) -> int | None:
        """A lower bound of the next key's expiry; None when nothing expires."""
        return self._heap[0][0] if self._heap else None

    @property
    def expires_count(self) -> int:
        """How many keys have an expiry."""
        return len(self._expires)

    @property
    def expiries(self) -> dict[bytes, int]:
        """Key to expiry in ms since the epoch. Read only."""
        return self._expires

    # ---------------------------------------------------------------- iteration
    def keys(self) -> Iterator[bytes]:
        """All live keys, slot by slot, in insertion order within a slot."""
        for bucket in self._buckets:
            for key in bucket:
                if self._alive(key):
                    yield key

    def items(self) -> Iterator[tuple[bytes, Any]]:
        """All keys with values, expired ones too (for snapshots): same order as :meth:`keys`."""
        for bucket in self._buckets:
            yield from bucket.items()

    def keys_in_slot(self, slot: int) -> list[bytes]:
        """Live keys of one slot."""
        if not self._buckets:
            return []
        return [key for key in self._buckets[slot] if self._alive(key)]

    def bucket(self, slot: int) -> dict[bytes, Any]:
        """The raw dict of one slot (read only), empty when the database is."""
        return self._buckets[slot] if self._buckets else {}

    def used_slots(self) -> Iterator[int]:
        """Slots that hold keys, in order."""
        return compress(range(SLOTS), self._buckets)

    def take_dirty(self) -> list[int]:
        """Slots changed since the last call."""
        dirty = self._dirty
        if not dirty:
            return []
        found = []
        at = dirty.find(1)
        while at >= 0:
            found.append(at)
            at = dirty.find(1, at + 1)
        self._dirty = bytearray(len(dirty))
        return found

    def _alive(self, key: bytes) -> bool:
        at_ms = self._expires.get(key)
        return at_ms is None or at_ms > self._keyspace.now_ms

    def mark_all(self) -> None:
        """Say that everything may have changed."""
        self._dirty = bytearray(b"\x01" * SLOTS)
        if self.watched is not None:
            for key in list(self.keys()):
                self.watched(key)

    def clear(self) -> None:
        """Remove everything."""
        if not self._buckets:
            return
        self.mark_all()
        self._buckets = []
        self._expires = {}
        self._heap = []
        self.size = 0

    def restore(self, slot: int, items: Iterable[tuple[bytes, Any]]) -> None:
        """Append keys that are known to be new and of ``slot``, without expiry (loading a snapshot)."""
        if not self._buckets:
            self._allocate()
        bucket = self._buckets[slot]
        before = len(bucket)
        bucket.update(items)
        self.size += len(bucket) - before
        self._dirty[slot] = 1

    def restore_expiries(self, expiries: dict[bytes, int]) -> None:
        """Set the expiries of all restored keys; due ones stay until :meth:`expire_due` (loading a snapshot)."""
        self._expires = expiries
        self._heap = [(at_ms, key) for key, at_ms in expiries.items()]
        heapq.heapify(self._heap)

    def release(self, limit: int) -> int:
        """Give up to ``limit`` slots, or some more expiries, back to the system; how many. It is no database any more.

        To free a million keys at once takes tenths of a second.
        """
        expired = min(len(self._heap), len(self._expires), EXPIRIES_PER_SLOT * limit)
        for _ in range(expired):
            self._expires.popitem()
        del self._heap[len(self._heap) - expired :]
        slots = min(len(self._buckets), limit - expired // EXPIRIES_PER_SLOT)
        del self._buckets[len(self._buckets) - slots :]
        return slots + -(-expired // EXPIRIES_PER_SLOT)


class Keyspace:
    """The sixteen databases and the time that they see."""

    __slots__ = ("databases", "now_ms")

    def __init__(self) -> None:
        self.now_ms = 0
        self.databases = [Database(self) for _ in range(DATABASES)]

    def __getitem__(self, index: int) -> Database:
        if not 0 <= index < DATABASES:
            msg = "DB index is out of range"
            raise CommandError(msg)
        return self.databases[index]

    def expiring(self) -> list[Database]:
        """Those in which something may expire. Asked for at every entry: without a call for each database."""
        return [one for one in self.databases if one._heap]

    def swap(self, a: int, b: int) -> None:
        """Exchange two databases (SWAPDB).

        A watch is of a key in a *numbered* database: the callbacks stay with their numbers, and hear of
        every key that was or now is under that number.
        """
        one, two = self[a], self[b]
        if one is two:
            return
        self.databases[a], self.databases[b] = two, one
        one.watched, two.watched = two.watched, one.watched
        changed = [*one.keys(), *two.keys()]
        for database in (one, two):
            database.mark_all()
            if database.watched is not None:
                for key in changed:
                    database.watched(key)

    def release(self, slots: int) -> bool:
        """Free about ``slots`` slots, and whatever is in them, of a keyspace that nobody uses;
        False when it is empty.
        """
        for database in self.databases:
            slots -= database.release(slots)
            if slots <= 0:
                return True
        return False
