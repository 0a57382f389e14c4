"""Parsing of arguments with Redis' limits and Redis' error texts."""

from __future__ import annotations

import math
import re
from typing import Final

from raftkv.errors import CommandError

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
STRING_BYTES_MAX: Final = 512 * 1024 * 1024
"""The longest string value, as Redis' ``proto-max-bulk-len`` by default."""

NOT_AN_INTEGER: Final = "value is not an integer or out of range"
NOT_A_FLOAT: Final = "value is not a valid float"

_INTEGER = re.compile(rb"(?:0|-?[1-9][0-9]{0,18})\Z")
_FLOAT = re.compile(
    rb"[+-]?(?:(?:([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|inf(?:inity)?|0[xX].*)\Z", re.IGNORECASE
)
_HEX_FLOAT = re.compile(rb"[+-]?0x(?:([0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+))(?:p[+-]?[0-9]+)?\Z", re.IGNORECASE)


_SHOWN_BYTES_MAX: Final = 128


def shown(word: bytes) -> str:
    """A client's word in an error text, as C's ``%.128s`` shows it: 128 bytes at most, up to the first NUL."""
    return word[:_SHOWN_BYTES_MAX].partition(b"\0")[0].decode("utf-8", "replace")


def syntax_error() -> CommandError:
    """``ERR syntax error``."""
    return CommandError("syntax error")


def parse_int(raw: bytes, message: str = NOT_AN_INTEGER, *, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
    """A signed 64-bit decimal without sign ``+``, spaces or leading zeros, as Redis' string2ll.

    Raises CommandError(message) when it is not one or outside ``low..high``.
    """
    if _INTEGER.match(raw) is None:
        raise CommandError(message)
    value = int(raw)
    if not low <= value <= high:
        raise CommandError(message)
    return value


def is_canonical_int(raw: bytes) -> bool:
    """Whether ``raw`` is what a 64-bit signed integer prints as (Redis then stores an integer)."""
    return _INTEGER.match(raw) is not None and INT64_MIN <= int(raw) <= INT64_MAX


def parse_float(raw: bytes, message: str = NOT_A_FLOAT) -> float:
    """A C double: decimal, hexadecimal or ``inf``, with sign; never NaN, no spaces.

    Raises CommandError(message), also when the number overflows to infinity or underflows to zero (C's ERANGE).
    """
    found = _FLOAT.match(raw)
    if found is None:
        raise CommandError(message)
    digits = found.group(1)
    if digits is None:
        return _parse_special_float(raw, message)
    value = float(raw)
    if math.isinf(value) or (value == 0 and digits.strip(b"0.")):
        raise CommandError(message)
    return value


def _parse_special_float(raw: bytes, message: str) -> float:
    """Infinity, or a hexadecimal float."""
    if b"x" not in raw and b"X" not in raw:
        return float(raw)
    found = _HEX_FLOAT.match(raw)
    if found is None:
        raise CommandError(message)
    try:
        value = float.fromhex(raw.decode("ascii"))
    except OverflowError:
        raise CommandError(message) from None
    if value == 0 and found.group(1).strip(b"0."):
        raise CommandError(message)
    return value


def format_float(value: float) -> bytes:
    """As Redis 7.0 prints a double: 17 significant digits, trailing zeros cut (``%.17g``), integers plain."""
    if math.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    if value == int(value) and abs(value) < 1e17:
        return b"-0" if value == 0 and math.copysign(1.0, value) < 0 else b"%d" % int(value)
    return b"%.17g" % value


_SECONDS_MAX: Final = INT64_MAX // 1000


def invalid_expire(name: str) -> CommandError:
    """A time of expiry that is not positive, or that does not fit 64 bits in milliseconds."""
    return CommandError(f"invalid expire time in '{name}' command")


def parse_expiry(raw: bytes, word: bytes, now_ms: int, name: str) -> int:
    """Turn the value of EX, PX, EXAT or PXAT (``word``) into ms since the epoch; must be positive.

    ``name`` is the command's, in lower case, for the error text. Raises CommandError.
    """
    value = parse_int(raw)
    seconds = word[:1] == b"E"
    if value <= 0 or (seconds and value > _SECONDS_MAX):
        raise invalid_expire(name)
    at_ms = value * 1000 if seconds else value
    if len(word) == 2:
        at_ms += now_ms
    if at_ms > INT64_MAX:
        raise invalid_expire(name)
    return at_ms
