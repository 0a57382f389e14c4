"""The follower's side of replication: what a heartbeat without a log position does."""

from __future__ import annotations

import pytest

from raftkv.consensus.appends import AppendGuard
from raftkv.consensus.election import ElectionGuard
from raftkv.consensus.messages import AppendReply, Heartbeat, TermNotice
from tests.unit.fake_core import FakeCore


class Follower(FakeCore):
    """Follows n2 in term 3, holds ``entries`` and knows ``committed`` of them to be committed."""

    def __init__(self, entries=10, committed=4):
        super().__init__(term=3, leads=False)
        self.write(*[3] * entries)
        self.commit(committed)
        self.appends = AppendGuard(self.core, ElectionGuard(self.core), self.durability)

    def heartbeat(self, commit, term=3):
        self.appends.on_heartbeat("n2", Heartbeat(term, 7, commit))
        return self.take("n2")


@pytest.mark.parametrize(("told", "followed"), [(0, 4), (3, 4), (4, 4), (9, 9), (10, 10), (11, 10)])
def test_a_heartbeat_moves_the_commit_index_forward_only_and_within_the_log(told, followed):
    follower = Follower()
    follower.heartbeat(told)
    ((peer, delivered),) = follower.delivered
    assert (peer, delivered["term"], delivered["commit_index"]) == ("n2", 3, followed)
    assert "entries" not in delivered


def test_the_answer_to_a_heartbeat_acknowledges_nothing_and_does_not_wait_for_the_disk():
    follower = Follower()
    follower.write(3, durable=False)
    assert follower.heartbeat(9) == [AppendReply(3, 7, 5, reset=False, success=False)]


def test_a_heartbeat_of_an_older_term_is_told_the_newer_one_and_followed_by_nobody():
    follower = Follower()
    assert follower.heartbeat(9, term=2) == [TermNotice(3)]
    assert follower.delivered == []
