"""ReadIndex: when a leader may confirm, what a round covers, and how followers read."""

from __future__ import annotations

import pytest

from raftkv.consensus import reads as reads_module
from raftkv.consensus.messages import ReadIndexReply, ReadIndexRequest, ReadProbe, ReadProbeAck
from raftkv.consensus.reads import WIDEN_S, ReadIndex
from raftkv.errors import BusyError, NodeStoppedError, NoLeaderError
from tests.unit.fake_core import TIMING, WALL_MS, FakeCore


class Member(FakeCore):
    """A member with a committed entry of its term, and barriers."""

    def __init__(self, peers=("n2", "n3"), *, leads=True):
        super().__init__(peers, term=3, leads=leads)
        self.write(3, 3, 3)
        self.commit(3)
        self.reads = ReadIndex(self.core)
        self.outcomes = []

    def barrier(self, name="read"):
        self.reads.barrier(lambda now_ms, error: self.outcomes.append((name, now_ms, error)))

    def pump(self):
        """What was sent."""
        self.reads.pump()
        return self.take()

    def ack(self, peer, probe, *, term=None):
        self.reads.on_probe_ack(peer, ReadProbeAck(probe.term if term is None else term, probe.round))
        self.reads.pump()

    @property
    def done(self):
        return [name for name, _, error in self.outcomes if error is None]

    @property
    def errors(self):
        return [error for _, _, error in self.outcomes if error is not None]


def follower():
    member = Member(leads=False)
    member.core.engine.leader_id = "n2"
    return member


# ------------------------------------------------------------------ the leader
def test_a_read_waits_for_a_majority_that_still_follows():
    leader = Member()
    leader.barrier()
    ((peer, probe),) = leader.pump()
    assert probe == ReadProbe(3, probe.round)
    assert leader.outcomes == []
    leader.ack(peer, probe)
    assert leader.outcomes == [("read", WALL_MS, None)]
    assert leader.reads.idle


def test_five_members_need_two_answers_and_one_that_repeats_itself_is_one():
    leader = Member(("n2", "n3", "n4", "n5"))
    leader.barrier()
    asked = leader.pump()
    assert len(asked) == 2
    leader.ack(*asked[0])
    leader.ack(*asked[0])
    assert leader.outcomes == []
    leader.ack(*asked[1])
    assert leader.done == ["read"]


def test_a_member_alone_is_its_own_majority():
    leader = Member(())
    leader.barrier()
    assert leader.pump() == []
    assert leader.done == ["read"]


def test_a_new_leader_confirms_nothing_before_it_committed_an_entry_of_its_own_term():
    leader = Member()
    leader.change_term(4, leads=True)
    leader.write(4)
    leader.barrier()
    assert leader.pump() == []
    leader.commit(4)
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe)
    assert leader.done == ["read"]


def test_a_read_sees_what_was_committed_when_it_arrived_and_waits_until_it_is_applied():
    leader = Member()
    leader.commit(3, applied=1)
    leader.barrier()
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe)
    leader.commit(3, applied=2)
    leader.pump()
    assert leader.outcomes == []
    leader.commit(3, applied=3)
    leader.reads.finish()
    assert leader.done == ["read"]


def test_a_read_that_arrives_after_the_question_waits_for_the_next_one():
    leader = Member()
    leader.barrier("first")
    ((peer, probe),) = leader.pump()
    leader.barrier("second")
    leader.barrier("third")
    assert leader.pump() == []
    leader.reads.on_probe_ack(peer, ReadProbeAck(3, probe.round))
    ((peer, second),) = leader.pump()
    assert leader.done == ["first"]
    assert second.round != probe.round
    leader.ack(peer, probe)
    assert leader.done == ["first"]
    leader.ack(peer, second)
    assert leader.done == ["first", "second", "third"]
    assert leader.reads.rounds_total == 2


@pytest.mark.parametrize("term", [2, 4])
def test_an_answer_in_another_term_proves_nothing(term):
    leader = Member()
    leader.barrier()
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe, term=term)
    assert leader.outcomes == []


def test_an_answer_that_finds_a_former_leader_proves_nothing():
    leader = Member()
    leader.barrier()
    ((peer, probe),) = leader.pump()
    leader.change_term(3, leads=False)
    leader.ack(peer, probe)
    leader.reads.leadership_changed()
    leader.change_term(3, leads=True)
    leader.ack(peer, probe)
    assert leader.outcomes == []
    ((peer, again),) = leader.take()
    assert again.round != probe.round
    leader.ack(peer, again)
    assert leader.done == ["read"]


