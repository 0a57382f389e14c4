"""List commands: equal to a plain Python list, exact about null replies, and without effect when they fail."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raftkv.commands.lists  # noqa: F401 -- fills the table
from raftkv.commands.registry import Context, lookup
from raftkv.errors import CommandError, WrongTypeError
from raftkv.protocol.replies import NIL_ARRAY, OK, Reply
from raftkv.store.keyspace import Keyspace
from raftkv.store.sets import IndexedSet

words = st.sampled_from([b"a", b"b", b"c"])
lists = st.lists(words, min_size=1, max_size=12)
numbers = st.one_of(st.integers(-14, 14), st.sampled_from([2**63 - 1, -(2**63) + 1, -(2**63)]))


KEYSPACE = Keyspace()
NAMES = [b"k", b"j", b"s", b"new", b"other", b"text"]
"""All keys that occur here: a thousand examples cost less in one emptied database than in new ones."""


@pytest.fixture
def ctx() -> Context:
    return fresh()


def fresh(*items: bytes) -> Context:
    made = Context(KEYSPACE, index=1)
    KEYSPACE.now_ms = 0
    made.db.watched = None
    for name in NAMES:
        made.db.delete(name)
    assert not made.db.size
    if items:
        made.db.set(b"k", deque(items))
    return made


def run(ctx: Context, line: bytes) -> Reply:
    argv = line.split()
    return lookup(argv).function(ctx, argv)


def call(ctx: Context, *argv: bytes | int) -> Reply:
    words = [b"%d" % word if isinstance(word, int) else word for word in argv]
    return lookup(words).function(ctx, words)


def content(ctx: Context, key: bytes = b"k") -> list[bytes]:
    return list(ctx.db.get(key) or [])


def span(start: int, stop: int, length: int) -> slice:
    """Redis' inclusive range as a slice of a list."""
    first = max(0, start + length) if start < 0 else start
    last = stop + length if stop < 0 else stop
    return slice(first, max(last + 1, 0))


# -------------------------------------------------------------------- against a plain list
@given(lists, numbers, numbers)
def test_lrange_and_ltrim_keep_the_same_elements(items: list[bytes], start: int, stop: int) -> None:
    expected = items[span(start, stop, len(items))]
    ctx = fresh(*items)
    assert call(ctx, b"LRANGE", b"k", start, stop) == expected
    assert content(ctx) == items
    assert call(ctx, b"LTRIM", b"k", start, stop) == OK
    assert content(ctx) == expected
    assert (b"k" in ctx.db) is bool(expected)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(290, 300))
def test_lrange_from_either_end_of_a_list_of_many_blocks(start: int, count: int, length: int) -> None:
    items = [b"%d" % number for number in range(length)]
    assert call(fresh(*items), b"LRANGE", b"k", start, start + count) == items[start : start + count + 1]


@given(lists, numbers, words)
def test_lrem_removes_from_the_side_that_the_sign_says(items: list[bytes], count: int, word: bytes) -> None:
    expected = items if count >= 0 else items[::-1]
    for _ in range(min(abs(count), len(items)) or len(items)):
        if word in expected:
            at = expected.index(word)
            expected = expected[:at] + expected[at + 1 :]
    expected = expected if count >= 0 else expected[::-1]
    ctx = fresh(*items)
    assert call(ctx, b"LREM", b"k", count, word) == len(items) - len(expected)
    assert content(ctx) == expected
    assert (b"k" in ctx.db) is bool(expected)


@given(lists, words, numbers.filter(lambda rank: rank not in {0, -(2**63)}), numbers, numbers)
def test_lpos_is_the_search_from_the_side_of_rank(
    items: list[bytes], word: bytes, rank: int, count: int, maxlen: int
) -> None:
    count, maxlen = abs(count) % 2**63, abs(maxlen) % 2**63
    order = range(len(items)) if rank > 0 else range(len(items) - 1, -1, -1)
    compared = list(order)[: maxlen or len(items)]
    found = [at for at in compared if items[at] == word][abs(rank) - 1 :]
    ctx = fresh(*items)
    options = (b"RANK", rank, b"MAXLEN", maxlen)
    assert call(ctx, b"LPOS", b"k", word, *options) == (found[0] if found else None)
    assert call(ctx, b"LPOS", b"k", word, *options, b"COUNT", count) == found[: count or len(items)]


@given(lists, words, st.booleans())
def test_linsert_is_beside_the_first_pivot(items: list[bytes], pivot: bytes, before: bool) -> None:
    ctx = fresh(*items)
    reply = call(ctx, b"LINSERT", b"k", b"before" if before else b"AFTER", pivot, b"new")
    if pivot not in items:
        assert reply == -1
        assert content(ctx) == items
    else:
        at = items.index(pivot) + (not before)
        assert content(ctx) == [*items[:at], b"new", *items[at:]]
        assert reply == len(items) + 1


