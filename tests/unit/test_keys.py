"""What a comparison with redis-server cannot show: cursors of our own, seeded draws, deadlines, our own commands."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands.registry import TABLE, Context, lookup
from raftkv.errors import CommandError
from raftkv.store.dump import dump, load
from raftkv.store.keyspace import Keyspace
from raftkv.store.slots import SLOTS, key_slot

NOW_MS = 1_700_000_000_000


@pytest.fixture
def ctx() -> Context:
    keyspace = Keyspace()
    keyspace.now_ms = NOW_MS
    return Context(keyspace)


def run(ctx: Context, *words: bytes | str | int) -> Any:
    argv = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return lookup(argv).function(ctx, argv)


def fill(ctx: Context, count: int) -> list[bytes]:
    names = [b"key:%d" % number for number in range(count)]
    for name in names:
        run(ctx, "SET", name, name)
    return names


def scan_all(ctx: Context, *options: str | int) -> list[bytes]:
    cursor, found = b"0", []
    while True:
        cursor, names = run(ctx, "SCAN", cursor, *options)
        found += names
        if cursor == b"0":
            return found


@pytest.mark.parametrize("count", [1, 7, 100, 10_000])
def test_a_scan_returns_every_key_once(ctx: Context, count: int) -> None:
    names = fill(ctx, 500)
    assert sorted(scan_all(ctx, "COUNT", count)) == sorted(names)


def test_a_scan_stops_near_count_and_goes_on_at_a_slot(ctx: Context) -> None:
    fill(ctx, 500)
    cursor, names = run(ctx, "SCAN", 0, "COUNT", 50)
    assert 50 <= len(names) < 60
    assert all(key_slot(name) < int(cursor) for name in names)


def test_keys_that_stay_are_scanned_whatever_else_changes(ctx: Context) -> None:
    names = fill(ctx, 300)
    rng = Random(5)
    cursor, found = b"0", []
    while True:
        cursor, page = run(ctx, "SCAN", cursor, "COUNT", 5)
        found += page
        run(ctx, "SET", b"new:%d" % rng.randrange(10**9), "")
        run(ctx, "DEL", b"new:%d" % rng.randrange(10**9))
        if cursor == b"0":
            break
    assert set(names) <= set(found)
    assert len(found) == len(set(found))


def test_a_scan_filters_by_pattern_and_type(ctx: Context) -> None:
    fill(ctx, 30)
    run(ctx, "RPUSH", "key:list", "x")
    assert sorted(scan_all(ctx, "MATCH", "key:1?")) == [b"key:%d" % number for number in range(10, 20)]
    assert scan_all(ctx, "TYPE", "LIST") == [b"key:list"]
    assert scan_all(ctx, "MATCH", "nothing*") == []


def test_a_cursor_past_the_last_slot_ends_the_scan(ctx: Context) -> None:
    fill(ctx, 3)
    assert run(ctx, "SCAN", SLOTS) == [b"0", []]
    assert run(ctx, "SCAN", 2**64 - 1) == [b"0", []]


def test_expired_keys_are_nowhere(ctx: Context) -> None:
    run(ctx, "SET", "gone", "v", "PX", 5)
    run(ctx, "SET", "here", "v")
    ctx.keyspace.now_ms += 5
    assert run(ctx, "KEYS", "*") == run(ctx, "KEYS", "*e*") == scan_all(ctx) == [b"here"]
    assert run(ctx, "KEYS", "gone") == []
    assert run(ctx, "EXISTS", "gone", "here", "here") == 2
    assert run(ctx, "RANDOMKEY") == b"here"
    assert run(ctx, "TTL", "gone") == -2
    assert run(ctx, "DEL", "gone") == 0
    with pytest.raises(CommandError, match="no such key"):
        run(ctx, "RENAME", "gone", "x")


def test_random_keys_depend_on_the_log_index_alone_and_reach_all_keys(ctx: Context) -> None:
    names = fill(ctx, 20)
    draws = [run(Context(ctx.keyspace, 0, index), "RANDOMKEY") for index in range(400)]
    assert draws == [run(Context(ctx.keyspace, 0, index), "RANDOMKEY") for index in range(400)]
    assert set(draws) == set(names)


def test_random_key_of_nothing_is_nil(ctx: Context) -> None:
    assert run(ctx, "RANDOMKEY") is None
    run(ctx, "SET", "gone", "v", "PX", 5)
    ctx.keyspace.now_ms += 5
    assert run(ctx, "RANDOMKEY") is None


@pytest.mark.parametrize("name", ["DEL", "UNLINK", "MDEL"])
def test_deleting_counts_what_was_there(ctx: Context, name: str) -> None:
    fill(ctx, 3)
    assert run(ctx, name, "key:0", "key:0", "missing", "key:2") == 2
    assert run(ctx, "DBSIZE") == 1


def test_rename_and_move_take_the_deadline_along(ctx: Context) -> None:
    run(ctx, "SET", "a", "v", "EX", 100)
    run(ctx, "SET", "b", "other", "EX", 7)
    run(ctx, "RENAME", "a", "b")
    assert run(ctx, "TTL", "b") == 100
    run(ctx, "MOVE", "b", 3)
    assert run(ctx, "EXISTS", "b") == 0
    assert run(Context(ctx.keyspace, 3), "TTL", "b") == 100
    run(Context(ctx.keyspace, 3), "SET", "c", "v")
    run(Context(ctx.keyspace, 3), "RENAME", "c", "b")
    assert run(Context(ctx.keyspace, 3), "TTL", "b") == -1


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (("RPUSH", "a", "1"), ("RPUSH", "a", "2")),
        (("SADD", "a", "1"), ("SADD", "a", "2")),
        (("HSET", "a", "1", "1"), ("HSET", "a", "2", "2")),
        (("ZADD", "a", "1", "1"), ("ZADD", "a", "2", "2")),
    ],
)
def test_a_copy_shares_nothing(ctx: Context, make: tuple[str, ...], change: tuple[str, ...]) -> None:
    run(ctx, *make)
    run(ctx, "COPY", "a", "b")
    run(ctx, *change)
    assert len(ctx.db.get(b"a")) == 2
    assert len(ctx.db.get(b"b")) == 1


def test_ttl_rounds_to_the_nearest_second(ctx: Context) -> None:
    for px, seconds in ((1499, 1), (1500, 2), (400, 0)):
        run(ctx, "SET", "k", "v", "PX", px)
        assert run(ctx, "TTL", "k") == seconds
        assert run(ctx, "PTTL", "k") == px


def test_flushall_empties_every_database_and_flushdb_one(ctx: Context) -> None:
    for db in (0, 1, 15):
        run(Context(ctx.keyspace, db), "SET", "k", "v")
    run(ctx, "FLUSHDB")
    assert [database.size for database in ctx.keyspace.databases][:2] == [0, 1]
    run(ctx, "FLUSHALL", "ASYNC")
    assert sum(database.size for database in ctx.keyspace.databases) == 0


def test_memory_usage_grows_with_the_value_and_samples_estimate_it(ctx: Context) -> None:
    run(ctx, "SET", "s", b"x" * 10_000)
    assert 10_000 < run(ctx, "MEMORY", "USAGE", "s") < 11_000
    run(ctx, "RPUSH", "l", *[b"%0100d" % number for number in range(1000)])
    exact = run(ctx, "MEMORY", "USAGE", "l", "SAMPLES", 0)
    assert exact > 100_000
    assert abs(run(ctx, "MEMORY", "USAGE", "l") - exact) < exact / 100
    run(ctx, "SADD", "set", *range(100))
    run(ctx, "HSET", "h", *range(100))
    run(ctx, "ZADD", "z", *range(100))
    assert all(run(ctx, "MEMORY", "USAGE", key) > 3000 for key in ("set", "h", "z"))


def test_memory_usage_forgets_how_the_value_came_to_be(ctx: Context) -> None:
    """Another replica may have the value from a snapshot, where a dict or deque is only as big as it must be."""
    names = [b"%d" % number for number in range(2000)]
    run(ctx, "HSET", "h", *(word for name in names for word in (name, name)))
    run(ctx, "HDEL", "h", *names[10:])
    run(ctx, "RPUSH", "l", *names)
    run(ctx, "LTRIM", "l", 0, 9)
    loaded = Context(load([b"".join(dump(ctx.keyspace))]))
    for key in ("h", "l"):
        assert run(loaded, "MEMORY", "USAGE", key) == run(ctx, "MEMORY", "USAGE", key)


def test_object_answers_what_is_known(ctx: Context) -> None:
    run(ctx, "SET", "k", "v")
    assert run(ctx, "OBJECT", "REFCOUNT", "k") == 1
    assert run(ctx, "OBJECT", "IDLETIME", "k") == 0
    subcommands = [line.split()[0] for line in run(ctx, "OBJECT", "HELP")[1:] if not line.startswith(" ")]
    assert subcommands == sorted(subcommands, key=lambda word: (word == "HELP", word))
    assert {word.encode() for word in subcommands} <= TABLE[b"OBJECT"].subcommands.keys()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("GET", False),
        ("SET", True),
        ("GETEX", True),
        ("TOUCH", False),
        ("EVALSHA", True),
        ("SWAPDB", True),
        ("MDEL", True),
        ("DBSIZE", False),
    ],
)
def test_only_what_changes_the_state_is_declared_a_write(name: str, write: bool) -> None:
    command = TABLE[name.encode()]
    assert command.write is write
    assert ("readonly" in command.flags) is not write
