"""The whole keyspace as a stream of bytes, for snapshots.

The stream is a row of frames: length (u32), xxh3-64 of the body (u64), body; all numbers little-endian. The first
byte of a body says what it is:

=====  =======  ==================================================================================================
``H``  header   magic ``raftkv``, version (u16), ``now_ms`` (i64)
``K``  keys     database (u8), then rows of a table in columns: slots and keys in each, kinds, lengths of keys and
                values, keys, values (below)
``X``  expiry   database (u8), count (u32), lengths of keys (u32 each), times in ms (i64 each), keys
``E``  end      number of keys (u64) and of expiries (u64) in all; nothing may follow
=====  =======  ==================================================================================================

Columns, not records, because Python loads a million keys in a second only if :mod:`struct` and slices do the work in
bulk. Insertion order of keys, fields and members is kept: it decides replies, and replicas that load a snapshot must
answer as those that did not. Chunks that :func:`dump` yields have no meaning of their own; :func:`load` takes any cut.

Caveat: the keyspace must not change between the first and the last chunk (dump in a forked child, or do not yield
to the event loop).
"""

from __future__ import annotations

import gc
import marshal
import struct
import sys
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, chain, pairwise
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from raftkv.errors import InvariantError
from raftkv.store.keyspace import DATABASES, Database, Keyspace, type_name
from raftkv.store.sets import IndexedSet
from raftkv.store.zset import ZSet

VERSION: Final = 1
CHUNK_BYTES: Final = 256 * 1024
"""About how long a chunk is; none is longer than twice that."""

_MAGIC: Final = b"raftkv"
_FRAME: Final = struct.Struct("<QQ")
_HEADER: Final = struct.Struct("<c6sHq")
_KEYS: Final = struct.Struct("<cBIIB")
"""``K``, database, slots, keys, whether kinds follow (else all values are strings)."""
_EXPIRY: Final = struct.Struct("<cBI")
_END: Final = struct.Struct("<cQQ")
_FRAME_BODY_MAX: Final = 1 << 40
"""A longer declaration is damage."""
_BLOCK_KEYS_MAX: Final = 2 * 1024
"""Keys in a frame, so that tables of small values are bounded too: one is loaded in a few milliseconds."""
_MARSHAL_VERSION: Final = 2
_COPY_BYTES_MAX: Final = 16 * 1024 * 1024
"""A larger slot has few, large values, and few of their pages are touched."""
_KINDS: Final = {"string": 0, "list": 1, "hash": 2, "set": 3, "zset": 4}


def _damaged(what: str) -> InvariantError:
    return InvariantError(f"snapshot data is damaged: {what}. Restore this node from a peer or an older snapshot")


# ------------------------------------------------------------------ containers
def _pack_parts(parts: list[bytes]) -> bytes:
    return struct.pack(f"<I{len(parts)}I", len(parts), *map(len, parts)) + b"".join(parts)


def _unpack_parts(raw: bytes) -> tuple[list[bytes], int]:
    """(parts, where they end)."""
    (count,) = struct.unpack_from("<I", raw)
    lengths = struct.unpack_from(f"<{count}I", raw, 4)
    return _cut(raw, lengths, 4 + 4 * count)


def _cut(raw: bytes, lengths: Iterable[int], start: int) -> tuple[list[bytes], int]:
    """Slices of ``raw`` from ``start`` on; raises when they run over its end."""
    ends = list(accumulate(lengths, initial=start))
    if ends[-1] > len(raw):
        raise _damaged("lengths run over the end of a frame")
    return [raw[a:b] for a, b in pairwise(ends)], ends[-1]


def _pack_zset(value: ZSet) -> bytes:
    # In the order of the mapping, not of the scores: the mapping is what the loaded value must equal.
    scores = value.scores
    return _pack_parts(list(scores)) + struct.pack(f"<{len(scores)}d", *scores.values())


def _unpack_zset(raw: bytes) -> ZSet:
    members, at = _unpack_parts(raw)
    return ZSet(zip(members, struct.unpack_from(f"<{len(members)}d", raw, at), strict=True))