@given(lists, numbers)
def test_lindex_and_lset_name_the_same_element(items: list[bytes], at: int) -> None:
    ctx = fresh(*items)
    if -len(items) <= at < len(items):
        assert call(ctx, b"LINDEX", b"k", at) == items[at]
        assert call(ctx, b"LSET", b"k", at, b"new") == OK
        items[at] = b"new"
    else:
        assert call(ctx, b"LINDEX", b"k", at) is None
        with pytest.raises(CommandError, match=r"^ERR index out of range$"):
            call(ctx, b"LSET", b"k", at, b"new")
    assert content(ctx) == items


@given(lists, st.sampled_from([b"LEFT", b"right"]), st.sampled_from([b"left", b"RIGHT"]))
def test_lmove_within_one_list_and_between_two(items: list[bytes], source: bytes, target: bytes) -> None:
    def moved(from_items: list[bytes], to_items: list[bytes]) -> bytes:
        item = from_items.pop(0 if source == b"LEFT" else -1)
        to_items.insert(0 if target == b"left" else len(to_items), item)
        return item

    ctx, model = fresh(*items), list(items)
    assert call(ctx, b"LMOVE", b"k", b"k", source, target) == moved(model, model)
    assert content(ctx) == model
    other: list[bytes] = []
    while model:
        assert call(ctx, b"LMOVE", b"k", b"other", source, target) == moved(model, other)
        assert (content(ctx), content(ctx, b"other")) == (model, other)
    assert b"k" not in ctx.db
    assert call(ctx, b"LMOVE", b"k", b"other", source, target) is None


# -------------------------------------------------------------------- replies
def test_push_orders(ctx: Context) -> None:
    assert run(ctx, b"LPUSH k a b c") == 3
    assert run(ctx, b"LPUSH k d e") == 5
    assert run(ctx, b"RPUSH k x y") == 7
    assert run(ctx, b"LRANGE k 0 -1") == [b"e", b"d", b"c", b"b", b"a", b"x", b"y"]
    assert run(ctx, b"RPUSH new x y") == 2
    assert content(ctx, b"new") == [b"x", b"y"]


def test_pushx_needs_a_list(ctx: Context) -> None:
    assert run(ctx, b"LPUSHX k a") == run(ctx, b"RPUSHX k a") == 0
    assert b"k" not in ctx.db
    run(ctx, b"RPUSH k b")
    assert run(ctx, b"LPUSHX k a") == 2
    assert run(ctx, b"RPUSHX k c d") == 4
    assert content(ctx) == [b"a", b"b", b"c", b"d"]


def test_which_null_a_missing_key_is(ctx: Context) -> None:
    assert run(ctx, b"LPOP k") is None
    assert run(ctx, b"RPOP k 2") is NIL_ARRAY
    assert run(ctx, b"LMPOP 2 k j LEFT") is NIL_ARRAY
    assert run(ctx, b"LPOS k a") is None
    assert run(ctx, b"LPOS k a COUNT 0") == []
    assert run(ctx, b"LINDEX k 0") is None
    assert run(ctx, b"LRANGE k 0 -1") == []
    assert run(ctx, b"RPOPLPUSH k j") is None
    assert run(ctx, b"LINSERT k BEFORE a b") == 0
    with pytest.raises(CommandError, match=r"^ERR no such key$"):
        run(ctx, b"LSET k 0 a")


def test_pop_counts() -> None:
    ctx = fresh(b"a", b"b", b"c", b"d")
    assert run(ctx, b"LPOP k 0") == []
    assert run(ctx, b"RPOP k 2") == [b"d", b"c"]
    assert run(ctx, b"LPOP k 9223372036854775807") == [b"a", b"b"]
    assert b"k" not in ctx.db


