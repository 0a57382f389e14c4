from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import pytest

from raftkv.store.digest import StateDigest, digest_of
from raftkv.store.keyspace import Keyspace
from raftkv.store.sets import IndexedSet
from raftkv.store.slots import SLOTS, key_slot
from raftkv.store.zset import ZSet


def one(value: Any, key: bytes = b"k", *, db: int = 0, at_ms: int | None = None) -> str:
    keyspace = Keyspace()
    keyspace[db].set(key, value)
    if at_ms is not None:
        keyspace[db].set_expiry(key, at_ms)
    return digest_of(keyspace)


def test_an_empty_state_has_one_digest() -> None:
    keyspace = Keyspace()
    empty = digest_of(keyspace)
    keyspace[0].set(b"k", b"v")
    keyspace[0].delete(b"k")
    assert digest_of(keyspace) == empty
    assert StateDigest(Keyspace()).full() == empty
    assert len(empty) == 32


def test_all_these_states_differ() -> None:
    long = b"x" * 70_000
    states = [
        one(b""), one(b"v"), one(b"v", b"k2"), one(b"v", db=1), one(b"v", at_ms=5), one(b"v", at_ms=6), one(b"", b"kv"),
        one(deque([b"v"])), one({b"v": b""}), one({b"": b"v"}), one(IndexedSet.from_members([b"v"])), one(ZSet([(b"v", 0.0)])),
        one(ZSet([(b"v", 1.0)])), one(deque([b"a", b"b"])), one(deque([b"b", b"a"])), one(deque([b"ab"])), one(deque([b"ab", b""])),
        one({b"a": b"b", b"c": b"d"}), one({b"a": b"d", b"c": b"b"}), one(long), one(long + b"x"), one(deque([long])),
    ]  # fmt: skip
    assert len(set(states)) == len(states)


def test_neither_does_a_value_look_like_the_next_key() -> None:
    first, second = Keyspace(), Keyspace()
    for keyspace, pairs in (
        (first, [(b"{t}a", b"b{t}"), (b"{t}c", b"")]),
        (second, [(b"{t}a", b""), (b"{t}c", b"b{t}")]),
    ):
        for key, value in pairs:
            keyspace[0].set(key, value)
    assert digest_of(first) != digest_of(second)


def test_the_order_in_which_a_state_came_to_be_does_not_count() -> None:
    fields = [(b"f%d" % number, b"v%d" % number) for number in range(50)]
    names = [field for field, _ in fields]
    scores = [(name, 1.5 * number) for number, name in enumerate(names)]

    def build(seed: int) -> Keyspace:
        rng = Random(seed)
        keyspace = Keyspace()
        for group in (fields, names, scores):
            rng.shuffle(group)
        values = [(b"h", dict(fields)), (b"s", IndexedSet.from_members(names)), (b"z", ZSet(scores)), (b"{h}2", b"x")]
        rng.shuffle(values)
        for key, value in values:
            keyspace[0].set(key, value)
        return keyspace

    assert len({digest_of(build(seed)) for seed in range(5)}) == 1


def test_expired_keys_count_until_they_are_removed() -> None:
    keyspace = Keyspace()
    empty = digest_of(keyspace)
    keyspace[0].set(b"k", b"v")
    keyspace[0].set_expiry(b"k", 10)
    before = digest_of(keyspace)
    keyspace.now_ms = 20
    assert digest_of(keyspace) == before
    keyspace[0].expire_due(1)
    assert digest_of(keyspace) == empty


def test_the_cache_follows_every_kind_of_change() -> None:
    rng = Random(7)
    keyspace = Keyspace()
    state = StateDigest(keyspace)
    for step in range(400):
        database = keyspace[rng.randrange(3)]
        key = b"k%d" % rng.randrange(40)
        match rng.randrange(9):
            case 0 | 1 | 2:
                database.set(key, b"v%d" % step)
            case 3:
                database.set(key, {b"f": b"%d" % step})
            case 4:
                database.delete(key)
            case 5 if key in database:
                database.set_expiry(key, rng.choice((5_000 + step, -1)))
            case 6 if isinstance(database.get(key), dict):
                database.get(key)[b"g"] = b"%d" % step
                database.touch(key)
            case 7 if step % 20 == 0:
                keyspace.swap(rng.randrange(3), rng.randrange(3))
            case 8 if step % 20 == 0:
                database.clear()
        if step % 3 == 0:
            assert state.full() == digest_of(keyspace)


def test_a_digest_made_late_knows_what_was_there() -> None:
    keyspace = Keyspace()
    keyspace[0].set(b"a", b"1")
    keyspace[0].take_dirty()
    keyspace[5].set(b"b", b"1")
    assert StateDigest(keyspace).full() == digest_of(keyspace)


def test_windows_find_a_change_that_was_not_announced() -> None:
    keyspace = Keyspace()
    keyspace[0].set(b"h", {b"f": b"1"})
    state = StateDigest(keyspace)
    slot = key_slot(b"h")
    before, whole = state.window(slot, 1), state.full()
    keyspace[0].get(b"h")[b"f"] = b"2"
    assert state.full() == whole
    assert state.window(slot, 1) != before
    assert state.window(slot - 3, 8) != state.window(slot + 1, 8)


def test_windows_wrap_around_and_are_the_same_on_every_replica() -> None:
    keyspaces = [Keyspace(), Keyspace()]
    for number in range(300):
        for keyspace in keyspaces:
            keyspace[number % 2].set(b"%d" % number, b"v")
    first, second = map(StateDigest, keyspaces)
    for start in (0, SLOTS - 10, SLOTS + 5):
        assert first.window(start, 20) == second.window(start, 20)
    assert first.window(SLOTS + 5, 20) == first.window(5, 20)


@pytest.mark.parametrize("db", [0, 15])
def test_a_database_that_became_empty_counts_as_one_that_always_was(db: int) -> None:
    keyspace = Keyspace()
    state = StateDigest(keyspace)
    empty = state.full()
    keyspace[db].set(b"k", b"v")
    assert state.full() != empty
    keyspace[db].clear()
    assert state.full() == empty
    keyspace[db].set(b"k", b"v")
    assert state.full() == digest_of(keyspace)
