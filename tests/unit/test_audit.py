"""The audit: digests of a window of slots at set entries, compared with the leader's."""

from __future__ import annotations

import pytest

from raftkv.errors import InvariantError
from raftkv.machine.audit import KEPT, WINDOW_SLOTS, Audit
from raftkv.store.digest import StateDigest
from raftkv.store.keyspace import Keyspace
from raftkv.store.slots import SLOTS, key_slot

INTERVAL = 10


class Replica:
    def __init__(self, **keys):
        self.keyspace = Keyspace()
        for key, value in keys.items():
            self.keyspace[0].set(key.encode(), value)
        self.taken = []
        self.audit = Audit(StateDigest(self.keyspace), INTERVAL, on_digest=lambda *one: self.taken.append(one))

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
    rounds = SLOTS // WINDOW_SLOTS
    differing = []
    for turn in range(1, rounds + 1):
        one.audit.after(turn * INTERVAL)
        other.audit.after(turn * INTERVAL)
        if one.taken[-1] != other.taken[-1]:
            differing.append(turn)
    slot = key_slot(b"k")
    assert differing == [slot // WINDOW_SLOTS or rounds]


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


def test_a_loaded_state_goes_on_with_the_round_it_is_in():
    replica = Replica()
    replica.upto(25)
    loaded = Audit(StateDigest(replica.keyspace), INTERVAL, replica.audit.round, lambda *one: replica.taken.append(one))
    for index in range(26, 31):
        loaded.after(index)
    assert [index for index, _ in replica.taken] == [10, 20, 30]
