"""The leader's side of replication: which replies it believes, how much it sends, and where it begins again."""

from __future__ import annotations

import pytest

from raftkv.consensus import replication as replication_module
from raftkv.consensus.messages import AppendEntries, AppendReply, Heartbeat
from raftkv.consensus.replication import APPEND_ENTRIES_MAX, FIRST_SENT, Replication
from tests.unit.fake_core import TIMING, FakeCore


class Leader(FakeCore):
    """Leads term 3 with a log of ``entries``; followers hold everything unless the test says else."""

    def __init__(self, entries=10, *, known=True, size=10, peers=("n2",)):
        super().__init__(peers, term=3)
        self.write(*[3] * entries, size=size)
        self.replication = Replication(self.core, self.durability)
        if known:
            self.replication.send_all()
            for peer in peers:
                self.ack(self.take(peer)[-1], entries + 1, peer=peer)
            self.delivered.clear()

    def progress(self, peer="n2"):
        return self.replication.progress[peer]

    def pump(self, peer="n2"):
        self.replication.send_all()
        return self.take(peer)

    def reply(self, answered, next_index, *, reset=False, success=True, term=None, peer="n2"):
        term = answered.term if term is None else term
        self.replication.on_reply(peer, AppendReply(term, answered.sequence, next_index, reset, success))

    def ack(self, answered, next_index, **options):
        self.reply(answered, next_index, **options)

    def reset(self, answered, next_index, **options):
        self.reply(answered, next_index, reset=True, success=False, **options)

    def later(self, seconds):
        self.now += seconds


def indexes(message):
    return [index for _, index, _ in message.entries]


# ------------------------------------------------------------------ probing and sending
def test_a_new_leader_probes_with_one_empty_append_a_heartbeat_until_it_is_answered():
    leader = Leader(known=False)
    (probe,) = leader.pump()
    assert (probe.prev_index, probe.prev_term, list(probe.entries)) == (10, 3, [])
    leader.write(3)
    assert leader.pump() == []
    leader.later(TIMING.heartbeat_s)
    (second,) = leader.pump()
    assert list(second.entries) == []
    assert second.sequence > probe.sequence
    leader.ack(second, 11)
    assert [indexes(one) for one in leader.pump()] == [[11]]


def test_entries_are_sent_once_and_behind_each_other_without_waiting():
    leader = Leader()
    sent = []
    for _ in range(3):
        leader.write(3)
        sent += leader.pump()
    assert leader.pump() == []
    assert [(one.prev_index, indexes(one)) for one in sent] == [(10, [11]), (11, [12]), (12, [13])]
    assert [one.sequence for one in sent] == sorted({one.sequence for one in sent})
    leader.ack(sent[1], 13)
    assert leader.progress().match_index == 12
    assert list(leader.progress().in_flight) == [(13, 10)]


def test_a_heartbeat_leaves_when_nothing_else_did_for_its_time():
    leader = Leader()
    leader.later(TIMING.heartbeat_s)
    assert [indexes(one) for one in leader.pump()] == [[]]
    assert leader.pump() == []
    leader.later(TIMING.heartbeat_s)
    leader.write(3)
    assert [indexes(one) for one in leader.pump()] == [[11]]


def test_a_heartbeat_that_overtakes_entries_names_no_position_and_only_what_its_receiver_acknowledged():
    leader = Leader(peers=("n2", "n3"))
    leader.write(3, 3)
    (first,) = leader.pump("n2")
    leader.ack(leader.take("n3")[0], 13, peer="n3")
    leader.commit(12)
    leader.later(TIMING.heartbeat_s)
    (heartbeat,) = leader.pump("n2")
    assert (type(heartbeat), heartbeat.term, heartbeat.commit) == (Heartbeat, 3, 10)
    assert heartbeat.sequence > first.sequence
    leader.ack(first, 12)  # a part of it
    leader.later(TIMING.heartbeat_s)
    (heartbeat,) = leader.pump("n2")
    assert (type(heartbeat), heartbeat.commit) == (Heartbeat, 11)
    assert not leader.replication.announce_commit()
    leader.ack(first, 13)
    assert leader.replication.announce_commit()
    assert [(one.prev_index, one.commit) for one in leader.take("n2")] == [(12, 12)]


def test_a_large_flight_is_given_the_time_that_a_slow_link_needs(monkeypatch):
    monkeypatch.setattr(replication_module, "SLOWEST_LINK_BYTES_S", 100)
    leader = Leader()
    leader.write(3, size=400)
    leader.pump()
    leader.later(TIMING.election_max_s + 4)
    leader.pump()
    assert leader.core.counters == {}
    leader.later(0.01)
    leader.pump()
    assert leader.core.counters == {"flight_restarts": 1}


def test_an_append_carries_a_bounded_number_of_entries_and_bytes(monkeypatch):
    leader = Leader()
    leader.write(*[3] * (APPEND_ENTRIES_MAX + 5))
    assert [len(one.entries) for one in leader.pump()] == [APPEND_ENTRIES_MAX, 5]
    monkeypatch.setattr(replication_module, "APPEND_BYTES_MAX", 30)
    leader.write(*[3] * 7)
    assert [len(one.entries) for one in leader.pump()] == [3, 3, 1]
    leader.write(3, 3, size=100)
    assert [len(one.entries) for one in leader.pump()] == [1, 1]


