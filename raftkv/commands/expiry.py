"""Expiry of keys. Relative times are added to the entry's stamp, so all replicas get the same deadline.

https://redis.io/docs/latest/commands/expire/
"""

from __future__ import annotations

from typing import Final

from raftkv.commands.args import INT64_MAX, INT64_MIN, invalid_expire, parse_int, shown
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply

_CONDITIONS: Final = frozenset((b"NX", b"XX", b"GT", b"LT"))
_FOREVER: Final = INT64_MAX + 1
"""For GT and LT a key without expiry lives longer than any other."""
_MISSING: Final = -2
_NO_EXPIRY: Final = -1


def _parse_conditions(words: list[bytes]) -> set[bytes]:
    found = set()
    for word in words:
        if word.upper() not in _CONDITIONS:
            raise CommandError(f"Unsupported option {shown(word)}")
        found.add(word.upper())
    if b"NX" in found and len(found) > 1:
        msg = "NX and XX, GT or LT options at the same time are not compatible"
        raise CommandError(msg)
    if {b"GT", b"LT"} <= found:
        msg = "GT and LT options at the same time are not compatible"
        raise CommandError(msg)
    return found


def _allowed(conditions: set[bytes], at_ms: int, current_ms: int | None) -> bool:
    if (b"NX" in conditions and current_ms is not None) or (b"XX" in conditions and current_ms is None):
        return False
    compared = _FOREVER if current_ms is None else current_ms
    return not ((b"GT" in conditions and at_ms <= compared) or (b"LT" in conditions and at_ms >= compared))


def _expire(ctx: Context, argv: Argv, *, unit_ms: int, base_ms: int) -> int:
    """Give ``argv[1]`` a deadline of ``argv[2]`` units after ``base_ms``; one that has passed deletes the key."""
    name = argv[0].decode().lower()
    conditions = _parse_conditions(argv[3:])
    at_ms = parse_int(argv[2]) * unit_ms
    # Negative times are allowed (they delete); only what does not fit 64 bits is refused.
    if not INT64_MIN <= at_ms <= INT64_MAX - base_ms:
        raise invalid_expire(name)
    at_ms += base_ms
    db, key = ctx.db, argv[1]
    if key not in db or (conditions and not _allowed(conditions, at_ms, db.expire_at(key))):
        return 0
    db.set_expiry(key, at_ms)
    return 1


@command(
    "EXPIRE", arity=-3, flags="write fast", keys=(1, 1, 1), group="generic", since="1.0.0",
    syntax="key seconds [NX | XX | GT | LT]", summary="Let a key expire so many seconds from now.",
)  # fmt: skip
def expire(ctx: Context, argv: Argv) -> Reply:
    return _expire(ctx, argv, unit_ms=1000, base_ms=ctx.now_ms)


@command(
    "PEXPIRE", arity=-3, flags="write fast", keys=(1, 1, 1), group="generic", since="2.6.0",
    syntax="key milliseconds [NX | XX | GT | LT]", summary="Let a key expire so many milliseconds from now.",
)  # fmt: skip
def pexpire(ctx: Context, argv: Argv) -> Reply:
    return _expire(ctx, argv, unit_ms=1, base_ms=ctx.now_ms)


@command(
    "EXPIREAT", arity=-3, flags="write fast", keys=(1, 1, 1), group="generic", since="1.2.0",
    syntax="key unix-time-seconds [NX | XX | GT | LT]",
    summary="Let a key expire at a time given in seconds since the epoch.",
)  # fmt: skip
def expireat(ctx: Context, argv: Argv) -> Reply:
    return _expire(ctx, argv, unit_ms=1000, base_ms=0)


@command(
    "PEXPIREAT", arity=-3, flags="write fast", keys=(1, 1, 1), group="generic", since="2.6.0",
    syntax="key unix-time-milliseconds [NX | XX | GT | LT]",
    summary="Let a key expire at a time given in milliseconds since the epoch.",
)  # fmt: skip
def pexpireat(ctx: Context, argv: Argv) -> Reply:
    return _expire(ctx, argv, unit_ms=1, base_ms=0)


def _time(ctx: Context, key: bytes, *, unit_ms: int, base_ms: int) -> int:
    """The deadline of ``key`` in units after ``base_ms``, rounded half up; -1 if it has none, -2 if it is missing."""
    if key not in ctx.db:
        return _MISSING
    at_ms = ctx.db.expire_at(key)
    return _NO_EXPIRY if at_ms is None else (at_ms - base_ms + unit_ms // 2) // unit_ms


@command(
    "TTL", arity=2, flags="readonly fast", keys=(1, 1, 1), group="generic", since="1.0.0", syntax="key",
    summary="Seconds until a key expires; -1: never, -2: no such key.",
)  # fmt: skip
def ttl(ctx: Context, argv: Argv) -> Reply:
    return _time(ctx, argv[1], unit_ms=1000, base_ms=ctx.now_ms)


@command(
    "PTTL", arity=2, flags="readonly fast", keys=(1, 1, 1), group="generic", since="2.6.0", syntax="key",
    summary="Milliseconds until a key expires; -1: never, -2: no such key.",
)  # fmt: skip
def pttl(ctx: Context, argv: Argv) -> Reply:
    return _time(ctx, argv[1], unit_ms=1, base_ms=ctx.now_ms)


@command(
    "EXPIRETIME", arity=2, flags="readonly fast", keys=(1, 1, 1), group="generic", since="7.0.0", syntax="key",
    summary="When a key expires, seconds since the epoch; -1: never, -2: no such key.",
)  # fmt: skip
def expiretime(ctx: Context, argv: Argv) -> Reply:
    return _time(ctx, argv[1], unit_ms=1000, base_ms=0)


@command(
    "PEXPIRETIME", arity=2, flags="readonly fast", keys=(1, 1, 1), group="generic", since="7.0.0", syntax="key",
    summary="When a key expires, milliseconds since the epoch; -1: never, -2: no such key.",
)  # fmt: skip
def pexpiretime(ctx: Context, argv: Argv) -> Reply:
    return _time(ctx, argv[1], unit_ms=1, base_ms=0)


@command(
    "PERSIST", arity=2, flags="write fast", keys=(1, 1, 1), group="generic", since="2.2.0", syntax="key",
    summary="Let a key live for ever; 1 if it would have expired.",
)  # fmt: skip
def persist(ctx: Context, argv: Argv) -> Reply:
    return int(ctx.db.persist(argv[1]))
