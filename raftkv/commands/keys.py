"""Keys of any type: existence, names, databases.

Semantics and texts are those of Redis 7.0: https://redis.io/docs/latest/commands/?group=generic
"""

from __future__ import annotations

from typing import Final

from raftkv.commands.args import parse_int, syntax_error
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import OK, Reply
from raftkv.store.keyspace import Database, copy_value, type_name

_INT32_MAX: Final = 2**31 - 1
_INT32_MIN: Final = -(2**31)
_INDEX_RANGE: Final = f"value is out of range, value must between {_INT32_MIN} and {_INT32_MAX}"


def _database_index(raw: bytes) -> int:
    index = parse_int(raw)
    if not _INT32_MIN <= index <= _INT32_MAX:
        raise CommandError(_INDEX_RANGE)
    return index


def _same_object() -> CommandError:
    return CommandError("source and destination objects are the same")


# ------------------------------------------------------------------ existence
def _delete(ctx: Context, argv: Argv) -> Reply:
    delete = ctx.db.delete
    return sum([delete(key) for key in argv[1:]])


@command(
    "DEL", arity=-2, flags="write", keys=(1, -1, 1), group="generic", since="1.0.0", syntax="key [key ...]",
    complexity="O(N)", summary="Remove keys, whatever they hold; how many there were.",
)  # fmt: skip
def del_(ctx: Context, argv: Argv) -> Reply:
    return _delete(ctx, argv)


@command(
    "UNLINK", arity=-2, flags="write fast", keys=(1, -1, 1), group="generic", since="4.0.0", syntax="key [key ...]",
    complexity="O(N)", summary="The same as DEL: memory is freed at once here.",
)  # fmt: skip
def unlink(ctx: Context, argv: Argv) -> Reply:
    return _delete(ctx, argv)


@command(
    "MDEL", arity=-2, flags="write", keys=(1, -1, 1), group="generic", since="raftkv 0.1.0", syntax="key [key ...]",
    complexity="O(N)", summary="The same as DEL, by the name that kvlite and Bolt give it.",
)  # fmt: skip
def mdel(ctx: Context, argv: Argv) -> Reply:
    return _delete(ctx, argv)


def _count(ctx: Context, argv: Argv) -> Reply:
    db = ctx.db
    return sum([key in db for key in argv[1:]])


@command(
    "EXISTS", arity=-2, flags="readonly fast", keys=(1, -1, 1), group="generic", since="1.0.0", syntax="key [key ...]",
    complexity="O(N)", summary="How many of the keys there are; a key named twice counts twice.",
)  # fmt: skip
def exists(ctx: Context, argv: Argv) -> Reply:
    return _count(ctx, argv)


@command(
    "TOUCH", arity=-2, flags="readonly fast", keys=(1, -1, 1), group="generic", since="3.2.1", syntax="key [key ...]",
    complexity="O(N)", summary="The same as EXISTS: no time of last use is kept.",
)  # fmt: skip
def touch(ctx: Context, argv: Argv) -> Reply:
    return _count(ctx, argv)


@command(
    "TYPE", arity=2, flags="readonly fast", keys=(1, 1, 1), group="generic", since="1.0.0", syntax="key",
    summary="Which type a key has: string, list, set, zset or hash; none if it is missing.",
)  # fmt: skip
def type_(ctx: Context, argv: Argv) -> Reply:
    value = ctx.db.get(argv[1])
    return "none" if value is None else type_name(value)


# ------------------------------------------------------------------ names
def _transfer(source: Database, key: bytes, target: Database, new_key: bytes) -> None:
    """Move value and expiry; what was at the target is gone."""
    value, at_ms = source.get(key), source.expire_at(key)
    source.delete(key)
    target.set(new_key, value)
    if at_ms is not None:
        target.set_expiry(new_key, at_ms)


def _existing_source(ctx: Context, key: bytes) -> None:
    if key not in ctx.db:
        msg = "no such key"
        raise CommandError(msg)


@command(
    "RENAME", arity=3, flags="write", keys=(1, 2, 1), group="generic", since="1.0.0", syntax="key newkey",
    summary="Give a key another name, in place of whatever had that name.",
)  # fmt: skip
def rename(ctx: Context, argv: Argv) -> Reply:
    _existing_source(ctx, argv[1])
    if argv[1] != argv[2]:
        _transfer(ctx.db, argv[1], ctx.db, argv[2])
    return OK


