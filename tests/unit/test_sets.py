"""Set commands: equal to Python's sets in content, the same on every replica in order, random without bias."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.commands.random_draws import REPEATS_MAX
from raftkv.commands.registry import Context, lookup
from raftkv.errors import CommandError, WrongTypeError
from raftkv.protocol.replies import Reply, SetReply
from raftkv.store.keyspace import Keyspace
from raftkv.store.sets import IndexedSet

MEMBERS = [b"%d" % number for number in range(8)]
operands = st.lists(st.lists(st.sampled_from(MEMBERS), unique=True), min_size=1, max_size=4)


KEYSPACES = [Keyspace(), Keyspace()]
NAMES = [b"s", b"t", b"new", b"k0", b"k1", b"k2", b"k3"]
"""All keys that occur here: a thousand examples cost less in one emptied database than in new ones."""


def fresh(*members: bytes, index: int = 1, replica: int = 0) -> Context:
    made = Context(KEYSPACES[replica], index=index)
    made.keyspace.now_ms = 0
    made.db.watched = None
    for name in NAMES:
        made.db.delete(name)
    assert not made.db.size
    if members:
        made.db.set(b"s", IndexedSet.from_members(members))
    return made


def run(ctx: Context, line: bytes) -> Reply:
    argv = line.split()
    return lookup(argv).function(ctx, argv)


def content(ctx: Context, key: bytes = b"s") -> list[bytes]:
    return list(ctx.db.get(key) or [])


# -------------------------------------------------------------------- algebra
@given(operands, st.integers(0, 9))
def test_algebra_is_that_of_sets(lists: list[list[bytes]], limit: int) -> None:
    ctx = fresh()
    keys = [b"k%d" % number for number in range(len(lists))]
    for key, members in zip(keys, lists, strict=True):
        ctx.db.store(key, IndexedSet.from_members(members))
    first, *others = [set(members) for members in lists]
    expected = {
        b"INTER": first.intersection(*others), b"UNION": first.union(*others), b"DIFF": first.difference(*others),
    }  # fmt: skip
    for name, members in expected.items():
        reply = run(ctx, b"S%b %b" % (name, b" ".join(keys)))
        assert isinstance(reply, SetReply)
        assert len(reply) == len(members)
        assert set(reply) == members
        # Over one of its own operands: the destination is replaced only when all is computed.
        assert run(ctx, b"S%bSTORE t %b" % (name, b" ".join(keys))) == len(members)
        assert content(ctx, b"t") == list(reply)
        assert (b"t" in ctx.db) is bool(members)
    common = len(expected[b"INTER"])
    count = run(ctx, b"SINTERCARD %d %b LIMIT %d" % (len(keys), b" ".join(keys), limit))
    assert count == (min(common, limit) if limit else common)
    run(ctx, b"SDIFFSTORE %b %b" % (keys[0], b" ".join(keys)))
    assert set(content(ctx, keys[0])) == expected[b"DIFF"]


def test_a_stored_result_replaces_any_type_and_its_expiry() -> None:
    ctx = fresh(b"a", b"b")
    for line in (b"SUNIONSTORE t s", b"SINTERSTORE t s", b"SDIFFSTORE t s"):
        ctx.db.set(b"t", b"text")
        ctx.db.set_expiry(b"t", 1000)
        assert run(ctx, line) == 2
        assert content(ctx, b"t") == [b"a", b"b"]
        assert ctx.db.expire_at(b"t") is None
    assert run(ctx, b"SINTERSTORE t s none") == 0
    assert b"t" not in ctx.db
    run(ctx, b"SUNIONSTORE t s")
    run(ctx, b"SADD t c")
    assert content(ctx) == [b"a", b"b"]


# -------------------------------------------------------------------- members
def test_members_come_and_go() -> None:
    ctx = fresh()
    assert run(ctx, b"SADD s a b a") == 2
    assert run(ctx, b"SADD s b c") == 1
    assert run(ctx, b"SCARD s") == 3
    assert run(ctx, b"SISMEMBER s c") == 1
    assert run(ctx, b"SMISMEMBER s z a") == [0, 1]
    assert run(ctx, b"SREM s a z a") == 1
    assert run(ctx, b"SMEMBERS s") == [b"c", b"b"]
    assert run(ctx, b"SREM s b c") == 2
    assert b"s" not in ctx.db
    assert run(ctx, b"SREM s b") == run(ctx, b"SCARD s") == run(ctx, b"SISMEMBER s b") == 0
    assert run(ctx, b"SMISMEMBER s a b") == [0, 0]
    assert run(ctx, b"SMEMBERS s") == []


def test_which_container_a_reply_is() -> None:
    ctx = fresh(b"a", b"b")
    for line in (b"SMEMBERS s", b"SINTER s", b"SUNION s", b"SDIFF s", b"SPOP s 0", b"SPOP none 1", b"SMEMBERS none"):
        assert type(run(ctx, line)) is SetReply, line
    for line in (b"SRANDMEMBER s 2", b"SRANDMEMBER s -2", b"SRANDMEMBER none 1", b"SMISMEMBER s a"):
        assert type(run(ctx, line)) is list, line
    assert run(ctx, b"SPOP none") is None
    assert run(ctx, b"SRANDMEMBER none") is None
    assert type(run(ctx, b"SISMEMBER s a")) is int


def test_smove() -> None:
    ctx = fresh(b"a", b"b")
    assert run(ctx, b"SMOVE s t z") == run(ctx, b"SMOVE none t a") == 0
    assert b"t" not in ctx.db
    assert run(ctx, b"SMOVE s s a") == 1
    assert content(ctx) == [b"a", b"b"]
    assert run(ctx, b"SMOVE s t a") == 1
    run(ctx, b"SADD t b")
    assert run(ctx, b"SMOVE s t b") == 1
    assert b"s" not in ctx.db
    assert content(ctx, b"t") == [b"a", b"b"]


# -------------------------------------------------------------------- random members
@given(st.integers(0, 2**40), st.lists(st.sampled_from([b"SPOP s", b"SPOP s 3", b"SRANDMEMBER s 2", b"SADD s x"])))
def test_replicas_draw_the_same_members(index: int, lines: list[bytes]) -> None:
    one, two = fresh(*MEMBERS, index=index), fresh(*MEMBERS, index=index, replica=1)
    assert [run(one, line) for line in lines] == [run(two, line) for line in lines]
    assert content(one) == content(two)


@given(st.integers(0, 2**40), st.integers(0, 10))
def test_a_count_draws_distinct_members(index: int, count: int) -> None:
    ctx = fresh(*MEMBERS, index=index)
    drawn = run(ctx, b"SRANDMEMBER s %d" % count)
    assert len(set(drawn)) == len(drawn) == min(count, len(MEMBERS))
    assert content(ctx) == MEMBERS
    popped = run(ctx, b"SPOP s %d" % count)
    assert len(popped) == min(count, len(MEMBERS))
    assert sorted([*popped, *content(ctx)]) == MEMBERS
    assert (b"s" in ctx.db) is (count < len(MEMBERS))


@pytest.mark.parametrize(
    ("line", "each"),
    [
        (b"SPOP s", 1), (b"SPOP s 3", 3), (b"SPOP s 7", 7), (b"SRANDMEMBER s", 1), (b"SRANDMEMBER s 3", 3),
        (b"SRANDMEMBER s 7", 7), (b"SRANDMEMBER s -20", 20),
    ],
)  # fmt: skip
def test_no_member_is_favoured(line: bytes, each: int) -> None:
    """Every log index is a new seed, and always the same one: this test has one outcome for all time."""
    rounds = 2000
    seen: Counter[bytes] = Counter()
    for index in range(rounds):
        reply = run(fresh(*MEMBERS, index=index), line)
        seen.update([reply] if isinstance(reply, bytes) else reply)
    expected = rounds * each / len(MEMBERS)
    assert sum(seen.values()) == rounds * each
    assert all(abs(seen[member] - expected) < 0.15 * expected for member in MEMBERS), seen


def test_repetitions_are_limited() -> None:
    ctx = fresh(b"a")
    assert run(ctx, b"SRANDMEMBER s -3") == [b"a", b"a", b"a"]
    with pytest.raises(CommandError, match=r"^ERR value is out of range$"):
        run(ctx, b"SRANDMEMBER s %d" % -(REPEATS_MAX + 1))
    assert run(ctx, b"SRANDMEMBER none -9223372036854775807") == []


def test_srandmember_takes_nothing_after_the_count() -> None:
    for line in (b"SRANDMEMBER s 1 WITHSCORES", b"SRANDMEMBER s word word", b"SRANDMEMBER none 1 2"):
        with pytest.raises(CommandError, match=r"^ERR syntax error$"):
            run(fresh(b"a"), line)


# -------------------------------------------------------------------- scan
@given(st.integers(0, 40), st.integers(1, 15))
def test_sscan_returns_every_member_once(size: int, count: int) -> None:
    members = [b"%d" % number for number in range(size)]
    ctx = fresh(*members)
    cursor, seen = b"0", list[bytes]()
    for _ in range(size + 1):
        cursor, page = run(ctx, b"SSCAN s %b COUNT %d" % (cursor, count))
        seen += page
        if cursor == b"0":
            break
    assert cursor == b"0"
    assert sorted(seen) == sorted(members)


def test_sscan_options() -> None:
    ctx = fresh(b"a1", b"a2", b"b1")
    assert run(ctx, b"SSCAN s 0 MATCH a*") == [b"0", [b"a2", b"a1"]]
    assert run(ctx, b"SSCAN s 0 match b* count 1") == [b"2", [b"b1"]]
    assert run(ctx, b"SSCAN s 2 MATCH b* COUNT 1") == [b"1", []]
    assert run(ctx, b"SSCAN s 18446744073709551615 COUNT 9223372036854775807") == [b"0", [b"b1", b"a2", b"a1"]]
    assert run(ctx, b"SSCAN none 0 NONSENSE") == [b"0", []]


# -------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"SPOP s -1", "value is out of range, must be positive"),
        (b"SPOP s 1 2", "syntax error"),
        (b"SRANDMEMBER s x", "value is not an integer or out of range"),
        (b"SRANDMEMBER s -9223372036854775808",
         "value is out of range, value must between -9223372036854775807 and 9223372036854775807"),
        (b"SRANDMEMBER s 1 2", "syntax error"),
        (b"SINTERCARD 0 s", "numkeys should be greater than 0"),
        (b"SINTERCARD 2 s", "Number of keys can't be greater than number of args"),
        (b"SINTERCARD 1 s LIMIT -1", "LIMIT can't be negative"),
        (b"SINTERCARD 1 s LIMIT", "syntax error"),
        (b"SINTERCARD 1 s BOUND 1", "syntax error"),
        (b"SSCAN s x", "invalid cursor"),
        (b"SSCAN s 18446744073709551616", "invalid cursor"),
        (b"SSCAN s " + b"9" * 5000, "invalid cursor"),
        (b"SSCAN s 0 COUNT 0", "syntax error"),
        (b"SSCAN s 0 COUNT x", "value is not an integer or out of range"),
        (b"SSCAN s 0 MATCH", "syntax error"),
        (b"SSCAN s 0 TYPE set", "syntax error"),
    ],
)  # fmt: skip
def test_a_refused_command_says_why(line: bytes, text: str) -> None:
    ctx = fresh(b"a", b"b")
    with pytest.raises(CommandError) as caught:
        run(ctx, line)
    assert caught.value.message == text
    assert content(ctx) == [b"a", b"b"]


@pytest.mark.parametrize(
    "line",
    [
        b"SADD t a", b"SREM t a", b"SISMEMBER t a", b"SMISMEMBER t a", b"SMEMBERS t", b"SCARD t", b"SPOP t",
        b"SPOP t 1", b"SRANDMEMBER t", b"SRANDMEMBER t 1", b"SMOVE t s a", b"SMOVE s t a", b"SMOVE s t z",
        b"SINTER none t", b"SUNION s t", b"SDIFF s t", b"SINTERSTORE s none t", b"SUNIONSTORE s t",
        b"SDIFFSTORE s s t", b"SINTERCARD 2 none t", b"SSCAN t 0",
    ],
)  # fmt: skip
def test_another_type_is_refused_and_nothing_changes(line: bytes) -> None:
    ctx = fresh(b"a", b"b")
    ctx.db.set(b"t", b"text")
    with pytest.raises(WrongTypeError):
        run(ctx, line)
    assert content(ctx) == [b"a", b"b"]
    assert ctx.db.get(b"t") == b"text"


# -------------------------------------------------------------------- expiry and watches
def test_a_change_in_place_keeps_the_expiry() -> None:
    ctx = fresh(b"a", b"b", b"c")
    ctx.db.set_expiry(b"s", 1000)
    run(ctx, b"SADD s d")
    run(ctx, b"SREM s a")
    run(ctx, b"SPOP s")
    run(ctx, b"SPOP s 1")
    assert ctx.db.expire_at(b"s") == 1000
    ctx.keyspace.now_ms = 1000
    assert run(ctx, b"SADD s z") == 1
    assert content(ctx) == [b"z"]
    assert ctx.db.expire_at(b"s") is None


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (b"SADD s c", {b"s"}), (b"SADD s a", set()), (b"SADD new a", {b"new"}), (b"SREM s a", {b"s"}),
        (b"SREM s a b", {b"s"}), (b"SREM s z", set()), (b"SPOP s", {b"s"}), (b"SPOP s 9", {b"s"}),
        (b"SPOP s 1", {b"s"}), (b"SPOP s 0", set()), (b"SMOVE s t a", {b"s", b"t"}), (b"SMOVE s s a", set()),
        (b"SMOVE s t z", set()), (b"SUNIONSTORE t s", {b"t"}), (b"SINTERSTORE t s none", set()),
        (b"SINTERSTORE s s none", {b"s"}), (b"SMEMBERS s", set()), (b"SRANDMEMBER s", set()),
    ],
)  # fmt: skip
def test_who_watches_a_key_hears_of_every_change_and_of_nothing_else(line: bytes, changed: set[bytes]) -> None:
    ctx = fresh(b"a", b"b")
    heard: set[bytes] = set()
    ctx.db.watched = heard.add
    run(ctx, line)
    assert heard == changed
