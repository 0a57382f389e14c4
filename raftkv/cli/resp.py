"""RESP as a command line needs it: replies keep the type that they had on the wire.

hiredis gives ``b"OK"`` for the status ``+OK`` and for the bulk string ``$2 OK``; a prompt must show the difference,
so this parser keeps it. It reads replies that a person asked for; bulk work counts replies with hiredis.

Source of the format: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from raftkv.errors import ProtocolError

LINE_MAX: Final = 64 * 1024
"""A reply's first line is a type, a number or a message; a longer one is no RESP."""
DEPTH_MAX: Final = 64
"""Replies nest a few levels; this bounds the recursion."""


class Status(str):
    """``+OK``."""

    __slots__ = ()


class ErrorText(str):
    """``-ERR ...``, without the minus."""

    __slots__ = ()


class Number(str):
    """A double or a big number, with the digits that the server sent."""

    __slots__ = ()


class Text(bytes):
    """A verbatim string, without its three-letter kind."""

    __slots__ = ()


class Push(list["Value"]):
    """An out-of-band message of RESP3."""


class Members(list["Value"]):
    """A set of RESP3."""


@dataclass(frozen=True, slots=True)
class Map:
    """A map of RESP3, in the order of the wire; its keys may be of any type."""

    pairs: tuple[tuple[Value, Value], ...]


Value: TypeAlias = "Status | ErrorText | Number | bytes | int | bool | list[Value] | Map | None"


class _Incomplete(Exception):  # noqa: N818 -- not an error: more bytes are needed
    """The buffer ends inside a reply."""


class Parser:
    """Bytes in, replies out. :meth:`feed`, then :meth:`next_reply` until it returns ``None``."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the server."""
        self._buffer += data

    def next_reply(self) -> tuple[Value] | None:
        """The next complete reply in a 1-tuple (a reply may be nil), or None. Raises ProtocolError."""
        self._at = 0
        try:
            value = self._value(0)
        except _Incomplete:
            return None
        del self._buffer[: self._at]
        return (value,)

    def _line(self) -> bytes:
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            if len(self._buffer) - self._at > LINE_MAX:
                raise ProtocolError("a reply's line has no end; is this a Redis protocol port?")
            raise _Incomplete
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _bulk(self, size: int) -> bytes:
        end = self._at + size
        if len(self._buffer) < end + 2:
            raise _Incomplete
        data = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return data

    def _items(self, count: int, depth: int) -> list[Value]:
        if depth >= DEPTH_MAX:
            raise ProtocolError("a reply is nested too deep")
        return [self._value(depth + 1) for _ in range(count)]

    def _value(self, depth: int) -> Value:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind in b"$=!*~>%|:" and kind:
            return self._sized(kind, self._integer(rest), depth)
        match kind:
            case b"+":
                return Status(rest.decode("utf-8", "replace"))
            case b"-":
                return ErrorText(rest.decode("utf-8", "replace"))
            case b"," | b"(":
                return Number(rest.decode("ascii", "replace"))
            case b"_":
                return None
            case b"#":
                return rest == b"t"
        raise ProtocolError(f"a reply begins with {line[:20]!r}; is this a Redis protocol port?")

    @staticmethod
    def _integer(digits: bytes) -> int:
        try:
            return int(digits)
        except ValueError:
            raise ProtocolError(f"{digits[:20]!r} is not a number") from None

    def _sized(self, kind: bytes, size: int, depth: int) -> Value:
        if kind == b":":
            return size
        if size < 0:
            return None
        match kind:
            case b"$":
                return self._bulk(size)
            case b"=":
                return Text(self._bulk(size)[4:])
            case b"!":
                return ErrorText(self._bulk(size).decode("utf-8", "replace"))
            case b"*":
                return self._items(size, depth)
            case b"~":
                return Members(self._items(size, depth))
            case b">":
                return Push(self._items(size, depth))
        flat = self._items(2 * size, depth)
        if kind == b"|":  # attributes describe the reply that follows; a prompt has no use for them
            return self._value(depth)
        return Map(tuple(zip(flat[::2], flat[1::2], strict=True)))


def encode(argv: Sequence[bytes | str | int]) -> bytes:
    """A command as an array of bulk strings."""
    out = [b"*%d\r\n" % len(argv)]
    for arg in argv:
        raw = arg if isinstance(arg, bytes) else str(arg).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(out)


_ESCAPES: Final = {"n": b"\n", "r": b"\r", "t": b"\t", "b": b"\b", "a": b"\a"}


def split_line(line: str) -> list[bytes]:
    """Words of a line as redis-cli splits it: ``"..."`` with backslash escapes, ``'...'`` verbatim.

    Raises ValueError when a quote is not closed or is followed by more than a space.
    """
    words: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at].isspace():
            at += 1
        if at >= len(line):
            return words
        word, at = _word(line, at)
        words.append(word)


def _word(line: str, at: int) -> tuple[bytes, int]:
    quote = line[at] if line[at] in "\"'" else ""
    at += len(quote)
    out = bytearray()
    while at < len(line):
        char = line[at]
        if quote and char == quote:
            if at + 1 < len(line) and not line[at + 1].isspace():
                raise ValueError("a closing quote is followed by more than a space")
            return bytes(out), at + 1
        if not quote and char.isspace():
            return bytes(out), at
        if char == "\\" and quote and at + 1 < len(line):
            piece, at = _escape(line, at + 1, quote)
            out += piece
            continue
        out += char.encode("utf-8", "surrogateescape")
        at += 1
    if quote:
        raise ValueError(f"a {quote} is not closed")
    return bytes(out), at


def _escape(line: str, at: int, quote: str) -> tuple[bytes, int]:
    """What stands after a backslash at ``at - 1``: (bytes, next position)."""
    char = line[at]
    if quote == "'":
        return (b"'", at + 1) if char == "'" else (b"\\", at)
    digits = line[at + 1 : at + 3]
    if char == "x" and len(digits) == 2 and all(one in "0123456789abcdefABCDEF" for one in digits):
        return bytes([int(digits, 16)]), at + 3
    return _ESCAPES.get(char, char.encode("utf-8", "surrogateescape")), at + 1


def quote(data: bytes) -> str:
    """Bytes as redis-cli shows them, in double quotes with escapes; :func:`split_line` reads it back."""
    named = {b"\n"[0]: "\\n", b"\r"[0]: "\\r", b"\t"[0]: "\\t", b"\b"[0]: "\\b", b"\a"[0]: "\\a"}
    out = ['"']
    for byte in data:
        if byte in b'"\\':
            out.append("\\" + chr(byte))
        elif byte in named:
            out.append(named[byte])
        else:
            out.append(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}")
    return "".join(out) + '"'
