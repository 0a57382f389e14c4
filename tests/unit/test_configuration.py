"""Configurations: what a change may do to majorities, what is refused, and the bytes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.consensus.configuration import (
    CONFIGURATION,
    MEMBERS_MAX,
    REMOVED_MAX,
    VOTERS_MAX,
    Change,
    Configuration,
    Member,
    Register,
    unwrap,
    wrap,
)
from raftkv.errors import InvariantError, RaftKVError
from raftkv.replicator import Add, Promote, Remove

IDS = [f"n{number}" for number in range(1, 8)]
ids = st.sampled_from(IDS)
words = st.text(max_size=6)
addresses = st.sampled_from(["", *(f"db{number}:1" for number in range(1, 5))])
changes = st.one_of(
    st.builds(Add, ids, addresses, st.booleans(), st.sampled_from(["", *IDS])),
    st.builds(Remove, ids),
    st.builds(Promote, ids),
    st.builds(Register, st.lists(st.tuples(ids, words.filter(bool), addresses), max_size=4).map(tuple)),
)
members = st.builds(
    Member, ids, address=words, disk=words, voter=st.booleans(), promote=st.booleans(), replaces=words
)  # fmt: skip
configurations = st.builds(
    Configuration,
    st.lists(members, unique_by=lambda one: one.node_id, max_size=7).map(tuple),
    st.integers(0, 2**63),
    st.lists(words, max_size=5).map(tuple),
)
"""Any that can be written down, sensible or not."""


def majorities(configuration: Configuration) -> list[set[str]]:
    """The smallest ones; every other contains one of them."""
    voters = configuration.voters
    return [set(chosen) for chosen in combinations(voters, len(voters) // 2 + 1)]


def trio() -> Configuration:
    return Configuration.of(Member(f"n{number}", f"db{number}:1", f"disk-{number}") for number in (1, 2, 3))


def refusal(configuration: Configuration, change: Change) -> str:
    with pytest.raises(RaftKVError) as caught:
        configuration.changed(change)
    assert caught.value.definite
    return caught.value.message


# ------------------------------------------------------------------ what holds after any changes
@given(st.sets(ids, min_size=1, max_size=5), st.lists(changes, max_size=25))
def test_majorities_of_successive_configurations_share_a_voter(first, asked):
    before = Configuration.of(first)
    for change in asked:
        try:
            after = before.changed(change)
        except RaftKVError:
            continue
        assert len(set(before.voters) ^ set(after.voters)) <= 1
        assert all(one & other for one in majorities(before) for other in majorities(after))
        check(before, after)
        before = after


def check(before: Configuration, after: Configuration) -> None:
    """A configuration that a change made: somebody votes, each id and address is there once, disks are forgotten never."""
    assert after.voters
    assert list(after.ids) == sorted(set(after.ids))
    assert not any(one.voter and (one.promote or one.replaces) for one in after.members)
    assert {one.replaces for one in after.members} <= {"", *after.ids}
    assert after.removed[: len(before.removed)] == before.removed
    gone = {one.disk for one in before.members} - {one.disk for one in after.members} - {""}
    assert gone <= set(after.removed)
    for old in before.members:
        new = after.get(old.node_id)
        assert new is None or not old.disk or new.disk == old.disk, "a disk once written down stays"


@given(configurations, changes)
def test_a_change_leaves_the_configuration_it_began_with_as_it_was(configuration, change):
    before = replace(configuration)
    try:
        changed = configuration.changed(change)
    except RaftKVError:
        assert configuration == before
        return
    assert configuration == before
    assert changed.index == before.index, "the entry's own, which nobody knows yet"


# ------------------------------------------------------------------ one change after the other
def test_a_new_member_is_a_learner_that_is_to_vote_in_the_place_of_another_one():
    added = trio().changed(Add("n4", "db4:1", replaces="n3"))
    assert added.voters == ("n1", "n2", "n3")
    assert added.get("n4") == Member("n4", "db4:1", voter=False, promote=True, replaces="n3")
    left = added.changed(Remove("n3"))
    assert left.voters == ("n1", "n2")
    assert left.removed == ("disk-3",)
    assert left.get("n4") == Member("n4", "db4:1", voter=False, promote=True)
    assert left.changed(Promote("n4")).get("n4") == Member("n4", "db4:1")


def test_a_member_without_a_known_disk_leaves_none_behind():
    assert Configuration.of(["n1", "n2"]).changed(Remove("n2")).removed == ()


def test_so_many_disks_are_remembered_and_the_oldest_are_forgotten_first():
    full = replace(trio(), removed=tuple(f"old-{number}" for number in range(REMOVED_MAX)))
    removed = full.changed(Remove("n3")).removed
    assert len(removed) == REMOVED_MAX
    assert (removed[0], removed[-1]) == ("old-1", "disk-3")


def test_a_disk_is_written_down_once_and_an_address_whenever_it_is_another():
    met = (("n1", "disk-other", "db9:1"), ("n9", "disk-9", "db9:9"))
    registered = trio().changed(Register(met))
    assert registered.get("n1") == Member("n1", "db9:1", "disk-1")
    assert registered.ids == ("n1", "n2", "n3")
    assert Configuration.of(["n1"]).changed(Register((("n1", "d", ""),))).get("n1") == Member("n1", "", "d")


# ------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Add("", "db4:1"), "a node needs an id"),
        (Add("n3", "db4:1"), "n3 is a member already (a voter); remove it first, or add another id"),
        (Add("n4", "db3:1"), "db3:1 is the address of n3; each member needs its own"),
        (Add("n4", "db4:1", replaces="n9"), "n9, which is to be replaced, is no member: n1, n2, n3"),
        (Add("n4", "db4:1", promote=False, replaces="n3"), "a member that replaces another one has to become a voter"),
        (Remove("n9"), "n9 is no member; the members are: n1, n2, n3"),
        (Promote("n9"), "n9 is no member; the members are: n1, n2, n3"),
        (Promote("n3"), "n3 is a voter already"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    assert refusal(trio(), change) == message


def test_the_last_voter_stays_and_learners_do_not_count():
    one = Configuration.of(["n1", Member("n2", voter=False)])
    assert refusal(one, Remove("n1")) == "n1 is the last voter; without it there is no cluster"
    assert one.changed(Remove("n2")).ids == ("n1",)


def test_a_learner_is_not_added_twice():
    added = trio().changed(Add("n4", "db4:1"))
    assert "n4 is a member already (a learner)" in refusal(added, Add("n4", "db5:1"))


def test_there_are_most_members_and_most_voters():
    crowd = Configuration.of(Member(f"m{number:02}", voter=number < VOTERS_MAX) for number in range(MEMBERS_MAX))
    assert refusal(crowd, Add("n1", "")) == f"{MEMBERS_MAX} members are the most; remove one first"
    learner = f"m{VOTERS_MAX}"
    assert refusal(crowd, Promote(learner)) == f"{VOTERS_MAX} voters are the most; remove one first"
    assert learner in crowd.changed(Remove("m00")).changed(Promote(learner)).voters


def test_two_members_of_unknown_address_are_no_contradiction():
    assert Configuration.of(["n1"]).changed(Add("n2", "")).ids == ("n1", "n2")


# ------------------------------------------------------------------ bytes
@given(configurations)
def test_what_is_encoded_is_decoded_with_the_index_of_its_entry(configuration):
    payload = configuration.encode()
    assert payload[0] == CONFIGURATION
    assert Configuration.decode(payload, configuration.index) == configuration


def test_equal_configurations_have_equal_bytes_on_every_node():
    one = Configuration.of(["n1", "n2"]).changed(Add("n3", "db3:1"))
    other = Configuration.of(["n2", "n1"]).changed(Add("n3", "db3:1"))
    assert one.encode() == other.encode()


@given(configurations, st.binary(max_size=20))
def test_what_a_snapshot_carries_beside_the_state_is_taken_apart_again(configuration, payload):
    assert unwrap(wrap(configuration, payload)) == (configuration, payload)


@given(st.binary(max_size=20).filter(lambda payload: payload[:1] != b"\xc5"))
def test_an_older_snapshot_holds_the_payload_alone(payload):
    assert unwrap(payload) == (None, payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00{}",
        bytes([CONFIGURATION]),
        bytes([CONFIGURATION]) + b"[]",
        bytes([CONFIGURATION]) + b"{}",
        bytes([CONFIGURATION]) + b"\xff",
        bytes([CONFIGURATION]) + json.dumps({"members": [{"id": "n1"}], "removed": []}).encode(),
        bytes([CONFIGURATION]) + json.dumps({"members": [7], "removed": []}).encode(),
        bytes([CONFIGURATION]) + b"[" * 100_000,
    ],
)
def test_other_bytes_are_no_configuration(payload):
    with pytest.raises(InvariantError, match="entry 7 is no configuration"):
        Configuration.decode(payload, 7)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(garbage):
    for payload in (garbage, bytes([CONFIGURATION]) + garbage):
        try:
            Configuration.decode(payload, 1)
        except InvariantError:
            continue


@given(
    st.lists(st.sampled_from(["n1", "n2", "n3", "n4"]), unique=True), st.lists(st.text("ab", min_size=1, max_size=9))
)
def test_alone_keeps_one_voter_and_remembers_every_other_disk(ids, removed):
    group = Configuration(tuple(Member(one, one + ":1", "disk-" + one) for one in sorted(ids)), 7, tuple(removed))
    left = group.alone("n1", "disk-n1")
    assert left.members == (Member("n1", "n1:1" if "n1" in ids else "", "disk-n1"),)
    assert set(left.removed) == {*removed, *("disk-" + one for one in ids if one != "n1")}
    assert Configuration.decode(left.encode(), 9).members == left.members


def test_alone_forgets_the_oldest_removed_disks_first():
    group = Configuration((Member("n1", "", "d1"), Member("n2", "", "d2")), 7, tuple(map(str, range(REMOVED_MAX))))
    left = group.alone("n1", "d1")
    assert len(left.removed) == REMOVED_MAX
    assert left.removed[0] == "1"
    assert left.removed[-1] == "d2"
