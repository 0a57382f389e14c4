"""Ranges of sorted sets: ZRANGE with its older spellings, ZRANGESTORE, and removing by range.

A range of any kind is first turned into a span of ranks, then cut by LIMIT, then read or removed.

Source: https://redis.io/docs/latest/commands/zrange/, version 7.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from raftkv.commands.args import parse_int, syntax_error
from raftkv.commands.registry import Argv, Context, command
from raftkv.commands.zset_args import parse_lex_range, parse_score_range
from raftkv.commands.zsets import members_reply, zset_at
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply
from raftkv.store.zset import LexRange, ScoreRange, ZSet


class By(Enum):
    """What the two bounds of a range are."""

    RANK = "rank"
    SCORE = "score"
    LEX = "lex"


@dataclass(frozen=True, slots=True)
class RankRange:
    """Ranks in the direction of reading, both included; negative ones count from the end."""

    first: int
    last: int


Wanted: TypeAlias = RankRange | ScoreRange | LexRange


@dataclass(slots=True)
class _Options:
    """What follows the bounds. ``by`` and ``reverse`` are None until a word, or the command's name, says them."""

    by: By | None = None
    reverse: bool | None = None
    with_scores: bool = False
    offset: int = 0
    limit: int = -1
    """Negative: all."""


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed range command."""

    wanted: Wanted
    reverse: bool
    with_scores: bool
    offset: int
    limit: int

    def select(self, zset: ZSet) -> list[tuple[bytes, float]]:
        """Members and scores in the order asked for."""
        return zset.slice(*self._span(zset), reverse=self.reverse)

    def _span(self, zset: ZSet) -> tuple[int, int]:
        """The span with LIMIT applied; ranks know no LIMIT, and a negative offset skips everything."""
        if isinstance(self.wanted, RankRange):
            return span_of(zset, self.wanted, reverse=self.reverse)
        skip = self.offset if 0 <= self.offset < len(zset) else len(zset)
        if isinstance(self.wanted, LexRange):
            start, stop = zset.span_of_members(self.wanted, reverse=self.reverse, skip=skip)
        else:
            start, stop = zset.span_of_scores(self.wanted)
            start, stop = (start, max(stop - skip, start)) if self.reverse else (min(start + skip, stop), stop)
        if 0 <= self.limit < stop - start:
            return (stop - self.limit, stop) if self.reverse else (start, start + self.limit)
        return start, stop


def span_of(zset: ZSet, wanted: Wanted, *, reverse: bool = False) -> tuple[int, int]:
    """The span of ascending ranks that ``wanted`` means in ``zset``; with ``reverse``, ranks count from the highest."""
    if isinstance(wanted, ScoreRange):
        return zset.span_of_scores(wanted)
    if isinstance(wanted, LexRange):
        return zset.span_of_members(wanted, reverse=reverse)
    size = len(zset)
    first = max(wanted.first + size, 0) if wanted.first < 0 else wanted.first
    last = min(wanted.last + size if wanted.last < 0 else wanted.last, size - 1)
    if first > last:
        return 0, 0
    return (size - 1 - last, size - first) if reverse else (first, last + 1)


# -------------------------------------------------------------------- parsing
def _parse_options(words: list[bytes], options: _Options, *, store: bool) -> None:
    """Read ``[BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`` in any order into ``options``."""
    at = 0
    while at < len(words):
        word = words[at].upper()
        if word == b"WITHSCORES" and not store:
            options.with_scores = True
        elif word == b"LIMIT" and at + 2 < len(words):
            options.offset, options.limit = parse_int(words[at + 1]), parse_int(words[at + 2])
            at += 2
        elif word == b"REV" and options.reverse is None:
            options.reverse = True
        elif word == b"BYLEX" and options.by is None:
            options.by = By.LEX
        elif word == b"BYSCORE" and options.by is None:
            options.by = By.SCORE
        else:
            raise syntax_error()
        at += 1


def _parse_wanted(by: By, low: bytes, high: bytes) -> Wanted:
    if by is By.SCORE:
        return parse_score_range(low, high)
    if by is By.LEX:
        return parse_lex_range(low, high)
    return RankRange(parse_int(low), parse_int(high))


def _parse(words: list[bytes], options: _Options, *, store: bool = False) -> Query:
    """``min max [options]``. Raises CommandError."""
    _parse_options(words[2:], options, store=store)
    by, reverse = options.by or By.RANK, bool(options.reverse)
    if options.limit != -1 and by is By.RANK:
        raise CommandError("syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
    if options.with_scores and by is By.LEX:
        raise CommandError("syntax error, WITHSCORES not supported in combination with BYLEX")
    low, high = (words[1], words[0]) if reverse and by is not By.RANK else (words[0], words[1])
    return Query(_parse_wanted(by, low, high), reverse, options.with_scores, options.offset, options.limit)


def _range(ctx: Context, argv: Argv, options: _Options) -> Reply:
    query = _parse(argv[2:], options)
    zset = zset_at(ctx, argv[1])
    return [] if zset is None else members_reply(query.select(zset), with_scores=query.with_scores)


# -------------------------------------------------------------------- read
@command(
    "ZRANGE", arity=-4, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="The members from start to stop: by rank, by score or in byte order.",
    syntax="key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]",
    complexity="O(log N + M) for M of N members answered",
)  # fmt: skip
def zrange(ctx: Context, argv: Argv) -> Reply:
    return _range(ctx, argv, _Options())


@command(
    "ZREVRANGE", arity=-4, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="The members from one rank to another, counted from the highest score.",
    syntax="key start stop [WITHSCORES]",
    complexity="O(log N + M) for M of N members answered",
)  # fmt: skip
def zrevrange(ctx: Context, argv: Argv) -> Reply:
    return _range(ctx, argv, _Options(by=By.RANK, reverse=True))


@command(
    "ZRANGEBYSCORE", arity=-4, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="1.0.5",
    summary="The members with a score from min to max, lowest first.",
    syntax="key min max [WITHSCORES] [LIMIT offset count]",
    complexity="O(log N + M) for M of N members answered",
)  # fmt: skip
def zrangebyscore(ctx: Context, argv: Argv) -> Reply:
    return _range(ctx, argv, _Options(by=By.SCORE, reverse=False))


@command(
    "ZREVRANGEBYSCORE", arity=-4, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="2.2.0",
    summary="The members with a score from max down to min, highest first.",
    syntax="key max min [WITHSCORES] [LIMIT offset count]",
    complexity="O(log N + M) for M of N members answered",
)  # fmt: skip
def zrevrangebyscore(ctx: Context, argv: Argv) -> Reply:
    return _range(ctx, argv, _Options(by=By.SCORE, reverse=True))


@command(
    "ZRANGEBYLEX", arity=-4, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="2.8.9",
    summary="The members from min to max in byte order, where all scores are equal.",
    syntax="key min max [LIMIT offset count]",
    complexity="O(log N + M) for M of N members answered",
)  # fmt: skip
def zrangebylex(ctx: Context, argv: Argv) -> Reply:
    return _range(ctx, argv, _Options(by=By.LEX, reverse=False))


@command(
    "ZREVRANGEBYLEX", arity=-4, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="2.8.9",
    summary="The members from max down to min in byte order, where all scores are equal.",
    syntax="key max min [LIMIT offset count]",
    complexity="O(log N + M) for M of N members answered",
)  # fmt: skip
def zrevrangebylex(ctx: Context, argv: Argv) -> Reply:
    return _range(ctx, argv, _Options(by=By.LEX, reverse=True))


# -------------------------------------------------------------------- write
@command(
    "ZRANGESTORE", arity=-5, flags="write denyoom", keys=(1, 2, 1), group="sorted-set", since="6.2.0",
    summary="Store what ZRANGE answers in place of what the destination held; how many members.",
    syntax="dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]",
    complexity="O(log N + M) for M of N members stored",
)  # fmt: skip
def zrangestore(ctx: Context, argv: Argv) -> Reply:
    query = _parse(argv[3:], _Options(), store=True)
    source = zset_at(ctx, argv[2])
    found = [] if source is None else query.select(source)
    ctx.db.store(argv[1], ZSet(found))
    return len(found)


def _remove(ctx: Context, key: bytes, wanted: Wanted) -> Reply:
    zset = zset_at(ctx, key)
    if zset is None:
        return 0
    removed = zset.remove_span(*span_of(zset, wanted))
    if removed:
        ctx.db.touch_or_drop(key, zset)
    return removed


@command(
    "ZREMRANGEBYRANK", arity=4, flags="write", keys=(1, 1, 1), group="sorted-set", since="2.0.0",
    summary="Remove the members from one rank to another; how many there were.",
    syntax="key start stop",
    complexity="O(log N + M) for M of N members removed",
)  # fmt: skip
def zremrangebyrank(ctx: Context, argv: Argv) -> Reply:
    return _remove(ctx, argv[1], RankRange(parse_int(argv[2]), parse_int(argv[3])))


@command(
    "ZREMRANGEBYSCORE", arity=4, flags="write", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="Remove the members with a score from min to max; how many there were.",
    syntax="key min max",
    complexity="O(log N + M) for M of N members removed",
)  # fmt: skip
def zremrangebyscore(ctx: Context, argv: Argv) -> Reply:
    return _remove(ctx, argv[1], parse_score_range(argv[2], argv[3]))


@command(
    "ZREMRANGEBYLEX", arity=4, flags="write", keys=(1, 1, 1), group="sorted-set", since="2.8.9",
    summary="Remove the members from min to max in byte order, where all scores are equal; how many there were.",
    syntax="key min max",
    complexity="O(log N + M) for M of N members removed",
)  # fmt: skip
def zremrangebylex(ctx: Context, argv: Argv) -> Reply:
    return _remove(ctx, argv[1], parse_lex_range(argv[2], argv[3]))
