"""The lease: from when to when it holds, what ends it, and what voters must keep so that it may."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftkv.consensus.election import ElectionGuard
from raftkv.consensus.lease import DRIFT, RENEW
from raftkv.consensus.messages import PreVote, PreVoteGranted, ReadIndexReply, ReadIndexRequest, RequestVote, TimeoutNow
from tests.unit.fake_core import TIMING, WALL_MS, FakeCore
from tests.unit.test_reads import Member

LENGTH_S = TIMING.election_min_s * (1 - DRIFT)


def leader(*, after_s=0.0, read_lease=True):
    """A leader whose first round is answered ``after_s`` after it was sent."""
    member = Member()
    member.core.timing = replace(TIMING, read_lease=read_lease)
    member.barrier("first")
    ((peer, probe),) = member.pump()
    member.now += after_s
    member.ack(peer, probe)
    member.outcomes.clear()
    return member


def read_at_once(member):
    """Whether a read is answered without a question; it leaves nothing behind."""
    member.take()
    member.barrier("now")
    answered = bool(member.done)
    member.outcomes.clear()
    return answered


def test_a_lease_counts_from_when_the_round_was_sent():
    member = leader(after_s=0.25)
    member.now += LENGTH_S - 0.25 - 0.001
    assert read_at_once(member)
    member.now += 0.002
    assert not read_at_once(member)


def test_without_the_setting_every_read_asks():
    assert not read_at_once(leader(read_lease=False))


def test_an_answer_that_comes_too_late_gives_no_lease():
    assert not read_at_once(leader(after_s=LENGTH_S))


def test_a_read_that_finds_the_lease_ageing_sends_one_round_and_does_not_wait_for_it():
    member = leader()
    member.now += RENEW * LENGTH_S - 0.001
    member.barrier("young")
    assert member.take() == []
    member.now += 0.002
    member.barrier("old")
    ((peer, probe),) = member.take()
    member.barrier("old too")
    assert member.take() == []
    assert member.done == ["young", "old", "old too"]
    renewed = member.now
    member.ack(peer, probe)
    assert member.reads.idle
    member.now = renewed + LENGTH_S - 0.001
    assert read_at_once(member)


def test_a_read_in_a_lease_waits_for_what_is_committed_and_not_applied():
    member = leader()
    member.write(3)
    member.commit(4, applied=3)
    member.barrier()
    assert member.outcomes == []
    member.commit(4)
    member.reads.finish()
    assert member.outcomes == [("read", WALL_MS, None)]


def test_followers_are_answered_under_the_lease_too():
    member = leader()
    member.reads.on_request("n3", ReadIndexRequest(77))
    assert member.take() == [("n3", ReadIndexReply(77, 3, WALL_MS))]


@pytest.mark.parametrize(
    "end",
    [
        lambda member: member.change_term(4, leads=True),
        lambda member: member.change_term(3, leads=False),
        lambda member: member.reads.voters_changed(),
        lambda member: member.core.halt("a test"),
    ],
    ids=["another term", "not the leader", "other voters", "halted"],
)
def test_what_ends_a_lease(end):
    member = leader()
    assert member.reads.lease.holds
    end(member)
    assert not member.reads.lease.holds


def test_a_round_whose_voters_changed_meanwhile_gives_no_lease():
    member = Member()
    member.core.timing = replace(TIMING, read_lease=True)
    member.barrier()
    ((peer, probe),) = member.pump()
    member.core.peers = ("n2", "n4")
    member.reads.voters_changed()
    member.ack(peer, probe)
    assert member.done == []
    assert not member.reads.lease.holds


def test_after_a_transfer_was_asked_for_there_is_no_lease_in_that_term_and_one_in_the_next():
    member = leader()
    member.reads.lease.give_up()
    assert not member.reads.lease.holds
    member.barrier()
    ((peer, probe),) = member.pump()
    member.ack(peer, probe)
    assert member.done == ["read"]
    assert not member.reads.lease.holds
    member.change_term(4, leads=True)
    member.write(4)
    member.commit(4)
    member.barrier()
    ((peer, probe),) = member.pump()
    member.ack(peer, probe)
    assert member.reads.lease.holds


# ------------------------------------------------------------------ what voters keep
class Voter(FakeCore):
    """A follower of n2 in term 3."""

    def __init__(self, *, entries=(3,)):
        super().__init__(term=3, leads=False)
        self.core.engine.leader_id = "n2"
        self.write(*entries)
        self.election = ElectionGuard(self.core)

    def grants(self, term=4, *, transfer=False):
        """Whether it grants a pre-vote and lets a request for a vote through."""
        self.take()
        self.delivered.clear()
        self.election.on_pre_vote("n3", PreVote(term, 9, 9))
        self.election.on_request_vote("n3", RequestVote(term, 9, 9, transfer))
        return [type(one) for _, one in self.take()] == [PreVoteGranted], bool(self.delivered)


def test_a_voter_that_restarts_behaves_as_if_it_had_just_heard_its_leader():
    voter = Voter()
    voter.now += TIMING.election_min_s - 0.001
    assert voter.grants() == (False, False)
    voter.now += 0.002
    assert voter.grants() == (True, True)


def test_a_node_that_never_heard_anybody_need_not_wait():
    assert Voter(entries=()).grants() == (True, True)


def test_the_licence_of_a_transfer_is_for_the_next_term_only():
    voter = Voter()
    voter.election.on_timeout_now("n2", TimeoutNow(3))
    for term, transfer in ((4, True), (5, False)):
        voter.election.send_request("n3", term, 1, 3)
        assert voter.take("n3") == [RequestVote(term, 1, 3, transfer)]