def _unpack_hash(raw: bytes) -> dict[bytes, bytes]:
    parts = _unpack_parts(raw)[0]
    return dict(zip(parts[::2], parts[1::2], strict=True))


_PACK: Final[dict[str, Callable[[Any], bytes]]] = {
    "string": lambda value: value,
    "list": lambda value: _pack_parts(list(value)),
    "hash": lambda value: _pack_parts(list(chain.from_iterable(value.items()))),
    "set": lambda value: _pack_parts(list(value)),
    "zset": _pack_zset,
}
_UNPACK: Final[list[Callable[[bytes], Any]]] = [
    lambda raw: raw,
    lambda raw: deque(_unpack_parts(raw)[0]),
    _unpack_hash,
    lambda raw: IndexedSet.from_members(_unpack_parts(raw)[0]),
    _unpack_zset,
]


# ------------------------------------------------------------------ dump
def dump(keyspace: Keyspace) -> Iterator[bytes]:
    """The stream, in chunks of about CHUNK_BYTES."""
    pending: list[bytes] = []
    size = 0
    for body in _bodies(keyspace):
        pending += [_FRAME.pack(len(body), xxh3_64_intdigest(body)), body]
        size += _FRAME.size + len(body)
        if size >= CHUNK_BYTES:
            yield from _pieces(b"".join(pending))
            pending, size = [], 0
    yield from _pieces(b"".join(pending))


def _pieces(data: bytes) -> Iterator[bytes]:
    if len(data) <= 2 * CHUNK_BYTES:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def _bodies(keyspace: Keyspace) -> Iterator[bytes]:
    yield _HEADER.pack(b"H", _MAGIC, VERSION, keyspace.now_ms)
    for index, database in enumerate(keyspace.databases):
        if database.size:
            yield from _key_bodies(index, database)
            yield from _expiry_bodies(index, database)
    yield _END.pack(
        b"E",
        sum(database.size for database in keyspace.databases),
        sum(database.expires_count for database in keyspace.databases),
    )


