"""A disk that does not answer: when it counts as stalled, whom a leader hands over to, and what has to count as lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raftkv.consensus.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    PreVote,
    PreVoteGranted,
    ReadProbe,
    RequestVote,
    SnapshotChunk,
    TermNotice,
    TimeoutNow,
    Vote,
)
from raftkv.consensus.stall import LOOK_S_MAX, REST_S, StallGuard
from tests.unit.fake_core import TIMING
from tests.unit.test_leadership import Leader

STALL_S = TIMING.stall_s


class Stalled(Leader):
    """n1, for long the leader; its disk holds five entries. ``wait`` lets its guard look as often as a node ticks."""

    def __init__(self):
        super().__init__()
        self.stall = StallGuard(self.core, self.replication, self.transfer)
        self.handed = []
        self.transfer.start = lambda target, done, *, committed: self.handed.append((target, committed))
        self.stall.tick()
        self.wait(REST_S)

    def wait(self, seconds, step=1 / 64):
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.hold("n2", self.replication.progress["n2"].match_index)
            self.hold("n3", self.replication.progress["n3"].match_index)
            self.stall.look()
            self.stall.tick()
        return self.stall.stalled


@pytest.fixture
def node():
    return Stalled()


def test_an_idle_disk_is_not_stalled(node):
    assert not node.wait(10 * STALL_S)
    assert node.stall.waits_s == 0.0


def test_what_was_written_last_has_to_wait_for_the_bound(node):
    node.write(3, durable=False)
    assert not node.wait(STALL_S - 1 / 8)
    assert node.wait(1 / 4)
    node.log.sync()
    node.stall.look()
    assert (node.stall.stalled, node.stall.waits_s) == (False, 0.0)


def test_a_slow_disk_that_gets_on_is_not_stalled(node):
    for _ in range(8):
        node.write(3, durable=False)
        assert not node.wait(STALL_S / 2)
        node.log.sync()
        node.write(3, durable=False)
        node.stall.look()


def test_time_in_which_this_process_stood_still_hardly_counts(node):
    node.write(3, durable=False)
    node.wait(1 / 8)
    assert not node.wait(100.0, step=100.0)
    assert node.stall.waits_s <= 1 / 8 + LOOK_S_MAX


def test_it_hands_over_to_who_holds_what_it_cannot_write(node):
    node.write(3, durable=False)
    node.replication.progress["n3"].match_index = 6
    node.wait(STALL_S + 1 / 8)
    assert node.handed == [("n3", False)]
    node.wait(REST_S - 1)
    assert node.handed == [("n3", False)], "once, and then a rest"
    node.wait(2)
    assert len(node.handed) == 2


def test_nobody_who_is_no_better_off_gets_it(node):
    node.write(3, durable=False)
    assert node.wait(STALL_S + 1)
    assert node.handed == []
    assert node.core.counters["stalled_without_successor"] == 1
    node.replication.progress["n4"].match_index = 6
    node.wait(2 * REST_S)
    assert node.handed == [], "a learner is no successor"


def test_a_new_leader_rests_first(node):
    node.change_term(4, leads=False, leader="n2")
    node.stall.tick()
    node.change_term(5, leads=True)
    node.write(5, durable=False)
    node.replication.progress["n2"].match_index = 6
    assert node.wait(REST_S - 1 / 8)
    assert node.handed == []
    node.wait(1 / 4)
    assert node.handed == [("n2", False)]


def test_a_follower_hands_nothing_over(node):
    node.change_term(4, leads=False, leader="n2")
    node.write(4, durable=False)
    assert node.wait(STALL_S + 1)
    assert node.handed == []


def test_without_a_bound_no_disk_is_stalled(node):
    node.core.timing = SimpleNamespace(stall_s=0.0)
    node.write(3, durable=False)
    assert not node.wait(10 * STALL_S)


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        (RequestVote(3, 5, 3, False), True),
        (Vote(3), True),
        (PreVote(4, 5, 3), True),
        (PreVoteGranted(4), True),
        (TimeoutNow(3), True),
        (SnapshotChunk(3, 9, 3, 10, b"seal", 0, b"x"), True),
        (TermNotice(4), True),
        (Heartbeat(4, 1, 5), True),
        (AppendEntries(4, 1, 5, 5, 3, []), True),
        (ReadProbe(4, 1), True),
        (Heartbeat(3, 1, 5), False),
        (AppendEntries(3, 1, 5, 5, 3, []), False),
        (AppendReply(3, 1, 6, False, True), False),
        (ReadProbe(3, 1), False),
    ],
)
def test_what_would_wait_for_the_disk_counts_as_lost(node, message, refused):
    """In term 3: whatever brings another term, or asks for a vote or an office."""
    assert node.stall.refuses(message) is refused
