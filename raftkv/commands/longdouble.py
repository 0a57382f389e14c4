"""Arithmetic of INCRBYFLOAT and HINCRBYFLOAT: x87 80-bit floats, in integers.

Redis computes these two in C's ``long double`` and prints ``%.17Lf`` without trailing zeros, so that 0.1 + 0.2
is 0.3 there, and not 0.30000000000000004 as with 64-bit floats. Python has no such type on every platform,
and replicas on different platforms must agree to the last digit: so a number here is a pair of integers, rounded
to a 64-bit significand, to nearest with ties to even, wherever the C program rounds. (The exponent's range is
checked, its subnormal numbers are not imitated: %.17Lf prints them as 0.)
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from raftkv.commands.args import NOT_A_FLOAT
from raftkv.errors import CommandError

_SIGNIFICAND_BITS: Final = 64
_EXPONENT_MAX: Final = 16384
"""A finite value is below 2**16384."""
_EXPONENT_MIN: Final = -16445
"""The smallest subnormal number is 2**-16445."""
_TEXT_MAX: Final = 5 * 1024
"""Redis refuses longer numbers (MAX_LONG_DOUBLE_CHARS)."""
_DECIMAL_EXPONENT_MAX: Final = 20_000
"""Beyond it overflow or underflow is certain for any text within _TEXT_MAX: no need to compute 10**exponent."""
_BINARY_EXPONENT_MAX: Final = 80_000
"""The same of hexadecimal texts."""
_FRACTION_DIGITS: Final = 17
_UNITS: Final = 10**_FRACTION_DIGITS
_INT_DIGITS: Final = 4000
"""Decimal digits converted at once: CPython refuses more than 4300, and numbers here have up to 5119."""
_INT_LIMIT: Final = 10**_INT_DIGITS

_NOT_FINITE: Final = "increment would produce NaN or Infinity"

_DECIMAL = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?\Z")
_HEX = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?[0-9]+))?\Z")
_INFINITY = re.compile(rb"([+-]?)inf(?:inity)?\Z", re.IGNORECASE)


class Number(NamedTuple):
    """``significand * 2**exponent``; the significand has a sign, and fits 64 bits but for zeros at its end."""

    significand: int
    exponent: int


ZERO: Final = Number(0, 0)


# -------------------------------------------------------------------- text to number
def parse(raw: bytes, message: str = NOT_A_FLOAT) -> Number | None:
    """The rounded number; None for infinity of either sign (no sum with it is ever stored).

    Raises CommandError(message) on text that is not a number, NaN, overflow and underflow to zero.
    """
    if len(raw) >= _TEXT_MAX:
        raise CommandError(message)
    found = _DECIMAL.match(raw)
    if found is not None and (found.group(2) or found.group(3)):
        sign, whole, part, exponent_raw = found.groups(b"")
        exponent = _parse_exponent(exponent_raw, _DECIMAL_EXPONENT_MAX) - len(part)
        mantissa = _parse_digits(whole + part)
        if abs(exponent) > _DECIMAL_EXPONENT_MAX + _TEXT_MAX and mantissa:
            raise CommandError(message)
        number = rounded(mantissa * 10**exponent, 1) if exponent >= 0 else rounded(mantissa, 10**-exponent)
        return _checked(number, message, negative=sign == b"-")
    found = _HEX.match(raw)
    if found is not None and (found.group(2) or found.group(3)):
        sign, whole, part, exponent_raw = found.groups(b"")
        exponent = _parse_exponent(exponent_raw, _BINARY_EXPONENT_MAX) - 4 * len(part)
        significand, shift = rounded(int(whole + part, 16), 1)
        return _checked(Number(significand, shift + exponent), message, negative=sign == b"-")
    if _INFINITY.match(raw) is None:
        raise CommandError(message)
    return None


def _parse_exponent(raw: bytes, limit: int) -> int:
    """The exponent; one beyond ``limit`` as twice the limit, which is certain to be out of range."""
    if not raw:
        return 0
    digits = raw.lstrip(b"+-0")
    size = int(digits or b"0") if len(digits) < 8 else 2 * limit
    size = min(size, 2 * limit)
    return -size if raw.startswith(b"-") else size


def _parse_digits(digits: bytes) -> int:
    """``int(digits)`` of any length within _TEXT_MAX."""
    if len(digits) <= _INT_DIGITS:
        return int(digits)
    return int(digits[:-_INT_DIGITS]) * _INT_LIMIT + int(digits[-_INT_DIGITS:])


def _checked(number: Number, message: str, *, negative: bool) -> Number:
    """``number`` with its sign. Raises CommandError(message) when it is out of range."""
    significand, exponent = number
    if not significand:
        return ZERO
    power = significand.bit_length() + exponent
    if not _EXPONENT_MIN < power <= _EXPONENT_MAX:
        raise CommandError(message)
    return Number(-significand, exponent) if negative else number


# -------------------------------------------------------------------- arithmetic
def rounded(numerator: int, denominator: int) -> Number:
    """The nearest number to the quotient of ``numerator`` (not negative) and ``denominator``, ties to even."""
    # The shift that leaves 64 or 65 bits in the quotient.
    shift = _SIGNIFICAND_BITS - numerator.bit_length() + denominator.bit_length()
    if denominator == 1 and shift > 0:
        return Number(numerator, 0)
    if shift >= 0:
        numerator <<= shift
    else:
        denominator <<= -shift
    quotient, rest = divmod(numerator, denominator)
    if quotient.bit_length() > _SIGNIFICAND_BITS:
        # One bit too many: it decides, together with whether anything is left below it.
        shift -= 1
        quotient, odd = quotient >> 1, quotient & 1
        quotient += odd and (rest > 0 or quotient & 1)
    else:
        twice = 2 * rest
        quotient += twice > denominator or (twice == denominator and quotient & 1)
    return Number(quotient, -shift)


def add(a: Number | None, b: Number | None) -> Number:
    """The rounded sum. Raises CommandError when it is not finite."""
    if a is None or b is None:
        raise CommandError(_NOT_FINITE)
    exponent = min(a.exponent, b.exponent)
    total = (a.significand << (a.exponent - exponent)) + (b.significand << (b.exponent - exponent))
    significand, shift = rounded(abs(total), 1)
    if significand.bit_length() + shift + exponent > _EXPONENT_MAX:
        raise CommandError(_NOT_FINITE)
    return Number(-significand if total < 0 else significand, shift + exponent)


# -------------------------------------------------------------------- number to text
def show(number: Number) -> bytes:
    """``%.17Lf`` without trailing zeros."""
    significand, exponent = number
    if exponent >= 0:
        whole, part = abs(significand) << exponent, 0
    else:
        whole, part = divmod(_nearest(abs(significand) * _UNITS, -exponent), _UNITS)
    tail = f".{part:0{_FRACTION_DIGITS}d}".rstrip("0") if part else ""
    sign = "-" if significand < 0 and (whole or part) else ""
    return f"{sign}{_decimal(whole)}{tail}".encode()


def _nearest(value: int, bits: int) -> int:
    """``value / 2**bits`` rounded, ties to even."""
    quotient = value >> bits
    rest, half = value - (quotient << bits), 1 << (bits - 1)
    return quotient + (rest > half or (rest == half and quotient & 1))


def _decimal(whole: int) -> str:
    """``str(whole)`` of up to 4933 digits."""
    if whole < _INT_LIMIT:
        return str(whole)
    high, low = divmod(whole, _INT_LIMIT)
    return f"{high}{low:0{_INT_DIGITS}d}"
