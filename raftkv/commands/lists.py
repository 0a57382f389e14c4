"""Lists: a ``collections.deque`` of elements, head on the left.

Both ends are O(1); the middle is reached from the nearer end in blocks of 64, and searches run in C over the
deque's own iterator (:func:`_matches`), so that the cost is the distance to the match and not the length.

Source: https://redis.io/docs/latest/commands/?group=list, version 7.0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import indexOf
from typing import Final, TypeAlias

from raftkv.commands.args import INT64_MAX, INT64_MIN, parse_int, syntax_error
from raftkv.commands.key_finders import counted_keys
from raftkv.commands.registry import Argv, Context, command
from raftkv.errors import CommandError
from raftkv.protocol.replies import NIL_ARRAY, OK, Reply

Elements: TypeAlias = deque[bytes]

NEGATIVE_COUNT: Final = "value is out of range, must be positive"
RANK_IS_ZERO: Final = (
    "RANK can't be zero: use 1 to start from the first match, 2 from the second ... "
    "or use negative to start from the end of the list"
)


# -------------------------------------------------------------------- push
@command(
    "LPUSH",
    arity=-3,
    flags="write denyoom fast",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Put elements before the head of a list, one after the other; its new length.",
    syntax="key element [element ...]",
    complexity="O(1) for each element",
)
def lpush(ctx: Context, argv: Argv) -> Reply:
    db, key = ctx.db, argv[1]
    items: Elements | None = db.typed(key, deque)
    if items is None:
        items = deque(argv[:1:-1])
        db.set(key, items)
        return len(items)
    if len(argv) == 3:
        items.appendleft(argv[2])
    else:
        items.extendleft(argv[2:])
    db.touch(key)
    return len(items)


@command(
    "RPUSH",
    arity=-3,
    flags="write denyoom fast",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Append elements to a list; its new length.",
    syntax="key element [element ...]",
    complexity="O(1) for each element",
)
def rpush(ctx: Context, argv: Argv) -> Reply:
    db, key = ctx.db, argv[1]
    items: Elements | None = db.typed(key, deque)
    if items is None:
        items = deque(argv[2:])
        db.set(key, items)
        return len(items)
    if len(argv) == 3:
        items.append(argv[2])
    else:
        items.extend(argv[2:])
    db.touch(key)
    return len(items)


@command(
    "LPUSHX",
    arity=-3,
    flags="write denyoom fast",
    keys=(1, 1, 1),
    group="list",
    since="2.2.0",
    summary="LPUSH on a list that is there; 0 if none is.",
    syntax="key element [element ...]",
    complexity="O(1) for each element",
)
def lpushx(ctx: Context, argv: Argv) -> Reply:
    return lpush(ctx, argv) if ctx.db.typed(argv[1], deque) is not None else 0


@command(
    "RPUSHX",
    arity=-3,
    flags="write denyoom fast",
    keys=(1, 1, 1),
    group="list",
    since="2.2.0",
    summary="RPUSH on a list that is there; 0 if none is.",
    syntax="key element [element ...]",
    complexity="O(1) for each element",
)
def rpushx(ctx: Context, argv: Argv) -> Reply:
    return rpush(ctx, argv) if ctx.db.typed(argv[1], deque) is not None else 0


# -------------------------------------------------------------------- pop
@command(
    "LPOP",
    arity=-2,
    flags="write fast",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Take the head of a list, or count elements from there.",
    syntax="key [count]",
    complexity="O(N) for N elements taken",
)
def lpop(ctx: Context, argv: Argv) -> Reply:
    return _pop(ctx, argv, left=True)


@command(
    "RPOP",
    arity=-2,
    flags="write fast",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Take the tail of a list, or count elements from there.",
    syntax="key [count]",
    complexity="O(N) for N elements taken",
)
def rpop(ctx: Context, argv: Argv) -> Reply:
    return _pop(ctx, argv, left=False)


def _pop(ctx: Context, argv: Argv, *, left: bool) -> Reply:
    db, key = ctx.db, argv[1]
    if len(argv) == 2:
        items: Elements | None = db.typed(key, deque)
        if items is None:
            return None
        item = items.popleft() if left else items.pop()
        db.touch_or_drop(key, items)
        return item
    if len(argv) > 3:
        raise CommandError(f"wrong number of arguments for '{'lpop' if left else 'rpop'}' command")
    count = parse_int(argv[2], NEGATIVE_COUNT, low=0)
    items = db.typed(key, deque)
    if items is None:
        return NIL_ARRAY
    if not count:
        return []
    taken = _take(items, count, left=left)
    db.touch_or_drop(key, items)
    return taken


def _take(items: Elements, count: int, *, left: bool) -> list[bytes]:
    """Remove at most ``count`` elements from one end, the outermost first."""
    one = items.popleft if left else items.pop
    return [one() for _ in range(min(count, len(items)))]


@command(
    "LMPOP",
    arity=-4,
    flags="write movablekeys",
    key_finder=counted_keys,
    group="list",
    since="7.0.0",
    summary="Take elements from the first of several keys that holds a list; that key and the elements.",
    syntax="numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
    complexity="O(K + M) for K keys and M elements taken",
)
def lmpop(ctx: Context, argv: Argv) -> Reply:
    end = parse_int(argv[1], "numkeys should be greater than 0", low=1) + 2
    if end >= len(argv):
        raise syntax_error()
    left = _is_left(argv[end])
    options, count = argv[end + 1 :], 1
    if options:
        if len(options) < 2 or options[0].upper() != b"COUNT":
            raise syntax_error()
        count = parse_int(options[1], "count should be greater than 0", low=1)
        if len(options) > 2:
            raise syntax_error()
    db = ctx.db
    for key in argv[2:end]:
        items: Elements | None = db.typed(key, deque)
        if items is not None:
            taken = _take(items, count, left=left)
            db.touch_or_drop(key, items)
            return [key, taken]
    return NIL_ARRAY


# -------------------------------------------------------------------- read
@command(
    "LLEN",
    arity=2,
    flags="readonly fast",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="How many elements a list has.",
    syntax="key",
)
def llen(ctx: Context, argv: Argv) -> Reply:
    items: Elements | None = ctx.db.typed(argv[1], deque)
    return 0 if items is None else len(items)


@command(
    "LRANGE",
    arity=4,
    flags="readonly",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="The elements from start to stop, both included; negative: from the end.",
    syntax="key start stop",
    complexity="O(S + N) for N elements, S places from the nearer end",
)
def lrange(ctx: Context, argv: Argv) -> Reply:
    start, stop = parse_int(argv[2]), parse_int(argv[3])
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        return []
    start, end = _bounds(start, stop, len(items))
    return _slice(items, start, end)


def _bounds(start: int, stop: int, length: int) -> tuple[int, int]:
    """Redis' inclusive range, negative from the end, as a half-open one within ``0..length``; (0, 0) if empty."""
    start = max(0, start + length if start < 0 else start)
    end = min(length, (stop + length if stop < 0 else stop) + 1)
    return (start, end) if start < end else (0, 0)


