"""Sorted sets, member by member: adding, scores, ranks, counts, popping, drawing, scanning.

Ranges are in :mod:`raftkv.commands.zset_ranges`, unions and the like in :mod:`raftkv.commands.zset_algebra`.

Source: https://redis.io/docs/latest/commands/?group=sorted-set, version 7.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raftkv.commands.args import format_float, parse_float, parse_int, syntax_error
from raftkv.commands.hash_scan import SMALL_MAX, scan_page
from raftkv.commands.key_finders import counted_keys
from raftkv.commands.random_draws import check_repeated, draw, parse_count, positions
from raftkv.commands.registry import Argv, Context, command
from raftkv.commands.scan_args import parse_cursor, parse_scan_options
from raftkv.commands.zset_args import parse_lex_range, parse_score_range
from raftkv.errors import CommandError
from raftkv.protocol.replies import NIL_ARRAY, Pairs, Reply
from raftkv.store.zset import ZSet

WHOLE_MAX: Final = 2.0**62
"""Up to here Redis' compact encoding holds a whole score as an integer, which shows in ZSCAN."""


def zset_at(ctx: Context, key: bytes) -> ZSet | None:
    """The sorted set at ``key``; None if there is none. Raises WrongTypeError."""
    found: ZSet | None = ctx.db.typed(key, ZSet)
    return found


