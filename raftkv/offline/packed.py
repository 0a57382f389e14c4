"""The compact forms in which Redis stores small containers, and LZF: bytes to elements. Pure.

Written after the layouts described in Redis' own sources (ziplist.c, listpack.c, intset.c, zipmap.c, lzf_d.c). Nothing
here believes a length before it has seen that the bytes are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from raftkv.errors import RaftKVError

LZF_RATIO_MAX: Final = 90
"""A reference of three bytes stands for at most 264."""

_WIDTHS: Final = {2: "h", 4: "i", 8: "q"}


class PackedError(RaftKVError):
    """Bytes that are not of the form that they should have."""


def _ends(what: str) -> PackedError:
    return PackedError(f"{what} ends too early")


def _number(data: bytes, at: int, size: int, what: str) -> bytes:
    """A signed little-endian number of ``size`` bytes, as text."""
    if at + size > len(data):
        raise _ends(what)
    return b"%d" % int.from_bytes(data[at : at + size], "little", signed=True)


def _slice(data: bytes, at: int, size: int, what: str) -> bytes:
    if at + size > len(data):
        raise _ends(what)
    return data[at : at + size]


def lzf(data: bytes, size: int) -> bytes:
    """What was compressed to ``data``; ``size`` is how long it must be. Raises PackedError."""
    if size > LZF_RATIO_MAX * len(data):
        raise PackedError(f"{size} bytes cannot come out of {len(data)} bytes of LZF")
    out = bytearray()
    at, end = 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < 32:
                stop = at + control + 1
                out += _slice(data, at, control + 1, "an LZF block")
                at = stop
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            start = len(out) - ((control & 0x1F) << 8) - data[at] - 1
            at += 1
            _repeat(out, start, length + 2)
            if len(out) > size:
                break
    except IndexError:
        raise _ends("an LZF block") from None
    if len(out) != size:
        raise PackedError(f"an LZF block gives {len(out)} bytes, {size} are declared")
    return bytes(out)


def _repeat(out: bytearray, start: int, length: int) -> None:
    """Append ``length`` bytes from ``start`` on, which may run into what is being appended."""
    if start < 0:
        raise PackedError("an LZF block refers to what is before its start")
    there = len(out) - start
    if there >= length:
        out += out[start : start + length]
        return
    pattern = bytes(out[start:])
    out += (pattern * (length // there + 1))[:length]


def intset(data: bytes) -> list[bytes]:
    """A set of integers. Raises PackedError."""
    if len(data) < 8:
        raise _ends("an intset")
    width, count = struct.unpack_from("<II", data)
    if width not in _WIDTHS or 8 + width * count != len(data):
        raise PackedError(f"an intset of {len(data)} bytes declares {count} numbers of {width} bytes")
    return [b"%d" % number for number in struct.unpack_from(f"<{count}{_WIDTHS[width]}", data, 8)]


def ziplist(data: bytes) -> list[bytes]:
    """Redis up to 6.2. Raises PackedError."""
    what = "a ziplist"
    if len(data) < 11 or int.from_bytes(data[:4], "little") != len(data):
        raise PackedError(f"{what} of {len(data)} bytes declares another length")
    count = int.from_bytes(data[8:10], "little")
    found: list[bytes] = []
    at = 10
    try:
        while data[at] != 0xFF:
            at += 5 if data[at] == 0xFE else 1  # the length of the entry before
            element, at = _ziplist_entry(data, at)
            found.append(element)
    except IndexError:
        raise _ends(what) from None
    return _counted(found, count, at, data, what)


def _ziplist_entry(data: bytes, at: int) -> tuple[bytes, int]:
    """(element, where it ends)"""
    what = "a ziplist"
    form = data[at]
    if form < 0x40:
        size, start = form, at + 1
    elif form < 0x80:
        size, start = (form & 0x3F) << 8 | data[at + 1], at + 2
    elif form == 0x80:
        size, start = int.from_bytes(_slice(data, at + 1, 4, what), "big"), at + 5
    elif form in _ZIPLIST_NUMBERS:
        width = _ZIPLIST_NUMBERS[form]
        return _number(data, at + 1, width, what), at + 1 + width
    elif 0xF1 <= form <= 0xFD:
        return b"%d" % (form - 0xF1), at + 1
    else:
        raise PackedError(f"{what} holds an entry of unknown form {form:#x}")
    return _slice(data, start, size, what), start + size


_ZIPLIST_NUMBERS: Final = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}
"""First byte to the bytes of the number that follows."""
_LISTPACK_NUMBERS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}


def listpack(data: bytes) -> list[bytes]:
    """Redis 7. Raises PackedError."""
    what = "a listpack"
    if len(data) < 7 or int.from_bytes(data[:4], "little") != len(data):
        raise PackedError(f"{what} of {len(data)} bytes declares another length")
    count = int.from_bytes(data[4:6], "little")
    found: list[bytes] = []
    at = 6
    try:
        while data[at] != 0xFF:
            element, end = _listpack_entry(data, at)
            found.append(element)
            at = end + _back_bytes(end - at)
    except IndexError:
        raise _ends(what) from None
    return _counted(found, count, at, data, what)


def _listpack_entry(data: bytes, at: int) -> tuple[bytes, int]:
    """(element, where it ends, without the length for walking back)"""
    what = "a listpack"
    form = data[at]
    if form < 0x80:
        return b"%d" % form, at + 1
    if form < 0xC0:
        size, start = form & 0x3F, at + 1
    elif form < 0xE0:
        number = (form & 0x1F) << 8 | data[at + 1]
        return b"%d" % (number - 0x2000 if number >= 0x1000 else number), at + 2
    elif form < 0xF0:
        size, start = (form & 0x0F) << 8 | data[at + 1], at + 2
    elif form == 0xF0:
        size, start = int.from_bytes(_slice(data, at + 1, 4, what), "little"), at + 5
    elif form in _LISTPACK_NUMBERS:
        width = _LISTPACK_NUMBERS[form]
        return _number(data, at + 1, width, what), at + 1 + width
    else:
        raise PackedError(f"{what} holds an entry of unknown form {form:#x}")
    return _slice(data, start, size, what), start + size


def _back_bytes(size: int) -> int:
    """How long the length for walking back over an entry of ``size`` bytes is: seven bits a byte."""
    return 1 if size < 128 else 2 if size < 16383 else 3 if size < 2097151 else 4 if size < 268435455 else 5


def _counted(found: list[bytes], count: int, at: int, data: bytes, what: str) -> list[bytes]:
    if at != len(data) - 1 or count not in (len(found), 0xFFFF):
        raise PackedError(f"{what} declares {count} elements in {len(data)} bytes, {len(found)} are in the first {at}")
    return found


def zipmap(data: bytes) -> list[bytes]:
    """A hash of Redis up to 2.4: fields and values in turn. Raises PackedError."""
    what = "a zipmap"
    found: list[bytes] = []
    at = 1
    try:
        while data[at] != 0xFF:
            for _ in range(2):
                size, at = _zipmap_length(data, at)
                free = 0
                if len(found) % 2:
                    free, at = data[at], at + 1
                found.append(_slice(data, at, size, what))
                at += size + free
    except IndexError:
        raise _ends(what) from None
    if at != len(data) - 1:
        raise PackedError(f"{what} of {len(data)} bytes ends after {at}")
    return found


def _zipmap_length(data: bytes, at: int) -> tuple[int, int]:
    if data[at] < 0xFE:
        return data[at], at + 1
    return int.from_bytes(_slice(data, at + 1, 4, "a zipmap"), "little"), at + 5


Unpack = Callable[[bytes], list[bytes]]
