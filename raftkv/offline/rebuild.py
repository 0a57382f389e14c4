"""A key as the commands that make it again, in Redis as in raftkv. They may be repeated: what was there is replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from raftkv.store.keyspace import Database, type_name

PIECE_ELEMENTS_MAX: Final = 512
PIECE_BYTES_MAX: Final = 1 << 20
"""A container is made by commands of about so much each; one element may be larger."""

_ADD: Final = {"list": b"RPUSH", "set": b"SADD", "hash": b"HSET", "zset": b"ZADD"}


class Piece(NamedTuple):
    """A key, or a part of a large container."""

    database: int
    key: bytes
    kind: str
    """string, list, set, hash, zset: what TYPE answers."""
    elements: list[Any]
    """string: one, the value. list and set: bytes. hash: (field, value). zset: (member, score)."""
    expire_at_ms: int | None = None
    first: bool = True
    last: bool = True


def commands(piece: Piece) -> Iterator[list[bytes]]:
    """What makes the key, or adds this part to it.

    The key is visible without its last parts, and its expiry, meanwhile.
    """
    key, elements = piece.key, piece.elements
    if piece.kind == "string":
        expiry = [] if piece.expire_at_ms is None else [b"PXAT", b"%d" % piece.expire_at_ms]
        yield [b"SET", key, elements[0], *expiry]
        return
    if piece.first:
        yield [b"DEL", key]
    if elements:
        yield [_ADD[piece.kind], key, *_words(piece.kind, elements)]
    if piece.last and piece.expire_at_ms is not None:
        yield [b"PEXPIREAT", key, b"%d" % piece.expire_at_ms]


def _words(kind: str, elements: Sequence[Any]) -> Sequence[bytes]:
    if kind == "hash":
        return list(chain.from_iterable(elements))
    if kind == "zset":
        return list(chain.from_iterable((score_text(score), member) for member, score in elements))
    return elements


def score_text(score: float) -> bytes:
    """The shortest text that gives the score back: ``3``, ``0.1``, ``1e+17``, ``inf``."""
    text = repr(score)
    return text.removesuffix(".0").encode()


def elements_of(value: Any) -> list[Any]:
    """A stored value as the elements of a :class:`Piece`."""
    kind = type_name(value)
    if kind == "string":
        return [value]
    if kind == "zset":
        return list(value.scores.items())
    return list(value.items()) if kind == "hash" else list(value)


def element_bytes(element: Any) -> int:
    """Bytes of data in one element; a score counts 8."""
    if isinstance(element, bytes):
        return len(element)
    return sum(len(part) if isinstance(part, bytes) else 8 for part in element)


def pieces(number: int, database: Database) -> Iterator[Piece]:
    """All live keys of a database, in its order."""
    for key, value, expire_at_ms in live(database):
        yield from cut(Piece(number, key, type_name(value), elements_of(value), expire_at_ms))


def live(database: Database) -> Iterator[tuple[bytes, Any, int | None]]:
    """(key, value, expiry in ms or None) of all that has not expired at the keyspace's time."""
    for key, value in database.items():
        expire_at_ms = database.expire_at(key)
        if expire_at_ms is not None or key not in database.expiries:
            yield key, value, expire_at_ms


def cut(piece: Piece) -> Iterator[Piece]:
    """The same in parts of about PIECE_BYTES_MAX."""
    elements = piece.elements
    if piece.kind == "string" or len(elements) <= 1:
        yield piece
        return
    start, first = 0, piece.first
    while start < len(elements):
        stop, size = start, 0
        while stop < len(elements) and stop - start < PIECE_ELEMENTS_MAX and size < PIECE_BYTES_MAX:
            size += element_bytes(elements[stop])
            stop += 1
        last = piece.last and stop == len(elements)
        yield piece._replace(elements=elements[start:stop], first=first, last=last)
        start, first = stop, False
