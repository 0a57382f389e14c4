from __future__ import annotations

from collections import deque

import pytest

from raftkv.errors import CommandError, WrongTypeError
from raftkv.store.keyspace import Database, Keyspace
from raftkv.store.slots import SLOTS, key_slot


@pytest.fixture
def keyspace() -> Keyspace:
    made = Keyspace()
    made.now_ms = 1000
    return made


@pytest.fixture
def db(keyspace: Keyspace) -> Database:
    return keyspace[0]


def watch(database: Database) -> list[bytes]:
    seen: list[bytes] = []
    database.watched = seen.append
    return seen


@pytest.mark.parametrize(
    ("key", "slot"),
    [(b"123456789", 0x31C3), (b"foo", 12182), (b"{foo}bar", 12182), (b"x{foo}{bar}", 12182), (b"", 0)],
)
def test_slots_are_those_of_redis_cluster(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot


def test_an_empty_tag_or_an_open_brace_is_no_tag() -> None:
    assert key_slot(b"{}foo") != key_slot(b"foo")
    assert key_slot(b"{foo") != key_slot(b"foo")


def test_get_and_set_agree_with_key_slot_on_tagged_keys(db: Database) -> None:
    for key in (b"{tag}1", b"{tag}2", b"plain", b"{", b"{}"):
        db.set(key, key)
        assert db.get(key) == key
        assert key in db.bucket(key_slot(key))
    assert db.size == 5


def test_typed_refuses_another_type(db: Database) -> None:
    db.set(b"list", deque([b"x"]))
    with pytest.raises(WrongTypeError):
        db.typed(b"list", bytes)
    assert db.typed(b"missing", bytes) is None


def test_an_expired_key_is_invisible_before_it_is_removed(keyspace: Keyspace, db: Database) -> None:
    db.set(b"k", b"v")
    db.set_expiry(b"k", 2000)
    assert db.expire_at(b"k") == 2000
    keyspace.now_ms = 2000
    assert db.get(b"k") is None
    assert b"k" not in db
    assert list(db.keys()) == []
    assert db.keys_in_slot(key_slot(b"k")) == []
    assert db.expire_at(b"k") is None
    assert not db.persist(b"k")
    assert db.size == 1
    assert db.expire_due(10) == 1
    assert db.size == 0


def test_set_forgets_the_expiry_and_replace_keeps_it(db: Database) -> None:
    db.set(b"k", b"1")
    db.set_expiry(b"k", 2000)
    db.replace(b"k", b"2")
    assert db.expire_at(b"k") == 2000
    db.set(b"k", b"3")
    assert db.expire_at(b"k") is None


def test_replacing_an_expired_key_does_not_bring_its_deadline_back(keyspace: Keyspace, db: Database) -> None:
    db.set(b"k", b"1")
    db.set_expiry(b"k", 2000)
    keyspace.now_ms = 3000
    db.replace(b"k", b"2")
    assert db.get(b"k") == b"2"
    assert db.expire_at(b"k") is None


def test_a_deadline_that_has_passed_deletes(db: Database) -> None:
    db.set(b"k", b"v")
    db.set_expiry(b"k", 1000)
    assert db.size == 0


def test_deleting_an_expired_key_removes_it_and_answers_false(keyspace: Keyspace, db: Database) -> None:
    db.set(b"k", b"v")
    db.set_expiry(b"k", 2000)
    keyspace.now_ms = 2001
    assert not db.delete(b"k")
    assert db.size == 0
    assert db.expires_count == 0


def test_due_keys_leave_in_order_of_time_then_key_and_within_the_limit(keyspace: Keyspace, db: Database) -> None:
    for key, at_ms in ((b"c", 1500), (b"b", 1400), (b"a", 1500), (b"d", 9000)):
        db.set(key, b"v")
        db.set_expiry(key, at_ms)
    keyspace.now_ms = 2000
    gone = watch(db)
    assert db.expire_due(2) == 2
    assert gone == [b"b", b"a"]
    assert db.expire_due(10) == 1
    assert db.next_expiry_ms == 9000


def test_a_later_deadline_wins_over_a_stale_one_in_the_heap(keyspace: Keyspace, db: Database) -> None:
    db.set(b"k", b"v")
    for at_ms in (1500, 5000):
        db.set_expiry(b"k", at_ms)
    keyspace.now_ms = 2000
    assert db.expire_due(10) == 0
    assert db.get(b"k") == b"v"


def test_the_heap_does_not_grow_with_repeated_deadlines(db: Database) -> None:
    db.set(b"k", b"v")
    for at_ms in range(2000, 12000):
        db.set_expiry(b"k", at_ms)
    assert len(db._heap) < 200


def test_dirty_slots_are_reported_once(db: Database) -> None:
    assert db.take_dirty() == []
    db.set(b"a", b"1")
    db.set(b"b", b"1")
    assert db.take_dirty() == sorted((key_slot(b"a"), key_slot(b"b")))
    assert db.take_dirty() == []
    db.set_expiry(b"a", 5000)
    assert db.take_dirty() == [key_slot(b"a")]


def test_what_changes_nothing_is_no_change(db: Database) -> None:
    db.set(b"a", b"1")
    db.take_dirty()
    seen = watch(db)
    assert not db.delete(b"missing")
    assert not db.persist(b"a")
    assert db.get(b"a") == b"1"
    assert db.take_dirty() == []
    assert seen == []


def test_every_change_reaches_a_watch(db: Database) -> None:
    seen = watch(db)
    db.set(b"a", b"1")
    db.touch(b"a")
    db.set_expiry(b"a", 5000)
    db.persist(b"a")
    db.delete(b"a")
    assert seen == [b"a"] * 5


def test_clear_reaches_the_watches_of_live_keys(db: Database) -> None:
    db.set(b"a", b"1")
    seen = watch(db)
    db.clear()
    assert seen == [b"a"]
    assert db.size == 0
    assert len(db.take_dirty()) == SLOTS
    db.set(b"b", b"2")
    assert db.get(b"b") == b"2"


def test_store_and_drop_keep_no_empty_container(db: Database) -> None:
    db.store(b"k", deque([b"x"]))
    assert b"k" in db
    db.get(b"k").clear()
    db.touch_or_drop(b"k", db.get(b"k"))
    assert b"k" not in db
    db.set(b"k", b"old")
    db.store(b"k", deque())
    assert b"k" not in db


def test_a_watch_stays_with_its_number_when_databases_are_swapped(keyspace: Keyspace) -> None:
    keyspace[0].set(b"only-in-0", b"0")
    keyspace[1].set(b"only-in-1", b"1")
    seen = watch(keyspace[0])
    keyspace.swap(0, 1)
    assert {b"only-in-0", b"only-in-1"} <= set(seen)
    assert keyspace[0].get(b"only-in-1") == b"1"
    seen.clear()
    keyspace[1].set(b"elsewhere", b"")
    assert seen == []
    keyspace[0].set(b"here", b"")
    assert seen == [b"here"]


def test_swapping_a_database_with_itself_changes_nothing(keyspace: Keyspace) -> None:
    keyspace[3].set(b"k", b"v")
    keyspace[3].take_dirty()
    keyspace.swap(3, 3)
    assert keyspace[3].take_dirty() == []


@pytest.mark.parametrize("index", [-1, 16])
def test_there_are_sixteen_databases(keyspace: Keyspace, index: int) -> None:
    with pytest.raises(CommandError, match="DB index is out of range"):
        keyspace[index]


def test_keys_come_slot_by_slot_in_order_of_insertion(db: Database) -> None:
    for key in (b"{t}3", b"{t}1", b"{t}2"):
        db.set(key, b"")
    db.set(b"{t}3", b"again")
    assert db.keys_in_slot(key_slot(b"{t}")) == [b"{t}3", b"{t}1", b"{t}2"]
