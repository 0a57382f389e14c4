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
    summary="Sets fields of a hash and returns how many of them are new; creates the hash.",
    syntax="key field value [field value ...]", complexity="O(N) where N is the number of fields set",
)  # fmt: skip
def hset(ctx: Context, argv: Argv) -> Reply:
    if len(argv) % 2:
        raise CommandError(f"wrong number of arguments for '{argv[0].decode().lower()}' command")
    key = argv[1]
    return _put(ctx, key, _hash(ctx, key), dict(zip(argv[2::2], argv[3::2], strict=True)))


@command(
    "HMSET", arity=-4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Sets fields of a hash; creates the hash. HSET does the same and counts.",
    syntax="key field value [field value ...]", complexity="O(N) where N is the number of fields set",
)  # fmt: skip
def hmset(ctx: Context, argv: Argv) -> Reply:
    hset(ctx, argv)
    return OK


@command(
    "HSETNX", arity=4, flags="write denyoom fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Sets a field of a hash only if the field does not exist; returns whether it was set.",
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
    summary="Removes fields of a hash and returns how many were there; removes the hash with its last field.",
    syntax="key field [field ...]", complexity="O(N) where N is the number of fields named",
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
    summary="Adds to the integer in a field of a hash, 0 if there is none, and returns the sum.",
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
    summary="Adds to the number in a field of a hash, 0 if there is none, and returns the sum.",
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
    summary="Returns the value of a field of a hash.",
    syntax="key field",
)  # fmt: skip
def hget(ctx: Context, argv: Argv) -> Reply:
    fields = _hash(ctx, argv[1])
    return None if fields is None else fields.get(argv[2])


@command(
    "HMGET", arity=-3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Returns the values of several fields of a hash.",
    syntax="key field [field ...]", complexity="O(N) where N is the number of fields asked for",
)  # fmt: skip
def hmget(ctx: Context, argv: Argv) -> Reply:
    fields = _hash(ctx, argv[1]) or {}
    return [fields.get(field) for field in argv[2:]]


@command(
    "HGETALL", arity=2, flags="readonly", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Returns all fields of a hash with their values.",
    syntax="key", complexity="O(N) where N is the size of the hash",
)  # fmt: skip
def hgetall(ctx: Context, argv: Argv) -> Reply:
    # A copy, because the reply of a command in a transaction is encoded after the commands that follow it.
    return dict(_hash(ctx, argv[1]) or {})


@command(
    "HKEYS", arity=2, flags="readonly", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Returns all fields of a hash.",
    syntax="key", complexity="O(N) where N is the size of the hash",
)  # fmt: skip
def hkeys(ctx: Context, argv: Argv) -> Reply:
    return list(_hash(ctx, argv[1]) or ())


@command(
    "HVALS", arity=2, flags="readonly", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Returns the values of all fields of a hash.",
    syntax="key", complexity="O(N) where N is the size of the hash",
)  # fmt: skip
def hvals(ctx: Context, argv: Argv) -> Reply:
    return list((_hash(ctx, argv[1]) or {}).values())


@command(
    "HLEN", arity=2, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Returns the number of fields of a hash.",
    syntax="key",
)  # fmt: skip
def hlen(ctx: Context, argv: Argv) -> Reply:
    return len(_hash(ctx, argv[1]) or ())


@command(
    "HEXISTS", arity=3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="2.0.0",
    summary="Tells whether a hash has a field.",
    syntax="key field",
)  # fmt: skip
def hexists(ctx: Context, argv: Argv) -> Reply:
    return int(argv[2] in (_hash(ctx, argv[1]) or ()))


@command(
    "HSTRLEN", arity=3, flags="readonly fast", keys=(1, 1, 1), group="hash", since="3.2.0",
    summary="Returns the length in bytes of the value of a field of a hash, 0 if there is none.",
    syntax="key field",
)  # fmt: skip
def hstrlen(ctx: Context, argv: Argv) -> Reply:
    return len((_hash(ctx, argv[1]) or {}).get(argv[2], b""))


@command(
    "HRANDFIELD", arity=-2, flags="readonly", keys=(1, 1, 1), group="hash", since="6.2.0",
    summary="Returns a random field of a hash, or count distinct ones, or -count with repetitions when negative.",
    syntax="key [count [WITHVALUES]]",
    complexity="O(N) where N is the size of the hash, plus the count without sign",
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
    summary="Returns some fields with values and the cursor with which the next call goes on; 0 begins and ends.",
    syntax="key cursor [MATCH pattern] [COUNT count]",
    complexity="O(N) for each call and for a complete scan, where N is the size of the hash",
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
