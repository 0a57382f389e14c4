"""Ranges of scores and of members, as the sorted set commands take them.

Source: https://redis.io/docs/latest/commands/zrange/, version 7.0.
"""

from __future__ import annotations

import math

from raftkv.commands.args import parse_float
from raftkv.errors import CommandError
from raftkv.store.zset import LexRange, ScoreRange

_C_SPACES = b" \t\n\v\f\r"
_NOTHING = LexRange(b"", b"", low_open=True, high_open=True)


def _parse_score_bound(raw: bytes) -> tuple[float, bool]:
    """The bound and whether it is excluded. As with C's strtod: nothing is 0, leading spaces and overflow are fine."""
    is_open = raw.startswith(b"(")
    text = raw[is_open:].lstrip(_C_SPACES).partition(b"\x00")[0]
    if not text:
        return 0.0, is_open
    try:
        return parse_float(text, "min or max is not a float"), is_open
    except CommandError:
        return _parse_out_of_range(text), is_open


def _parse_out_of_range(text: bytes) -> float:
    """What a decimal that a score may not be (too large, too small) means as a bound: infinity, or 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or b"_" in text or text[-1:].isspace():
        raise CommandError("min or max is not a float")
    return value


def parse_score_range(low: bytes, high: bytes) -> ScoreRange:
    """``1.5``, ``(1.5`` (excluded), ``-inf``, ``+inf``. Raises CommandError."""
    low_bound, low_open = _parse_score_bound(low)
    high_bound, high_open = _parse_score_bound(high)
    return ScoreRange(low_bound, high_bound, low_open, high_open)


def _check_lex_bound(raw: bytes) -> None:
    if raw not in {b"-", b"+"} and raw[:1] not in {b"[", b"("}:
        raise CommandError("min or max not valid string range item")


def parse_lex_range(low: bytes, high: bytes) -> LexRange:
    """``[a``, ``(a`` (excluded), ``-`` (below all), ``+`` (above all). Raises CommandError."""
    for raw in (low, high):
        _check_lex_bound(raw)
    if low == b"+" or high == b"-":
        return _NOTHING
    return LexRange(
        None if low == b"-" else low[1:],
        None if high == b"+" else high[1:],
        low[:1] == b"(",
        high[:1] == b"(",
    )