def test_what_is_in_flight_is_bounded_and_heartbeats_go_on(monkeypatch):
    monkeypatch.setattr(replication_module, "WINDOW_BYTES", 100)
    monkeypatch.setattr(replication_module, "APPEND_BYTES_MAX", 40)
    leader = Leader()
    leader.write(*[3] * 50)
    sent = leader.pump()
    assert sum(len(payload) for one in sent for payload, _, _ in one.entries) == 120
    assert leader.pump() == []
    leader.later(TIMING.heartbeat_s)
    assert [type(one) for one in leader.pump()] == [Heartbeat]
    leader.ack(sent[0], indexes(sent[0])[-1] + 1)
    (more,) = leader.pump()
    assert indexes(more)[0] == indexes(sent[-1])[-1] + 1
    assert leader.progress().in_flight_bytes == 120


def test_a_message_that_certainly_did_not_leave_is_not_in_flight():
    leader = Leader()
    leader.refuses.add("n2")
    leader.write(3)
    assert leader.pump() == []
    assert leader.progress().in_flight_bytes == 0
    leader.refuses.clear()
    assert [indexes(one) for one in leader.pump()] == [[11]]


def test_each_follower_has_its_own_position():
    leader = Leader(peers=("n2", "n3"))
    leader.refuses.add("n3")
    leader.write(3)
    leader.replication.send_all()
    leader.refuses.clear()
    leader.write(3)
    leader.replication.send_all()
    assert [indexes(one) for one in leader.take("n2")] == [[11], [12]]
    assert [indexes(one) for one in leader.take("n3")] == [[11, 12]]


# ------------------------------------------------------------------ replies
@pytest.mark.parametrize("term", [2, 4])
@pytest.mark.parametrize(("reset", "success"), [(False, True), (True, False), (False, False)])
def test_a_reply_to_another_leadership_changes_nothing(term, reset, success):
    leader = Leader()
    leader.write(3, 3)
    sent = leader.pump()
    before = repr(leader.progress())
    leader.reply(sent[-1], 13, reset=reset, success=success, term=term)
    assert repr(leader.progress()) == before
    assert leader.delivered == []
    assert leader.core.counters == {"stale_replies": 1}


def test_a_deposed_leader_and_one_that_sent_nothing_yet_believe_no_reply():
    leader = Leader()
    leader.write(3)
    (sent,) = leader.pump()
    leader.change_term(3, leads=False)
    leader.ack(sent, 12)
    leader.change_term(4, leads=True)
    leader.ack(sent, 12, term=4)  # of this term, but what this node knows is still of the last one
    assert leader.progress().match_index == 10
    assert leader.delivered == []
    assert leader.core.counters == {"stale_replies": 2}


def test_a_reply_of_a_stranger_is_stale():
    leader = Leader()
    leader.write(3)
    (sent,) = leader.pump()
    leader.ack(sent, 12, peer="n9")
    assert leader.core.counters == {"stale_replies": 1}


def test_match_never_goes_back_when_replies_overtake_each_other():
    leader = Leader()
    leader.write(3)
    (first,) = leader.pump()
    leader.write(3)
    (second,) = leader.pump()
    leader.ack(second, 13)
    leader.ack(first, 12)
    assert leader.progress().match_index == 12
    assert leader.progress().in_flight_bytes == 0
    assert leader.pump() == []


def test_a_reset_is_honoured_once_a_flight():
    leader = Leader(entries=10, known=False)
    (probe,) = leader.pump()
    leader.ack(probe, 3)  # a match at 2
    flight = []
    for _ in range(3):
        leader.write(3)
        flight += leader.pump()
    leader.reset(flight[0], 6)
    assert leader.progress().next_index == 6
    (again,) = leader.pump()
    assert (again.prev_index, list(again.entries)) == (5, [])
    for stale in flight[1:]:
        leader.reset(stale, 4)
    assert leader.core.counters == {"stale_resets": 2}
    assert leader.progress().next_index == 6
    assert leader.pump() == []
    leader.reset(again, 4)  # an answer to what was sent after the reset counts
    assert leader.progress().next_index == 4
    (last,) = leader.pump()
    assert last.prev_index == 3


def test_a_reset_below_what_was_acknowledged_does_not_go_below_it_and_is_noticed():
    leader = Leader()
    leader.write(3)
    (sent,) = leader.pump()
    leader.reset(sent, 5)
    assert leader.progress().next_index == 11
    assert leader.core.counters == {"follower_lost_acknowledged_data": 1}
    assert leader.pump() == [], "it would say the same again at once"
    leader.later(TIMING.heartbeat_s)
    (asked,) = leader.pump()
    assert asked.prev_index == 10


def test_a_reset_never_asks_for_the_engines_own_first_entry():
    leader = Leader(known=False)
    (probe,) = leader.pump()
    leader.reset(probe, 0)
    assert leader.progress().next_index == FIRST_SENT