class _Block:
    """Rows of one ``K`` frame, in columns."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._slots, self._counts = array("H"), array("I")
        self._key_lengths, self._value_lengths = array("I"), array("Q")
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._kinds = bytearray()
        self._all_strings = True
        self._size = 0

    def add(self, slot: int, keys: list[bytes], values: list[Any]) -> None:
        """Rows of one slot."""
        if set(map(type, values)) == {bytes}:
            self._kinds += bytes(len(values))
        else:
            names = [type_name(value) for value in values]
            self._kinds += bytes(map(_KINDS.__getitem__, names))
            values = [_PACK[name](value) for name, value in zip(names, values, strict=True)]
            self._all_strings = False
        value_lengths = list(map(len, values))
        self._slots.append(slot)
        self._counts.append(len(keys))
        self._key_lengths.extend(map(len, keys))
        self._value_lengths.extend(value_lengths)
        self._keys += keys
        self._values += values
        self._size += sum(value_lengths)

    @property
    def empty(self) -> bool:
        """Whether there is no row."""
        return not self._keys

    @property
    def full(self) -> bool:
        """Whether the frame should be written now."""
        return self._size >= CHUNK_BYTES or len(self._keys) >= _BLOCK_KEYS_MAX

    def body(self) -> bytes:
        """The bytes of the frame."""
        return b"".join((
            _KEYS.pack(b"K", self._index, len(self._slots), len(self._keys), not self._all_strings),
            _little_endian(self._slots),
            _little_endian(self._counts),
            b"" if self._all_strings else self._kinds,
            _little_endian(self._key_lengths),
            _little_endian(self._value_lengths),
            *self._keys,
            *self._values,
        ))  # fmt: skip


def _little_endian(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def _key_bodies(index: int, database: Database) -> Iterator[bytes]:
    block = _Block(index)
    for slot in database.used_slots():
        bucket = _copied(database.bucket(slot))
        keys, values = list(bucket), list(bucket.values())
        start = 0
        while start < len(keys):
            # A crowded slot (hash tags, big values) is spread over frames, with about a chunk in each.
            stop = _rows_end(values, start)
            block.add(slot, keys[start:stop], values[start:stop])
            start = stop
            if block.full:
                yield block.body()
                block = _Block(index)
    if not block.empty:
        yield block.body()


def _copied(bucket: dict[bytes, Any]) -> dict[bytes, Any]:
    """A copy of a slot made without taking a reference to any key or value; the slot itself where that cannot be.

    In a forked child each reference taken is a write to the object's page, which is copied for it: looking
    at every key would double the memory. :mod:`marshal` walks dicts of bytes with borrowed references (in
    the format before references).
    """
    try:
        raw = marshal.dumps(bucket, _MARSHAL_VERSION)
    except ValueError:  # a list, a set, a sorted set
        return bucket
    copied: dict[bytes, Any] = bucket
    if len(raw) <= _COPY_BYTES_MAX:
        copied = marshal.loads(raw)  # noqa: S302 -- our own bytes of a moment ago
    return copied


def _rows_end(values: list[Any], start: int) -> int:
    """Where the rows from ``start`` that fit one frame end; at least one fits. A container counts by its elements."""
    stop = min(len(values), start + _BLOCK_KEYS_MAX)
    sizes = list(map(len, values[start:stop]))
    if sum(sizes) <= CHUNK_BYTES:
        return stop
    return start + max(1, bisect_right(list(accumulate(sizes)), CHUNK_BYTES))


def _expiry_bodies(index: int, database: Database) -> Iterator[bytes]:
    items = list(database.expiries.items())
    for start in range(0, len(items), _BLOCK_KEYS_MAX):
        part = items[start : start + _BLOCK_KEYS_MAX]
        keys = [key for key, _ in part]
        count = len(part)
        yield b"".join((
            _EXPIRY.pack(b"X", index, count),
            struct.pack(f"<{count}I", *map(len, keys)),
            struct.pack(f"<{count}q", *[at_ms for _, at_ms in part]),
            *keys,
        ))  # fmt: skip


END_BYTES: Final = _END.size
"""A stream ends with so many bytes that :func:`ends_with` reads."""


def ends_with(tail: bytes) -> tuple[int, int]:
    """(keys, expiries) by the last :data:`END_BYTES` bytes of a stream. Raises InvariantError when it is no end."""
    if len(tail) != _END.size or tail[:1] != b"E":
        raise _damaged("it does not end with an end frame")
    _, keys, expiries = _END.unpack(tail)
    return keys, expiries


# ------------------------------------------------------------------ load
@contextmanager
def _without_gc() -> Iterator[None]:
    """Loading makes objects that all stay: looking for garbage among them would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(chunks: Iterable[bytes]) -> Keyspace:
    """The keyspace that :func:`dump` wrote.

    Raises InvariantError on damage, on a stream that ends early and on an unknown version.
    """
    loading = Loading()
    for chunk in chunks:
        loading.feed(chunk)
    return loading.finish()


