"""Hashes: ``dict[bytes, bytes]``, in insertion order of the fields.

Source: https://redis.io/docs/latest/commands/?group=hash, version 7.0.
"""

from __future__ import annotations

from itertools import islice
from typing import TypeAlias

from raftkv.commands import longdouble
from raftkv.commands.args import INT64_MAX, INT64_MIN, parse_int
from raftkv.commands.hash_scan import scan_page
from raftkv.commands.random_draws import check_repeated, draw, parse_count, positions
from raftkv.commands.registry import Argv, Context, command
from raftkv.commands.scan_args import parse_cursor, parse_scan_options
from raftkv.errors import CommandError
from raftkv.protocol.replies import OK, Pairs, Reply

Hash: TypeAlias = "dict[bytes, bytes]"


def _hash(ctx: Context, key: bytes) -> Hash | None:
    found: Hash | None = ctx.db.typed(key, dict)
    return found


def _put(ctx: Context, key: bytes, fields: Hash | None, changes: Hash) -> int:
    """Write ``changes`` to the hash at ``key`` (None: create it); how many fields are new."""
    if fields is None:
        ctx.db.set(key, changes)
        return len(changes)
    before = len(fields)
    fields.update(changes)
    ctx.db.touch(key)
    return len(fields) - before


# -------------------------------------------------------------------- write
@command(
    "HSET", arity=-4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Put values into fields of a hash; how many fields are new.",
    syntax="key field value [field value ...]", complexity="O(N) for N fields named",
)  # fmt: skip
def hset(ctx: Context, argv: Argv) -> Reply:
    if len(argv) % 2:
        raise CommandError(f"wrong number of arguments for '{argv[0].decode().lower()}' command")
    key = argv[1]
    return _put(ctx, key, _hash(ctx, key), dict(zip(argv[2::2], argv[3::2], strict=True)))


@command(
    "HMSET", arity=-4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Put values into fields of a hash, as HSET does, and answer OK.",
    syntax="key field value [field value ...]", complexity="O(N) for N fields named",
)  # fmt: skip
def hmset(ctx: Context, argv: Argv) -> Reply:
    hset(ctx, argv)
    return OK


@command(
    "HSETNX", arity=4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Put a value into a field that a hash does not have yet; 1 if it did not.",
    syntax="key field value",
)  # fmt: skip
def hsetnx(ctx: Context, argv: Argv) -> Reply:
    key, field = argv[1], argv[2]
    fields = _hash(ctx, key)
    if fields is not None and field in fields:
        return 0
    return _put(ctx, key, fields, {field: argv[3]})


@command(
    "HDEL", arity=-3, flags="write fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Take fields out of a hash; how many there were.",
    syntax="key field [field ...]", complexity="O(N) for N fields named",
)  # fmt: skip
def hdel(ctx: Context, argv: Argv) -> Reply:
    key = argv[1]
    fields = _hash(ctx, key)
    if fields is None:
        return 0
    before = len(fields)
    for field in argv[2:]:
        fields.pop(field, None)
    removed = before - len(fields)
    if removed:
        ctx.db.touch_or_drop(key, fields)
    return removed


@command(
    "HINCRBY", arity=4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Add to the integer in a field; a missing one counts as 0.",
    syntax="key field increment",
)  # fmt: skip
def hincrby(ctx: Context, argv: Argv) -> Reply:
    key, field = argv[1], argv[2]
    increment = parse_int(argv[3])
    fields = _hash(ctx, key)
    old = None if fields is None else fields.get(field)
    total = increment if old is None else parse_int(old, "hash value is not an integer") + increment
    if not INT64_MIN <= total <= INT64_MAX:
        raise CommandError("increment or decrement would overflow")
    _put(ctx, key, fields, {field: b"%d" % total})
    return total


@command(
    "HINCRBYFLOAT", arity=4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.6.0",
    summary="Add to the decimal number in a field, with the digits of an 80-bit float.",
    syntax="key field increment",
)  # fmt: skip
def hincrbyfloat(ctx: Context, argv: Argv) -> Reply:
    key, field = argv[1], argv[2]
    increment = longdouble.parse(argv[3])
    if increment is None:
        raise CommandError("value is NaN or Infinity")
    fields = _hash(ctx, key)
    old = b"0" if fields is None else fields.get(field, b"0")
    total = longdouble.show(longdouble.add(longdouble.parse(old, "hash value is not a float"), increment))
    _put(ctx, key, fields, {field: total})
    return total


