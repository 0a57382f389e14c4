"""A damaged member comes back as another one under its id: what is proposed, refused, and who is heard meanwhile."""

from __future__ import annotations

import pytest

from raftkv.consensus.configuration import REMOVED_MAX, Configuration, Member, Readmit
from raftkv.consensus.membership import Membership
from raftkv.consensus.readmission import FRESH_S, is_former
from raftkv.consensus.replication import Replication
from raftkv.errors import RaftKVError
from tests.unit.fake_core import FakeCore
from tests.unit.test_membership import Leader

THREE = Configuration(
    (Member("n1", "db1:1", "disk-1"), Member("n2", "db2:1", "disk-2"), Member("n3", "db3:1", "disk-3"))
)


def asks(leader: Leader, disk: str = "disk-3b", *former: str) -> str:
    return leader.membership.greet("n3", disk, "db3:2", 0, former or ("disk-3",))


def settle(leader: Leader) -> Configuration:
    """Time passes, n2 is there, and what the leader does by itself is committed."""
    leader.fake.now += 1.0
    leader.hear("n2")
    leader.membership.tick()
    return leader.commit()


# ---------------------------------------------------------------- the configuration
def test_a_voter_becomes_a_learner_with_another_disk():
    changed = THREE.changed(Readmit("n3", "disk-3b", ("disk-0", "disk-3"), "db3:2"))
    assert changed.get("n3") == Member("n3", "db3:2", "disk-3b", voter=False, promote=True)
    assert changed.voters == ("n1", "n2")
    assert changed.removed == ("disk-0", "disk-3")
    again = changed.changed(Readmit("n3", "disk-3c", ("disk-0", "disk-3", "disk-3b")))
    assert again.get("n3") == Member("n3", "db3:2", "disk-3c", voter=False, promote=True)
    assert again.removed == ("disk-0", "disk-3", "disk-3b")


def test_a_learner_that_is_to_stay_one_stays_one():
    learner = Configuration((Member("n1"), Member("n4", "db4:1", "disk-4", voter=False)))
    assert learner.changed(Readmit("n4", "disk-4b", ("disk-4",))).get("n4") == Member(
        "n4", "db4:1", "disk-4b", voter=False
    )


def test_what_cannot_be_changed_is_refused():
    with pytest.raises(RaftKVError, match="n9 is no member"):
        THREE.changed(Readmit("n9", "d", ("c",)))
    with pytest.raises(RaftKVError, match="the last voter"):
        Configuration((Member("n1"),)).changed(Readmit("n1", "d", ("c",)))


def test_the_list_of_removed_disks_is_bounded():
    former = tuple(f"d{number}" for number in range(2 * REMOVED_MAX))
    assert THREE.changed(Readmit("n3", "new", former)).removed == (*former, "disk-3")[-REMOVED_MAX:]


@pytest.mark.parametrize(
    ("member", "former", "expected"),
    [
        (None, ("disk-3",), False),
        (Member("n3", disk="disk-3"), ("disk-3",), True),
        (Member("n3", disk="disk-3"), ("disk-1", "disk-3", "disk-2"), True),
        (Member("n3", disk="disk-3"), ("disk-1",), False),
        (Member("n3", disk="disk-3"), (), False),
        (Member("n3", disk="new"), ("disk-3",), False),
        (Member("n3"), ("disk-3",), True),  # a founder that nobody has written down yet
        (Member("n3"), (), False),
        (Member("n3", voter=False), ("disk-3",), False),  # removed and added again: a fresh place
    ],
)
def test_whose_place_it_is(member, former, expected):
    assert is_former(member, "new", former) is expected


# -------------------------------------------------------------------- the leader
def test_the_leader_takes_a_member_back_that_says_which_disk_it_had():
    leader = Leader()
    assert asks(leader) == "repairing"
    changed = settle(leader)
    assert changed.get("n3") == Member("n3", "db3:2", "disk-3b", voter=False, promote=True)
    assert asks(leader) == ""
    assert leader.membership.admit("n3", "disk-3", 0) == "removed"
    assert settle(leader) == changed, "once"


def test_nothing_that_its_former_life_acknowledged_counts():
    leader = Leader()
    leader.replication.progress["n3"].match_index = 2
    asks(leader)
    settle(leader)
    assert leader.replication.progress["n3"].match_index == 0
    assert leader.replication.progress["n3"].began == leader.replication._sequence


def test_nobody_is_taken_back_without_a_majority_of_the_others():
    leader = Leader()
    reasons = []
    leader.membership.on_hindrance = reasons.append
    leader.fake.now += 1.0
    asks(leader)
    for _ in range(3):
        leader.membership.tick()
        leader.fake.now += 1.0
    assert leader.membership.latest.get("n3").disk == "disk-3"
    assert len(reasons) == 1
    assert "only 1 of 2 voters would answer (n1): no quorum" in reasons[0]
    leader.hear("n2")
    leader.membership.tick()
    assert leader.membership.latest.get("n3").disk == "disk-3b"


