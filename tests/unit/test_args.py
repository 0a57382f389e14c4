from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.commands import longdouble
from raftkv.commands.args import (
    INT64_MAX,
    INT64_MIN,
    format_float,
    is_canonical_int,
    parse_expiry,
    parse_float,
    parse_int,
)
from raftkv.errors import CommandError


@given(st.integers(INT64_MIN, INT64_MAX))
def test_every_64_bit_integer_is_read(value: int) -> None:
    assert parse_int(b"%d" % value) == value
    assert is_canonical_int(b"%d" % value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"-", b"+1", b" 1", b"1 ", b"01", b"-0", b"1.0", b"1e3", b"0x1", b"1_000", b"9223372036854775808", b"9" * 5000, b"1\n", b"\xd9\xa1"],
)  # fmt: skip
def test_what_is_no_integer_to_redis_is_none_here(raw: bytes) -> None:
    assert not is_canonical_int(raw)
    with pytest.raises(CommandError, match="value is not an integer or out of range"):
        parse_int(raw)


def test_a_range_and_a_text_may_be_given() -> None:
    assert parse_int(b"5", low=5, high=5) == 5
    with pytest.raises(CommandError, match="too big"):
        parse_int(b"6", "too big", high=5)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"1", 1.0), (b"-1.5", -1.5), (b".5", 0.5), (b"5.", 5.0), (b"+3", 3.0), (b"1e3", 1000.0), (b"inf", math.inf),
        (b"-Infinity", -math.inf), (b"0x10", 16.0), (b"0x1p-2", 0.25), (b"0e-999", 0.0), (b"5e-324", 5e-324),
    ],
)  # fmt: skip
def test_floats_are_those_of_c(raw: bytes, value: float) -> None:
    assert parse_float(raw) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nan",
        b"-nan",
        b" 1",
        b"1 ",
        b"1e",
        b".",
        b"1e400",
        b"-1e400",
        b"1e-400",
        b"0x",
        b"0xg",
        b"1_0",
        b"0x1p99999",
        b"0x1p-99999",
    ],
)
def test_what_is_no_float_to_redis_is_none_here(raw: bytes) -> None:
    with pytest.raises(CommandError, match="value is not a valid float"):
        parse_float(raw)


@given(st.floats(allow_nan=False))
def test_a_printed_float_is_the_float(value: float) -> None:
    assert parse_float(format_float(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, b"3"), (-0.0, b"-0"), (0.1, b"0.10000000000000001"), (1e16, b"10000000000000000"), (1e17, b"1e+17"), (1e-7, b"9.9999999999999995e-08"),
        (math.inf, b"inf"), (-math.inf, b"-inf"),
    ],
)  # fmt: skip
def test_floats_are_printed_with_17_digits(value: float, text: bytes) -> None:
    assert format_float(value) == text


@pytest.mark.parametrize(
    ("word", "raw", "at_ms"),
    [(b"EX", b"10", 15_000), (b"PX", b"10", 5_010), (b"EXAT", b"10", 10_000), (b"PXAT", b"10", 10)],
)
def test_expiries_become_absolute(word: bytes, raw: bytes, at_ms: int) -> None:
    assert parse_expiry(raw, word, 5_000, "set") == at_ms


@pytest.mark.parametrize(
    ("word", "raw"),
    [
        (b"EX", b"0"), (b"PX", b"-1"), (b"EXAT", b"0"), (b"EX", b"9223372036854775"), (b"EX", b"9223372036854776"),
        (b"PX", b"9223372036854775807"), (b"EXAT", b"9223372036854776"),
    ],
)  # fmt: skip
def test_expiries_that_do_not_fit_are_refused(word: bytes, raw: bytes) -> None:
    with pytest.raises(CommandError, match="invalid expire time in 'getex' command"):
        parse_expiry(raw, word, 5_000, "getex")