class Loading:
    """:func:`load`, piece by piece. Both methods raise InvariantError, after which it is of no use."""

    def __init__(self) -> None:
        self._loader = _Loader()
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the stream, cut anywhere. Takes as long as the frames take that they complete."""
        self._buffer += chunk
        if len(self._buffer) < _FRAME.size:
            return
        with _without_gc():
            for body in _frames(self._buffer):
                try:
                    self._loader.take(body)
                except (struct.error, ValueError, IndexError, KeyError) as error:
                    raise _damaged(f"a frame does not parse ({error})") from error

    def finish(self) -> Keyspace:
        """The keyspace: the stream has ended."""
        if self._buffer:
            raise _damaged("it ends inside a frame")
        return self._loader.finish()


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """Bodies of the frames at the beginning of ``buffer``, checked; what they took is gone from it at the end."""
    at = 0
    while len(buffer) - at >= _FRAME.size:
        length, checksum = _FRAME.unpack_from(buffer, at)
        if length > _FRAME_BODY_MAX:
            raise _damaged(f"a frame of {length} bytes")
        start = at + _FRAME.size
        if len(buffer) - start < length:
            break
        with memoryview(buffer) as view:
            body = bytes(view[start : start + length])
        if xxh3_64_intdigest(body) != checksum:
            raise _damaged("a checksum does not match")
        at = start + length
        yield body
    del buffer[:at]


class _Loader:
    """Puts frames together; refuses them in a wrong order."""

    def __init__(self) -> None:
        self._keyspace = Keyspace()
        self._expiries: list[dict[bytes, int]] = [{} for _ in range(DATABASES)]
        self._begun = self._ended = False

    def take(self, body: bytes) -> None:
        """One frame's body."""
        kind = body[:1]
        if self._ended or (kind == b"H") is self._begun:
            raise _damaged("frames are out of order")
        if kind == b"H":
            self._header(body)
        elif kind == b"K":
            self._keys(body)
        elif kind == b"X":
            self._expiry(body)
        elif kind == b"E":
            self._end(body)
        else:
            raise _damaged(f"a frame of unknown kind {kind!r}")

    def finish(self) -> Keyspace:
        """The keyspace, complete."""
        if not self._ended:
            raise _damaged("it ends before the end frame")
        return self._keyspace

    def _header(self, body: bytes) -> None:
        if len(body) < _HEADER.size:
            raise _damaged("the header is short")
        _, magic, version, now_ms = _HEADER.unpack_from(body)
        if magic != _MAGIC:
            raise _damaged("it does not begin with a raftkv header")
        if version != VERSION:
            raise InvariantError(
                f"snapshot version {version} is unknown to this program, which reads version {VERSION}: "
                "start the raftkv version that wrote it, or a newer one"
            )
        self._keyspace.now_ms = now_ms
        self._begun = True

    def _keys(self, body: bytes) -> None:
        _, index, slots, count, has_kinds = _KEYS.unpack_from(body)
        at = _KEYS.size
        table = struct.unpack_from(f"<{slots}H{slots}I", body, at)
        at += 6 * slots
        kinds = b""
        if has_kinds:
            kinds = body[at : at + count]
            at += count
        key_lengths = struct.unpack_from(f"<{count}I", body, at)
        value_lengths = struct.unpack_from(f"<{count}Q", body, at + 4 * count)
        keys, at = _cut(body, key_lengths, at + 12 * count)
        values: list[Any]
        values, at = _cut(body, value_lengths, at)
        if at != len(body) or sum(table[slots:]) != count:
            raise _damaged("a table of keys has a wrong size")
        if has_kinds:
            values = [_UNPACK[kind](raw) for kind, raw in zip(kinds, values, strict=True)]
        database = self._keyspace.databases[index]
        ends = accumulate(table[slots:], initial=0)
        for slot, (start, stop) in zip(table[:slots], pairwise(ends), strict=True):
            database.restore(slot, zip(keys[start:stop], values[start:stop], strict=True))

    def _expiry(self, body: bytes) -> None:
        _, index, count = _EXPIRY.unpack_from(body)
        at = _EXPIRY.size
        lengths = struct.unpack_from(f"<{count}I", body, at)
        times = struct.unpack_from(f"<{count}q", body, at + 4 * count)
        keys, at = _cut(body, lengths, at + 12 * count)
        if at != len(body):
            raise _damaged("a table of expiries has a wrong size")
        self._expiries[index].update(zip(keys, times, strict=True))

    def _end(self, body: bytes) -> None:
        _, keys, expiries = _END.unpack(body)
        databases = self._keyspace.databases
        for database, found in zip(databases, self._expiries, strict=True):
            database.restore_expiries(found)
        if keys != sum(one.size for one in databases) or expiries != sum(one.expires_count for one in databases):
            raise _damaged("the number of keys is not what the end frame says")
        self._ended = True
