"""Writes RDB files in the forms that only older (or newer) versions of Redis write. A real Redis reads them in the tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import anycrc


def length(number: int) -> bytes:
    if number < 64:
        return bytes([number])
    if number < 16384:
        return struct.pack(">H", 0x4000 | number)
    return b"\x80" + struct.pack(">I", number) if number < 1 << 32 else b"\x81" + struct.pack(">Q", number)


def string(data: bytes) -> bytes:
    return length(len(data)) + data


def as_int(element: bytes) -> int | None:
    try:
        number = int(element)
    except ValueError:
        return None
    return number if b"%d" % number == element and -(1 << 63) <= number < 1 << 63 else None


def signed(number: int, sizes: Sequence[int]) -> tuple[int, bytes]:
    """(place in ``sizes``, bytes) of the narrowest that holds it."""
    for place, size in enumerate(sizes):
        if -(1 << 8 * size - 1) <= number < 1 << 8 * size - 1:
            return place, number.to_bytes(size, "little", signed=True)
    raise AssertionError(number)


def ziplist(elements: Sequence[bytes]) -> bytes:
    body = b""
    before = 0
    tail = 10
    for element in elements:
        number = as_int(element)
        if number is not None and 0 <= number <= 12:
            coded = bytes([0xF1 + number])
        elif number is not None:
            place, data = signed(number, (1, 2, 3, 4, 8))
            coded = bytes([(0xFE, 0xC0, 0xF0, 0xD0, 0xE0)[place]]) + data
        elif len(element) < 64:
            coded = bytes([len(element)]) + element
        elif len(element) < 16384:
            coded = struct.pack(">H", 0x4000 | len(element)) + element
        else:
            coded = b"\x80" + struct.pack(">I", len(element)) + element
        entry = (bytes([before]) if before < 254 else b"\xfe" + struct.pack("<I", before)) + coded
        tail = 10 + len(body)
        before = len(entry)
        body += entry
    return struct.pack("<IIH", 11 + len(body), tail, min(len(elements), 0xFFFF)) + body + b"\xff"


def listpack(elements: Sequence[bytes]) -> bytes:
    body = b""
    for element in elements:
        number = as_int(element)
        if number is not None and 0 <= number < 128:
            coded = bytes([number])
        elif number is not None and -4096 <= number < 4096:
            coded = struct.pack(">H", 0xC000 | number & 0x1FFF)
        elif number is not None:
            place, data = signed(number, (2, 3, 4, 8))
            coded = bytes([0xF1 + place]) + data
        elif len(element) < 64:
            coded = bytes([0x80 | len(element)]) + element
        elif len(element) < 4096:
            coded = struct.pack(">H", 0xE000 | len(element)) + element
        else:
            coded = b"\xf0" + struct.pack("<I", len(element)) + element
        body += coded + back(len(coded))
    return struct.pack("<IH", 7 + len(body), min(len(elements), 0xFFFF)) + body + b"\xff"


def back(size: int) -> bytes:
    """Seven bits a byte, the last byte first when read backwards."""
    groups = [size & 127]
    while size := size >> 7:
        groups.append(size & 127 | 128)
    groups = [groups[0] | (128 if len(groups) > 1 else 0), *groups[1:]] if len(groups) > 1 else groups
    out = bytearray(reversed(groups))
    out[0] &= 127
    return bytes(out)


def zipmap(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    def sized(data: bytes) -> bytes:
        return bytes([len(data)]) if len(data) < 254 else b"\xfe" + struct.pack("<I", len(data))

    body = b"".join(sized(field) + field + sized(value) + b"\0" + value for field, value in pairs)
    return bytes([min(len(pairs), 254)]) + body + b"\xff"


def intset(numbers: Sequence[int]) -> bytes:
    width = max((2, 4, 8)[signed(number, (2, 4, 8))[0]] for number in numbers)
    data = b"".join(number.to_bytes(width, "little", signed=True) for number in sorted(numbers))
    return struct.pack("<II", width, len(numbers)) + data


def old_double(score: float) -> bytes:
    if score in (float("inf"), float("-inf")):
        return b"\xfe" if score > 0 else b"\xff"
    text = b"%.17g" % score
    return bytes([len(text)]) + text


def rdb(version: int, *parts: bytes) -> bytes:
    """``parts`` between the magic and the end: keys, and what stands between them."""
    body = b"REDIS%04d" % version + b"".join(parts) + b"\xff"
    if version < 5:
        return body
    return body + anycrc.Model("CRC64-REDIS").calc(body).to_bytes(8, "little")


def key(name: bytes, code: int, value: bytes, *, expire_s: int | None = None, expire_ms: int | None = None) -> bytes:
    expiry = b"" if expire_s is None else b"\xfd" + struct.pack("<i", expire_s)
    expiry += b"" if expire_ms is None else b"\xfc" + struct.pack("<q", expire_ms)
    return expiry + bytes([code]) + string(name) + value


def many(*items: bytes) -> bytes:
    """A counted row of what is encoded already."""
    return length(len(items)) + b"".join(items)