def _slice(items: Elements, start: int, end: int) -> list[bytes]:
    """The elements at ``start..end-1``, walking from the nearer end because a deque's iterator cannot jump."""
    length = len(items)
    if start <= length - end:
        return list(islice(items, start, end))
    found = list(islice(reversed(items), length - end, length - start))
    found.reverse()
    return found


@command(
    "LINDEX",
    arity=3,
    flags="readonly",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="The element at a place; negative: from the end; nil if there is none.",
    syntax="key index",
    complexity="O(N) at a distance of N from the nearer end",
)
def lindex(ctx: Context, argv: Argv) -> Reply:
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        return None
    at = parse_int(argv[2])
    return items[at] if -len(items) <= at < len(items) else None


@command(
    "LPOS",
    arity=-3,
    flags="readonly",
    keys=(1, 1, 1),
    group="list",
    since="6.0.6",
    summary="The place of an element that equals the one given, or the places of several such.",
    syntax="key element [RANK rank] [COUNT num-matches] [MAXLEN len]",
    complexity="O(N) for N elements looked at, MAXLEN at most",
)
def lpos(ctx: Context, argv: Argv) -> Reply:
    rank, count, maxlen = _lpos_options(argv[3:])
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        return None if count is None else []
    length = len(items)
    walk: Iterable[bytes] = items if rank > 0 else reversed(items)
    if maxlen:
        walk = islice(walk, min(maxlen, length))
    # All clipped to the length, because islice refuses numbers beyond the machine's word.
    skip = min(abs(rank) - 1, length)
    wanted = length if count == 0 else min(count or 1, length)
    offsets = islice(_matches(walk, argv[2]), skip, skip + wanted)
    found = list(offsets) if rank > 0 else [length - 1 - offset for offset in offsets]
    if count is None:
        return found[0] if found else None
    return found


def _lpos_options(options: list[bytes]) -> tuple[int, int | None, int]:
    """(rank, count or None when not given, maxlen with 0 for no limit)."""
    rank, count, maxlen = 1, None, 0
    for name, raw in zip(options[::2], options[1::2], strict=False):
        match name.upper():
            case b"RANK":
                rank = parse_int(raw)
                if rank == 0:
                    raise CommandError(RANK_IS_ZERO)
                if rank == INT64_MIN:
                    raise CommandError(f"value is out of range, value must between {-INT64_MAX} and {INT64_MAX}")
            case b"COUNT":
                count = parse_int(raw, "COUNT can't be negative", low=0)
            case b"MAXLEN":
                maxlen = parse_int(raw, "MAXLEN can't be negative", low=0)
            case _:
                raise syntax_error()
    if len(options) % 2:
        raise syntax_error()
    return rank, count, maxlen


def _matches(walk: Iterable[bytes], element: bytes) -> Iterator[int]:
    """Offsets in ``walk`` at which ``element`` stands, ascending, compared in C and only as far as asked for."""
    rest, offset = iter(walk), -1
    while True:
        try:
            offset += indexOf(rest, element) + 1
        except ValueError:
            return
        yield offset