# ------------------------------------------------------------------ long double
def sum_of(a: bytes, b: bytes) -> bytes:
    return longdouble.show(longdouble.add(longdouble.parse(a), longdouble.parse(b)))


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [
        (b"0.1", b"0.2", b"0.3"), (b"10.50", b"0.1", b"10.6"), (b"5.0e3", b"2.0e2", b"5200"), (b"1", b"-1", b"0"), (b"-0.1", b"0", b"-0.1"),
        (b"1e17", b".5", b"100000000000000000.5"), (b"1", b"1e-18", b"1"), (b"0x10", b"0x1p-1", b"16.5"), (b"18446744073709551615", b"1", b"18446744073709551616"),
        (b"18446744073709551616", b"1", b"18446744073709551616"), (b"-1e-30", b"0", b"0"), (b"3.", b".25", b"3.25"),
    ],
)  # fmt: skip
def test_sums_are_those_of_80_bit_floats(a: bytes, b: bytes, total: bytes) -> None:
    assert sum_of(a, b) == total


def test_numbers_beyond_the_digit_limit_of_python_are_printed() -> None:
    assert sum_of(b"1e4930", b"0").startswith(b"1000000000000000000")
    assert len(sum_of(b"1e4930", b"0")) in (4930, 4931)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"abc",
        b"nan",
        b" 1",
        b"1 ",
        b"1e5000",
        b"1e-5000",
        b"1e999999999999",
        b"1" * 6000,
        b"0x",
        b"1e",
        b"1\n",
    ],
)
def test_what_is_no_long_double_is_refused(raw: bytes) -> None:
    with pytest.raises(CommandError, match="value is not a valid float"):
        longdouble.parse(raw)


@pytest.mark.parametrize(("a", "b"), [(b"inf", b"1"), (b"1", b"-inf"), (b"1.1e4932", b"1.1e4932")])
def test_infinite_sums_are_refused(a: bytes, b: bytes) -> None:
    with pytest.raises(CommandError, match="increment would produce NaN or Infinity"):
        sum_of(a, b)


def value_of(number: longdouble.Number) -> Fraction:
    return number.significand * Fraction(2) ** number.exponent


@given(st.fractions(min_value=0), st.integers(-200, 200))
def test_rounding_keeps_64_bits_and_is_nearest(number: Fraction, exponent: int) -> None:
    number *= Fraction(2) ** exponent
    result = value_of(longdouble.rounded(number.numerator, number.denominator))
    if number == 0:
        assert result == 0
        return
    assert (result.numerator // (result.numerator & -result.numerator)).bit_length() <= 64
    assert abs(result - number) <= number / 2**64
    assert value_of(longdouble.rounded(result.numerator, result.denominator)) == result


@pytest.mark.parametrize("denominator", [1, 2, 3, 1 << 70])
def test_a_tie_goes_to_the_even_significand(denominator: int) -> None:
    even, odd = (1 << 63) + 2, (1 << 63) + 3
    for whole, nearest in ((even, even), (odd, odd + 1)):
        tie = longdouble.rounded((2 * whole + 1) * denominator, denominator)
        assert value_of(tie) == 2 * nearest
        above = longdouble.rounded((2 * whole + 1) * (denominator << 99) + 1, denominator << 99)
        assert value_of(above) == 2 * (whole + 1)


def test_a_long_text_is_read_though_python_refuses_it() -> None:
    """CPython refuses to convert more than 4300 digits, and an exception here would stop every replica."""
    assert sum_of(b"0." + b"0" * 4400 + b"1", b"1") == b"1"
    assert sum_of(b"0" * 5000 + b"5", b"1") == b"6"
    with pytest.raises(CommandError, match="value is not a valid float"):
        longdouble.parse(b"9" * 5000)


@pytest.mark.parametrize("raw", [b"0e99999999999", b"0e-99999999999", b"-0", b"0x0p99999999999", b".0"])
def test_nothing_is_nothing_whatever_its_exponent(raw: bytes) -> None:
    assert sum_of(raw, b"0") == b"0"
