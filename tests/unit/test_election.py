"""What a node knows of its leader: until when the one that it heard is the one that leads."""

from __future__ import annotations

from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.election import ElectionGuard
from tests.unit.fake_core import TIMING, FakeCore


def follower(**own):
    fake = FakeCore(leads=False)
    fake.core.use(Configuration.of((Member("n1", **own), Member("n2"), Member("n3"))))
    return fake, ElectionGuard(fake.core)


def silence(fake, election, seconds):
    fake.now += seconds
    election.tick()
    return election.misses_leader


def test_a_leader_is_missed_after_the_longest_election_timeout_and_no_more_once_it_is_heard():
    fake, election = follower()
    for _ in range(2):
        election.heard_leader()
        assert not silence(fake, election, TIMING.election_max_s - 1 / 64)
        assert silence(fake, election, 1 / 64)
    election.heard_leader()
    assert not election.misses_leader


def test_so_does_a_learner_which_never_campaigns():
    fake, election = follower(voter=False)
    election.heard_leader()
    assert silence(fake, election, TIMING.election_max_s)
    assert fake.sent == []
