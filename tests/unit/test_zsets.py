"""Sorted set commands: replies, errors that change nothing, and the same answers as redis-server on large sets."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.commands.registry import Context, all_commands, lookup
from raftkv.errors import CommandError
from raftkv.protocol.replies import NIL_ARRAY, Pairs, Reply
from raftkv.store.keyspace import Keyspace
from raftkv.store.sets import IndexedSet
from raftkv.store.zset import ZSet
from tests.differential.harness import compare, redis_server
from tests.differential.resp import Connection, Seen

KEYSPACE = Keyspace()
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NO_LIMIT = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
ABC = {b"a": 1.0, b"b": 2.0, b"c": 3.0}


def fresh(scores: dict[bytes, float] | None = None, index: int = 1) -> Context:
    """One emptied keyspace for all tests: cheaper than a new one for each example."""
    KEYSPACE.now_ms = 0
    KEYSPACE[0].clear()
    ctx = Context(KEYSPACE, index=index)
    if scores is not None:
        ctx.db.set(b"z", ZSet(scores))
    return ctx


def run(ctx: Context, line: str) -> Reply:
    argv = line.encode().split()
    return lookup(argv).function(ctx, argv)


def contents(ctx: Context, key: bytes = b"z") -> dict[bytes, float]:
    found = ctx.db.get(key)
    return {} if found is None else dict(found.items())


# -------------------------------------------------------------------- add
@pytest.mark.parametrize(
    ("line", "reply", "after"),
    [
        ("ZADD z 5 a 6 d", 1, {b"a": 5, b"d": 6}),
        ("ZADD z CH 5 a 2 b 6 d", 2, {b"a": 5, b"d": 6}),
        ("ZADD z NX 5 a 6 d", 1, {b"d": 6}),
        ("ZADD z XX CH 5 a 6 d", 1, {b"a": 5}),
        ("ZADD z GT CH 0 a 9 b 9 d", 2, {b"b": 9, b"d": 9}),
        ("ZADD z XX LT CH 0 a 9 b 9 d", 1, {b"a": 0}),
        ("ZADD z INCR 5 a", 6.0, {b"a": 6}),
        ("ZADD z NX INCR 5 a", None, {}),
        ("ZADD z XX INCR 5 d", None, {}),
        ("ZADD z GT INCR -5 a", None, {}),
        ("ZADD z GT INCR 0 a", None, {}),
        ("ZADD z INCR 0 a", 1.0, {}),
        ("ZINCRBY z 1.5 d", 1.5, {b"d": 1.5}),
        ("ZADD z 1 d 2 d", 1, {b"d": 2}),
        ("ZADD z 0x10 d +inf e", 2, {b"d": 16, b"e": math.inf}),
    ],
)
def test_add(line: str, reply: Reply, after: dict[bytes, float]) -> None:
    ctx = fresh(ABC)
    assert run(ctx, line) == reply
    assert contents(ctx) == ABC | after


def test_xx_creates_no_key() -> None:
    ctx = fresh()
    assert run(ctx, "ZADD z XX 1 a") == 0
    assert run(ctx, "ZADD z XX INCR 1 a") is None
    assert not ctx.db.size


def test_only_changes_are_announced() -> None:
    ctx = fresh(ABC)
    changed: list[bytes] = []
    ctx.db.watched = changed.append
    try:
        for line in ("ZADD z 1 a", "ZADD z NX 9 a", "ZREM z none", "ZPOPMIN z 0", "ZREMRANGEBYSCORE z 9 10"):
            run(ctx, line)
        assert changed == []
        run(ctx, "ZADD z 9 a")
        assert changed == [b"z"]
    finally:
        ctx.db.watched = None


# -------------------------------------------------------------------- replies
@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("ZSCORE z b", 2.0),
        ("ZMSCORE z b none", [2.0, None]),
        ("ZRANK z c", 2),
        ("ZREVRANK z c", 0),
        ("ZCOUNT z (1 +inf", 2),
        ("ZRANGE z 0 -1", [b"a", b"b", b"c"]),
        ("ZRANGE z 0 0 REV", [b"c"]),
        ("ZRANGE z (3 1 BYSCORE REV LIMIT 1 1", [b"a"]),
        ("ZREVRANGE z 0 1", [b"c", b"b"]),
        ("ZRANGEBYSCORE z -inf 1e400 LIMIT 1 -1", [b"b", b"c"]),
        ("ZREVRANGEBYSCORE z +inf (1 LIMIT 0 1", [b"c"]),
        ("ZRANGE z 5 9", []),
        ("ZRANGE z -inf inf BYSCORE LIMIT -1 5", []),
        ("ZRANDMEMBER z 10", [b"a", b"b", b"c"]),
        ("ZRANDMEMBER z 0", []),
        ("ZSCAN z 0 MATCH [bc] COUNT 1", [b"0", [b"b", b"2", b"c", b"3"]]),
        ("ZDIFF 2 z none", [b"a", b"b", b"c"]),
        ("ZINTERCARD 2 z z LIMIT 2", 2),
        ("ZINTERCARD 2 z z LIMIT 0", 3),
        ("ZMPOP 2 none z MAX COUNT 2", [b"z", [[b"c", 3.0], [b"b", 2.0]]]),
        ("ZMPOP 1 none MIN", NIL_ARRAY),
        ("ZPOPMIN none", []),
        ("ZRANDMEMBER none", None),
        ("ZRANDMEMBER none 3", []),
        ("ZRANK none a", None),
        ("ZMSCORE none a b", [None, None]),
        ("ZSCAN none 0 BOGUS", [b"0", []]),
    ],
)
def test_reply(line: str, reply: Reply) -> None:
    assert run(fresh(ABC), line) == reply


@pytest.mark.parametrize(
    ("line", "kind", "reply"),
    [
        ("ZPOPMIN z", list, [b"a", 1.0]),
        ("ZPOPMAX z 1", Pairs, [(b"c", 3.0)]),
        ("ZPOPMIN z 9", Pairs, [(b"a", 1.0), (b"b", 2.0), (b"c", 3.0)]),
        ("ZRANGE z 0 1 WITHSCORES", Pairs, [(b"a", 1.0), (b"b", 2.0)]),
        ("ZRANDMEMBER z 9 WITHSCORES", Pairs, [(b"a", 1.0), (b"b", 2.0), (b"c", 3.0)]),
        ("ZUNION 1 z WITHSCORES", Pairs, [(b"a", 1.0), (b"b", 2.0), (b"c", 3.0)]),
    ],
)
def test_pairs_where_resp3_nests(line: str, kind: type, reply: Reply) -> None:
    found = run(fresh(ABC), line)
    assert type(found) is kind
    assert found == reply


@pytest.mark.parametrize(
    "line",
    ["ZREM z a b c c", "ZPOPMIN z 3", "ZMPOP 1 z MAX COUNT 9", "ZREMRANGEBYRANK z 0 -1", "ZREMRANGEBYSCORE z -inf inf",
     "ZREMRANGEBYLEX z - +", "ZDIFFSTORE z 2 z z", "ZRANGESTORE z none 0 -1"],
)  # fmt: skip
def test_empty_set_takes_the_key_with_it(line: str) -> None:
    ctx = fresh(ABC)
    ctx.db.set_expiry(b"z", 9_000)
    run(ctx, line)
    assert not ctx.db.size


# -------------------------------------------------------------------- algebra
def test_sets_count_as_scores_of_one() -> None:
    ctx = fresh(ABC)
    ctx.db.set(b"s", IndexedSet.from_members([b"c", b"d"]))
    assert run(ctx, "ZUNION 2 z s WEIGHTS 1 10 WITHSCORES") == [(b"a", 1), (b"b", 2), (b"d", 10), (b"c", 13)]
    assert run(ctx, "ZINTER 2 s z AGGREGATE MIN WITHSCORES") == [(b"c", 1)]
    assert run(ctx, "ZDIFFSTORE out 2 s z") == 1
    assert contents(ctx, b"out") == {b"d": 1}


def test_infinities_cancel_to_zero() -> None:
    ctx = fresh({b"a": math.inf})
    ctx.db.set(b"y", ZSet({b"a": -math.inf}))
    assert run(ctx, "ZUNION 2 z y WITHSCORES") == [(b"a", 0.0)]
    assert run(ctx, "ZUNION 1 z WEIGHTS 0 WITHSCORES") == [(b"a", 0.0)]


def test_destination_of_any_type_is_replaced_and_may_be_an_input() -> None:
    ctx = fresh(ABC)
    ctx.db.set(b"text", b"string")
    assert run(ctx, "ZRANGESTORE text z 1 -1") == 2
    assert run(ctx, "ZUNIONSTORE z 2 z text") == 3
    assert contents(ctx) == {b"a": 1, b"b": 4, b"c": 6}
    assert contents(ctx, b"text") == {b"b": 2, b"c": 3}


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("ZUNION 2 a b WEIGHTS 1 2", [b"a", b"b"]),
        ("ZMPOP 1 a MIN", [b"a"]),
        ("ZINTERCARD 2 a b LIMIT 3", [b"a", b"b"]),
        ("ZUNIONSTORE d 2 a b", [b"d", b"a", b"b"]),
        ("ZRANGESTORE d s 0 -1", [b"d", b"s"]),
        ("ZUNION x a", []),
    ],
)
def test_keys_of(line: str, keys: list[bytes]) -> None:
    argv = line.encode().split()
    assert lookup(argv).keys_of(argv) == keys


# -------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ZADD z NX XX 1 a", "ERR XX and NX options at the same time are not compatible"),
        ("ZADD z NX GT 1 a", "ERR GT, LT, and/or NX options at the same time are not compatible"),
        ("ZADD z GT LT 1 a", "ERR GT, LT, and/or NX options at the same time are not compatible"),
        ("ZADD z INCR 1 a 2 b", "ERR INCR option supports a single increment-element pair"),
        ("ZADD z 5 a x b", "ERR value is not a valid float"),
        ("ZADD z nan a", "ERR value is not a valid float"),
        ("ZADD z 1 a 2", "ERR syntax error"),
        ("ZINCRBY z NX a", "ERR syntax error"),
        ("ZINCRBY z -inf up", "ERR resulting score is not a number (NaN)"),
        ("ZADD s 1 a", WRONG_TYPE),
        ("ZPOPMIN z -1", "ERR value is out of range, must be positive"),
        ("ZPOPMIN s 0", WRONG_TYPE),
        ("ZPOPMAX z 1 2", "ERR syntax error"),
        ("ZMPOP 0 z MIN", "ERR numkeys should be greater than 0"),
        ("ZMPOP 1 z MIN COUNT 0", "ERR count should be greater than 0"),
        ("ZMPOP 1 z MIN COUNT 1 COUNT 1", "ERR syntax error"),
        ("ZMPOP 2 none s MIN", WRONG_TYPE),
        ("ZRANGE z a b", "ERR value is not an integer or out of range"),
        ("ZRANGE z 0 1 LIMIT 0 1", NO_LIMIT),
        ("ZRANGE z [a [b BYLEX WITHSCORES", "ERR syntax error, WITHSCORES not supported in combination with BYLEX"),
        ("ZRANGE z a [b BYLEX", "ERR min or max not valid string range item"),
        ("ZRANGE z - + BYLEX BYSCORE", "ERR syntax error"),
        ("ZRANGEBYSCORE z 0 1 REV", "ERR syntax error"),
        ("ZREVRANGEBYSCORE z 1_0 0", "ERR min or max is not a float"),
        ("ZCOUNT z 1 (nan", "ERR min or max is not a float"),
        ("ZRANGESTORE d z 0 -1 WITHSCORES", "ERR syntax error"),
        ("ZRANGESTORE d s 0 -1", WRONG_TYPE),
        ("ZREMRANGEBYRANK s x 1", "ERR value is not an integer or out of range"),
        ("ZUNION 0 z", "ERR at least 1 input key is needed for 'zunion' command"),
        ("ZDIFFSTORE d 0 z", "ERR at least 1 input key is needed for 'zdiffstore' command"),
        ("ZUNION 2 z", "ERR syntax error"),
        ("ZUNION 1 s BOGUS", WRONG_TYPE),
        ("ZUNION 1 z WEIGHTS x", "ERR weight value is not a float"),
        ("ZDIFF 1 z WEIGHTS 1", "ERR syntax error"),
        ("ZUNIONSTORE z 1 z WITHSCORES", "ERR syntax error"),
        ("ZINTERCARD 1 z LIMIT -1", "ERR LIMIT can't be negative"),
        ("ZRANDMEMBER z 1 BOGUS", "ERR syntax error"),
        ("ZSCAN z x", "ERR invalid cursor"),
    ],
)
def test_error_changes_nothing(line: str, error: str) -> None:
    before = ABC | {b"up": math.inf}
    ctx = fresh(before)
    ctx.db.set(b"s", b"string")
    changed: list[bytes] = []
    ctx.db.watched = changed.append
    try:
        with pytest.raises(CommandError) as raised:
            run(ctx, line)
    finally:
        ctx.db.watched = None
    assert str(raised.value) == error
    assert changed == []
    assert contents(ctx) == before


def test_nothing_blocks() -> None:
    """A blocking command cannot wait inside apply; it is not declared before the server can park a client."""
    names = {one.name for one in all_commands()}
    assert not names & {"BZPOPMIN", "BZPOPMAX", "BZMPOP"}


# -------------------------------------------------------------------- replicas
@given(
    scores=st.dictionaries(
        st.binary(min_size=1, max_size=3), st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=200
    )
)
@settings(deadline=None, max_examples=40)
def test_answers_do_not_depend_on_history(scores: dict[bytes, float]) -> None:
    """A replica that grew the set, served reads and one that loaded it in another order answer alike."""
    answers = []
    for order, read_first in ((list(scores), False), (sorted(scores, reverse=True), True)):
        ctx = fresh({member: scores[member] for member in order}, index=3)
        if read_first:
            run(ctx, "ZRANGE z 0 -1")
        lines = ("ZSCAN z 0 COUNT 20", "ZRANDMEMBER z 5", "ZRANDMEMBER z", "ZUNION 1 z", "ZREMRANGEBYLEX z [\x10 [\x90")
        answers.append([*(run(ctx, line) for line in lines), contents(ctx)])
    assert answers[0] == answers[1]


def test_scan_of_a_large_set_is_complete() -> None:
    scores = {b"member:%d" % number: float(number) for number in range(1_000)}
    ctx = fresh(scores)
    cursor, found = "0", {}
    while True:
        after, page = run(ctx, f"ZSCAN z {cursor} COUNT 30")
        found |= dict(zip(page[::2], map(float, page[1::2]), strict=True))
        if after == b"0":
            break
        cursor = after.decode()
    assert found == scores


# -------------------------------------------------------------------- beside redis-server
GROUPS = ("hash", "sorted-set")
LARGE = 1_500
needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        connection = Connection(port)
        yield connection
        connection.close()


def large_set_commands(rng: Random) -> list[list[bytes]]:
    """Fill ``z`` with many scores and ``l`` with one; then ask for and change ranges of every kind."""

    def score() -> str:
        return rng.choice(["", "("]) + rng.choice([str(rng.randint(-5, 305)), "-inf", "+inf", "99.5"])

    def lex() -> str:
        return rng.choice(["-", "+", *[f"{mark}m{rng.randint(0, LARGE)}" for mark in "[("] * 4])

    def rank() -> int:
        return rng.randint(-LARGE - 5, LARGE + 5)

    lines = [f"ZADD z {rng.randint(0, 300)} m{at}" for at in range(LARGE)] + [f"ZADD l 7 m{at}" for at in range(LARGE)]
    rng.shuffle(lines)
    for _ in range(400):
        limit = f"LIMIT {rng.randint(-1, 30)} {rng.randint(-1, 30)}"
        lines += rng.sample([
            f"ZRANGE z {score()} {score()} BYSCORE WITHSCORES", f"ZRANGE z {score()} {score()} BYSCORE REV {limit}",
            f"ZRANGE l {lex()} {lex()} BYLEX {limit}", f"ZRANGE l {lex()} {lex()} BYLEX REV {limit}",
            f"ZRANGE z {rank()} {rank()} WITHSCORES", f"ZREVRANGE l {rank()} {rank()}", f"ZRANK z m{rng.randint(0, LARGE)}",
            f"ZREVRANK l m{rng.randint(0, LARGE)}", f"ZCOUNT z {score()} {score()}", f"ZLEXCOUNT l {lex()} {lex()}",
            f"ZINCRBY z {rng.randint(-50, 50)} m{rng.randint(0, LARGE)}", f"ZREM l m{rng.randint(0, LARGE)}",
            f"ZADD z GT CH {rng.randint(0, 300)} m{rng.randint(0, LARGE)}", f"ZPOPMIN z {rng.randint(0, 3)}", "ZPOPMAX l",
            f"ZREMRANGEBYRANK z {(start := rng.randint(0, LARGE))} {start + 3}", f"ZREMRANGEBYLEX l [m{start} (m{start}5",
            f"ZREMRANGEBYSCORE z {start} ({start + 2}", f"ZRANGESTORE y z {score()} {score()} BYSCORE {limit}",
            "ZINTERCARD 2 z l LIMIT 700", "ZUNIONSTORE y 3 z l y WEIGHTS 0.1 0.7 0.3", "ZDIFF 2 z y",
        ], 2)  # fmt: skip
    return [line.encode().split() for line in lines]


@needs_redis
@pytest.mark.parametrize("proto", [2, 3])
def test_large_sets_answer_like_redis(redis: Connection, proto: int) -> None:
    """Beyond the sizes of its compact encoding, and of several chunks of our index."""
    compare(redis, large_set_commands(Random(proto)), proto=proto, label=f"large sorted sets, RESP{proto}")


@needs_redis
def test_declarations_are_those_of_redis(redis: Connection) -> None:
    ours = [one for one in all_commands() if one.group in GROUPS]
    theirs = redis.ask([[b"HELLO", b"2"], [b"COMMAND", b"INFO", *[one.name.encode() for one in ours]]])[1]
    for one, (_, info) in zip(ours, theirs[1], strict=True):
        arity, flags, *keys, categories = (_plain(field) for field in info[1:7])
        assert (one.name, one.arity, sorted(one.flags)) == (one.name, arity, sorted(flags))
        assert one.keys == tuple(keys), one.name
        assert one.categories() == sorted(name.removeprefix("@") for name in categories), one.name
        assert all((one.summary, one.syntax, one.since)), one.name


@needs_redis
def test_no_command_of_redis_is_missing(redis: Connection) -> None:
    names: set[str] = set()
    for category in (b"hash", b"sortedset"):
        names |= set(_plain(redis.ask([[b"COMMAND", b"LIST", b"FILTERBY", b"ACLCAT", category]])[0]))
    blocking = {"bzpopmin", "bzpopmax", "bzmpop"}
    generic = {"sort", "sort_ro"}
    assert names - blocking - generic == {one.name.lower() for one in all_commands() if one.group in GROUPS}


def _plain(seen: Seen) -> object:
    kind, content = seen
    if kind == "array":
        return [_plain(one) for one in content]
    return content.decode() if isinstance(content, bytes) else content