def test_an_acknowledgement_beyond_the_log_stops_the_leader():
    leader = Leader()
    leader.write(3)
    (sent,) = leader.pump()
    leader.ack(sent, 14)
    assert "acknowledged 13, beyond this leader's last entry" in leader.core.halted
    assert leader.delivered == []
    assert leader.pump() == []


def test_an_answer_that_neither_acknowledges_nor_resets_counts_as_a_sign_of_life_only():
    leader = Leader()
    leader.write(3)
    (sent,) = leader.pump()
    leader.reply(sent, 12, reset=False, success=False)
    assert leader.progress().match_index == 10
    ((peer, told),) = leader.delivered
    assert (peer, told["success"], told["next_node_idx"]) == ("n2", False, 1)


# ------------------------------------------------------------------ the leader's own disk
def test_the_engine_hears_of_acknowledgements_only_up_to_what_is_durable_here():
    leader = Leader()
    leader.write(3, 3, durable=False)
    (sent,) = leader.pump()
    leader.ack(sent, 13)
    assert leader.delivered[-1][1]["next_node_idx"] == 11
    leader.durability.on_durable()
    assert leader.delivered[-1][1]["next_node_idx"] == 11
    leader.log.sync()
    leader.durability.on_durable()
    assert leader.delivered[-1] == (
        "n2", {"type": "next_node_idx", "next_node_idx": 13, "reset": False, "success": True},
    )  # fmt: skip


def test_acknowledgements_of_an_earlier_leadership_are_not_passed_on_in_a_later_one():
    leader = Leader()
    leader.write(3, durable=False)
    (sent,) = leader.pump()
    leader.ack(sent, 12)
    leader.delivered.clear()
    leader.change_term(4, leads=True)
    leader.log.sync()
    leader.durability.on_durable()
    assert leader.delivered == []


# ------------------------------------------------------------------ losses
def test_a_flight_without_an_answer_begins_again_from_what_is_known():
    leader = Leader()
    leader.write(3, 3)
    (sent,) = leader.pump()
    leader.later(TIMING.election_max_s)
    assert [type(one) for one in leader.pump()] == [Heartbeat]
    assert leader.core.counters == {}
    leader.later(0.01)
    (probe,) = leader.pump()
    assert leader.core.counters == {"flight_restarts": 1}
    assert (probe.prev_index, list(probe.entries)) == (10, [])
    leader.ack(probe, 11)
    assert [indexes(one) for one in leader.pump()] == [[11, 12]]
    assert sent.sequence < probe.sequence


def test_a_link_that_comes_back_begins_again_from_what_is_known():
    leader = Leader()
    leader.write(3, 3)
    leader.pump()
    leader.replication.link_down("n2")
    leader.write(3)
    assert leader.pump() == []
    leader.replication.link_up("n2")
    (probe,) = leader.pump()
    assert (probe.prev_index, list(probe.entries)) == (10, [])


def test_a_link_that_comes_back_before_anything_is_known_keeps_the_guess():
    leader = Leader(known=False)
    leader.pump()
    leader.replication.link_up("n2")
    assert [one.prev_index for one in leader.pump()] == [10]


def test_a_member_without_a_link_gets_a_heartbeat_tried_now_and_then_only():
    leader = Leader()
    leader.replication.link_down("n2")
    leader.write(3)
    assert leader.pump() == []
    leader.later(TIMING.heartbeat_s)
    assert len(leader.pump()) == 1


def test_a_follower_behind_the_beginning_of_the_log_gets_heartbeats_until_its_snapshot_is_there():
    leader = Leader(entries=10, known=False)
    (probe,) = leader.pump()
    leader.log.compact_to(6)
    leader.reset(probe, 4)
    leader.later(TIMING.heartbeat_s)
    (message,) = leader.pump()
    assert type(message) is Heartbeat
    assert leader.progress().needs_snapshot
    assert leader.pump() == []
    assert not leader.core.halted


# ------------------------------------------------------------------ commit
def test_a_new_commit_index_is_announced_once_and_only_to_those_who_would_not_hear_of_it():
    leader = Leader(peers=("n2", "n3"))
    leader.write(3)
    leader.refuses.add("n3")
    leader.replication.send_all()
    leader.refuses.clear()
    leader.commit(11)
    assert leader.replication.announce_commit()
    assert [(peer, message.commit) for peer, message in leader.take() if not message.entries] == [("n3", 11)]
    assert not leader.replication.announce_commit()


def test_progress_is_fresh_in_every_term_and_nothing_is_sent_by_a_halted_leader():
    leader = Leader()
    leader.change_term(4, leads=True)
    leader.write(4)
    leader.later(TIMING.heartbeat_s)
    (probe,) = leader.pump()
    assert type(probe) is AppendEntries
    assert (probe.term, probe.prev_index, list(probe.entries), leader.progress().match_index) == (4, 11, [], 0)
    leader.core.halt("a test")
    leader.later(TIMING.heartbeat_s)
    assert leader.pump() == []
