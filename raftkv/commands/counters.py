"""Counters: strings that hold a number.

https://redis.io/docs/latest/commands/?group=string
"""

from __future__ import annotations

from raftkv.commands import longdouble
from raftkv.commands.args import INT64_MAX, INT64_MIN, parse_int
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply


def _add(ctx: Context, key: bytes, delta: int) -> int:
    """Add to the integer at ``key`` (0 if missing); its expiry stays."""
    db = ctx.db
    old = db.typed(key, bytes)
    total = delta if old is None else parse_int(old) + delta
    if not INT64_MIN <= total <= INT64_MAX:
        msg = "increment or decrement would overflow"
        raise CommandError(msg)
    db.replace(key, b"%d" % total)
    return total


@command(
    "INCR", arity=2, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="1.0.0", syntax="key",
    summary="Add 1 to the integer at a key; a missing one counts as 0.",
)  # fmt: skip
def incr(ctx: Context, argv: Argv) -> Reply:
    return _add(ctx, argv[1], 1)


@command(
    "DECR", arity=2, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="1.0.0", syntax="key",
    summary="Subtract 1 from the integer at a key; a missing one counts as 0.",
)  # fmt: skip
def decr(ctx: Context, argv: Argv) -> Reply:
    return _add(ctx, argv[1], -1)


@command(
    "INCRBY", arity=3, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="1.0.0",
    syntax="key increment",
    summary="Add to the integer at a key; a missing one counts as 0.",
)  # fmt: skip
def incrby(ctx: Context, argv: Argv) -> Reply:
    return _add(ctx, argv[1], parse_int(argv[2]))


@command(
    "DECRBY", arity=3, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="1.0.0",
    syntax="key decrement",
    summary="Subtract from the integer at a key; a missing one counts as 0.",
)  # fmt: skip
def decrby(ctx: Context, argv: Argv) -> Reply:
    delta = parse_int(argv[2])
    if delta == INT64_MIN:
        # Its negation has no 64-bit form; Redis gives this case a text of its own.
        msg = "decrement would overflow"
        raise CommandError(msg)
    return _add(ctx, argv[1], -delta)


@command(
    "INCRBYFLOAT", arity=3, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="2.6.0",
    syntax="key increment",
    summary="Add to the decimal number at a key, with the digits of an 80-bit float.",
)  # fmt: skip
def incrbyfloat(ctx: Context, argv: Argv) -> Reply:
    key = argv[1]
    old = ctx.db.typed(key, bytes)
    text = longdouble.show(longdouble.add(longdouble.parse(b"0" if old is None else old), longdouble.parse(argv[2])))
    ctx.db.replace(key, text)
    return text
