"""Finding keys: KEYS, SCAN, RANDOMKEY.

The cursor of SCAN is the number of the hash slot to go on with. A key never changes its slot, so every key
that is there from the first call to the last is returned exactly once, whatever changes in between and
whichever node answers. The price: one call returns whole slots, at least COUNT keys if there are so many.
https://redis.io/docs/latest/commands/scan/
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Final

from raftkv.commands.args import parse_int, syntax_error
from raftkv.commands.glob import Matcher, compile_glob, literal
from raftkv.commands.random_draws import draw
from raftkv.commands.registry import Argv, Context, command
from raftkv.commands.scan_args import COUNT_DEFAULT, parse_cursor
from raftkv.protocol.replies import Reply
from raftkv.store.keyspace import Database, type_name
from raftkv.store.slots import SLOTS

_DRAWS: Final = 100
"""RANDOMKEY draws that hit an expired key before it looks for a live one in order."""


@command(
    "KEYS", arity=2, flags="readonly dangerous", group="generic", since="1.0.0", syntax="pattern",
    complexity="O(N) with N the number of keys",
    summary="The keys whose names fit a pattern, all at once; SCAN does it in steps.",
)  # fmt: skip
def keys(ctx: Context, argv: Argv) -> Reply:
    pattern = argv[1]
    if pattern == b"*":
        return list(ctx.db.keys())
    if literal(pattern):
        return [pattern] if pattern in ctx.db else []
    return list(filter(compile_glob(pattern), ctx.db.keys()))


@dataclass(frozen=True, slots=True)
class _Options:
    count: int
    match: Matcher | None
    type_name: str | None


def _parse_options(words: list[bytes]) -> _Options:
    count, match, wanted = COUNT_DEFAULT, None, None
    for at in range(0, len(words), 2):
        name = words[at].upper()
        if at + 1 == len(words):
            raise syntax_error()
        raw = words[at + 1]
        if name == b"COUNT":
            count = parse_int(raw)
            if count < 1:
                raise syntax_error()
        elif name == b"MATCH":
            match = None if raw == b"*" else compile_glob(raw)
        elif name == b"TYPE":
            wanted = raw.decode("latin-1").lower()
        else:
            raise syntax_error()
    return _Options(count, match, wanted)


@command(
    "SCAN", arity=-2, flags="readonly", group="generic", since="2.8.0",
    syntax="cursor [MATCH pattern] [COUNT count] [TYPE type]",
    complexity="O(COUNT) a call, O(N) for a whole iteration",
    summary="Walk over the database: the next cursor, and some keys; 0 begins and ends.",
)  # fmt: skip
def scan(ctx: Context, argv: Argv) -> Reply:
    slot = parse_cursor(argv[1])
    options = _parse_options(argv[2:])
    db = ctx.db
    if not db.size:
        return [b"0", []]
    found: list[bytes] = []
    visited = 0
    while slot < SLOTS and visited < options.count:
        if db.bucket(slot):
            names = db.keys_in_slot(slot)
            visited += len(names)
            found += _filtered(db, names, options)
        slot += 1
    return [b"%d" % slot if slot < SLOTS else b"0", found]


def _filtered(db: Database, names: list[bytes], options: _Options) -> list[bytes]:
    if options.match is not None:
        names = list(filter(options.match, names))
    if options.type_name is not None:
        names = [name for name in names if type_name(db.get(name)) == options.type_name]
    return names


@command(
    "RANDOMKEY", arity=1, flags="readonly", group="generic", since="1.0.0", complexity="O(slots)",
    summary="Any key of the database; nil if it is empty.",
)  # fmt: skip
def randomkey(ctx: Context, _argv: Argv) -> Reply:
    db = ctx.db
    if not db.size:
        return None
    ends = list(accumulate(len(db.bucket(slot)) for slot in range(SLOTS)))
    for _ in range(_DRAWS):
        key = _key_number(db, ends, draw(ctx.rng, db.size))
        if key in db:
            return key
    return next(db.keys(), None)


def _key_number(db: Database, ends: list[int], number: int) -> bytes:
    """The key at ``number``, counted over all slots; ``ends``: how many keys there are up to each slot's end."""
    slot = bisect_right(ends, number)
    bucket = db.bucket(slot)
    return next(islice(bucket, number - ends[slot] + len(bucket), None))
