"""Arithmetic of INCRBYFLOAT and HINCRBYFLOAT: x87 80-bit floats, in integers.

Redis computes these two in C's ``long double`` and prints ``%.17Lf`` without trailing zeros, so that 0.1 + 0.2
is 0.3 there, and not 0.30000000000000004 as with 64-bit floats. Python has no such type on every platform,
and replicas on different platforms must agree to the last digit: so a number here is an exact
:class:`fractions.Fraction` that is rounded to a 64-bit significand, to nearest with ties to even, wherever
the C program rounds. (The exponent's range is checked, its subnormal numbers are not imitated: %.17Lf prints them as 0.)
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

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
_FRACTION_DIGITS: Final = 17

_DECIMAL = re.compile(rb"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?\Z")
_HEX = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?[0-9]+))?\Z")
_INFINITY = re.compile(rb"([+-]?)inf(?:inity)?\Z", re.IGNORECASE)


def parse(raw: bytes, message: str = NOT_A_FLOAT) -> Fraction | None:
    """The rounded number; None for infinity of either sign (no sum with it is ever stored).

    Raises CommandError(message) on text that is not a number, NaN, overflow and underflow to zero.
    """
    if len(raw) >= _TEXT_MAX:
        raise CommandError(message)
    for pattern, base, exponent_base in ((_DECIMAL, 10, 10), (_HEX, 16, 2)):
        found = pattern.match(raw)
        if found is not None and (found.group(2) or found.group(3)):
            sign, whole, part, exponent_raw = found.groups(default=b"")
            mantissa = int(whole + part, base)
            exponent = int(exponent_raw or b"0") if len(exponent_raw) < 12 else _signed_huge(exponent_raw)
            number = _scale(mantissa, exponent, len(part), base, exponent_base, message)
            return -number if sign == b"-" else number
    if _INFINITY.match(raw) is None:
        raise CommandError(message)
    return None


def _signed_huge(exponent_raw: bytes) -> int:
    return -(10**9) if exponent_raw.startswith(b"-") else 10**9


def _scale(mantissa: int, exponent: int, part_digits: int, base: int, exponent_base: int, message: str) -> Fraction:
    """``mantissa / base**part_digits * exponent_base**exponent``, rounded and within range."""
    if mantissa == 0:
        return Fraction(0)
    limit = _DECIMAL_EXPONENT_MAX * (1 if exponent_base == 10 else 4)
    if abs(exponent) > limit:
        raise CommandError(message)
    power = Fraction(exponent_base) ** exponent
    number = rounded(Fraction(mantissa, base**part_digits) * power)
    if number >= Fraction(2) ** _EXPONENT_MAX or number < Fraction(2) ** _EXPONENT_MIN:
        raise CommandError(message)
    return number


def rounded(number: Fraction) -> Fraction:
    """The nearest number with a 64-bit significand, ties to even."""
    if number == 0:
        return number
    numerator, denominator = abs(number.numerator), number.denominator
    # The shift that leaves 64 or 65 significant bits; one correction makes it exactly 64.
    shift = _SIGNIFICAND_BITS - (numerator.bit_length() - denominator.bit_length())
    if _shifted(numerator, denominator, shift) >= 1 << _SIGNIFICAND_BITS:
        shift -= 1
    scaled = Fraction(numerator, denominator) * Fraction(2) ** shift
    result = Fraction(round(scaled)) / Fraction(2) ** shift
    return -result if number < 0 else result


def _shifted(numerator: int, denominator: int, shift: int) -> int:
    return (numerator << shift) // denominator if shift >= 0 else numerator // (denominator << -shift)


def add(a: Fraction | None, b: Fraction | None) -> Fraction:
    """The rounded sum. Raises CommandError when it is not finite."""
    total = None if a is None or b is None else rounded(a + b)
    if total is None or abs(total) >= Fraction(2) ** _EXPONENT_MAX:
        msg = "increment would produce NaN or Infinity"
        raise CommandError(msg)
    return total


def show(number: Fraction) -> bytes:
    """``%.17Lf`` without trailing zeros."""
    units = round(abs(number) * 10**_FRACTION_DIGITS)
    whole, part = divmod(units, 10**_FRACTION_DIGITS)
    tail = f".{part:0{_FRACTION_DIGITS}d}".rstrip("0").rstrip(".")
    sign = "-" if number < 0 and units else ""
    return f"{sign}{_decimal(whole)}{tail}".encode()


def _decimal(whole: int) -> str:
    """``str(whole)`` without CPython's limit of 4300 digits (numbers here have up to 4933)."""
    if whole < 10**4000:
        return str(whole)
    high, low = divmod(whole, 10**4000)
    return f"{high}{low:04000d}"
