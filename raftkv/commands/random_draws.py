"""Random positions for RANDOMKEY, SPOP, SRANDMEMBER, HRANDFIELD and ZRANDMEMBER.

Of the generator only ``random()`` is used, the one method whose sequence Python promises to keep, so that nodes of
two Python versions draw the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Final

from raftkv.commands.args import INT64_MAX, STRING_BYTES_MAX, parse_int, syntax_error
from raftkv.commands.registry import Argv
from raftkv.errors import CommandError

REPEATS_MAX: Final = 1 << 17
"""Most draws with repetitions of one command. Redis has no limit and may be made to answer for ever; here the command
may stand in a transaction, and apply must not be held up (half a second at most). Beyond: "value is out of range"."""
REPEATED_BYTES_MAX: Final = STRING_BYTES_MAX
"""Most bytes that draws with repetitions may add up to: a few words of a command must not make a reply of terabytes."""


def draw(rng: Random, below: int) -> int:
    """A number in ``range(below)``; ``below`` is a size in memory, far under the 2**53 at which this would bend."""
    return int(rng.random() * below)


def parse_count(argv: Argv, option: bytes | None = None) -> tuple[int, bool]:
    """``COMMAND key count [option]``: the count, and whether the option is there.

    A negative count asks for that many draws with repetitions. Raises CommandError.
    """
    count = parse_int(argv[2])
    if count < -INT64_MAX:
        raise CommandError(f"value is out of range, value must between {-INT64_MAX} and {INT64_MAX}")
    with_option = len(argv) > 3
    if with_option:
        if len(argv) > 4 or argv[3].upper() != option:
            raise syntax_error()
        if abs(count) > INT64_MAX // 2:
            raise CommandError("value is out of range")
    return count, with_option


def positions(rng: Random, size: int, count: int) -> Sequence[int]:
    """Positions in ``range(size)``: ``count`` distinct ones, all in order if there are no more; or ``-count`` repeated.

    Raises CommandError when more than REPEATS_MAX repetitions are asked for.
    """
    if count >= size:
        return range(size)
    if count >= 0:
        return _distinct(rng, size, count)
    if -count > REPEATS_MAX:
        raise CommandError("value is out of range")
    return [draw(rng, size) for _ in range(-count)]


def _distinct(rng: Random, size: int, count: int) -> list[int]:
    """The first steps of a Fisher-Yates shuffle. Only what was swapped is kept: time and space are O(count)."""
    moved: dict[int, int] = {}
    picked = []
    for at in range(count):
        other = at + draw(rng, size - at)
        picked.append(moved.get(other, other))
        moved[other] = moved.get(at, at)
    return picked


def check_repeated(count: int, parts: Iterable[bytes]) -> None:
    """Raise CommandError when a negative ``count`` drew ``parts`` of more than REPEATED_BYTES_MAX in all."""
    if count < 0 and sum(map(len, parts)) > REPEATED_BYTES_MAX:
        raise CommandError("value is out of range")
