"""A canonical digest of the state, cached per slot.

Two replicas that applied the same entries have the same digest; equal digests mean (but for a collision of
64 bits in a slot) equal data: keys, types, values and expiry of every database, expired keys that are not yet
removed included. Canonical means that it does not depend on how the state came to be: keys, fields of a hash and
members of a set are sorted, members of a sorted set stand by (score, member), elements of a list by position.

Cost: only slots that changed since the last call are hashed again, about half a microsecond a key of 64 bytes.
:meth:`StateDigest.window` recomputes a range of slots from the data and ignores the cache: it finds memory that
changed without a command, and a command that forgot :meth:`Database.touch`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final

from xxhash import xxh3_64_intdigest, xxh3_128_digest, xxh3_128_hexdigest

from raftkv.store.keyspace import Database, Keyspace, type_name
from raftkv.store.slots import SLOTS

_LONG_BYTES: Final = 64 * 1024
"""A string of this length or longer is hashed by itself, so that a slot's bytes are not joined into a huge copy."""


# ------------------------------------------------------------------ one value
def _digest_parts(parts: list[bytes]) -> bytes:
    """Digest of a row of byte strings: their number and lengths are hashed too, so no two rows look alike."""
    lengths = struct.pack(f"<{len(parts)}Q", *map(len, parts))
    return xxh3_128_digest(lengths + b"".join(parts))


def _hash_parts(value: dict[bytes, bytes]) -> list[bytes]:
    return [part for field in sorted(value) for part in (field, value[field])]


def _zset_parts(value: Any) -> list[bytes]:
    entries = list(value.items())
    scores = struct.pack(f"<{len(entries)}d", *[score for _, score in entries])
    return [scores, *[member for member, _ in entries]]


_CONTAINER_PARTS: Final[dict[str, Callable[[Any], Iterable[bytes]]]] = {
    "list": list,
    "hash": _hash_parts,
    "set": sorted,
    "zset": _zset_parts,
}
_KINDS: Final = {"string": 0, "list": 1, "hash": 2, "set": 3, "zset": 4}
_LONG_STRING: Final = 5


def _kind_and_payload(value: Any) -> tuple[int, bytes]:
    """(number of the kind, the string itself or 16 bytes that stand for the value)."""
    if type(value) is bytes:
        return (0, value) if len(value) < _LONG_BYTES else (_LONG_STRING, xxh3_128_digest(value))
    name = type_name(value)
    return _KINDS[name], _digest_parts(list(_CONTAINER_PARTS[name](value)))


# ------------------------------------------------------------------ one slot
def slot_digest(database: Database, slot: int) -> int:
    """64 bits that stand for all keys of ``slot``; 0 for an empty slot."""
    bucket = database.bucket(slot)
    if not bucket:
        return 0
    keys = sorted(bucket)
    values = [bucket[key] for key in keys]
    kinds = b""
    if set(map(type, values)) != {bytes} or max(map(len, values)) >= _LONG_BYTES:
        tagged = [_kind_and_payload(value) for value in values]
        kinds = bytes(kind for kind, _ in tagged)
        values = [payload for _, payload in tagged]
    count = len(keys)
    head = struct.pack(f"<IB{2 * count}I", count, len(kinds) > 0, *map(len, keys), *map(len, values))
    return xxh3_64_intdigest(b"".join((head, kinds, *keys, *values, _expiry_bytes(database, keys))))


def _expiry_bytes(database: Database, keys: list[bytes]) -> bytes:
    expiries = database.expiries
    if not expiries:
        return b""
    found = [(number, expiries[key]) for number, key in enumerate(keys) if key in expiries]
    return b"".join(struct.pack("<Iq", number, at_ms) for number, at_ms in found)


# ------------------------------------------------------------------ the state
class StateDigest:
    """The digest of one keyspace. One at a time: it consumes :meth:`Database.take_dirty`."""

    def __init__(self, keyspace: Keyspace) -> None:
        """Hashes nothing yet: a snapshot that was just loaded would stand still for it."""
        self._keyspace = keyspace
        self._slots: list[array[int] | None] = [None] * len(keyspace.databases)

    def full(self) -> str:
        """32 hex digits that stand for the whole state; brings the cache up to date."""
        parts: list[bytes] = []
        for index, database in enumerate(self._keyspace.databases):
            dirty = database.take_dirty()
            cached = self._slots[index]
            if not database.size:
                self._slots[index] = None
                continue
            if cached is None:
                # A database that was empty has no digest of any slot worth keeping.
                self._slots[index] = cached = array("Q", bytes(8 * SLOTS))
                dirty = list(database.used_slots())
            _refresh(database, cached, dirty)
            parts += [struct.pack("<B", index), _little_endian(cached)]
        return xxh3_128_hexdigest(b"".join(parts))

    def window(self, start: int, count: int) -> bytes:
        """16 bytes that stand for slots ``start .. start+count-1`` of all databases, computed from the data.

        Slots wrap around, so a scrubber may just go on counting.
        """
        slots = [(start + offset) % SLOTS for offset in range(min(count, SLOTS))]
        parts: list[bytes] = []
        for index, database in enumerate(self._keyspace.databases):
            if database.size:
                digests = array("Q", [slot_digest(database, slot) for slot in slots])
                if any(digests):
                    parts += [struct.pack("<B", index), _little_endian(digests)]
        return xxh3_128_digest(b"".join(parts))


def joined(windows: Iterable[bytes]) -> bytes:
    """16 bytes that stand for several of :meth:`StateDigest.window`, in their order."""
    return xxh3_128_digest(b"".join(windows))


def _refresh(database: Database, cached: array[int], slots: Iterable[int]) -> None:
    for slot in slots:
        cached[slot] = slot_digest(database, slot)


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def digest_of(keyspace: Keyspace) -> str:
    """What :meth:`StateDigest.full` of an up-to-date digest answers, computed from the data alone."""
    parts: list[bytes] = []
    for index, database in enumerate(keyspace.databases):
        if database.size:
            digests = array("Q", bytes(8 * SLOTS))
            _refresh(database, digests, database.used_slots())
            parts += [struct.pack("<B", index), _little_endian(digests)]
    return xxh3_128_hexdigest(b"".join(parts))