def test_a_round_without_an_answer_widens_to_everybody_and_the_next_asks_others_first():
    leader = Member(("n2", "n3", "n4", "n5"))
    leader.barrier("first")
    asked = leader.pump()
    assert [peer for peer, _ in asked] == ["n2", "n3"]
    leader.ack(*asked[1])
    leader.now += WIDEN_S * 1.01
    assert [peer for peer, _ in leader.pump()] == ["n2", "n3", "n4", "n5"]
    leader.now += WIDEN_S * 1.01
    assert leader.pump() == []
    leader.ack("n5", asked[0][1])
    assert leader.done == ["first"]
    leader.barrier("second")
    assert [peer for peer, _ in leader.pump()] == ["n3", "n5"]


def test_a_deposed_leader_asks_nobody_again_with_the_new_leaders_term():
    leader = Member()
    leader.barrier()
    leader.pump()
    leader.change_term(4, leads=False, leader="n2")
    leader.now += WIDEN_S * 1.01
    assert not [message for _, message in leader.pump() if type(message) is ReadProbe]


def test_a_round_that_got_no_majority_is_asked_anew_until_the_reads_own_time_is_over():
    leader = Member()
    leader.barrier()
    ((_, first),) = leader.pump()
    leader.now += TIMING.election_max_s + 0.01
    ((_, second),) = leader.pump()
    assert second.round != first.round
    assert leader.outcomes == []
    leader.now += TIMING.request_s
    leader.pump()
    leader.pump()
    assert [type(one) for one in leader.errors] == [NoLeaderError]
    assert leader.errors[0].definite
    assert leader.reads.idle


def test_a_confirmed_read_whose_entries_never_come_ends_at_its_deadline():
    leader = Member()
    leader.commit(3, applied=1)
    leader.barrier()
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe)
    leader.now += TIMING.request_s
    leader.pump()
    assert [type(one) for one in leader.errors] == [NoLeaderError]
    assert leader.reads.idle


# ------------------------------------------------------------------ answering others
def test_a_leader_answers_a_follower_with_the_index_that_it_confirmed():
    leader = Member()
    leader.reads.on_request("n3", ReadIndexRequest(77))
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe)
    assert leader.take() == [("n3", ReadIndexReply(77, 3, WALL_MS))]


def test_who_does_not_lead_answers_so():
    member = follower()
    member.reads.on_request("n3", ReadIndexRequest(77))
    assert member.take() == [("n3", ReadIndexReply(77, 0, 0))]


def test_a_leader_that_cannot_confirm_answers_so():
    leader = Member()
    leader.reads.on_request("n3", ReadIndexRequest(77))
    leader.core.halt("a test")
    leader.reads.pump()
    assert leader.take() == [("n3", ReadIndexReply(77, 0, 0))]


def test_a_probe_is_answered_with_its_round():
    member = follower()
    assert member.reads.on_probe("n2", ReadProbe(3, 5))
    assert member.take() == [("n2", ReadProbeAck(3, 5))]


# ------------------------------------------------------------------ followers
def test_a_follower_reads_once_it_has_applied_the_leaders_index():
    member = follower()
    member.barrier()
    ((leader, request),) = member.pump()
    assert leader == "n2"
    assert type(request) is ReadIndexRequest
    member.reads.on_reply(ReadIndexReply(request.request, 5, 42))
    member.pump()
    assert member.outcomes == []
    member.commit(5, applied=4)
    member.pump()
    assert member.outcomes == []
    member.commit(5)
    member.pump()
    assert member.outcomes == [("read", 42, None)]


def test_a_followers_read_that_arrives_after_the_request_waits_for_the_next():
    member = follower()
    member.barrier("first")
    ((_, request),) = member.pump()
    member.barrier("second")
    assert member.pump() == []
    member.reads.on_reply(ReadIndexReply(request.request, 3, 42))
    ((_, second),) = member.pump()
    assert member.done == ["first"]
    member.reads.on_reply(ReadIndexReply(request.request, 3, 42))  # repeated
    member.pump()
    assert member.done == ["first"]
    member.reads.on_reply(ReadIndexReply(second.request, 3, 43))
    member.pump()
    assert member.done == ["first", "second"]


def test_a_refusal_or_silence_makes_a_follower_ask_the_leader_it_knows_by_then():
    member = follower()
    member.barrier()
    ((_, request),) = member.pump()
    member.core.engine.leader_id = "n3"
    member.reads.on_reply(ReadIndexReply(request.request, 0, 0))
    ((leader, second),) = member.pump()
    assert (leader, second.request) != ("n2", request.request)
    assert leader == "n3"
    member.now += TIMING.election_max_s + 0.01
    ((_, third),) = member.pump()
    member.reads.on_reply(ReadIndexReply(second.request, 3, 1))  # too late: its request is given up
    member.pump()
    assert member.outcomes == []
    member.reads.on_reply(ReadIndexReply(third.request, 3, 2))
    member.pump()
    assert member.outcomes == [("read", 2, None)]


