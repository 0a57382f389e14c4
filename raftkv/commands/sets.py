"""Sets of numbered members (:class:`raftkv.store.sets.IndexedSet`).

Every reply lists members in an order that follows from the commands applied, never from hashes. Random members
come from :mod:`raftkv.commands.random_draws` and :meth:`IndexedSet.at`.

Source: https://redis.io/docs/latest/commands/?group=set, version 7.0.
"""

from __future__ import annotations

from itertools import chain, islice

from raftkv.commands.args import parse_int, syntax_error
from raftkv.commands.key_finders import counted_keys
from raftkv.commands.random_draws import check_repeated, draw, parse_count, positions
from raftkv.commands.registry import Argv, Context, command
from raftkv.commands.scan_args import parse_cursor, parse_scan_options
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply, SetReply
from raftkv.store.sets import IndexedSet


# -------------------------------------------------------------------- members
@command(
    "SADD",
    arity=-3,
    flags="write denyoom fast",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="Put members into a set; how many are new.",
    syntax="key member [member ...]",
    complexity="O(1) for each member",
)
def sadd(ctx: Context, argv: Argv) -> Reply:
    db, key = ctx.db, argv[1]
    members: IndexedSet | None = db.typed(key, IndexedSet)
    if members is None:
        members = IndexedSet.from_members(argv[2:])
        db.set(key, members)
        return len(members)
    added = int(members.add(argv[2])) if len(argv) == 3 else members.update(argv[2:])
    if added:
        db.touch(key)
    return added


@command(
    "SREM",
    arity=-3,
    flags="write fast",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="Take members out of a set; how many there were.",
    syntax="key member [member ...]",
    complexity="O(N) for N members named",
)
def srem(ctx: Context, argv: Argv) -> Reply:
    db, key = ctx.db, argv[1]
    members: IndexedSet | None = db.typed(key, IndexedSet)
    if members is None:
        return 0
    removed = sum(map(members.discard, argv[2:]))
    if removed:
        db.touch_or_drop(key, members)
    return removed


@command(
    "SISMEMBER",
    arity=3,
    flags="readonly fast",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="Whether a set has a member: 1 or 0.",
    syntax="key member",
)
def sismember(ctx: Context, argv: Argv) -> Reply:
    members: IndexedSet | None = ctx.db.typed(argv[1], IndexedSet)
    return int(members is not None and argv[2] in members)


@command(
    "SMISMEMBER",
    arity=-3,
    flags="readonly fast",
    keys=(1, 1, 1),
    group="set",
    since="6.2.0",
    summary="Of each of several words whether it is in a set: 1 or 0.",
    syntax="key member [member ...]",
    complexity="O(N) for N members asked for",
)
def smismember(ctx: Context, argv: Argv) -> Reply:
    members: IndexedSet | None = ctx.db.typed(argv[1], IndexedSet)
    if members is None:
        return [0] * (len(argv) - 2)
    index = members.index
    return [int(member in index) for member in argv[2:]]


@command(
    "SMEMBERS",
    arity=2,
    flags="readonly",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="A whole set.",
    syntax="key",
    complexity="O(N) for N members",
)
def smembers(ctx: Context, argv: Argv) -> Reply:
    return SetReply(ctx.db.typed(argv[1], IndexedSet) or ())


@command(
    "SCARD",
    arity=2,
    flags="readonly fast",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="How many members a set has.",
    syntax="key",
)
def scard(ctx: Context, argv: Argv) -> Reply:
    members: IndexedSet | None = ctx.db.typed(argv[1], IndexedSet)
    return 0 if members is None else len(members)


@command(
    "SMOVE",
    arity=4,
    flags="write fast",
    keys=(1, 2, 1),
    group="set",
    since="1.0.0",
    summary="Take a member out of one set and put it into another; 1 if it was there.",
    syntax="source destination member",
)
def smove(ctx: Context, argv: Argv) -> Reply:
    db, source, target, member = ctx.db, argv[1], argv[2], argv[3]
    members: IndexedSet | None = db.typed(source, IndexedSet)
    if members is None:
        return 0
    others: IndexedSet | None = db.typed(target, IndexedSet)
    if member not in members:
        return 0
    if others is members:
        return 1
    members.discard(member)
    db.touch_or_drop(source, members)
    if others is None:
        db.set(target, IndexedSet.from_members((member,)))
    elif others.add(member):
        db.touch(target)
    return 1


