"""Unions, intersections and differences of sorted sets and sets (whose members count as having score 1).

All forms share one grammar and one pass: read the inputs, then the options, then fold. The inputs of unions and
intersections are folded from the smallest to the largest, as Redis does: sums of three floats depend on the order.

Source: https://redis.io/docs/latest/commands/zunion/, version 7.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from operator import itemgetter
from typing import Final, TypeAlias

from raftkv.commands.args import INT64_MAX, parse_float, parse_int, syntax_error
from raftkv.commands.key_finders import counted_keys
from raftkv.commands.registry import Argv, Context, command
from raftkv.commands.zsets import members_reply
from raftkv.errors import CommandError, WrongTypeError
from raftkv.protocol.replies import Reply
from raftkv.store.sets import IndexedSet
from raftkv.store.zset import ZSet

Aggregate: TypeAlias = Callable[[float, float], float]
Folded: TypeAlias = "dict[bytes, float]"
"""Member to score, in no order that may be observed."""

SET_SCORE: Final = 1.0
"""The score of a member of a plain set."""


class Form(Enum):
    """How a command is spelled and what it answers."""

    REPLY = "reply"
    STORE = "store"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed command. ``inputs`` and ``weights`` go together."""

    inputs: list[Mapping[bytes, float]]
    weights: list[float]
    aggregate: Aggregate
    with_scores: bool
    limit: int
    """ZINTERCARD stops counting here; 0: never."""


# -------------------------------------------------------------------- aggregates
def _sum(one: float, two: float) -> float:
    """Infinity and its opposite add up to 0, as in Redis."""
    total = one + two
    return 0.0 if math.isnan(total) else total


def _least(one: float, two: float) -> float:
    return two if two < one else one  # noqa: FURB136 -- says which of the two stays when one is not a number


def _greatest(one: float, two: float) -> float:
    return two if two > one else one  # noqa: FURB136 -- says which of the two stays when one is not a number


_AGGREGATES: Final[dict[bytes, Aggregate]] = {b"SUM": _sum, b"MIN": _least, b"MAX": _greatest}


def _weighed(score: float, weight: float) -> float:
    """Infinity times 0 is 0, as in Redis."""
    product = score * weight
    return 0.0 if math.isnan(product) else product


# -------------------------------------------------------------------- parsing
def _scores_at(ctx: Context, key: bytes) -> Mapping[bytes, float]:
    """Member to score of a sorted set or a set, empty if there is none. Raises WrongTypeError."""
    found = ctx.db.get(key)
    if found is None:
        return {}
    if type(found) is ZSet:
        return found.scores
    if type(found) is IndexedSet:
        return dict.fromkeys(found, SET_SCORE)
    raise WrongTypeError


def _parse(ctx: Context, argv: Argv, at: int, form: Form, *, weighted: bool) -> Request:
    """``numkeys key [key ...] [options]`` from ``argv[at]`` on. Raises CommandError in Redis' order of checks."""
    numkeys = parse_int(argv[at])
    if numkeys < 1:
        raise CommandError(f"at least 1 input key is needed for '{argv[0].decode().lower()}' command")
    words = argv[at + 1 :]
    if numkeys > len(words):
        raise syntax_error()
    inputs = [_scores_at(ctx, key) for key in words[:numkeys]]
    return _parse_options(inputs, words[numkeys:], form, weighted=weighted)


def _parse_options(inputs: list[Mapping[bytes, float]], words: list[bytes], form: Form, *, weighted: bool) -> Request:
    weights, with_scores, limit = [1.0] * len(inputs), False, 0
    aggregate: Aggregate = _sum
    at = 0
    while at < len(words):
        word, left = words[at].upper(), len(words) - at - 1
        if word == b"WEIGHTS" and weighted and left >= len(inputs):
            weights = [parse_float(raw, "weight value is not a float") for raw in words[at + 1 : at + 1 + len(inputs)]]
            at += len(inputs)
        elif word == b"AGGREGATE" and weighted and left and words[at + 1].upper() in _AGGREGATES:
            aggregate = _AGGREGATES[words[at + 1].upper()]
            at += 1
        elif word == b"WITHSCORES" and form is Form.REPLY:
            with_scores = True
        elif word == b"LIMIT" and form is Form.COUNT and left:
            limit = parse_int(words[at + 1], "LIMIT can't be negative", low=0)
            at += 1
        else:
            raise syntax_error()
        at += 1
    return Request(inputs, weights, aggregate, with_scores, limit)


# -------------------------------------------------------------------- folding
def _by_size(request: Request) -> list[tuple[Mapping[bytes, float], float]]:
    """Inputs with weights, smallest first; equal sizes stay in the order of the keys."""
    return sorted(zip(request.inputs, request.weights, strict=True), key=lambda pair: len(pair[0]))


def _union(request: Request) -> Folded:
    folded: Folded = {}
    for scores, weight in _by_size(request):
        for member, score in scores.items():
            value = _weighed(score, weight)
            before = folded.get(member)
            folded[member] = value if before is None else request.aggregate(before, value)
    return folded


