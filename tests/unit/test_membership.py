"""The membership guard on a leader of its own: whom it registers, and which changes it refuses."""

from __future__ import annotations

import pytest

from raftkv.consensus.configuration import Configuration, Member, Register
from raftkv.consensus.membership import LEAVE_AGAIN, Membership
from raftkv.consensus.replication import Replication
from raftkv.errors import RaftKVError
from raftkv.replicator import Add, Promote, Remove
from tests.unit.fake_core import TIMING, FakeCore


class Leader:
    """n1 leads n2 and n3, which it knows by disk; what it proposes is committed by :meth:`settle`."""

    def __init__(self) -> None:
        self.fake = FakeCore(term=1)
        core = self.fake.core
        core.engine.use_voters = lambda *_: None
        self.replication = Replication(core, self.fake.durability)
        self.membership = Membership(core, self.replication, "disk-1", "db1:1", waits_to_join=False)
        members = (Member("n1", "db1:1", "disk-1"), Member("n2", "db2:1", "disk-2"), Member("n3", "db3:1", "disk-3"))
        self.membership.start(Configuration(members), self.fake.log, 0)
        self.membership.propose = self.propose
        self.fake.write(1)
        self.fake.commit(1)
        self.replication.send_all()
        self.hear("n2", "n3")
        self.refusals: list[RaftKVError] = []

    def propose(self, payload: bytes, _done: object) -> None:
        index = self.fake.log.last_index + 1
        self.fake.log.append(index, 1, payload)
        self.membership.appended(index, payload)

    def hear(self, *peers: str) -> None:
        for peer in peers:
            self.replication.heard_from(peer)

    def settle(self) -> Configuration:
        """Time passes, the leader does what it does by itself, and all of it is committed."""
        self.fake.now += 1.0
        self.membership.tick()
        return self.commit()

    def commit(self) -> Configuration:
        """Everything that was proposed is committed."""
        latest = self.membership.latest
        self.fake.commit(self.fake.log.last_index)
        if latest.index:
            self.membership.on_applied(latest.index, latest.encode())
        return latest

    def ignore(self, _result: object, error: RaftKVError | None) -> None:
        assert error is None

    def change(self, change: Add | Remove | Register) -> None:
        self.membership.change(change, lambda _, error: self.refusals.append(error) if error else None)
        self.settle()


def disk(configuration: Configuration, node: str) -> str:
    member = configuration.get(node)
    assert member is not None
    return member.disk


def test_a_removed_node_that_is_linked_yet_does_not_pass_for_the_new_one_of_its_id():
    """It may not have heard of its removal. Its vote would be that of the member that has the id now."""
    leader, dropped = Leader(), []
    leader.membership.on_stranger = dropped.append
    leader.membership.met("n3", "disk-3", "db3:1")
    leader.change(Remove("n3"))
    assert not leader.membership.strangers, "it has to be told"
    leader.change(Add("n3", "db3:1"))
    assert (leader.membership.strangers, dropped) == ({"n3"}, ["n3"])
    leader.membership.met("n3", "disk-3b", "db3:1")
    assert disk(leader.settle(), "n3") == "disk-3b"
    assert not leader.membership.strangers


def test_a_member_that_is_added_again_is_not_bound_to_the_disk_of_its_former_life():
    leader = Leader()
    leader.membership.met("n3", "disk-3", "db3:1")
    leader.change(Remove("n3"))
    assert leader.membership.admit("n3", "disk-3", 0) == "removed"
    leader.change(Add("n3", "db3:1"))
    assert disk(leader.settle(), "n3") == "", "it has not been met in this life"
    assert leader.membership.admit("n3", "disk-3b", 0) == ""
    leader.membership.met("n3", "disk-3b", "db3:1")
    assert disk(leader.settle(), "n3") == "disk-3b"
    assert not leader.refusals


def test_what_a_node_said_before_it_was_a_member_binds_nobody():
    leader = Leader()
    leader.membership.met("n4", "disk-of-another-try", "db4:1")
    leader.change(Add("n4", "db4:1"))
    assert disk(leader.settle(), "n4") == ""


@pytest.mark.parametrize("how", ["silent", "link down"])
def test_a_voter_that_does_not_answer_does_not_count_for_the_quorum_after_a_removal(how):
    leader = Leader()
    if how == "silent":
        leader.fake.now += 0.6
        leader.hear("n2")
    else:
        leader.replication.link_down("n3")  # a killed process is seen at once, and not an election timeout later
    leader.membership.change(Remove("n2"), lambda _, error: leader.refusals.append(error))
    [error] = leader.refusals
    assert "only 1 of 2 voters would answer (n1): no quorum" in error.message
    assert error.definite
    assert leader.membership.latest.voters == ("n1", "n2", "n3")


