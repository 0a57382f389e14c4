"""WATCH as replicated state: what breaks a watch, what does not, and what bounds them."""

from __future__ import annotations

import pytest

from raftkv.commands.registry import Context, lookup
from raftkv.machine import watches as watches_module
from raftkv.machine.batch import Watched
from raftkv.machine.watches import TTL_MS, WATCHES_MAX, Watches
from raftkv.store.keyspace import Keyspace

START_MS = 1_000_000


class State:
    """A keyspace with watches, changed by commands at an index of the test's choice."""

    def __init__(self):
        self.keyspace = Keyspace()
        self.keyspace.now_ms = START_MS
        self.watches = Watches(self.keyspace)

    def watch(self, index, *keys, database=0):
        self.watches.index = index
        for key in keys:
            self.watches.register(database, key, index, self.keyspace.now_ms)

    def run(self, index, *words, database=0):
        self.watches.index = index
        argv = list(words)
        return lookup(argv).function(Context(self.keyspace, database, index), argv)

    def unchanged(self, index, key=b"k", database=0):
        return self.watches.unchanged(Watched(database, key, index))


@pytest.fixture
def state():
    return State()


def test_nothing_is_reported_while_nothing_is_watched(state):
    assert [one.watched for one in state.keyspace.databases] == [None] * 16
    state.watch(1, b"k")
    assert all(one.watched is not None for one in state.keyspace.databases)
    state.watches.collect(START_MS + TTL_MS)
    assert [one.watched for one in state.keyspace.databases] == [None] * 16


def test_a_change_breaks_earlier_watches_of_the_key_and_later_ones_not(state):
    state.watch(1, b"k")
    state.run(2, b"SET", b"k", b"v")
    state.watch(3, b"k")
    assert not state.unchanged(1)
    assert state.unchanged(3)
    state.run(4, b"APPEND", b"k", b"w")
    assert not state.unchanged(3)


def test_a_change_in_the_entry_of_the_watch_is_not_later(state):
    state.watch(1, b"k")
    state.run(1, b"SET", b"k", b"v")
    assert state.unchanged(1)


@pytest.mark.parametrize(
    "words",
    [
        [b"GET", b"k"], [b"SETNX", b"k", b"w"], [b"SET", b"k", b"w", b"NX", b"GET"], [b"PERSIST", b"k"], [b"DEL", b"missing"],
        [b"SET", b"other", b"v"],
    ],
    ids=lambda words: b" ".join(words).decode(),
)  # fmt: skip
def test_what_leaves_the_key_as_it_is_leaves_its_watch(state, words):
    state.run(1, b"SET", b"k", b"v")
    state.watch(2, b"k")
    state.run(3, *words)
    assert state.unchanged(2)


def test_databases_are_watched_by_number_also_when_they_change_places(state):
    state.watch(1, b"k")
    state.watch(1, b"k", database=1)
    state.run(2, b"SET", b"k", b"v", database=2)
    assert state.unchanged(1)
    state.run(3, b"SWAPDB", b"0", b"2")
    assert not state.unchanged(1)
    assert state.unchanged(1, database=1)
    state.watch(4, b"k")
    state.run(5, b"SET", b"k", b"v", database=2)  # the database that was number 0
    assert state.unchanged(4)
    state.run(6, b"SET", b"k", b"v", database=0)
    assert not state.unchanged(4)


def test_a_watch_that_nobody_registered_is_broken(state):
    assert not state.unchanged(1)
    state.watch(1, b"k")
    assert not state.unchanged(1, key=b"other")
    assert not state.unchanged(1, database=1)
    assert state.unchanged(1)


def test_a_key_that_expires_breaks_watches_registered_before_that(state):
    state.run(1, b"SET", b"k", b"v", b"PX", b"100")
    state.watch(2, b"k")
    state.keyspace.now_ms += 99
    assert state.unchanged(2)
    state.keyspace.now_ms += 1
    assert not state.unchanged(2)


def test_a_key_that_had_expired_already_is_watched_as_missing(state):
    state.run(1, b"SET", b"k", b"v", b"PX", b"100")
    state.keyspace.now_ms += 100
    state.watch(2, b"k")
    assert state.unchanged(2)
    state.run(3, b"SET", b"k", b"w")
    assert not state.unchanged(2)


def test_a_watch_of_an_expired_key_does_not_mend_one_from_when_it_lived(state):
    state.run(1, b"SET", b"k", b"v", b"PX", b"100")
    state.watch(2, b"k")
    state.keyspace.now_ms += 100
    state.watch(3, b"k")
    assert not state.unchanged(2)
    assert state.unchanged(3)


def test_a_watch_lasts_its_time_and_a_new_one_renews_it(state):
    state.watch(1, b"old", b"k")
    state.keyspace.now_ms += TTL_MS - 1
    state.watch(2, b"k")
    state.watches.collect(START_MS + TTL_MS - 1)
    assert state.unchanged(1, b"old")
    state.watches.collect(START_MS + TTL_MS)
    assert not state.unchanged(1, b"old")
    assert state.unchanged(1)
    assert state.unchanged(2)


def test_one_watch_too_many_pushes_out_the_one_registered_first(state, monkeypatch):
    assert WATCHES_MAX >= 1 << 16
    monkeypatch.setattr(watches_module, "WATCHES_MAX", 2)
    state.watch(1, b"a", b"b")
    state.watch(2, b"a")
    state.watch(3, b"c")
    assert [state.unchanged(1, key) for key in (b"a", b"b")] == [True, False]
    assert state.unchanged(3, b"c")
