"""Parsing of arguments with Redis' limits and Redis' error texts."""

from __future__ import annotations

import math
import re
from typing import Final

from raftkv.errors import CommandError

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

_INTEGER = re.compile(rb"(?:0|-?[1-9][0-9]{0,18})\Z")
_FLOAT = re.compile(rb"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?)\Z", re.IGNORECASE)


def syntax_error() -> CommandError:
    """``ERR syntax error``."""
    return CommandError("syntax error")


def parse_int(
    raw: bytes,
    message: str = "value is not an integer or out of range",
    *,
    low: int = INT64_MIN,
    high: int = INT64_MAX,
) -> int:
    """A signed 64-bit decimal without sign ``+``, spaces or leading zeros, as Redis' string2ll.

    Raises CommandError(message) when it is not one or outside ``low..high``.
    """
    if _INTEGER.match(raw) is None:
        raise CommandError(message)
    value = int(raw)
    if not low <= value <= high:
        raise CommandError(message)
    return value


def parse_float(raw: bytes, message: str = "value is not a valid float") -> float:
    """A decimal or ``inf`` with sign; never NaN. Raises CommandError(message)."""
    if _FLOAT.match(raw) is None:
        raise CommandError(message)
    value = float(raw)
    if math.isnan(value):
        raise CommandError(message)
    return value


def format_float(value: float) -> bytes:
    """As Redis 7.0 prints a double: 17 significant digits, trailing zeros cut (``%.17g``), integers plain."""
    if math.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    if value == int(value) and abs(value) < 1e17:
        return b"-0" if value == 0 and math.copysign(1.0, value) < 0 else b"%d" % int(value)
    return b"%.17g" % value
