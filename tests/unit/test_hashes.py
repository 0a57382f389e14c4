"""Hash commands: replies, errors that change nothing, draws, and the promise of HSCAN."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.commands.hash_scan import CALLS_MAX, SMALL_MAX, scan_page
from raftkv.commands.random_draws import REPEATS_MAX, positions
from raftkv.commands.registry import Context, lookup
from raftkv.errors import CommandError, WrongTypeError
from raftkv.protocol.replies import OK, Pairs, Reply
from raftkv.store.keyspace import Keyspace

KEYSPACE = Keyspace()
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


def fresh(fields: dict[bytes, bytes] | None = None, index: int = 1) -> Context:
    """One emptied keyspace for all tests: cheaper than a new one for each example."""
    KEYSPACE.now_ms = 0
    KEYSPACE[0].clear()
    ctx = Context(KEYSPACE, index=index)
    if fields is not None:
        ctx.db.set(b"h", fields)
    return ctx


def run(ctx: Context, *words: bytes | str) -> Reply:
    argv = [word.encode() if isinstance(word, str) else word for word in words]
    return lookup(argv).function(ctx, argv)


def filled(count: int) -> dict[bytes, bytes]:
    return {b"field:%d" % number: b"value:%d" % number for number in range(count)}


# -------------------------------------------------------------------- replies
def test_set_counts_new_fields_once() -> None:
    ctx = fresh()
    assert run(ctx, "HSET", "h", "a", "1", "b", "2", "a", "3") == 2
    assert run(ctx, "HSET", "h", "a", "4", "c", "5") == 1
    assert run(ctx, "HMSET", "h", "d", "6") is OK
    assert run(ctx, "HGETALL", "h") == {b"a": b"4", b"b": b"2", b"c": b"5", b"d": b"6"}
    assert run(ctx, "HKEYS", "h") == [b"a", b"b", b"c", b"d"]
    assert run(ctx, "HVALS", "h") == [b"4", b"2", b"5", b"6"]


def test_look_ups() -> None:
    ctx = fresh({b"a": b"xyz", b"\x00": b""})
    assert run(ctx, "HGET", "h", "a") == b"xyz"
    assert run(ctx, "HGET", "h", "none") is None
    assert run(ctx, "HMGET", "h", "none", "a", b"\x00") == [None, b"xyz", b""]
    assert run(ctx, "HSTRLEN", "h", "a") == 3
    assert [run(ctx, "HEXISTS", "h", name) for name in ("a", "none")] == [1, 0]
    assert run(ctx, "HSETNX", "h", "a", "2") == 0
    assert run(ctx, "HSETNX", "h", "b", "2") == 1
    assert run(ctx, "HLEN", "h") == 3


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("HGET no f", None),
        ("HMGET no f g", [None, None]),
        ("HGETALL no", {}),
        ("HKEYS no", []),
        ("HVALS no", []),
        ("HLEN no", 0),
        ("HEXISTS no f", 0),
        ("HSTRLEN no f", 0),
        ("HDEL no f", 0),
        ("HRANDFIELD no", None),
        ("HRANDFIELD no 3", []),
        ("HSCAN no 0 BOGUS", [b"0", []]),
    ],
)
def test_missing_key(line: str, reply: Reply) -> None:
    ctx = fresh()
    assert run(ctx, *line.split()) == reply
    assert not ctx.db.size


def test_reply_is_not_the_stored_hash() -> None:
    """In a transaction the reply is encoded after later commands changed the hash."""
    ctx = fresh({b"a": b"1"})
    replies = [run(ctx, "HGETALL", "h"), run(ctx, "HKEYS", "h"), run(ctx, "HVALS", "h")]
    run(ctx, "HSET", "h", "b", "2")
    assert replies == [{b"a": b"1"}, [b"a"], [b"1"]]


def test_last_field_takes_the_key_with_it() -> None:
    ctx = fresh({b"a": b"1", b"b": b"2"})
    assert run(ctx, "HDEL", "h", "a", "a", "none") == 1
    assert b"h" in ctx.db
    assert run(ctx, "HDEL", "h", "b") == 1
    assert b"h" not in ctx.db


def test_writing_keeps_the_expiry() -> None:
    ctx = fresh({b"a": b"1"})
    ctx.db.set_expiry(b"h", 5_000)
    for line in ("HSET h b 1", "HINCRBY h c 1", "HINCRBYFLOAT h d 1", "HSETNX h e 1", "HDEL h a"):
        run(ctx, *line.split())
    assert ctx.db.expire_at(b"h") == 5_000


def test_numbers() -> None:
    ctx = fresh()
    assert run(ctx, "HINCRBY", "h", "n", "-5") == -5
    assert run(ctx, "HINCRBY", "h", "n", "9223372036854775807") == 9223372036854775802
    assert run(ctx, "HINCRBYFLOAT", "h", "x", "0.1") == b"0.1"
    assert run(ctx, "HINCRBYFLOAT", "h", "x", "0.2") == b"0.3"
    assert run(ctx, "HINCRBYFLOAT", "h", "x", "5.0e3") == b"5000.29999999999999982"
    assert run(ctx, "HGETALL", "h") == {b"n": b"9223372036854775802", b"x": b"5000.29999999999999982"}


# -------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("HSET h a 1 b", "ERR wrong number of arguments for 'hset' command"),
        ("hmset h a 1 b", "ERR wrong number of arguments for 'hmset' command"),
        ("HSET s a 1", WRONG_TYPE),
        ("HGET s a", WRONG_TYPE),
        ("HSCAN s 0 BOGUS", WRONG_TYPE),
        ("HINCRBY s a x", "ERR value is not an integer or out of range"),
        ("HINCRBY h text 1", "ERR hash value is not an integer"),
        ("HINCRBY h max 1", "ERR increment or decrement would overflow"),
        ("HINCRBYFLOAT s a x", "ERR value is not a valid float"),
        ("HINCRBYFLOAT s a inf", "ERR value is NaN or Infinity"),
        ("HINCRBYFLOAT h text 1", "ERR hash value is not a float"),
        ("HINCRBYFLOAT h infinite 1", "ERR increment would produce NaN or Infinity"),
        ("HRANDFIELD h x", "ERR value is not an integer or out of range"),
        ("HRANDFIELD h 1 BOGUS", "ERR syntax error"),
        ("HRANDFIELD h 1 WITHVALUES more", "ERR syntax error"),
        ("HRANDFIELD h 5000000000000000000 WITHVALUES", "ERR value is out of range"),
        (
            "HRANDFIELD h -9223372036854775808",
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ),
        (f"HRANDFIELD h -{REPEATS_MAX + 1}", "ERR value is out of range"),
        ("HSCAN no x", "ERR invalid cursor"),
        ("HSCAN h 0 COUNT 0", "ERR syntax error"),
        ("HSCAN h 0 MATCH", "ERR syntax error"),
        ("HSCAN h 0 TYPE hash", "ERR syntax error"),
    ],
)
def test_error_changes_nothing(line: str, error: str) -> None:
    before = {b"text": b"abc", b"max": b"9223372036854775807", b"infinite": b"inf"}
    ctx = fresh(dict(before))
    ctx.db.set(b"s", b"string")
    changed: list[bytes] = []
    ctx.db.watched = changed.append
    try:
        with pytest.raises(CommandError) as raised:
            run(ctx, *line.split())
    finally:
        ctx.db.watched = None
    assert str(raised.value) == error
    assert changed == []
    assert ctx.db.get(b"h") == before


def test_wrong_type_of_every_command() -> None:
    ctx = fresh()
    ctx.db.set(b"s", b"string")
    for words in ("HLEN s", "HGETALL s", "HDEL s f", "HSETNX s f v", "HMGET s f", "HRANDFIELD s", "HSTRLEN s f"):
        with pytest.raises(WrongTypeError):
            run(ctx, *words.split())


# -------------------------------------------------------------------- draws
def test_draws_are_fields_and_repeat_on_every_replica() -> None:
    fields = filled(50)
    drawn = [run(fresh(dict(fields), index=7), "HRANDFIELD", "h", "20") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 20
    assert set(drawn[0]) <= set(fields)
    assert run(fresh(dict(fields), index=8), "HRANDFIELD", "h", "20") != drawn[0]


def test_draws_of_all_shapes() -> None:
    fields = filled(3)
    ctx = fresh(dict(fields))
    assert run(ctx, "HRANDFIELD", "h") in fields
    assert run(ctx, "HRANDFIELD", "h", "0", "WITHVALUES") == []
    assert run(ctx, "HRANDFIELD", "h", "100") == list(fields)
    pairs = run(ctx, "HRANDFIELD", "h", "-30", "withvalues")
    assert type(pairs) is Pairs
    assert len(pairs) == 30
    assert set(pairs) <= set(fields.items())


def test_draws_are_fair() -> None:
    """Each position equally often, within five standard deviations of a binomial."""
    rng, rounds = Random(20), 4_000
    for count in (1, 2, 5, -5):
        seen = Counter(at for _ in range(rounds) for at in positions(rng, 6, count))
        expected = rounds * abs(count) / 6
        assert all(abs(times - expected) < 5 * expected**0.5 for times in seen.values())
        assert sorted(seen) == list(range(6))


@given(size=st.integers(1, 60), count=st.integers(0, 60), seed=st.integers(0, 1000))
def test_distinct_draws_are_distinct(size: int, count: int, seed: int) -> None:
    drawn = positions(Random(seed), size, count)
    assert len(set(drawn)) == len(drawn) == min(size, count)
    assert all(0 <= at < size for at in drawn)


# -------------------------------------------------------------------- scan
def scan_all(ctx: Context, *options: str) -> tuple[list[bytes], int]:
    """Fields of a whole scan, with repetitions, and the number of calls."""
    cursor, found, calls = b"0", [], 0
    while True:
        cursor, page = run(ctx, "HSCAN", "h", cursor, *options)
        assert all(ctx.db.get(b"h")[field] == value for field, value in zip(page[::2], page[1::2], strict=True))
        found += page[::2]
        calls += 1
        if cursor == b"0":
            return found, calls


@pytest.mark.parametrize("count", [1, SMALL_MAX])
def test_small_hash_comes_at_once(count: int) -> None:
    ctx = fresh(filled(count))
    assert scan_all(ctx, "COUNT", "1") == (list(filled(count)), 1)


@pytest.mark.parametrize(("size", "count"), [(SMALL_MAX + 1, 1), (1000, 1), (1000, 10), (1000, 300), (5000, 100_000)])
def test_scan_returns_each_field_once_in_few_calls(size: int, count: int) -> None:
    found, calls = scan_all(fresh(filled(size)), "COUNT", str(count))
    assert sorted(found) == sorted(filled(size))
    assert calls <= CALLS_MAX + 1
    if count > size:
        assert calls == 1


def test_scan_returns_about_count() -> None:
    fields = filled(6_400)
    cursor, page = scan_page(fields, 0, 200)
    assert 120 < len(page) < 300
    assert 0 < cursor < 2**32


def test_scan_matches_fields_not_values() -> None:
    found, _ = scan_all(fresh(filled(500)), "MATCH", "field:4?", "COUNT", "50")
    assert sorted(found) == [b"field:%d" % number for number in range(40, 50)]


def test_cursor_beyond_the_end_ends() -> None:
    assert scan_page(filled(500), 2**64 - 1, 10) == (0, [])


CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=60)


@given(stay=st.integers(100, 200), changes=st.lists(CHANGES, max_size=80), count=st.sampled_from([1, 7, 40]))
@settings(deadline=None, max_examples=60)
def test_what_stays_is_returned_whatever_changes(stay: int, changes: list[list[tuple[bool, int]]], count: int) -> None:
    """Others come and go between the calls, so that the hash is at times small, at times large; and it moves."""
    staying = {b"stays:%d" % number for number in range(stay)}
    fields = dict.fromkeys(sorted(staying), b"")
    cursor, found, steps = 0, set(), iter(changes)
    while True:
        cursor, page = scan_page(fields, cursor, count)
        found |= set(page)
        if cursor == 0:
            break
        for is_new, number in next(steps, []):
            if is_new:
                fields[b"other:%d" % number] = b""
            else:
                fields.pop(b"other:%d" % number, None)
        fields = dict(reversed(fields.items()))
    assert staying <= found