@command(
    "RENAMENX", arity=3, flags="write fast", keys=(1, 2, 1), group="generic", since="1.0.0", syntax="key newkey",
    summary="Give a key another name unless that is taken; 1 if it was free.",
)  # fmt: skip
def renamenx(ctx: Context, argv: Argv) -> Reply:
    _existing_source(ctx, argv[1])
    if argv[2] in ctx.db:
        return 0
    _transfer(ctx.db, argv[1], ctx.db, argv[2])
    return 1


@command(
    "COPY", arity=-3, flags="write denyoom", keys=(1, 2, 1), group="generic", since="6.2.0",
    syntax="source destination [DB destination-db] [REPLACE]",
    complexity="O(N) for N elements, O(1) for a string",
    summary="Store a copy of a value under another key; 1 if done, 0 if that key is taken.",
)  # fmt: skip
def copy(ctx: Context, argv: Argv) -> Reply:
    source, target, replace = ctx.db, ctx.db, False
    at = 3
    while at < len(argv):
        word = argv[at].upper()
        if word == b"REPLACE":
            replace = True
        elif word == b"DB" and at + 1 < len(argv):
            at += 1
            target = ctx.keyspace[_database_index(argv[at])]
        else:
            raise syntax_error()
        at += 1
    key, new_key = argv[1], argv[2]
    if source is target and key == new_key:
        raise _same_object()
    value = source.get(key)
    if value is None or (not replace and new_key in target):
        return 0
    at_ms = source.expire_at(key)
    target.set(new_key, copy_value(value))
    if at_ms is not None:
        target.set_expiry(new_key, at_ms)
    return 1


# ------------------------------------------------------------------ databases
@command(
    "MOVE", arity=3, flags="write fast", keys=(1, 1, 1), group="generic", since="1.0.0", syntax="key db",
    summary="Put a key into another database under the same name; 1 if done, 0 if it is taken there.",
)  # fmt: skip
def move(ctx: Context, argv: Argv) -> Reply:
    key, target = argv[1], ctx.keyspace[_database_index(argv[2])]
    if target is ctx.db:
        raise _same_object()
    if key not in ctx.db or key in target:
        return 0
    _transfer(ctx.db, key, target, key)
    return 1


@command(
    "SWAPDB", arity=3, flags="write fast", group="server", since="4.0.0", syntax="index1 index2",
    complexity="O(1), and the digest of both databases is computed anew",
    summary="Let two databases change places, for all clients at once.",
)  # fmt: skip
def swapdb(ctx: Context, argv: Argv) -> Reply:
    first = parse_int(argv[1], "invalid first DB index", low=_INT32_MIN, high=_INT32_MAX)
    second = parse_int(argv[2], "invalid second DB index", low=_INT32_MIN, high=_INT32_MAX)
    ctx.keyspace.swap(first, second)
    return OK


@command(
    "DBSIZE", arity=1, flags="readonly fast", group="server", since="1.0.0",
    summary="How many keys the selected database holds, due ones that are not yet removed included.",
)  # fmt: skip
def dbsize(ctx: Context, _argv: Argv) -> Reply:
    return ctx.db.size


def _check_flush(argv: Argv) -> None:
    """ASYNC and SYNC are accepted and mean the same: dropping the dicts is one step."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"ASYNC", b"SYNC")):
        raise syntax_error()


@command(
    "FLUSHDB", arity=-1, flags="write dangerous", group="server", since="1.0.0", syntax="[ASYNC | SYNC]",
    complexity="O(N)", summary="Empty the selected database.",
)  # fmt: skip
def flushdb(ctx: Context, argv: Argv) -> Reply:
    _check_flush(argv)
    ctx.db.clear()
    return OK


@command(
    "FLUSHALL", arity=-1, flags="write dangerous", group="server", since="1.0.0", syntax="[ASYNC | SYNC]",
    complexity="O(N)", summary="Empty every database.",
)  # fmt: skip
def flushall(ctx: Context, argv: Argv) -> Reply:
    _check_flush(argv)
    for database in ctx.keyspace.databases:
        database.clear()
    return OK
