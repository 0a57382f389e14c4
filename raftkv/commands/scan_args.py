"""Cursor and options of the commands that scan one container (SSCAN, HSCAN, ZSCAN).

Source: https://redis.io/docs/latest/commands/scan/
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftkv.commands.args import parse_int, syntax_error
from raftkv.commands.glob import compile_glob
from raftkv.errors import CommandError

CURSOR_MAX: Final = 2**64 - 1
COUNT_DEFAULT: Final = 10

# Forty digits hold every 64-bit number with leading zeros to spare, and keep int() away from megabytes of them.
_CURSOR: Final = re.compile(rb"(?:[+-]?[0-9]{1,40})?\Z")


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What follows the cursor."""

    count: int = COUNT_DEFAULT
    """How many elements one call visits, at least 1."""
    match: Callable[[bytes], bool] | None = None
    """Which elements are returned of those visited; None: all."""


def parse_cursor(raw: bytes) -> int:
    """A cursor in ``0..CURSOR_MAX``, read as Redis does with C's strtoul: with or without sign, nothing is 0.

    Raises CommandError("invalid cursor").
    """
    if _CURSOR.match(raw) is None:
        raise CommandError("invalid cursor")
    value = int(raw or b"0")
    if abs(value) > CURSOR_MAX:
        raise CommandError("invalid cursor")
    return value & CURSOR_MAX


def parse_scan_options(words: list[bytes]) -> ScanOptions:
    """``[MATCH pattern] [COUNT count]`` in any order, the last of each counts.

    Raises CommandError (syntax error; value is not an integer or out of range).
    """
    count, match = COUNT_DEFAULT, None
    for name, raw in zip(words[::2], words[1::2], strict=False):
        option = name.upper()
        if option == b"COUNT":
            count = parse_int(raw)
            if count < 1:
                raise syntax_error()
        elif option == b"MATCH":
            match = None if raw == b"*" else compile_glob(raw)
        else:
            raise syntax_error()
    if len(words) % 2:
        raise syntax_error()
    return ScanOptions(count, match)
