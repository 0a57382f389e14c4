"""Strings: values of up to 512 MiB, with the options of SET and GETEX.

Semantics and texts are those of Redis 7.0: https://redis.io/docs/latest/commands/?group=string
Every relative time is added to the stamp of the entry (``ctx.now_ms``), so all replicas get the same deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raftkv.commands.args import STRING_BYTES_MAX, parse_expiry, parse_int, syntax_error
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError, WrongTypeError
from raftkv.protocol.replies import OK, Reply

_SET_SYNTAX: Final = (
    "key value [NX | XX] [GET] [EX seconds | PX milliseconds | "
    "EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]"
)
_GETEX_SYNTAX: Final = (
    "key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]"
)
_TIME_OPTIONS: Final = frozenset((b"EX", b"PX", b"EXAT", b"PXAT"))


def _get_run(ctx: Context, commands: Sequence[Argv]) -> list[Reply] | None:
    if {*map(len, commands)} != {2}:
        return None
    values = ctx.db.get_many([argv[1] for argv in commands])
    if {*map(type, values)} <= {bytes, type(None)}:
        return values
    return [value if value is None or type(value) is bytes else WrongTypeError() for value in values]


@command(
    "GET", arity=2, flags="readonly fast", keys=(1, 1, 1), group="string", since="1.0.0", syntax="key", run=_get_run,
    summary="The string at a key; nil if there is none.",
)  # fmt: skip
def get(ctx: Context, argv: Argv) -> Reply:
    # The hot path: one look-up, one check of the type, no helper in between.
    value = ctx.keyspace.databases[ctx.db_index].get(argv[1])
    if value is not None and type(value) is not bytes:
        raise WrongTypeError
    return value


# ------------------------------------------------------------------ SET and its relatives
@dataclass(frozen=True, slots=True)
class _Options:
    """The optional words of SET and GETEX, at most one of the expiry words."""

    condition: bytes = b""
    """NX, XX or nothing."""
    get: bool = False
    time_word: bytes = b""
    """EX, PX, EXAT, PXAT, KEEPTTL, PERSIST or nothing."""
    time_raw: bytes | None = None
    """What follows EX, PX, EXAT or PXAT."""


def _parse_options(words: list[bytes], *, flag_words: frozenset[bytes]) -> _Options:
    """Parse what follows the value; ``flag_words`` are the words without a value that this command knows."""
    condition = time_word = b""
    time_raw: bytes | None = None
    get_old = False
    at = 0
    while at < len(words):
        word = words[at].upper()
        if word in _TIME_OPTIONS and at + 1 < len(words) and time_word in (b"", word):
            at += 1
            time_word, time_raw = word, words[at]
        elif word not in flag_words:
            raise syntax_error()
        elif word == b"GET":
            get_old = True
        elif word in (b"NX", b"XX") and condition in (b"", word):
            condition = word
        elif word in (b"KEEPTTL", b"PERSIST") and time_word in (b"", word):
            time_word = word
        else:
            raise syntax_error()
        at += 1
    return _Options(condition, get_old, time_word, time_raw)


_SET_FLAG_WORDS: Final = frozenset((b"NX", b"XX", b"GET", b"KEEPTTL"))


def _set_run(ctx: Context, commands: Sequence[Argv]) -> list[Reply] | None:
    if {*map(len, commands)} != {3}:
        return None
    ctx.db.set_many(commands)
    return [OK] * len(commands)


@command(
    "SET", arity=-3, flags="write denyoom", keys=(1, 1, 1), group="string", since="1.0.0", syntax=_SET_SYNTAX, run=_set_run,
    summary="Store a string in place of whatever the key held, with a time to live and on conditions if so wished.",
)  # fmt: skip
def set_(ctx: Context, argv: Argv) -> Reply:
    if len(argv) == 3:
        ctx.keyspace.databases[ctx.db_index].set(argv[1], argv[2])
        return OK
    return _set_with_options(ctx, argv)


def _set_with_options(ctx: Context, argv: Argv) -> Reply:
    options = _parse_options(argv[3:], flag_words=_SET_FLAG_WORDS)
    at_ms = None
    if options.time_raw is not None:
        at_ms = parse_expiry(options.time_raw, options.time_word, ctx.now_ms, "set")
    db, key = ctx.db, argv[1]
    old = db.typed(key, bytes) if options.get else db.get(key)
    if options.condition and (options.condition == b"NX") is (old is not None):
        return old if options.get else None
    if options.time_word == b"KEEPTTL":
        db.replace(key, argv[2])
    else:
        db.set(key, argv[2])
        if at_ms is not None:
            db.set_expiry(key, at_ms)
    return old if options.get else OK


@command(
    "SETNX", arity=3, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="1.0.0", syntax="key value",
    summary="SET with NX: store a string unless the key exists; 1 if it did not.",
)  # fmt: skip
def setnx(ctx: Context, argv: Argv) -> Reply:
    if argv[1] in ctx.db:
        return 0
    ctx.db.set(argv[1], argv[2])
    return 1


@command(
    "SETEX", arity=4, flags="write denyoom", keys=(1, 1, 1), group="string", since="2.0.0", syntax="key seconds value",
    summary="SET with EX: store a string that expires so many seconds from now.",
)  # fmt: skip
def setex(ctx: Context, argv: Argv) -> Reply:
    at_ms = parse_expiry(argv[2], b"EX", ctx.now_ms, "setex")
    ctx.db.set(argv[1], argv[3])
    ctx.db.set_expiry(argv[1], at_ms)
    return OK


@command(
    "PSETEX", arity=4, flags="write denyoom", keys=(1, 1, 1), group="string", since="2.6.0",
    syntax="key milliseconds value",
    summary="SET with PX: store a string that expires so many milliseconds from now.",
)  # fmt: skip
def psetex(ctx: Context, argv: Argv) -> Reply:
    at_ms = parse_expiry(argv[2], b"PX", ctx.now_ms, "psetex")
    ctx.db.set(argv[1], argv[3])
    ctx.db.set_expiry(argv[1], at_ms)
    return OK


@command(
    "GETSET", arity=3, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="1.0.0", syntax="key value",
    summary="SET with GET: store a string; what the key held before.",
)  # fmt: skip
def getset(ctx: Context, argv: Argv) -> Reply:
    old = ctx.db.typed(argv[1], bytes)
    ctx.db.set(argv[1], argv[2])
    return old


@command(
    "GETDEL", arity=2, flags="write fast", keys=(1, 1, 1), group="string", since="6.2.0", syntax="key",
    summary="The string at a key, which is removed.",
)  # fmt: skip
def getdel(ctx: Context, argv: Argv) -> Reply:
    old = ctx.db.typed(argv[1], bytes)
    if old is not None:
        ctx.db.delete(argv[1])
    return old


@command(
    "GETEX", arity=-2, flags="write fast", keys=(1, 1, 1), group="string", since="6.2.0", syntax=_GETEX_SYNTAX,
    summary="The string at a key, whose time to live is changed or taken away.",
)  # fmt: skip
def getex(ctx: Context, argv: Argv) -> Reply:
    options = _parse_options(argv[2:], flag_words=frozenset((b"PERSIST",)))
    db, key = ctx.db, argv[1]
    value = db.typed(key, bytes)
    if value is None:
        return None
    if options.time_raw is not None:
        db.set_expiry(key, parse_expiry(options.time_raw, options.time_word, ctx.now_ms, "getex"))
    elif options.time_word == b"PERSIST":
        db.persist(key)
    return value


# ------------------------------------------------------------------ many keys
@command(
    "MGET", arity=-2, flags="readonly fast", keys=(1, -1, 1), group="string", since="1.0.0", syntax="key [key ...]",
    complexity="O(N)", summary="The strings at several keys; nil for a key that is missing or holds another type.",
)  # fmt: skip
def mget(ctx: Context, argv: Argv) -> Reply:
    find = ctx.db.get
    values = [find(key) for key in argv[1:]]
    return [value if type(value) is bytes else None for value in values]


@command(
    "MSET", arity=-3, flags="write denyoom", keys=(1, -1, 2), group="string", since="1.0.1",
    syntax="key value [key value ...]", complexity="O(N)",
    summary="Store strings at several keys in one step.",
)  # fmt: skip
def mset(ctx: Context, argv: Argv) -> Reply:
    _check_pairs(argv, "mset")
    store = ctx.db.set
    for at in range(1, len(argv), 2):
        store(argv[at], argv[at + 1])
    return OK


@command(
    "MSETNX", arity=-3, flags="write denyoom", keys=(1, -1, 2), group="string", since="1.0.1",
    syntax="key value [key value ...]", complexity="O(N)",
    summary="Store strings at several keys unless one of them exists; 1 if none did.",
)  # fmt: skip
def msetnx(ctx: Context, argv: Argv) -> Reply:
    _check_pairs(argv, "msetnx")
    db = ctx.db
    if any(key in db for key in argv[1::2]):
        return 0
    for at in range(1, len(argv), 2):
        db.set(argv[at], argv[at + 1])
    return 1


def _check_pairs(argv: Argv, name: str) -> None:
    if len(argv) % 2 == 0:
        msg = f"wrong number of arguments for '{name}' command"
        raise CommandError(msg)


# ------------------------------------------------------------------ parts of a string
def _check_length(length: int) -> None:
    if length > STRING_BYTES_MAX:
        msg = "string exceeds maximum allowed size (proto-max-bulk-len)"
        raise CommandError(msg)


@command(
    "APPEND", arity=3, flags="write denyoom fast", keys=(1, 1, 1), group="string", since="2.0.0", syntax="key value",
    complexity="O(N) in the length of the whole string, which is copied",
    summary="Append bytes to the string at a key; its new length.",
)  # fmt: skip
def append(ctx: Context, argv: Argv) -> Reply:
    key, tail = argv[1], argv[2]
    old = ctx.db.typed(key, bytes)
    if old is None:
        ctx.db.set(key, tail)
        return len(tail)
    _check_length(len(old) + len(tail))
    ctx.db.replace(key, old + tail)
    return len(old) + len(tail)


@command(
    "STRLEN", arity=2, flags="readonly fast", keys=(1, 1, 1), group="string", since="2.2.0", syntax="key",
    summary="How many bytes the string at a key has.",
)  # fmt: skip
def strlen(ctx: Context, argv: Argv) -> Reply:
    return len(ctx.db.typed(argv[1], bytes) or b"")


@command(
    "GETRANGE", arity=4, flags="readonly", keys=(1, 1, 1), group="string", since="2.4.0", syntax="key start end",
    complexity="O(N) in the length of the answer",
    summary="The bytes of a string from start to end, both included; negative: from the end.",
)  # fmt: skip
@command(
    "SUBSTR", arity=4, flags="readonly", keys=(1, 1, 1), group="string", since="1.0.0", syntax="key start end",
    complexity="O(N) in the length of the answer",
    summary="The old name of GETRANGE.",
)  # fmt: skip
def getrange(ctx: Context, argv: Argv) -> Reply:
    start, end = parse_int(argv[2]), parse_int(argv[3])
    value = ctx.db.typed(argv[1], bytes)
    if value is None or (end < start < 0):
        return b""
    length = len(value)
    first = max(start + length, 0) if start < 0 else start
    last = max(end + length, 0) if end < 0 else end
    return value[first : last + 1]


@command(
    "SETRANGE", arity=4, flags="write denyoom", keys=(1, 1, 1), group="string", since="2.2.0",
    syntax="key offset value", complexity="O(N) in the length of the whole string, which is copied",
    summary="Put bytes into a string from an offset on, after zero bytes where it was shorter; its new length.",
)  # fmt: skip
def setrange(ctx: Context, argv: Argv) -> Reply:
    key, patch = argv[1], argv[3]
    offset = parse_int(argv[2])
    if offset < 0:
        msg = "offset is out of range"
        raise CommandError(msg)
    old = ctx.db.typed(key, bytes)
    if not patch:
        return len(old or b"")
    _check_length(offset + len(patch))
    old = old or b""
    new = old[:offset].ljust(offset, b"\0") + patch + old[offset + len(patch) :]
    ctx.db.replace(key, new)
    return len(new)
