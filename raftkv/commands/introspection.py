"""What a value looks like inside: OBJECT and MEMORY USAGE.

Encodings are those that Redis 7.0 would report by its default thresholds, because tools read them; the values
here are Python objects. Redis' encoding also depends on a value's past (a big hash that shrank stays a hashtable, a
string that was appended to stays raw): that is not kept here, only the present value counts.
https://redis.io/docs/latest/commands/object-encoding/
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, Final

from raftkv.commands.args import is_canonical_int, parse_int, syntax_error
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import Reply
from raftkv.store.keyspace import type_name

_EMBSTR_BYTES_MAX: Final = 44
_LISTPACK_BYTES_MAX: Final = 64
_HASH_LISTPACK_ENTRIES_MAX: Final = 512
_ZSET_LISTPACK_ENTRIES_MAX: Final = 128
_INTSET_ENTRIES_MAX: Final = 512
_SAMPLES_DEFAULT: Final = 5


def _all_short(members: Iterable[bytes]) -> bool:
    return all(len(member) <= _LISTPACK_BYTES_MAX for member in members)


def _encoding(value: Any) -> bytes:
    """The name that Redis 7.0 would give to how it stores ``value``."""
    kind = type_name(value)
    if kind == "string":
        if is_canonical_int(value):
            return b"int"
        return b"embstr" if len(value) <= _EMBSTR_BYTES_MAX else b"raw"
    if kind == "list":
        return b"quicklist"
    if kind == "set":
        small = len(value) <= _INTSET_ENTRIES_MAX and all(map(is_canonical_int, value))
        return b"intset" if small else b"hashtable"
    if kind == "hash":
        small = len(value) <= _HASH_LISTPACK_ENTRIES_MAX and _all_short(chain.from_iterable(value.items()))
        return b"listpack" if small else b"hashtable"
    small = len(value) <= _ZSET_LISTPACK_ENTRIES_MAX and _all_short(member for member, _ in value.items())
    return b"listpack" if small else b"skiplist"


@command(
    "OBJECT ENCODING", arity=3, flags="readonly", keys=(2, 2, 1), group="generic", since="2.2.3", syntax="key",
    complexity="O(N) with N at most 512", summary="The name that Redis would give to how a value is stored.",
)  # fmt: skip
def object_encoding(ctx: Context, argv: Argv) -> Reply:
    value = ctx.db.get(argv[2])
    return None if value is None else _encoding(value)


@command(
    "OBJECT REFCOUNT", arity=3, flags="readonly", keys=(2, 2, 1), group="generic", since="2.2.3", syntax="key",
    summary="Always 1 for a key that exists: values are not shared.",
)  # fmt: skip
def object_refcount(ctx: Context, argv: Argv) -> Reply:
    return 1 if argv[2] in ctx.db else None


@command(
    "OBJECT IDLETIME", arity=3, flags="readonly", keys=(2, 2, 1), group="generic", since="2.2.3", syntax="key",
    summary="Always 0 for a key that exists: reads leave no trace in the replicated state.",
)  # fmt: skip
def object_idletime(ctx: Context, argv: Argv) -> Reply:
    return 0 if argv[2] in ctx.db else None


@command(
    "OBJECT FREQ", arity=3, flags="readonly", keys=(2, 2, 1), group="generic", since="4.0.0", syntax="key",
    summary="Refused for a key that exists: how often it is used is not counted.",
)  # fmt: skip
def object_freq(ctx: Context, argv: Argv) -> Reply:
    if argv[2] not in ctx.db:
        return None
    raise CommandError(
        "An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching "
        "between policies at runtime LRU and LFU data will take some time to adjust."
    )


@command(
    "OBJECT HELP", arity=2, flags="", group="generic", since="6.2.0",
    summary="What the sub-commands of OBJECT are.",
)  # fmt: skip
def object_help(_ctx: Context, _argv: Argv) -> Reply:
    return [
        "OBJECT <subcommand> [<arg> ...]. Subcommands are:",
        "ENCODING <key>",
        "    The encoding that Redis would use for the value.",
        "FREQ <key>",
        "    Refused: access frequency is not tracked.",
        "IDLETIME <key>",
        "    Always 0: reads leave no trace in the replicated state.",
        "REFCOUNT <key>",
        "    Always 1: values are not shared.",
        "HELP",
        "    Prints this help.",
    ]


# ------------------------------------------------------------------ memory
# Computed from lengths, and not with sys.getsizeof: a dict or deque that shrank is bigger than one that was loaded from
# a snapshot, and replicas must answer the same. The figures are those of CPython 3.11 on a 64-bit machine.
_BYTES_OVERHEAD: Final = 33
"""What a bytes object takes beside its content."""
_FLOAT_BYTES: Final = 24
_EMPTY_BYTES: Final = {"list": 760, "hash": 64, "set": 200, "zset": 200}
"""The container itself; a deque comes with its first block."""
_INDEX_BYTES: Final = {"list": 8, "hash": 45, "set": 76, "zset": 84}
"""What a container keeps for an element beside the element: slots of dict and list, position or score."""


def _parts(value: Any, kind: str) -> Iterable[bytes | float]:
    """The Python objects that a container holds, element after element."""
    return chain.from_iterable(value.items()) if kind in ("hash", "zset") else iter(value)


def _part_bytes(part: bytes | float) -> int:
    return _BYTES_OVERHEAD + len(part) if isinstance(part, bytes) else _FLOAT_BYTES


def _memory(key: bytes, value: Any, samples: int) -> int:
    """Bytes of key and value; of the elements of a container ``samples`` are measured (0: all)."""
    kind = type_name(value)
    if kind == "string":
        return _part_bytes(key) + _part_bytes(value)
    count = len(value)
    taken = count if samples == 0 else min(samples, count)
    width = 2 if kind in ("hash", "zset") else 1
    measured = sum(map(_part_bytes, islice(_parts(value, kind), taken * width)))
    return _part_bytes(key) + _EMPTY_BYTES[kind] + measured * count // taken + _INDEX_BYTES[kind] * count


@command(
    "MEMORY USAGE", arity=-3, flags="readonly", keys=(2, 2, 1), group="server", since="4.0.0",
    syntax="key [SAMPLES count]", complexity="O(N) for N samples; 0 samples: all elements",
    summary="About how many bytes a key and its value take on this node.",
)  # fmt: skip
def memory_usage(ctx: Context, argv: Argv) -> Reply:
    samples = _SAMPLES_DEFAULT
    options = argv[3:]
    if options:
        if len(options) != 2 or options[0].upper() != b"SAMPLES":
            raise syntax_error()
        samples = parse_int(options[1])
        if samples < 0:
            raise syntax_error()
    value = ctx.db.get(argv[2])
    return None if value is None else _memory(argv[2], value, samples)
