"""The three scripts of redis-py's Lock, as native functions that are called by the SHA-1 of their text.

redis-py (5.0 to 8.x) registers three Lua scripts and calls them with EVALSHA; after NOSCRIPT it loads the text
with SCRIPT LOAD. Their texts never change, so their digests name what they do. No other script runs here yet.
https://redis.io/docs/latest/commands/evalsha/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

from raftkv.commands.args import INT64_MAX, INT64_MIN, invalid_expire, parse_int
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply


def _owns(ctx: Context, key: bytes, token: bytes) -> bool:
    return bool(ctx.db.typed(key, bytes) == token)


def _expire_in(ctx: Context, key: bytes, ttl_ms: int) -> None:
    if not INT64_MIN <= ttl_ms <= INT64_MAX - ctx.now_ms:
        raise invalid_expire("pexpire")
    ctx.db.set_expiry(key, ctx.now_ms + ttl_ms)


def _release(ctx: Context, key: bytes, args: list[bytes]) -> int:
    """Delete the lock if ``args[0]`` is its token."""
    if not _owns(ctx, key, args[0]):
        return 0
    ctx.db.delete(key)
    return 1


def _extend(ctx: Context, key: bytes, args: list[bytes]) -> int:
    """Add ``args[1]`` ms to the time left, or with ``args[2]`` other than ``0`` replace it; only if there is one."""
    at_ms = ctx.db.expire_at(key)
    if not _owns(ctx, key, args[0]) or at_ms is None:
        return 0
    ttl_ms = parse_int(args[1])
    if args[2] == b"0":
        ttl_ms += at_ms - ctx.now_ms
    _expire_in(ctx, key, ttl_ms)
    return 1


def _reacquire(ctx: Context, key: bytes, args: list[bytes]) -> int:
    """Let the lock expire in ``args[1]`` ms from now."""
    if not _owns(ctx, key, args[0]):
        return 0
    _expire_in(ctx, key, parse_int(args[1]))
    return 1


@dataclass(frozen=True, slots=True)
class _Script:
    function: Callable[[Context, bytes, list[bytes]], int]
    args: int
    """How many arguments it reads after its one key."""


_SCRIPTS: Final = {
    b"c3f8721cbb97f72bc19e972846bd7aaf91901658": _Script(_release, 1),
    b"a4e8783852e6b949f9ef3a97212805108459a890": _Script(_extend, 3),
    b"1cac51482acf5858da00f6d685d68f886cd6b6b2": _Script(_reacquire, 2),
}
_SHA_LENGTH: Final = 40


def _script_keys(argv: Argv) -> list[bytes]:
    """The keys of ``EVALSHA sha1 numkeys key ...``; none when ``numkeys`` is wrong (the command refuses it)."""
    try:
        count = parse_int(argv[2], low=0, high=len(argv) - 3)
    except CommandError:
        return []
    return argv[3 : 3 + count]


def _no_script() -> CommandError:
    return CommandError("No matching script. Please use EVAL.", code="NOSCRIPT")


@command(
    "EVALSHA", arity=-3, flags="write noscript movablekeys", group="scripting", since="2.6.0",
    syntax="sha1 numkeys [key [key ...]] [arg [arg ...]]", key_finder=_script_keys,
    summary="Run a script of redis-py's Lock, named by the SHA-1 of its text; no other script is known.",
)  # fmt: skip
def evalsha(ctx: Context, argv: Argv) -> Reply:
    if len(argv[1]) != _SHA_LENGTH:
        raise _no_script()
    count = parse_int(argv[2])
    if count > len(argv) - 3:
        raise CommandError("Number of keys can't be greater than number of args")
    if count < 0:
        raise CommandError("Number of keys can't be negative")
    script = _SCRIPTS.get(argv[1].lower())
    if script is None:
        raise _no_script()
    args = argv[3 + count :]
    if count < 1 or len(args) < script.args:
        raise CommandError(f"this script needs a key and {script.args} argument(s)")
    return script.function(ctx, argv[3], args)


@command(
    "SCRIPT LOAD", arity=3, flags="noscript", group="scripting", since="2.6.0", syntax="script",
    summary="The SHA-1 of a script of redis-py's Lock, which is built in; any other text is refused.",
)  # fmt: skip
def script_load(_ctx: Context, argv: Argv) -> Reply:
    digest = sha1(argv[2]).hexdigest().encode()  # noqa: S324 -- the name that Redis gives a script, no protection
    if digest not in _SCRIPTS:
        raise CommandError("scripting is not supported yet: only the scripts of redis-py's Lock are known")
    return digest


@command(
    "SCRIPT EXISTS", arity=-3, flags="noscript", group="scripting", since="2.6.0", syntax="sha1 [sha1 ...]",
    complexity="O(N)", summary="Of each SHA-1 whether EVALSHA knows it: 1 or 0.",
)  # fmt: skip
def script_exists(_ctx: Context, argv: Argv) -> Reply:
    return [int(digest.lower() in _SCRIPTS) for digest in argv[2:]]