def _intersection(request: Request) -> Folded:
    (smallest, weight), *others = _by_size(request)
    folded = {member: _weighed(score, weight) for member, score in smallest.items()}
    for scores, weight in others:
        # A product that is not a number is not replaced here, only a sum that is: as in Redis.
        folded = {
            member: request.aggregate(value, scores[member] * weight)
            for member, value in folded.items()
            if member in scores
        }
    return folded


def _difference(request: Request) -> Folded:
    first, *others = request.inputs
    rest = dict(first)
    for scores in others:
        if len(scores) < len(rest):
            for member in scores:
                rest.pop(member, None)
        else:
            rest = {member: score for member, score in rest.items() if member not in scores}
    return rest


Fold: TypeAlias = Callable[[Request], Folded]


def _answer(ctx: Context, argv: Argv, fold: Fold) -> Reply:
    request = _parse(ctx, argv, 1, Form.REPLY, weighted=fold is not _difference)
    entries = sorted(fold(request).items(), key=itemgetter(1, 0))
    return members_reply(entries, with_scores=request.with_scores)


def _store(ctx: Context, argv: Argv, fold: Fold) -> Reply:
    result = ZSet(fold(_parse(ctx, argv, 2, Form.STORE, weighted=fold is not _difference)))
    ctx.db.store(argv[1], result)
    return len(result)


def stored_keys(argv: Argv) -> list[bytes]:
    """The keys of ``COMMAND destination numkeys key [key ...] ...``."""
    return [argv[1], *counted_keys(argv[1:])]


# -------------------------------------------------------------------- commands
@command(
    "ZUNION", arity=-3, flags="readonly movablekeys", group="sorted-set", since="6.2.0", key_finder=counted_keys,
    summary="What is in at least one of several sorted sets, the scores put together.",
    syntax="numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
    complexity="O(N + M log M) for N members in all inputs together and M in the answer",
)  # fmt: skip
def zunion(ctx: Context, argv: Argv) -> Reply:
    return _answer(ctx, argv, _union)


@command(
    "ZINTER", arity=-3, flags="readonly movablekeys", group="sorted-set", since="6.2.0", key_finder=counted_keys,
    summary="What all of several sorted sets have in common, the scores put together.",
    syntax="numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
    complexity="O(N K + M log M) for K inputs, the smallest of N members, and M members in the answer",
)  # fmt: skip
def zinter(ctx: Context, argv: Argv) -> Reply:
    return _answer(ctx, argv, _intersection)


@command(
    "ZDIFF", arity=-3, flags="readonly movablekeys", group="sorted-set", since="6.2.0", key_finder=counted_keys,
    summary="What is in the first of several sorted sets and in none of the others.",
    syntax="numkeys key [key ...] [WITHSCORES]",
    complexity="O(N + M log M) for N members in all inputs together and M in the answer",
)  # fmt: skip
def zdiff(ctx: Context, argv: Argv) -> Reply:
    return _answer(ctx, argv, _difference)


@command(
    "ZUNIONSTORE", arity=-4, flags="write denyoom movablekeys", keys=(1, 1, 1), group="sorted-set", since="2.0.0",
    key_finder=stored_keys,
    summary="Store what ZUNION answers in place of what the destination held; how many members.",
    syntax="destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
    complexity="O(N) for N members in all inputs together",
)  # fmt: skip
def zunionstore(ctx: Context, argv: Argv) -> Reply:
    return _store(ctx, argv, _union)


@command(
    "ZINTERSTORE", arity=-4, flags="write denyoom movablekeys", keys=(1, 1, 1), group="sorted-set", since="2.0.0",
    key_finder=stored_keys,
    summary="Store what ZINTER answers in place of what the destination held; how many members.",
    syntax="destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
    complexity="O(N K) for K inputs, the smallest of N members",
)  # fmt: skip
def zinterstore(ctx: Context, argv: Argv) -> Reply:
    return _store(ctx, argv, _intersection)


@command(
    "ZDIFFSTORE", arity=-4, flags="write denyoom movablekeys", keys=(1, 1, 1), group="sorted-set", since="6.2.0",
    key_finder=stored_keys,
    summary="Store what ZDIFF answers in place of what the destination held; how many members.",
    syntax="destination numkeys key [key ...]",
    complexity="O(N) for N members in all inputs together",
)  # fmt: skip
def zdiffstore(ctx: Context, argv: Argv) -> Reply:
    return _store(ctx, argv, _difference)


@command(
    "ZINTERCARD", arity=-3, flags="readonly movablekeys", group="sorted-set", since="7.0.0", key_finder=counted_keys,
    summary="How many members all of several sorted sets have in common, counted up to the limit.",
    syntax="numkeys key [key ...] [LIMIT limit]",
    complexity="O(N K) for K inputs, the smallest of N members",
)  # fmt: skip
def zintercard(ctx: Context, argv: Argv) -> Reply:
    request = _parse(ctx, argv, 1, Form.COUNT, weighted=False)
    smallest, *others = sorted(request.inputs, key=len)
    limit = request.limit or INT64_MAX
    count = 0
    for member in smallest:
        if count == limit:
            break
        count += all(member in scores for scores in others)
    return count