# -------------------------------------------------------------------- change
@command(
    "LSET",
    arity=4,
    flags="write denyoom",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Put another element at a place; negative: from the end.",
    syntax="key index element",
    complexity="O(N) at a distance of N from the nearer end",
)
def lset(ctx: Context, argv: Argv) -> Reply:
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        raise CommandError("no such key")
    at = parse_int(argv[2])
    if not -len(items) <= at < len(items):
        raise CommandError("index out of range")
    items[at] = argv[3]
    ctx.db.touch(argv[1])
    return OK


@command(
    "LTRIM",
    arity=4,
    flags="write",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Keep what stands from start to stop, both included, and drop the rest.",
    syntax="key start stop",
    complexity="O(N) for N elements dropped",
)
def ltrim(ctx: Context, argv: Argv) -> Reply:
    start, stop = parse_int(argv[2]), parse_int(argv[3])
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        return OK
    start, end = _bounds(start, stop, len(items))
    if end == 0:
        ctx.db.delete(argv[1])
        return OK
    for _ in range(len(items) - end):
        items.pop()
    for _ in range(start):
        items.popleft()
    ctx.db.touch(argv[1])
    return OK


@command(
    "LREM",
    arity=4,
    flags="write",
    keys=(1, 1, 1),
    group="list",
    since="1.0.0",
    summary="Drop elements that equal one: the first count, the last -count, or with 0 all; how many were dropped.",
    syntax="key count element",
    complexity="O(N) for N elements in the list",
)
def lrem(ctx: Context, argv: Argv) -> Reply:
    count = parse_int(argv[2])
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        return 0
    length = len(items)
    wanted = min(abs(count), length) if count else length
    offsets = list(islice(_matches(items if count >= 0 else reversed(items), argv[3]), wanted))
    if not offsets:
        return 0
    _delete_at(items, offsets if count >= 0 else [length - 1 - offset for offset in reversed(offsets)])
    ctx.db.touch_or_drop(argv[1], items)
    return len(offsets)


def _delete_at(items: Elements, offsets: list[int]) -> None:
    """Remove the elements at ascending ``offsets``."""
    if len(offsets) == 1:
        del items[offsets[0]]
        return
    # Deleting one by one would shift the rest once for each; copying what stays is one pass.
    old, start = list(items), 0
    items.clear()
    for offset in offsets:
        items.extend(old[start:offset])
        start = offset + 1
    items.extend(old[start:])


@command(
    "LINSERT",
    arity=5,
    flags="write denyoom",
    keys=(1, 1, 1),
    group="list",
    since="2.2.0",
    summary="Put an element beside the first that equals the pivot; the new length, or -1 without a pivot.",
    syntax="key <BEFORE | AFTER> pivot element",
    complexity="O(N) for a pivot N places from the head",
)
def linsert(ctx: Context, argv: Argv) -> Reply:
    where = argv[2].upper()
    if where not in {b"BEFORE", b"AFTER"}:
        raise syntax_error()
    items: Elements | None = ctx.db.typed(argv[1], deque)
    if items is None:
        return 0
    at = next(_matches(items, argv[3]), None)
    if at is None:
        return -1
    items.insert(at if where == b"BEFORE" else at + 1, argv[4])
    ctx.db.touch(argv[1])
    return len(items)


# -------------------------------------------------------------------- move
@command(
    "LMOVE",
    arity=5,
    flags="write denyoom",
    keys=(1, 2, 1),
    group="list",
    since="6.2.0",
    summary="Take an element from an end of a list and put it at an end of another, or of the same.",
    syntax="source destination <LEFT | RIGHT> <LEFT | RIGHT>",
)
def lmove(ctx: Context, argv: Argv) -> Reply:
    from_left, to_left = _is_left(argv[3]), _is_left(argv[4])
    return _move(ctx, argv[1], argv[2], from_left=from_left, to_left=to_left)


@command(
    "RPOPLPUSH",
    arity=3,
    flags="write denyoom",
    keys=(1, 2, 1),
    group="list",
    since="1.2.0",
    summary="LMOVE from the tail (RIGHT) to the head (LEFT).",
    syntax="source destination",
)
def rpoplpush(ctx: Context, argv: Argv) -> Reply:
    return _move(ctx, argv[1], argv[2], from_left=False, to_left=True)


def _is_left(raw: bytes) -> bool:
    end = raw.upper()
    if end not in {b"LEFT", b"RIGHT"}:
        raise syntax_error()
    return end == b"LEFT"


def _move(ctx: Context, source: bytes, target: bytes, *, from_left: bool, to_left: bool) -> Reply:
    db = ctx.db
    items: Elements | None = db.typed(source, deque)
    if items is None:
        return None
    others: Elements | None = db.typed(target, deque)
    item = items.popleft() if from_left else items.pop()
    if others is None:
        db.set(target, deque((item,)))
    else:
        if to_left:
            others.appendleft(item)
        else:
            others.append(item)
        db.touch(target)
    # Source and target may be the same list, so whether it is empty is known only now.
    db.touch_or_drop(source, items)
    return item
