r"""Glob patterns as KEYS, SCAN and CONFIG GET use them.

``*`` any bytes, ``?`` one byte, ``[abc]``, ``[a-z]``, ``[^a]`` one byte of (not of) a class, ``\x`` the byte x.

Every token but ``*`` takes exactly one byte. A pattern is therefore a row of fixed-length pieces between stars:
the first stands at the start, the last at the end, each other one as far to the left as it can. No choice is ever
taken back, so that a hostile pattern (``a*a*a*a*b``) costs O(pattern x text) and not exponential time, as it does
with a regular expression or with recursion.

Odd cases follow Redis' matcher: a class that is not closed ends with the pattern, ``[a-]`` is a range up to ``]``,
a reversed range is turned round, a range counts bytes as signed numbers (0x80 to 0xff stand before 0), an empty class
matches nothing, a backslash at the end is itself, and the empty text matches no pattern but the empty one, not even
``**`` (of ``*`` alone KEYS and SCAN ask no matcher).
https://redis.io/docs/latest/commands/keys/
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from raftkv.errors import CommandError

Matcher: TypeAlias = Callable[[bytes], bool]

_CACHED_PATTERNS: Final = 512
_ANY_BYTE: Final = b"(?s:.)"
_NO_BYTE: Final = b"(?!)"
_SIGN_BIT: Final = 0x80
PATTERN_BYTES_MAX: Final = 4096
"""A longer pattern is refused: compiling one takes some microseconds a byte, and it may be part of a transaction."""


@lru_cache(maxsize=_CACHED_PATTERNS)
def compile_glob(pattern: bytes, *, ignore_case: bool = False) -> Matcher:
    """A function that says whether a whole text matches ``pattern``.

    Raises CommandError when the pattern is longer than PATTERN_BYTES_MAX.
    """
    if len(pattern) > PATTERN_BYTES_MAX:
        raise CommandError(f"pattern is longer than {PATTERN_BYTES_MAX} bytes")
    pieces = _parse(pattern)
    flags = re.IGNORECASE if ignore_case else 0
    if len(pieces) == 1:
        whole = re.compile(b"".join(pieces[0]), flags).fullmatch
        return lambda text: whole(text) is not None
    first, last = pieces[0], pieces[-1]
    middle = [(re.compile(b"".join(piece), flags).search, len(piece)) for piece in pieces[1:-1] if piece]
    head = re.compile(b"".join(first), flags).match
    tail = re.compile(b"".join(last), flags).match
    first_length, last_length = len(first), len(last)

    def matches(text: bytes) -> bool:
        stop = len(text) - last_length
        if not text or stop < first_length or head(text) is None or tail(text, stop) is None:
            return False
        at = first_length
        for search, length in middle:
            found = search(text, at, stop)
            if found is None:
                return False
            at = found.start() + length
        return True

    return matches


def literal(pattern: bytes) -> bool:
    """Whether ``pattern`` has no special byte, so that it can only match itself."""
    return not any(special in pattern for special in (b"*", b"?", b"[", b"\\"))


def _parse(pattern: bytes) -> list[list[bytes]]:
    """Pieces between stars; a piece is a list of regular expressions for one byte each."""
    pieces: list[list[bytes]] = [[]]
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"*":
            pieces.append([])
        elif byte == b"?":
            pieces[-1].append(_ANY_BYTE)
        elif byte == b"[":
            token, at = _parse_class(pattern, at)
            pieces[-1].append(token)
        elif byte == b"\\" and at < len(pattern):
            pieces[-1].append(re.escape(pattern[at : at + 1]))
            at += 1
        else:
            pieces[-1].append(re.escape(byte))
    return pieces


def _parse_class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The class whose content begins at ``at``: (regular expression, where the pattern goes on)."""
    negated = pattern[at : at + 1] == b"^"
    if negated:
        at += 1
    members: list[bytes] = []
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        left = len(pattern) - at
        if pattern[at : at + 1] == b"\\" and left >= 2:
            members.append(re.escape(pattern[at + 1 : at + 2]))
            at += 2
        elif left >= 3 and pattern[at + 1 : at + 2] == b"-":
            members.append(_parse_range(pattern[at], pattern[at + 2]))
            at += 3
        else:
            members.append(re.escape(pattern[at : at + 1]))
            at += 1
    at = min(at + 1, len(pattern))
    if not members:
        return (_ANY_BYTE if negated else _NO_BYTE), at
    return b"[" + (b"^" if negated else b"") + b"".join(members) + b"]", at


def _parse_range(one: int, other: int) -> bytes:
    """The bytes from one to the other in either order, as signed numbers (C's char): 0x80 to 0xff stand before 0."""
    low, high = sorted((one, other), key=lambda byte: byte ^ _SIGN_BIT)
    if low <= high:
        return _escaped(low) + b"-" + _escaped(high)
    return _escaped(low) + rb"-\xff\x00-" + _escaped(high)


def _escaped(byte: int) -> bytes:
    return rb"\x%02x" % byte
