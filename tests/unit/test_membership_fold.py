"""Which configuration a node acts by, after anything that can happen to its log.

The model is one sentence: the newest configuration entry in the log, or the snapshot's when there is none behind it. It looks
through the whole log each time; the code is told what happens, and keeps only what it needs.
"""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftkv.consensus.configuration import CONFIGURATION, Configuration, Member
from raftkv.consensus.engine import REGULAR
from raftkv.consensus.journal import JournalAdapter
from raftkv.consensus.membership import Membership
from raftkv.consensus.messages import Entry
from raftkv.consensus.replication import Replication
from tests.unit.fake_core import FakeCore

FIRST = Configuration.of(["n1", "n2", "n3"])
NO_OP = b"\x01"
REGULAR_ENTRY = bytes([REGULAR])


class Node(RuleBasedStateMachine):
    """A follower: its leaders, whoever they are, append, overwrite, commit and send snapshots. It restarts at any time."""

    @initialize()
    def begin(self) -> None:
        self.fake = FakeCore(leads=False)
        self.fake.core.engine.use_voters = self.use_voters
        self.snapshot = (0, FIRST)
        """Last entry that it covers, and its configuration."""
        self.made = 0
        self.told: list[Configuration] = []
        self.restart()
        self.journal.add(NO_OP, 1, 1)
        self.fake.commit(1)

    # ------------------------------------------------------------ the surroundings
    @property
    def log(self):
        return self.fake.log

    @property
    def applied(self) -> int:
        return self.fake.core.applied

    def use_voters(self, peers: tuple[str, ...], _now: float) -> None:
        self.engine_peers = peers

    def configuration(self) -> Configuration:
        """Another one than all before."""
        self.made += 1
        voters = [f"m{self.made}", "n2"] + ["n1"] * (self.made % 3 > 0)
        return Configuration.of([*voters, Member(f"l{self.made}", voter=False)])

    # ------------------------------------------------------------ what happens
    @rule()
    def restart(self) -> None:
        core = self.fake.core
        covered, configuration = self.snapshot
        self.journal = JournalAdapter(self.log, covered)
        core.journal = self.journal
        replication = Replication(core, self.fake.durability)
        self.membership = Membership(core, replication, "", "", waits_to_join=False)
        self.membership.start(configuration, self.log, covered)
        self.engine_peers = core.peers  # the engine begins with them
        self.told.clear()
        self.membership.on_change = self.told.append
        self.journal.on_configuration = self.membership.appended
        self.journal.on_truncated = self.membership.truncated
        self.fake.commit(max(covered, 1))

    @rule(kinds=st.lists(st.booleans(), min_size=1, max_size=4))
    def append(self, kinds: list[bool]) -> None:
        for is_configuration in kinds:
            payload = self.configuration().encode() if is_configuration else REGULAR_ENTRY
            self.journal.add(payload, self.log.last_index + 1, 1)

    @rule()
    def append_many(self) -> None:
        self.append([False] * 64)

    @precondition(lambda self: self.log.last_index > self.applied)
    @rule(data=st.data())
    def overwrite(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.applied + 1, self.log.last_index))
        self.journal.deleteEntriesFrom(index - self.journal.view_first)

    @precondition(lambda self: self.log.last_index > self.applied)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        for index in range(self.applied + 1, data.draw(st.integers(self.applied + 1, self.log.last_index)) + 1):
            self.fake.commit(index)
            payload = self.log.entry(index)[0]
            if payload[0] == CONFIGURATION:
                assert self.membership.on_applied(index, payload) == self.applied_by_the_model()

    @precondition(lambda self: self.applied > max(self.snapshot[0], 2))
    @rule(data=st.data())
    def take_snapshot(self, data: st.DataObject) -> None:
        """And cut the log, more or less."""
        self.snapshot = (self.applied, self.membership.for_snapshot)
        self.log.compact_to(data.draw(st.integers(self.log.first_index, self.applied - 1)))
        self.journal.view_first = self.log.first_index

    @rule(ahead=st.integers(2, 5), ends_with_a_configuration=st.booleans(), crash=st.booleans())
    def install_snapshot(self, ahead: int, ends_with_a_configuration: bool, crash: bool) -> None:
        """A leader's, up to an entry that is not in the log as it is: the log is given up, perhaps by the next life only."""
        index = self.applied + ahead
        made = self.configuration()
        configuration = Configuration(made.members, index - (not ends_with_a_configuration))
        payload = configuration.encode() if ends_with_a_configuration else REGULAR_ENTRY
        self.snapshot = (index, configuration)
        if crash:
            self.restart()
        self.membership.reset(configuration)
        self.journal.clear()
        for entry in ((NO_OP, index - 1, 1), (payload, index, 1)):
            self.journal.add(*entry)
        self.fake.commit(index)

    @precondition(lambda self: self.log.last_index > self.applied + 1)
    @rule(data=st.data())
    def install_a_snapshot_that_the_log_goes_on_from(self, data: st.DataObject) -> None:
        """What it covers is in the log, and so is what comes behind it."""
        index = data.draw(st.integers(self.applied + 1, self.log.last_index))
        configuration = self.newest(self.snapshot[1], self.snapshot[0], index)
        self.snapshot = (index, configuration)
        self.membership.reset(configuration)
        self.journal.view_first = max(index - 1, self.log.first_index)
        self.fake.commit(index)

    # ------------------------------------------------------------ the model
    def newest(self, base: Configuration, low: int, high: int) -> Configuration:
        for index in range(high, max(low, self.log.first_index - 1), -1):
            entry: Entry = self.log.entry(index)
            if entry[0][0] == CONFIGURATION:
                return Configuration.decode(entry[0], index)
        return base

    def applied_by_the_model(self) -> Configuration:
        covered, base = self.snapshot
        return self.newest(base, covered, self.applied)

    @invariant()
    def it_acts_by_the_newest_one_and_vouches_for_the_committed_one(self) -> None:
        covered, base = self.snapshot
        latest, core = self.newest(base, covered, self.log.last_index), self.fake.core
        assert self.membership.latest == latest
        assert self.membership.index == latest.index
        assert self.membership.applied == self.membership.for_snapshot == self.applied_by_the_model()
        assert self.membership.busy == (latest.index > self.applied)
        assert core.votes == ("n1" in latest.voters)
        assert core.peers == self.engine_peers == tuple(one for one in latest.voters if one != "n1")
        assert core.learners == tuple(one.node_id for one in latest.members if not one.voter)
        assert not self.told or self.told[-1] == latest, "links follow it"


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_who_is_told_of_a_change_is_told_the_configuration_that_counts():
    fake = FakeCore(leads=False)
    fake.core.engine = SimpleNamespace(**vars(fake.core.engine), use_voters=lambda *_: None)
    membership = Membership(fake.core, Replication(fake.core, fake.durability), "", "", waits_to_join=False)
    membership.start(FIRST, fake.log, 0)
    told: list[tuple[str, ...]] = []
    voters: list[int] = []
    membership.on_change = lambda configuration: told.append(configuration.ids)
    membership.on_voters = lambda: voters.append(len(told))
    membership.appended(5, Configuration.of(["n1", "n2", "n3", Member("n4", voter=False)]).encode())
    assert voters == [], "the same nodes vote"
    membership.appended(6, Configuration.of(["n1", "n2"]).encode())
    membership.truncated(7)
    membership.truncated(6)
    membership.truncated(5)
    assert told == [("n1", "n2", "n3", "n4"), ("n1", "n2"), ("n1", "n2", "n3", "n4"), ("n1", "n2", "n3")]
    assert len(voters) == 2
