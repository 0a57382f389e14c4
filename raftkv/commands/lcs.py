"""LCS: the longest common subsequence of two strings.

Redis fills a matrix of len(a) x len(b) lengths. Filling it cell by cell would stop this node for a minute where
Redis needs half a second, so a row is one big integer, computed with a few word-parallel operations:
H. Hyyro, "Bit-parallel LCS-length computation revisited" (AWOCA 2004). In the vector of row i, bit j is *clear*
where L(i, j+1) = L(i, j) + 1; L(i, j) is therefore the number of clear bits below j.

The way back through the rows makes the choices that Redis documents by its results: a match is taken at once;
otherwise it goes up if that is strictly longer, else left.
https://redis.io/docs/latest/commands/lcs/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftkv.commands.args import NOT_AN_INTEGER, STRING_BYTES_MAX, parse_int, syntax_error
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply

_CELL_BYTES: Final = 4
"""What a cell takes in Redis, which limits the matrix to ``proto-max-bulk-len``; the limit here is the same."""
_STEPS_MAX: Final = 1 << 20
"""Bound of len(a) + len(b) unless only the length is asked for: the way back takes that many steps (a second)."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A common run of ``length`` bytes, at ``a`` and ``b``."""

    a: int
    b: int
    length: int


@dataclass(frozen=True, slots=True)
class _Options:
    length_only: bool
    index: bool
    match_length_min: int
    with_match_length: bool


def _rows(a: bytes, b: bytes) -> list[int]:
    """Vectors of rows 0..len(a) over the columns of ``b``."""
    full = (1 << len(b)) - 1
    reversed_b = b[::-1]
    where: dict[int, int] = {}
    for byte in set(a):
        digits = reversed_b.translate(bytes(49 if other == byte else 48 for other in range(256)))
        where[byte] = int(digits, 2) if digits else 0
    row = full
    rows = [row]
    for byte in a:
        found = row & where[byte]
        row = ((row + found) | (row - found)) & full
        rows.append(row)
    return rows


def _length_before(row: int, columns: int) -> int:
    """L(row, columns): clear bits below ``columns``."""
    return columns - (row & ((1 << columns) - 1)).bit_count()


def _path(a: bytes, b: bytes, rows: list[int], *, prefer_row: bool) -> list[tuple[int, int]]:
    """Matched positions, last first. ``a`` indexes the rows, ``b`` the columns.

    ``prefer_row``: on a tie the row index goes down, else the column index.
    """
    i, j = len(a), len(b)
    here, above = _RowCursor(rows, i, j), _RowCursor(rows, i - 1, j)
    matches = []
    while i > 0 and j > 0:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            matches.append((i, j))
            above.move_left()
            here, above = above, _RowCursor(rows, i - 1, j)
            continue
        up, left = above.length, here.length_left()
        if up > left or (prefer_row and up == left):
            i -= 1
            here, above = above, _RowCursor(rows, i - 1, j)
        else:
            j -= 1
            here.move_left()
            above.move_left()
    return matches


class _RowCursor:
    """A place in one row and L there; a step to the left costs O(1), because the row is read as bytes."""

    __slots__ = ("_bits", "_column", "length")

    def __init__(self, rows: list[int], row: int, column: int) -> None:
        vector = rows[row] if row >= 0 else rows[0]
        self._bits = vector.to_bytes(vector.bit_length() // 8 + 1, "little")
        self._column = column
        self.length = _length_before(vector, column)

    def length_left(self) -> int:
        """L one column to the left."""
        at = self._column - 1
        byte = self._bits[at >> 3] if at >> 3 < len(self._bits) else 0
        return self.length if byte >> (at & 7) & 1 else self.length - 1

    def move_left(self) -> None:
        self.length = self.length_left()
        self._column -= 1


def _matches(a: bytes, b: bytes) -> list[tuple[int, int]]:
    """Positions in (a, b), last first. The shorter string gives the rows, so that there are few big integers."""
    if len(a) <= len(b):
        return _path(a, b, _rows(a, b), prefer_row=False)
    return [(i, j) for j, i in _path(b, a, _rows(b, a), prefer_row=True)]


def _runs(matches: list[tuple[int, int]]) -> list[_Run]:
    """Maximal runs that are contiguous in both strings, last first."""
    runs: list[_Run] = []
    for i, j in matches:
        if runs and runs[-1].a == i + 1 and runs[-1].b == j + 1:
            runs[-1] = _Run(i, j, runs[-1].length + 1)
        else:
            runs.append(_Run(i, j, 1))
    return runs


def _parse_options(words: list[bytes]) -> _Options:
    length_only = index = with_match_length = False
    match_length_min = 0
    at = 0
    while at < len(words):
        word = words[at].upper()
        if word == b"LEN":
            length_only = True
        elif word == b"IDX":
            index = True
        elif word == b"WITHMATCHLEN":
            with_match_length = True
        elif word == b"MINMATCHLEN" and at + 1 < len(words):
            at += 1
            match_length_min = max(parse_int(words[at], NOT_AN_INTEGER), 0)
        else:
            raise syntax_error()
        at += 1
    if length_only and index:
        msg = "If you want both the length and indexes, please just use IDX."
        raise CommandError(msg)
    return _Options(length_only, index, match_length_min, with_match_length)


def _operands(ctx: Context, argv: Argv) -> tuple[bytes, bytes]:
    values = [ctx.db.get(key) for key in argv[1:3]]
    if any(value is not None and type(value) is not bytes for value in values):
        msg = "The specified keys must contain string values"
        raise CommandError(msg)
    return values[0] or b"", values[1] or b""


@command(
    "LCS", arity=-3, flags="readonly", keys=(1, 2, 1), group="string", since="7.0.0",
    syntax="key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
    complexity="O(N M / 64 + N + M) for strings of N and M bytes",
    summary="The longest row of bytes that two strings share, gaps allowed; with LEN its length, with IDX its places.",
)  # fmt: skip
def lcs(ctx: Context, argv: Argv) -> Reply:
    a, b = _operands(ctx, argv)
    options = _parse_options(argv[3:])
    if (len(a) + 1) * (len(b) + 1) * _CELL_BYTES > STRING_BYTES_MAX:
        msg = "Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"
        raise CommandError(msg)
    if options.length_only:
        short, long = sorted((a, b), key=len)
        return _length_before(_rows(short, long)[-1], len(long))
    if len(a) + len(b) > _STEPS_MAX:
        msg = "String too long for LCS"
        raise CommandError(msg)
    matches = _matches(a, b)
    if not options.index:
        return bytes(a[i] for i, _ in reversed(matches))
    shown = [_shown(run, options) for run in _runs(matches) if run.length >= options.match_length_min]
    return {b"matches": shown, b"len": len(matches)}


def _shown(run: _Run, options: _Options) -> list[Reply]:
    reply: list[Reply] = [[run.a, run.a + run.length - 1], [run.b, run.b + run.length - 1]]
    if options.with_match_length:
        reply.append(run.length)
    return reply