# ------------------------------------------------------------------ what a leader does by itself
def learner(leader: Leader, *, replaces: str = "") -> None:
    """n4 is added, and has answered that it holds nothing."""
    leader.membership.met("n4", "disk-4", "db4:1")
    leader.change(Add("n4", "db4:1", replaces=replaces))
    leader.hear("n2", "n3", "n4")
    assert leader.membership.latest.voters == ("n1", "n2", "n3")


def holds(leader: Leader, index: int) -> None:
    leader.hear("n2", "n3", "n4")
    leader.replication.progress["n4"].match_index = index
    leader.membership.tick()


def test_a_learner_votes_when_a_round_of_catching_up_was_quick():
    leader = Leader()
    learner(leader)
    last = leader.fake.log.last_index
    holds(leader, last - 1)
    leader.fake.now += TIMING.election_min_s
    holds(leader, last)
    assert leader.membership.latest.voters == ("n1", "n2", "n3", "n4")


def test_a_learner_that_took_long_for_a_round_has_to_do_another_one():
    leader = Leader()
    learner(leader)
    last = leader.fake.log.last_index
    holds(leader, last - 1)
    leader.fake.write(1)  # what the next round ends with
    leader.fake.now += TIMING.election_min_s / 2
    holds(leader, last - 1)
    leader.fake.now += TIMING.election_min_s
    holds(leader, last)
    assert leader.membership.latest.voters == ("n1", "n2", "n3")
    holds(leader, last + 1)
    assert leader.membership.latest.voters == ("n1", "n2", "n3", "n4")


def test_a_learner_that_fell_silent_begins_a_new_round():
    leader = Leader()
    learner(leader)
    last = leader.fake.log.last_index
    holds(leader, last - 1)
    leader.fake.now += TIMING.election_min_s
    leader.hear("n2", "n3")
    leader.membership.tick()
    holds(leader, last - 1)
    leader.fake.now += TIMING.election_min_s / 2
    holds(leader, last)
    assert "n4" in leader.membership.latest.voters


def test_a_leader_that_is_to_be_replaced_takes_writes_most_of_the_time_that_it_fails_to_hand_over():
    leader = Leader()
    attempts = []
    leader.membership.hand_over = lambda: attempts.append(leader.fake.now)
    learner(leader, replaces="n1")
    end = leader.fake.now + 4 * LEAVE_AGAIN * TIMING.election_max_s
    while leader.fake.now < end:
        holds(leader, leader.fake.log.last_index)
        leader.fake.now += TIMING.heartbeat_s
    assert len(attempts) == 4
    assert leader.membership.latest.voters == ("n1", "n2", "n3")


def promote(leader: Leader) -> list[str]:
    """What n1 answers when it is asked to make n4 a voter."""
    answers: list[str] = []
    leader.membership.change(Promote("n4"), lambda _, error: answers.append(error.message if error else ""))
    return answers


def by_hand(leader: Leader) -> None:
    """n4 is a learner that somebody will promote, and has caught up."""
    leader.change(Add("n4", "db4:1", promote=False))
    holds(leader, leader.fake.log.last_index)


def test_a_learner_that_lacks_what_is_under_way_is_promoted():
    leader = Leader()
    by_hand(leader)
    leader.fake.write(1)
    assert promote(leader) == []
    assert "n4" in leader.membership.latest.voters


def test_a_learner_that_has_come_to_a_halt_since_is_not_promoted():
    leader = Leader()
    by_hand(leader)
    last = leader.fake.log.last_index
    leader.fake.write(1)
    for _ in range(4):
        leader.fake.now += TIMING.election_min_s / 2
        holds(leader, last)
    assert promote(leader) == ["n4 has not caught up (1 entries behind)"]


def test_a_learner_does_not_inherit_what_its_id_held_in_a_former_life():
    leader = Leader()
    by_hand(leader)
    leader.membership.change(Remove("n4"), leader.ignore)
    leader.commit()
    leader.membership.change(Add("n4", "db4:1", promote=False), leader.ignore)
    leader.commit()
    assert promote(leader) == [f"n4 has not caught up ({leader.fake.log.last_index} entries behind)"]
