"""The audit: digests of a window of slots at set entries, compared with the leader's."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from raftkv.errors import InvariantError
from raftkv.machine.audit import KEPT, WINDOW_SLOTS, Audit
from raftkv.store.digest import StateDigest
from raftkv.store.keyspace import Keyspace
from raftkv.store.slots import SLOTS, key_slot

INTERVAL = 10
STEP_SLOTS = 7
"""Digested after each entry, so that ten of them cover 64 slots."""


class Replica:
    def __init__(self, **keys):
        self.keyspace = Keyspace()
        for key, value in keys.items():
            self.keyspace[0].set(key.encode(), value)
        self.taken = []
        self.audit = Audit(StateDigest(self.keyspace), INTERVAL, lambda *one: self.taken.append(one))

    def upto(self, index, first=1):
        for one in range(first, index + 1):
            self.audit.after(one)


def test_a_digest_is_taken_at_each_interval_and_at_no_other_entry():
    replica = Replica(k=b"v")
    replica.upto(35)
    assert [index for index, _ in replica.taken] == [10, 20, 30]


def test_entries_that_are_not_ours_do_not_move_the_turn():
    replica = Replica()
    for index in (3, 9, 12, 13, 45, 46, 50):
        replica.audit.after(index)
    assert [index for index, _ in replica.taken] == [12, 45, 50]


def test_equal_states_agree_whatever_their_history():
    one, other = Replica(a=b"1", b=b"2"), Replica(b=b"x")
    other.keyspace[0].set(b"b", b"2")
    other.keyspace[0].set(b"a", b"1")
    one.upto(100)
    other.upto(100)
    assert one.taken == other.taken
    for index, digest in one.taken:
        other.audit.compare(index, digest)
    assert other.audit.compared == 10


def test_every_slot_is_covered_in_turn_so_any_difference_is_found():
    one, other = Replica(k=b"v"), Replica(k=b"w")
    entries = -(-SLOTS // STEP_SLOTS)
    for replica in (one, other):
        replica.upto(entries // INTERVAL * INTERVAL + INTERVAL)
    differing = [index for (index, ours), (_, theirs) in zip(one.taken, other.taken, strict=True) if ours != theirs]
    step = key_slot(b"k") // STEP_SLOTS
    assert differing == [-(-step // INTERVAL) * INTERVAL]


@pytest.mark.parametrize("interval", [1, 7, 64, 100, 4096, 100_000])
def test_an_interval_covers_a_window_in_the_smallest_steps_it_allows(interval):
    covered = []
    digest = SimpleNamespace(window=lambda start, count: covered.append((start, count)) or b"16 bytes of this.")
    audit = Audit(digest, interval)
    for index in range(1, interval + 1):
        audit.after(index)
    assert WINDOW_SLOTS <= sum(count for _, count in covered) <= 2 * WINDOW_SLOTS
    assert {count for _, count in covered} == {max(1, -(-WINDOW_SLOTS // interval))}
    assert all(here + count == after for (here, count), (after, _) in pairwise(covered))


def test_nodes_with_different_intervals_are_not_compared():
    one, other = Replica(), Replica()
    one.audit = Audit(StateDigest(one.keyspace), 2 * INTERVAL, lambda *taken: one.taken.append(taken))
    one.upto(100)
    other.upto(100)
    for index, digest in one.taken:
        other.audit.compare(index, digest)
    assert other.audit.compared == 0


def test_a_difference_stops_the_replica_and_says_where_and_what_to_do():
    replica = Replica()
    replica.upto(INTERVAL)
    index, digest = replica.taken[0]
    with pytest.raises(InvariantError) as caught:
        replica.audit.compare(index, digest ^ 1)
    text = str(caught.value)
    assert f"digest {digest:016x} at entry 10, the leader has {digest ^ 1:016x}" in text
    assert "Remove its data directory and let it rejoin" in text


def test_a_digest_at_an_entry_of_which_there_is_none_here_says_nothing():
    replica = Replica()
    replica.upto(25)
    replica.audit.compare(15, 0)
    replica.audit.compare(30, 0)
    assert replica.audit.compared == 0


def test_own_digests_are_kept_in_a_bounded_number():
    replica = Replica()
    for turn in range(1, KEPT + 4):
        replica.audit.after(turn * INTERVAL)
    for index, digest in replica.taken:
        replica.audit.compare(index, digest)
    assert replica.audit.compared == KEPT


def test_a_loaded_state_takes_its_first_digest_of_a_whole_round():
    replica = Replica(k=b"v")
    loaded = []
    for index in (0, 1, 25, 30, 31):
        taken = []
        audit = Audit(StateDigest(replica.keyspace), INTERVAL, lambda *one, taken=taken: taken.append(one), index)
        for one in range(index + 1, 61):
            audit.after(one)
        loaded.append(taken)
    assert [[index for index, _ in taken] for taken in loaded] == [
        [10, 20, 30, 40, 50, 60], [20, 30, 40, 50, 60], [40, 50, 60], [50, 60], [50, 60],
    ]  # fmt: skip
    assert all(taken == loaded[0][-len(taken) :] for taken in loaded)