@command(
    "SSCAN",
    arity=-3,
    flags="readonly",
    keys=(1, 1, 1),
    group="set",
    since="2.8.0",
    summary="Walk over a set: the next cursor, and some members; 0 begins and ends.",
    syntax="key cursor [MATCH pattern] [COUNT count]",
    complexity="O(COUNT) for each call",
)
def sscan(ctx: Context, argv: Argv) -> Reply:
    cursor = parse_cursor(argv[2])
    members: IndexedSet | None = ctx.db.typed(argv[1], IndexedSet)
    if members is None:
        return [b"0", []]
    options = parse_scan_options(argv[3:])
    cursor, page = members.scan(cursor, options.count)
    return [b"%d" % cursor, page if options.match is None else list(filter(options.match, page))]


# -------------------------------------------------------------------- random members
@command(
    "SPOP",
    arity=-2,
    flags="write fast",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="Take a member out of a set at random, or count of them.",
    syntax="key [count]",
    complexity="O(1) without count, O(count) with it",
)
def spop(ctx: Context, argv: Argv) -> Reply:
    db, key = ctx.db, argv[1]
    if len(argv) == 2:
        members: IndexedSet | None = db.typed(key, IndexedSet)
        if members is None:
            return None
        member = members.pop_at(draw(ctx.rng, len(members)))
        db.touch_or_drop(key, members)
        return member
    if len(argv) > 3:
        raise syntax_error()
    count = parse_int(argv[2], "value is out of range, must be positive", low=0)
    members = db.typed(key, IndexedSet)
    if members is None or count == 0:
        return SetReply()
    if count >= len(members):
        db.delete(key)
        return SetReply(members)
    popped = SetReply(members.pop_at(draw(ctx.rng, len(members))) for _ in range(count))
    db.touch(key)
    return popped


@command(
    "SRANDMEMBER",
    arity=-2,
    flags="readonly",
    keys=(1, 1, 1),
    group="set",
    since="1.0.0",
    summary="A member of a set at random; count different ones, or -count that may repeat.",
    syntax="key [count]",
    complexity="O(1) without count, O(count) with it",
)
def srandmember(ctx: Context, argv: Argv) -> Reply:
    if len(argv) == 2:
        members: IndexedSet | None = ctx.db.typed(argv[1], IndexedSet)
        return None if members is None else members.at(draw(ctx.rng, len(members)))
    if len(argv) > 3:
        raise syntax_error()
    count, _ = parse_count(argv)
    members = ctx.db.typed(argv[1], IndexedSet)
    if members is None:
        return []
    picked = list(map(members.at, positions(ctx.rng, len(members), count)))
    check_repeated(count, picked)
    return picked


# -------------------------------------------------------------------- algebra
def _operands(ctx: Context, keys: list[bytes]) -> list[IndexedSet]:
    """The sets at ``keys``, an empty one for each missing key. Raises WrongTypeError before anything is computed."""
    db = ctx.db
    return [found if (found := db.typed(key, IndexedSet)) is not None else IndexedSet() for key in keys]


def _intersection(sets: list[IndexedSet]) -> list[bytes]:
    """Members of every set, in the order of the smallest (the first of several)."""
    smallest, *others = sorted(sets, key=len)
    common = list(smallest)
    for other in others:
        index = other.index
        common = [member for member in common if member in index]
    return common


def _union(sets: list[IndexedSet]) -> list[bytes]:
    """Members of any set, in order of first appearance."""
    return list(dict.fromkeys(chain.from_iterable(sets)))


def _difference(sets: list[IndexedSet]) -> list[bytes]:
    """Members of the first set and of no other, in its order; each step costs the smaller of the two sides."""
    rest = dict.fromkeys(sets[0])
    for other in sets[1:]:
        if len(other) < len(rest):
            for member in other:
                rest.pop(member, None)
        else:
            index = other.index
            rest = {member: None for member in rest if member not in index}
    return list(rest)