def test_lmpop_takes_from_the_first_list_that_exists() -> None:
    ctx = fresh(b"a", b"b", b"c")
    assert run(ctx, b"LMPOP 2 none k RIGHT COUNT 2") == [b"k", [b"c", b"b"]]
    ctx.db.set(b"text", b"v")
    assert run(ctx, b"LMPOP 2 k text LEFT") == [b"k", [b"a"]]
    with pytest.raises(WrongTypeError):
        run(ctx, b"LMPOP 2 k text LEFT")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"LPOP k -1", "value is out of range, must be positive"),
        (b"RPOP k x", "value is out of range, must be positive"),
        (b"LPOP k 1 2", "wrong number of arguments for 'lpop' command"),
        (b"LPOS k a RANK -9223372036854775808",
         "value is out of range, value must between -9223372036854775807 and 9223372036854775807"),
        (b"LPOS k a COUNT -1", "COUNT can't be negative"),
        (b"LPOS k a MAXLEN x", "MAXLEN can't be negative"),
        (b"LPOS k a RANK", "syntax error"),
        (b"LPOS k a RANK x COUNT", "value is not an integer or out of range"),
        (b"LINSERT k beside a b", "syntax error"),
        (b"LMOVE k k LEFT up", "syntax error"),
        (b"LMPOP 0 k LEFT", "numkeys should be greater than 0"),
        (b"LMPOP 3 k LEFT", "syntax error"),
        (b"LMPOP 1 k LEFT COUNT 0", "count should be greater than 0"),
        (b"LMPOP 1 k LEFT COUNT 1 COUNT 1", "syntax error"),
        (b"LSET k x v", "value is not an integer or out of range"),
        (b"LTRIM k 0 x", "value is not an integer or out of range"),
        (b"LREM k 1.0 a", "value is not an integer or out of range"),
    ],
)  # fmt: skip
def test_a_refused_command_changes_nothing(line: bytes, text: str) -> None:
    ctx = fresh(b"a", b"b")
    with pytest.raises(CommandError) as caught:
        run(ctx, line)
    assert caught.value.message == text
    assert content(ctx) == [b"a", b"b"]


def test_rank_zero_is_explained() -> None:
    with pytest.raises(CommandError, match=r"^ERR RANK can't be zero: use 1 to start from the first match, 2 from"):
        run(fresh(b"a"), b"LPOS k a RANK 0")


@pytest.mark.parametrize(
    "line",
    [
        b"LPUSH s a", b"RPUSH s a", b"LPUSHX s a", b"RPUSHX s a", b"LPOP s", b"RPOP s 1", b"LLEN s", b"LRANGE s 0 1",
        b"LINDEX s 0", b"LSET s 0 a", b"LTRIM s 0 1", b"LREM s 0 a", b"LINSERT s BEFORE a b", b"LPOS s a",
        b"LMOVE s k LEFT LEFT", b"LMOVE k s LEFT LEFT", b"RPOPLPUSH k s", b"LMPOP 1 s LEFT",
    ],
)  # fmt: skip
def test_another_type_is_refused_and_nothing_moves(line: bytes) -> None:
    ctx = fresh(b"a", b"b")
    ctx.db.set(b"s", IndexedSet.from_members([b"a"]))
    with pytest.raises(WrongTypeError):
        run(ctx, line)
    assert content(ctx) == [b"a", b"b"]
    assert content(ctx, b"s") == [b"a"]


# -------------------------------------------------------------------- expiry and watches
def test_a_change_in_place_keeps_the_expiry_and_the_last_element_takes_it_along() -> None:
    ctx = fresh(b"a", b"b")
    ctx.db.set_expiry(b"k", 1000)
    run(ctx, b"RPUSH k c")
    run(ctx, b"LREM k 1 a")
    assert ctx.db.expire_at(b"k") == 1000
    run(ctx, b"LPOP k 2")
    run(ctx, b"RPUSH k new")
    assert ctx.db.expire_at(b"k") is None


def test_an_expired_list_is_missing() -> None:
    ctx = fresh(b"a", b"b")
    ctx.db.set_expiry(b"k", 1000)
    ctx.keyspace.now_ms = 1000
    assert run(ctx, b"LLEN k") == 0
    assert run(ctx, b"LPUSHX k c") == 0
    assert run(ctx, b"LPUSH k c") == 1
    assert content(ctx) == [b"c"]
    assert ctx.db.expire_at(b"k") is None


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (b"RPUSH k c", {b"k"}), (b"LPUSH k c", {b"k"}), (b"LPOP k", {b"k"}), (b"RPOP k 2", {b"k"}),
        (b"LPOP k 0", set()), (b"LSET k 0 z", {b"k"}), (b"LTRIM k 0 0", {b"k"}), (b"LTRIM k 5 9", {b"k"}),
        (b"LREM k 0 a", {b"k"}), (b"LREM k 0 z", set()), (b"LINSERT k BEFORE a z", {b"k"}),
        (b"LINSERT k BEFORE z z", set()), (b"LMOVE k j LEFT LEFT", {b"k", b"j"}), (b"RPOPLPUSH k k", {b"k"}),
        (b"LMPOP 2 j k LEFT", {b"k"}), (b"LPUSHX j a", set()), (b"LRANGE k 0 -1", set()),
    ],
)  # fmt: skip
def test_who_watches_a_key_hears_of_every_change_and_of_nothing_else(line: bytes, changed: set[bytes]) -> None:
    ctx = fresh(b"a", b"b")
    heard: set[bytes] = set()
    ctx.db.watched = heard.add
    run(ctx, line)
    assert heard == changed