# -------------------------------------------------------------------- read
@command(
    "HGET", arity=3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="What a field of a hash holds; nil if it is missing.",
    syntax="key field",
)  # fmt: skip
def hget(ctx: Context, argv: Argv) -> Reply:
    fields = _hash(ctx, argv[1])
    return None if fields is None else fields.get(argv[2])


@command(
    "HMGET", arity=-3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="What each of several fields holds; nil for a missing one.",
    syntax="key field [field ...]", complexity="O(N) for N fields asked for",
)  # fmt: skip
def hmget(ctx: Context, argv: Argv) -> Reply:
    fields = _hash(ctx, argv[1]) or {}
    return [fields.get(field) for field in argv[2:]]


@command(
    "HGETALL", arity=2, flags="readonly", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="A whole hash: each field and what it holds.",
    syntax="key", complexity="O(N) for N fields",
)  # fmt: skip
def hgetall(ctx: Context, argv: Argv) -> Reply:
    # A copy, because the reply of a command in a transaction is encoded after the commands that follow it.
    return dict(_hash(ctx, argv[1]) or {})


@command(
    "HKEYS", arity=2, flags="readonly", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="The names of the fields of a hash.",
    syntax="key", complexity="O(N) for N fields",
)  # fmt: skip
def hkeys(ctx: Context, argv: Argv) -> Reply:
    return list(_hash(ctx, argv[1]) or ())


@command(
    "HVALS", arity=2, flags="readonly", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="What the fields of a hash hold, without their names.",
    syntax="key", complexity="O(N) for N fields",
)  # fmt: skip
def hvals(ctx: Context, argv: Argv) -> Reply:
    return list((_hash(ctx, argv[1]) or {}).values())


@command(
    "HLEN", arity=2, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="How many fields a hash has.",
    syntax="key",
)  # fmt: skip
def hlen(ctx: Context, argv: Argv) -> Reply:
    return len(_hash(ctx, argv[1]) or ())


@command(
    "HEXISTS", arity=3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Whether a hash has a field: 1 or 0.",
    syntax="key field",
)  # fmt: skip
def hexists(ctx: Context, argv: Argv) -> Reply:
    return int(argv[2] in (_hash(ctx, argv[1]) or ()))


@command(
    "HSTRLEN", arity=3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="3.2.0",
    summary="How many bytes a field of a hash holds.",
    syntax="key field",
)  # fmt: skip
def hstrlen(ctx: Context, argv: Argv) -> Reply:
    return len((_hash(ctx, argv[1]) or {}).get(argv[2], b""))


@command(
    "HRANDFIELD", arity=-2, flags="readonly", keys=(1, 1, 1), group="hash", since="6.2.0",
    summary="A field of a hash at random; count different ones, or -count that may repeat.",
    syntax="key [count [WITHVALUES]]",
    complexity="O(N + M) for M draws from N fields",
)  # fmt: skip
def hrandfield(ctx: Context, argv: Argv) -> Reply:
    if len(argv) == 2:
        fields = _hash(ctx, argv[1])
        return None if fields is None else next(islice(fields, draw(ctx.rng, len(fields)), None))
    count, with_values = parse_count(argv, b"WITHVALUES")
    fields = _hash(ctx, argv[1])
    if fields is None or count == 0:
        return []
    names = list(fields)
    picked = [names[at] for at in positions(ctx.rng, len(names), count)]
    check_repeated(count, picked)
    if not with_values:
        return picked
    check_repeated(count, map(fields.__getitem__, picked))
    return Pairs((field, fields[field]) for field in picked)


@command(
    "HSCAN", arity=-3, flags="readonly", keys=(1, 1, 1), group="hash", since="2.8.0",
    summary="Walk over a hash: the next cursor, and some fields with what they hold; 0 begins and ends.",
    syntax="key cursor [MATCH pattern] [COUNT count]",
    complexity="O(N) a call and O(N) a whole walk, for N fields",
)  # fmt: skip
def hscan(ctx: Context, argv: Argv) -> Reply:
    cursor = parse_cursor(argv[2])
    fields = _hash(ctx, argv[1])
    if fields is None:
        return [b"0", []]
    options = parse_scan_options(argv[3:])
    cursor, page = scan_page(fields, cursor, options.count)
    if options.match is not None:
        page = list(filter(options.match, page))
    return [b"%d" % cursor, [part for field in page for part in (field, fields[field])]]