def _store(ctx: Context, target: bytes, members: list[bytes]) -> int:
    ctx.db.store(target, IndexedSet.from_members(members))
    return len(members)


@command(
    "SINTER",
    arity=-2,
    flags="readonly",
    keys=(1, -1, 1),
    group="set",
    since="1.0.0",
    summary="What all of several sets have in common.",
    syntax="key [key ...]",
    complexity="O(N K) for K sets, the smallest of N members",
)
def sinter(ctx: Context, argv: Argv) -> Reply:
    return SetReply(_intersection(_operands(ctx, argv[1:])))


@command(
    "SUNION",
    arity=-2,
    flags="readonly",
    keys=(1, -1, 1),
    group="set",
    since="1.0.0",
    summary="What is in at least one of several sets.",
    syntax="key [key ...]",
    complexity="O(N) for N members in all sets together",
)
def sunion(ctx: Context, argv: Argv) -> Reply:
    return SetReply(_union(_operands(ctx, argv[1:])))


@command(
    "SDIFF",
    arity=-2,
    flags="readonly",
    keys=(1, -1, 1),
    group="set",
    since="1.0.0",
    summary="What is in the first of several sets and in none of the others.",
    syntax="key [key ...]",
    complexity="O(N) for N members in all sets together",
)
def sdiff(ctx: Context, argv: Argv) -> Reply:
    return SetReply(_difference(_operands(ctx, argv[1:])))


@command(
    "SINTERSTORE",
    arity=-3,
    flags="write denyoom",
    keys=(1, -1, 1),
    group="set",
    since="1.0.0",
    summary="Store what SINTER answers in place of what the destination held; how many members.",
    syntax="destination key [key ...]",
    complexity="O(N K) for K sets, the smallest of N members",
)
def sinterstore(ctx: Context, argv: Argv) -> Reply:
    return _store(ctx, argv[1], _intersection(_operands(ctx, argv[2:])))


@command(
    "SUNIONSTORE",
    arity=-3,
    flags="write denyoom",
    keys=(1, -1, 1),
    group="set",
    since="1.0.0",
    summary="Store what SUNION answers in place of what the destination held; how many members.",
    syntax="destination key [key ...]",
    complexity="O(N) for N members in all sets together",
)
def sunionstore(ctx: Context, argv: Argv) -> Reply:
    return _store(ctx, argv[1], _union(_operands(ctx, argv[2:])))


@command(
    "SDIFFSTORE",
    arity=-3,
    flags="write denyoom",
    keys=(1, -1, 1),
    group="set",
    since="1.0.0",
    summary="Store what SDIFF answers in place of what the destination held; how many members.",
    syntax="destination key [key ...]",
    complexity="O(N) for N members in all sets together",
)
def sdiffstore(ctx: Context, argv: Argv) -> Reply:
    return _store(ctx, argv[1], _difference(_operands(ctx, argv[2:])))


@command(
    "SINTERCARD",
    arity=-3,
    flags="readonly movablekeys",
    key_finder=counted_keys,
    group="set",
    since="7.0.0",
    summary="How many members all of several sets have in common, counted up to the limit.",
    syntax="numkeys key [key ...] [LIMIT limit]",
    complexity="O(N K) for K sets, the smallest of N members",
)
def sintercard(ctx: Context, argv: Argv) -> Reply:
    count = parse_int(argv[1], "numkeys should be greater than 0", low=1)
    if count > len(argv) - 2:
        raise CommandError("Number of keys can't be greater than number of args")
    limit = _limit(argv[2 + count :])
    sets = _operands(ctx, argv[2 : 2 + count])
    if not limit:
        return len(_intersection(sets))
    smallest, *others = sorted(sets, key=len)
    indexes = [other.index for other in others]
    common = (1 for member in smallest if all(member in index for index in indexes))
    return sum(islice(common, min(limit, len(smallest))))


def _limit(words: list[bytes]) -> int:
    """``[LIMIT limit]``, the last of several counts; 0: no limit."""
    limit = 0
    for name, raw in zip(words[::2], words[1::2], strict=False):
        if name.upper() != b"LIMIT":
            raise syntax_error()
        limit = parse_int(raw, "LIMIT can't be negative", low=0)
    if len(words) % 2:
        raise syntax_error()
    return limit
