"""Values to bytes: replies in RESP2 and RESP3 (the table is in :mod:`raftkv.protocol.replies`), and commands.

Doubles read as Redis 7 writes them: in RESP3 the shortest text that gives the number back, in RESP2 a bulk
string of ``%.17g``. Dispatch is a dict by type, one for each protocol version; what is sent most (OK, nil, small
integers, headers of short strings) is made once.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from raftkv.errors import RaftKVError
from raftkv.protocol.replies import OK, NilArray, Pairs, Raw, Reply, SetReply, Verbatim

_Encode: TypeAlias = Callable[[Any], bytes]

_CACHED: Final = 1024
_BULK: Final = tuple(b"$%d\r\n" % size for size in range(_CACHED))
_ARRAY: Final = tuple(b"*%d\r\n" % count for count in range(_CACHED))
_INTEGER: Final = tuple(b":%d\r\n" % number for number in range(_CACHED))
_NEXT_BULK: Final = tuple(b"\r\n" + header for header in _BULK)
_NEXT_ARRAY: Final = tuple(b"\r\n*%d" % count for count in range(_CACHED))
_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")


# -------------------------------------------------------------------- scalars
def _simple(value: str) -> bytes:
    return b"+%b\r\n" % value.translate(_LINE_BREAKS).encode("utf-8", "surrogateescape")


def _bulk(value: bytes) -> bytes:
    size = len(value)
    return b"%b%b\r\n" % (_BULK[size] if size < _CACHED else b"$%d\r\n" % size, value)


def _integer(value: int) -> bytes:
    return _INTEGER[value] if 0 <= value < _CACHED else b":%d\r\n" % value


def _error(value: RaftKVError) -> bytes:
    return b"-%b\r\n" % str(value).translate(_LINE_BREAKS).encode("utf-8", "surrogateescape")


def _raw(value: Raw) -> bytes:
    return value


def _double_text(value: float) -> bytes:
    if math.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    return b"nan" if math.isnan(value) else b"%.17g" % value


def _double2(value: float) -> bytes:
    return _bulk(_double_text(value))


def _double3(value: float) -> bytes:
    if not math.isfinite(value):
        return b",%b\r\n" % _double_text(value)
    return b",%b\r\n" % repr(value).removesuffix(".0").encode()


def _verbatim3(value: Verbatim) -> bytes:
    return b"=%d\r\n%b:%b\r\n" % (len(value.text) + 4, value.kind.encode(), value.text)


# -------------------------------------------------------------------- containers
def _flat(items: Iterable[tuple[Any, Any]]) -> list[Any]:
    return [part for pair in items for part in pair]


def _array2(value: Sequence[Any]) -> bytes:
    return b"*%d\r\n" % len(value) + encode_many(value, 2)


def _map2(value: dict[Any, Any]) -> bytes:
    return _array2(_flat(value.items()))


def _pairs2(value: Pairs) -> bytes:
    return _array2(_flat(value))


def _array3(value: Sequence[Any]) -> bytes:
    return b"*%d\r\n" % len(value) + encode_many(value, 3)


def _map3(value: dict[Any, Any]) -> bytes:
    return b"%%%d\r\n" % len(value) + encode_many(_flat(value.items()), 3)


def _set3(value: SetReply) -> bytes:
    return b"~%d\r\n" % len(value) + encode_many(value, 3)


_SHARED: Final[dict[type, _Encode]] = {str: _simple, bytes: _bulk, int: _integer, RaftKVError: _error, Raw: _raw}
_ENCODERS: Final[dict[int, dict[type, _Encode]]] = {
    2: _SHARED
    | {
        type(None): lambda _: b"$-1\r\n",
        NilArray: lambda _: b"*-1\r\n",
        bool: lambda value: _INTEGER[value],
        float: _double2,
        list: _array2,
        tuple: _array2,
        SetReply: _array2,
        dict: _map2,
        Pairs: _pairs2,
        Verbatim: lambda value: _bulk(value.text),
    },
    3: _SHARED
    | {
        type(None): lambda _: b"_\r\n",
        NilArray: lambda _: b"_\r\n",
        bool: lambda value: b"#t\r\n" if value else b"#f\r\n",
        float: _double3,
        list: _array3,
        tuple: _array3,
        SetReply: _set3,
        dict: _map3,
        Pairs: _array3,
        Verbatim: _verbatim3,
    },
}


def _find(kind: type, table: dict[type, _Encode]) -> _Encode:
    """The encoder of the nearest base of a type that is not in the table itself, remembered."""
    for base in kind.__mro__:
        if base in table:
            table[kind] = table[base]
            return table[base]
    raise TypeError(f"{kind.__name__} is no reply")


def encode(value: Reply, proto: int) -> bytes:
    """One reply in RESP ``proto`` (2 or 3). Raises TypeError for a value outside the table of replies."""
    if value is OK:
        return b"+OK\r\n"
    table = _ENCODERS[proto]
    kind = type(value)
    return (table.get(kind) or _find(kind, table))(value)


def encode_many(values: Iterable[Reply], proto: int) -> bytes:
    """The replies one after the other. Bulk strings and OK, nearly all of them, are encoded in this loop."""
    table = _ENCODERS[proto]
    parts: list[bytes] = []
    for value in values:
        kind = type(value)
        if kind is bytes:
            size = len(value)
            parts += (_BULK[size] if size < _CACHED else b"$%d\r\n" % size, value, b"\r\n")
        elif value is OK:
            parts.append(b"+OK\r\n")
        else:
            parts.append((table.get(kind) or _find(kind, table))(value))
    return b"".join(parts)


def encode_command(argv: Sequence[bytes]) -> bytes:
    """One command as a client sends it: an array of bulk strings."""
    return encode_commands((argv,))


def encode_commands(commands: Iterable[Sequence[bytes]]) -> bytes:
    """Commands one after the other, as a client sends them. Raises TypeError when an argument is no bytes.

    On the server's hot path (it proves that hiredis parsed what came in), so every piece but the first begins
    with the line end of the piece before: two appends an argument instead of three.
    """
    parts: list[bytes] = []
    headers, cached = _NEXT_BULK, _CACHED
    for argv in commands:
        count = len(argv)
        parts.append(_NEXT_ARRAY[count] if count < cached else b"\r\n*%d" % count)
        for argument in argv:
            size = len(argument)
            parts += (headers[size] if size < cached else b"\r\n$%d\r\n" % size, argument)
    if not parts:
        return b""
    parts[0] = parts[0][2:]
    parts.append(b"\r\n")
    return b"".join(parts)