def test_a_leader_that_says_it_is_none_is_not_asked_in_a_loop_and_reads_still_end_in_time():
    member = follower()
    member.barrier()
    asked = 0
    for _ in range(1000):
        for _, request in member.pump():
            asked += 1
            member.reads.on_reply(ReadIndexReply(request.request, 0, 0))
        member.now += TIMING.request_s / 500
    assert 0 < asked <= 1 + TIMING.request_s / TIMING.heartbeat_s
    assert [type(one) for one in member.errors] == [NoLeaderError]


def test_an_answer_of_a_former_leadership_is_not_waited_for():
    member = follower()
    member.barrier()
    ((_, request),) = member.pump()
    member.reads.leadership_changed()
    member.reads.on_reply(ReadIndexReply(request.request, 3, 1))
    member.pump()
    assert member.outcomes == []


def test_without_a_leader_a_read_waits_its_time_and_fails():
    member = Member(leads=False)
    member.barrier()
    member.now += TIMING.request_s - 0.01
    assert member.pump() == []
    assert member.outcomes == []
    member.now += 0.01
    member.pump()
    assert [type(one) for one in member.errors] == [NoLeaderError]


def test_reads_wait_in_the_order_of_their_deadlines_also_when_rounds_fail():
    leader = Member()
    leader.barrier("first")
    leader.pump()
    leader.now += 0.1
    leader.barrier("second")
    leader.reads.leadership_changed()
    leader.change_term(3, leads=False)
    leader.now += TIMING.request_s - 0.1
    leader.pump()
    assert [name for name, _, _ in leader.outcomes] == ["first"]
    leader.now += 0.1
    leader.pump()
    assert [name for name, _, _ in leader.outcomes] == ["first", "second"]


# ------------------------------------------------------------------ bounds
def test_a_halted_member_fails_every_read_wherever_it_is():
    leader = Member()
    leader.commit(3, applied=1)
    leader.barrier("confirmed")
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe)
    leader.barrier("asked")
    leader.pump()
    leader.barrier("waiting")
    leader.core.halt("a test says so")
    leader.pump()
    leader.barrier("late")
    assert sorted(name for name, _, _ in leader.outcomes) == ["asked", "confirmed", "late", "waiting"]
    assert all(isinstance(error, NodeStoppedError) and "a test says so" in str(error) for error in leader.errors)
    assert len(leader.errors) == 4
    assert leader.reads.idle


def test_too_many_reads_are_refused_as_busy(monkeypatch):
    monkeypatch.setattr(reads_module, "WAITING_MAX", 2)
    leader = Member()
    for name in ("first", "second", "third"):
        leader.barrier(name)
    assert [(name, type(error)) for name, _, error in leader.outcomes] == [("third", BusyError)]
    ((peer, probe),) = leader.pump()
    leader.ack(peer, probe)
    assert leader.done == ["first", "second"]


def test_rounds_of_two_lives_do_not_share_numbers():
    first, second = Member(), Member()
    second.reads = ReadIndex(first.core)  # a restart goes on with the generator, not from its beginning
    numbers = []
    for member in (first, second):
        member.barrier()
    first.reads.pump()
    second.reads.pump()
    numbers = [message.round for _, message in first.take()]
    assert len(numbers) == len(set(numbers)) == 2
    assert all(number > 1 << 20 for number in numbers)


# ------------------------------------------------------------------ entries that were promised
def test_an_entry_that_is_applied_or_comes_in_time_lets_a_read_through():
    member = Member(leads=False)
    seen = []
    member.reads.await_applied(3, lambda error: seen.append((3, error)))
    member.reads.await_applied(4, lambda error: seen.append((4, error)))
    assert seen == [(3, None)]
    member.commit(4)
    member.pump()
    assert seen == [(3, None), (4, None)]
    assert member.reads.idle


def test_an_entry_that_does_not_come_is_a_definite_try_again():
    member = Member(leads=False)
    seen = []
    member.reads.await_applied(9, seen.append)
    member.now += TIMING.request_s
    member.pump()
    (error,) = seen
    assert isinstance(error, BusyError)
    assert error.definite
    assert "entry 9" in error.message


def test_a_stopped_member_waits_for_no_entry(monkeypatch):
    monkeypatch.setattr(reads_module, "WAITING_MAX", 1)
    member = Member(leads=False)
    seen = []
    member.reads.await_applied(9, seen.append)
    member.reads.await_applied(9, seen.append)
    assert [type(one) for one in seen] == [BusyError]
    member.core.halt("a test")
    member.pump()
    member.reads.await_applied(1, seen.append)
    assert [type(one) for one in seen] == [BusyError, NodeStoppedError, NodeStoppedError]
