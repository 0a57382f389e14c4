"""Handing leadership over: whom a leader chooses, when it gives the word, and what whoever asked is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.leadership import Transfer
from raftkv.consensus.messages import TimeoutNow
from raftkv.consensus.replication import Replication
from raftkv.errors import NodeStoppedError
from tests.unit.fake_core import TIMING, FakeCore


class Leader(FakeCore):
    """n1 leads n2 and n3, which hold all five entries, and the learner n4."""

    def __init__(self):
        super().__init__(term=3)
        self.core.use(Configuration.of((*map(Member, ("n1", "n2", "n3")), Member("n4", voter=False))))
        self.write(*[3] * 5)
        self.commit(5)
        self.replication = Replication(self.core, self.durability)
        self.replication.send_all()
        self.take()
        for peer in ("n2", "n3", "n4"):
            self.hold(peer, 5)
        self.leases_given_up = 0
        self.transfer = Transfer(self.core, self.replication, SimpleNamespace(give_up=self.give_up))
        self.answers = []

    def give_up(self):
        self.leases_given_up += 1
        assert not self.words(), "the lease ends before the word is given"

    def hold(self, peer, index):
        """``peer`` answers, and holds entries up to ``index``."""
        self.replication.heard_from(peer)
        self.replication.progress[peer].match_index = index

    def start(self, target=""):
        self.transfer.start(target, self.answers.append)

    def tick(self, seconds=0.0):
        self.now += seconds
        self.transfer.tick()
        return self.words()

    def words(self):
        return [peer for peer, message in self.sent if isinstance(message, TimeoutNow)]

    @property
    def codes(self):
        return [one and one.code for one in self.answers]


@pytest.fixture
def leader():
    return Leader()


# ------------------------------------------------------------------ who
def test_the_voter_that_holds_most_is_chosen_and_a_learner_never(leader):
    leader.hold("n2", 5)
    leader.hold("n3", 4)
    leader.hold("n4", 6)
    assert leader.transfer.best_successor() == "n2"


def test_a_voter_that_does_not_answer_is_not_chosen(leader):
    leader.now += TIMING.election_min_s
    leader.hold("n3", 1)
    assert leader.transfer.best_successor() == "n3"
    leader.now += TIMING.election_min_s
    assert leader.transfer.best_successor() == ""
    leader.start()
    assert leader.codes == ["ERR"]
    assert leader.transfer.target == ""


@pytest.mark.parametrize(("target", "why"), [("n4", "a learner"), ("n9", "no member")])
def test_who_cannot_lead_is_refused(leader, target, why):
    leader.start(target)
    assert leader.codes == ["ERR"]
    assert why in leader.answers[0].message
    assert leader.answers[0].definite
    assert leader.transfer.target == ""


def test_a_leader_that_is_to_hand_over_to_itself_has_done_so(leader):
    leader.start("n1")
    assert leader.answers == [None]


def test_only_a_leader_hands_over(leader):
    leader.change_term(4, leads=False, leader="n2")
    leader.start("n2")
    assert leader.codes == ["CLUSTERDOWN"]


# ------------------------------------------------------------------ when
def test_the_word_is_given_at_once_when_the_target_holds_everything(leader):
    leader.start("n2")
    assert leader.tick() == ["n2"]
    assert leader.leases_given_up == 1
    assert leader.sent[-1][1].term == 3


@pytest.mark.parametrize(("match", "committed"), [(4, 4), (5, 4), (4, 5)])
def test_it_is_not_given_before_the_target_holds_everything_and_all_is_committed(leader, match, committed):
    leader.commit(committed)
    leader.hold("n2", match)
    leader.start("n2")
    assert leader.tick() == []
    assert leader.leases_given_up == 0
    leader.commit(5)
    leader.hold("n2", 5)
    assert leader.tick() == ["n2"]


def test_it_is_given_again_every_heartbeat_and_not_more_often(leader):
    leader.start("n2")
    leader.tick()
    leader.take()
    assert leader.tick(TIMING.heartbeat_s / 2) == []
    assert leader.tick(TIMING.heartbeat_s / 2) == ["n2"]


# ------------------------------------------------------------------ how it ends
def test_it_is_done_when_another_node_leads(leader):
    leader.start("n2")
    leader.tick()
    leader.change_term(4, leads=False, leader="n2")
    leader.tick()
    assert leader.answers == [None]
    assert leader.transfer.target == ""


def test_a_leader_that_stepped_down_waits_for_the_next_one_until_the_deadline_and_does_not_call_that_done(leader):
    leader.start("n2")
    leader.change_term(4, leads=False, leader="")
    leader.tick(TIMING.election_max_s)
    assert leader.answers == []
    leader.tick(TIMING.heartbeat_s)
    assert leader.codes == ["CLUSTERDOWN"]
    assert leader.transfer.target == ""


def test_a_target_that_does_not_take_over_in_time_is_given_up(leader):
    leader.start("n2")
    leader.tick(TIMING.election_max_s)
    assert leader.transfer.target == "n2"
    leader.tick(TIMING.heartbeat_s)
    assert leader.codes == ["ERR"]
    assert "n2" in leader.answers[0].message
    assert leader.transfer.target == ""
    leader.start("n3")
    leader.take()
    assert leader.tick() == ["n3"]


def test_a_node_that_stops_says_so(leader):
    leader.start("n2")
    leader.core.halt("the disk is full")
    leader.tick()
    assert isinstance(leader.answers[0], NodeStoppedError)
    assert leader.words() == []


def test_all_who_ask_for_the_same_are_told_and_the_deadline_is_that_of_the_first(leader):
    leader.start("n2")
    leader.now += TIMING.election_max_s
    leader.start("n2")
    leader.start("")
    leader.start("n3")
    assert leader.codes == ["TRYAGAIN"]
    leader.tick(TIMING.heartbeat_s)
    assert leader.codes == ["TRYAGAIN", "ERR", "ERR", "ERR"]


def test_without_a_transfer_time_changes_nothing(leader):
    assert leader.tick(10.0) == []
    assert leader.answers == []