# -------------------------------------------------------------------- add
_ADD_WORDS: Final = frozenset({b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"})


@dataclass(frozen=True, slots=True)
class _AddOptions:
    """The words between key and scores."""

    nx: bool = False
    """Only add."""
    xx: bool = False
    """Only update."""
    gt: bool = False
    """Update only to a greater score."""
    lt: bool = False
    """Update only to a lesser score."""
    ch: bool = False
    """Count what was updated, too."""
    incr: bool = False
    """Scores are increments."""

    def check(self, pairs: int) -> None:
        """Raise CommandError when the options exclude each other or the number of pairs."""
        if self.nx and self.xx:
            raise CommandError("XX and NX options at the same time are not compatible")
        if (self.gt + self.lt + self.nx) > 1:
            raise CommandError("GT, LT, and/or NX options at the same time are not compatible")
        if self.incr and pairs > 1:
            raise CommandError("INCR option supports a single increment-element pair")

    def score(self, before: float | None, given: float) -> float | None:
        """The score to store for a member that has score ``before`` (None: not there); None: leave it.

        Raises CommandError when an increment of infinity by its opposite is not a number.
        """
        if before is None:
            return None if self.xx else given
        if self.nx:
            return None
        wanted = before + given if self.incr else given
        if math.isnan(wanted):
            raise CommandError("resulting score is not a number (NaN)")
        if (self.gt and wanted <= before) or (self.lt and wanted >= before):
            return None
        return wanted


_PLAIN: Final = _AddOptions()
_INCREMENT: Final = _AddOptions(incr=True)


def _parse_add(argv: Argv, *, incr: bool) -> tuple[_AddOptions, list[tuple[bytes, float]]]:
    at, words = 2, set()
    while at < len(argv) and (word := argv[at].upper()) in _ADD_WORDS:
        words.add(word)
        at += 1
    count = len(argv) - at
    if count == 0 or count % 2:
        raise syntax_error()
    if not words:
        options = _INCREMENT if incr else _PLAIN
    else:
        options = _AddOptions(
            nx=b"NX" in words, xx=b"XX" in words, gt=b"GT" in words, lt=b"LT" in words, ch=b"CH" in words,
            incr=incr or b"INCR" in words,
        )  # fmt: skip
    options.check(count // 2)
    scores = [parse_float(raw) for raw in argv[at::2]]
    return options, list(zip(argv[at + 1 :: 2], scores, strict=True))


def _add(ctx: Context, argv: Argv, *, incr: bool) -> Reply:
    options, pairs = _parse_add(argv, incr=incr)
    key = argv[1]
    zset = zset_at(ctx, key)
    target = ZSet() if zset is None else zset
    added = updated = 0
    score: float | None = None
    for member, given in pairs:
        before = target.score(member)
        # Only INCR can raise here, and INCR has one pair: nothing was changed before.
        score = options.score(before, given)
        if score is None or score == before:
            continue
        target.add(member, score)
        added += before is None
        updated += before is not None
    if added or updated:
        if zset is None:
            ctx.db.set(key, target)
        else:
            ctx.db.touch(key)
    if options.incr:
        return score
    return added + updated if options.ch else added


@command(
    "ZADD", arity=-4, flags="write denyoom fast", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="Put members with scores into a sorted set, or change their scores; how many are new.",
    syntax="key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]",
    complexity="O(log N) for each member put among N",
)  # fmt: skip
def zadd(ctx: Context, argv: Argv) -> Reply:
    return _add(ctx, argv, incr=False)


@command(
    "ZINCRBY", arity=4, flags="write denyoom fast", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="Add to a member's score; a missing one counts as 0.",
    syntax="key increment member", complexity="O(log N) for N members",
)  # fmt: skip
def zincrby(ctx: Context, argv: Argv) -> Reply:
    return _add(ctx, argv, incr=True)


@command(
    "ZREM", arity=-3, flags="write fast", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="Take members out of a sorted set; how many there were.",
    syntax="key member [member ...]",
    complexity="O(M log N) for M words and N members",
)  # fmt: skip
def zrem(ctx: Context, argv: Argv) -> Reply:
    key = argv[1]
    zset = zset_at(ctx, key)
    if zset is None:
        return 0
    removed = sum(map(zset.remove, argv[2:]))
    if removed:
        ctx.db.touch_or_drop(key, zset)
    return removed


# -------------------------------------------------------------------- look up
@command(
    "ZSCORE", arity=3, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="The score of a member; nil if it is missing.",
    syntax="key member",
)  # fmt: skip
def zscore(ctx: Context, argv: Argv) -> Reply:
    zset = zset_at(ctx, argv[1])
    return None if zset is None else zset.score(argv[2])


@command(
    "ZMSCORE", arity=-3, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="6.2.0",
    summary="The score of each of several members; nil for a missing one.",
    syntax="key member [member ...]", complexity="O(N) for N members asked for",
)  # fmt: skip
def zmscore(ctx: Context, argv: Argv) -> Reply:
    zset = zset_at(ctx, argv[1])
    return [None if zset is None else zset.score(member) for member in argv[2:]]


@command(
    "ZCARD", arity=2, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="1.2.0",
    summary="How many members a sorted set has.",
    syntax="key",
)  # fmt: skip
def zcard(ctx: Context, argv: Argv) -> Reply:
    zset = zset_at(ctx, argv[1])
    return 0 if zset is None else len(zset)


@command(
    "ZRANK", arity=3, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="2.0.0",
    summary="How many members stand before one, lowest score first; nil if it is missing.",
    syntax="key member", complexity="O(log N) for N members",
)  # fmt: skip
def zrank(ctx: Context, argv: Argv) -> Reply:
    zset = zset_at(ctx, argv[1])
    return None if zset is None else zset.rank(argv[2])


@command(
    "ZREVRANK", arity=3, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="2.0.0",
    summary="How many members stand before one, highest score first; nil if it is missing.",
    syntax="key member", complexity="O(log N) for N members",
)  # fmt: skip
def zrevrank(ctx: Context, argv: Argv) -> Reply:
    zset = zset_at(ctx, argv[1])
    rank = None if zset is None else zset.rank(argv[2])
    return None if zset is None or rank is None else len(zset) - 1 - rank


@command(
    "ZCOUNT", arity=4, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="2.0.0",
    summary="How many members have a score from min to max.",
    syntax="key min max", complexity="O(log N) for N members",
)  # fmt: skip
def zcount(ctx: Context, argv: Argv) -> Reply:
    wanted = parse_score_range(argv[2], argv[3])
    zset = zset_at(ctx, argv[1])
    start, stop = (0, 0) if zset is None else zset.span_of_scores(wanted)
    return stop - start


@command(
    "ZLEXCOUNT", arity=4, flags="readonly fast", keys=(1, 1, 1), group="sorted-set", since="2.8.9",
    summary="How many members stand from min to max in byte order, where all scores are equal.",
    syntax="key min max", complexity="O(log N) for N members",
)  # fmt: skip
def zlexcount(ctx: Context, argv: Argv) -> Reply:
    wanted = parse_lex_range(argv[2], argv[3])
    zset = zset_at(ctx, argv[1])
    start, stop = (0, 0) if zset is None else zset.span_of_members(wanted)
    return stop - start


# -------------------------------------------------------------------- pop
def _pop_from(ctx: Context, key: bytes, zset: ZSet, count: int, *, lowest: bool) -> list[tuple[bytes, float]]:
    popped = zset.pop_min(count) if lowest else zset.pop_max(count)
    if popped:
        ctx.db.touch_or_drop(key, zset)
    return popped


def _pop(ctx: Context, argv: Argv, *, lowest: bool) -> Reply:
    if len(argv) > 3:
        raise syntax_error()
    counted = len(argv) == 3
    count = parse_int(argv[2], "value is out of range, must be positive", low=0) if counted else 1
    key = argv[1]
    zset = zset_at(ctx, key)
    if zset is None:
        return []
    popped = _pop_from(ctx, key, zset, count, lowest=lowest)
    # RESP3 clients get pairs only when they gave a count; without one, one flat array.
    return Pairs(popped) if counted else list(popped[0])


@command(
    "ZPOPMIN", arity=-2, flags="write fast", keys=(1, 1, 1), group="sorted-set", since="5.0.0",
    summary="Take the member with the lowest score, or count of them.",
    syntax="key [count]",
    complexity="O(log N + M) for M of N members taken",
)  # fmt: skip
def zpopmin(ctx: Context, argv: Argv) -> Reply:
    return _pop(ctx, argv, lowest=True)


@command(
    "ZPOPMAX", arity=-2, flags="write fast", keys=(1, 1, 1), group="sorted-set", since="5.0.0",
    summary="Take the member with the highest score, or count of them.",
    syntax="key [count]",
    complexity="O(log N + M) for M of N members taken",
)  # fmt: skip
def zpopmax(ctx: Context, argv: Argv) -> Reply:
    return _pop(ctx, argv, lowest=False)


def _parse_mpop(argv: Argv) -> tuple[list[bytes], bool, int]:
    """Keys, whether the lowest are wanted, and how many."""
    numkeys = parse_int(argv[1], "numkeys should be greater than 0", low=1)
    at = 2 + numkeys
    if at >= len(argv) or argv[at].upper() not in {b"MIN", b"MAX"}:
        raise syntax_error()
    count, options = 1, argv[at + 1 :]
    if options:
        if len(options) < 2 or options[0].upper() != b"COUNT":
            raise syntax_error()
        count = parse_int(options[1], "count should be greater than 0", low=1)
        if len(options) > 2:
            raise syntax_error()
    return argv[2:at], argv[at].upper() == b"MIN", count


@command(
    "ZMPOP", arity=-4, flags="write movablekeys", group="sorted-set", since="7.0.0", key_finder=counted_keys,
    summary="Take members from the first of several keys that holds a sorted set; that key, members and scores.",
    syntax="numkeys key [key ...] <MIN | MAX> [COUNT count]",
    complexity="O(K + log N + M) for K keys and M of N members taken",
)  # fmt: skip
def zmpop(ctx: Context, argv: Argv) -> Reply:
    keys, lowest, count = _parse_mpop(argv)
    for key in keys:
        zset = zset_at(ctx, key)
        if zset is not None:
            return [key, [list(entry) for entry in _pop_from(ctx, key, zset, count, lowest=lowest)]]
    return NIL_ARRAY


# -------------------------------------------------------------------- draw and scan
@command(
    "ZRANDMEMBER", arity=-2, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="6.2.0",
    summary="A member of a sorted set at random; count different ones, or -count that may repeat.",
    syntax="key [count [WITHSCORES]]",
    complexity="O(M log N) for M draws from N members",
)  # fmt: skip
def zrandmember(ctx: Context, argv: Argv) -> Reply:
    if len(argv) == 2:
        zset = zset_at(ctx, argv[1])
        return None if zset is None else zset.at(draw(ctx.rng, len(zset)))[0]
    count, with_scores = parse_count(argv, b"WITHSCORES")
    zset = zset_at(ctx, argv[1])
    if zset is None or count == 0:
        return []
    # By rank and not by place in the dict, whose order is no part of the state.
    entries = list(map(zset.at, positions(ctx.rng, len(zset), count)))
    check_repeated(count, (member for member, _ in entries))
    return members_reply(entries, with_scores=with_scores)


def members_reply(entries: Sequence[tuple[bytes, float]], *, with_scores: bool) -> Reply:
    """Members, or members with scores, as the options of a command ask for."""
    return Pairs(entries) if with_scores else [member for member, _ in entries]


@command(
    "ZSCAN", arity=-3, flags="readonly", keys=(1, 1, 1), group="sorted-set", since="2.8.0",
    summary="Walk over a sorted set: the next cursor, and some members with scores; 0 begins and ends.",
    syntax="key cursor [MATCH pattern] [COUNT count]",
    complexity="O(N) a call and O(N) a whole walk, for N members",
)  # fmt: skip
def zscan(ctx: Context, argv: Argv) -> Reply:
    cursor = parse_cursor(argv[2])
    zset = zset_at(ctx, argv[1])
    if zset is None:
        return [b"0", []]
    options = parse_scan_options(argv[3:])
    scores = zset.scores
    if len(scores) <= SMALL_MAX:
        cursor, page = 0, list(zset)
    else:
        cursor, page = scan_page(scores.keys(), cursor, options.count)
    if options.match is not None:
        page = list(filter(options.match, page))
    return [b"%d" % cursor, [part for member in page for part in (member, _scan_text(scores[member]))]]


def _scan_text(score: float) -> bytes:
    """A score in ZSCAN, where it is a bulk string in both protocols: whole numbers in all their digits."""
    return b"%d" % int(score) if abs(score) <= WHOLE_MAX and score.is_integer() else format_float(score)