def test_who_asked_long_ago_is_not_taken_back():
    leader = Leader()
    asks(leader)
    leader.fake.now += FRESH_S + 0.1
    leader.hear("n2", "n3")
    leader.membership.tick()
    assert leader.membership.latest.get("n3").disk == "disk-3"


def test_who_comes_with_its_own_disk_after_all_asks_for_nothing():
    leader = Leader()
    asks(leader)
    assert leader.membership.greet("n3", "disk-3", "db3:1", 0, ()) == ""
    leader.hear("n2", "n3")
    leader.membership.tick()
    assert leader.membership.latest.get("n3").disk == "disk-3"


def test_a_disk_of_which_nobody_knows_stays_outside():
    leader = Leader()
    assert asks(leader, "disk-3b", "disk-of-somebody") == "foreign disk"
    assert leader.membership.greet("n3", "disk-3b", "db3:1", 0, ()) == "foreign disk"
    assert settle(leader).get("n3").disk == "disk-3"


def test_one_that_is_damaged_twice_is_taken_back_from_either_disk():
    leader = Leader()
    asks(leader)
    settle(leader)
    assert asks(leader, "disk-3c", "disk-3", "disk-3b") == "repairing"
    assert settle(leader).get("n3").disk == "disk-3c"
    assert leader.membership.latest.removed == ("disk-3", "disk-3b")


def test_links_are_dropped_and_messages_ignored_when_the_change_is_taken_back():
    leader = Leader()
    dropped = []
    leader.membership.on_stranger = dropped.append
    asks(leader)
    leader.hear("n2")
    leader.membership.tick()
    index = leader.membership.index
    assert asks(leader) == ""
    assert not leader.membership.strangers
    leader.membership.truncated(index)
    assert (leader.membership.strangers, dropped) == ({"n3"}, ["n3"])
    leader.membership.met("n3", "disk-3", "db3:1")
    assert not leader.membership.strangers


def test_who_was_met_before_anybody_was_known_is_judged_by_the_configurations_that_come():
    """A node that knows nobody admits everybody. What its log then says of an id concerns whoever it has a link to."""
    waiting, dropped = damaged(), []
    waiting.on_stranger = dropped.append
    assert waiting.greet("n2", "disk-2b", "db2:1", 0, ("disk-2",)) == ""
    waiting.appended(8, Configuration((Member("n1"), Member("n2", "db2:1", "disk-2"), Member("n3"))).encode())
    assert (waiting.strangers, dropped) == ({"n2"}, ["n2"])
    taken_back = (Member("n1"), Member("n2", "db2:1", "disk-2b", voter=False), Member("n3"))
    waiting.appended(9, Configuration(taken_back).encode())
    assert not waiting.strangers
    waiting.truncated(9)
    assert (waiting.strangers, dropped) == ({"n2"}, ["n2", "n2"])


# ------------------------------------------------------------------ the node itself
def damaged(*members: Member, former: tuple[str, ...] = ("disk-3",)) -> Membership:
    core = FakeCore(leads=False).core
    core.node_id = "n3"
    core.engine.use_voters = lambda *_: None
    membership = Membership(
        core, Replication(core, FakeCore().durability), "disk-3b", "db3:1", waits_to_join=True, former=former
    )
    membership.propose = lambda *_: None
    membership._base = Configuration(tuple(members), 7)
    core.use(membership.latest)
    return membership


@pytest.mark.parametrize(
    ("own", "votes"),
    [
        (Member("n3", disk="disk-3"), False),
        (Member("n3"), False),
        (Member("n3", disk="disk-3b"), True),
        (Member("n3", disk="disk-3b", voter=False, promote=True), False),
    ],
)
def test_it_votes_only_by_a_configuration_that_has_its_new_disk(own, votes):
    membership = damaged(Member("n1"), own)
    assert membership._core.votes is votes
    assert membership.standing == (7 if votes else 0)
    assert bool(membership.repairing) is not votes


def test_it_says_what_it_waits_for():
    waiting = damaged()
    assert "disk disk-3 held was damaged; waits for a leader" in waiting.repairing
    assert "gets from the leader" in damaged(Member("n3", disk="disk-3b", voter=False, promote=True)).repairing
    assert not damaged(Member("n3", disk="disk-3b", voter=False)).repairing, "a learner is what it was"
    assert not damaged(former=()).repairing
    waiting.refused("n1", "foreign disk")
    waiting.refused("n1", "repairing")
    assert not waiting._core.halted
