"""COMPACT's cut: everything that the snapshot covers goes, but for what a live follower lacks."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from chaos.sim.script import Block, play
from chaos.sim.verbs import Script
from chaos.sim.world import pinned


class Trio:
    def __init__(self, stack):
        self.script = Script(stack)
        self.run("cluster nodes=3", "elect n1", "settle")

    def run(self, *commands):
        play(self.script, Block([], list(commands), [], 0))

    def replica(self, node_id="n1"):
        return self.script.stage.members[node_id].replica

    def log(self, node_id="n1"):
        return self.script.stage.members[node_id].log

    def write(self, count):
        for number in range(count):
            self.run(f"propose n1 SET k{number} 1")
        self.run("settle n1 n2", "advance n1 100", "settle n1 n2")


@pytest.fixture
def trio():
    with ExitStack() as stack:
        stack.enter_context(pinned())
        yield Trio(stack)


def test_all_that_the_snapshot_covers_goes(trio):
    trio.run("partition n1 n2 | n3")
    trio.write(5)
    trio.run("snapshot n1", "settle n1 n2", "advance n1 61000", "settle n1 n2")
    trio.replica().cut_log()
    assert trio.log().first_index == trio.replica().snapshots.index - 1
    assert trio.replica().retention.first_kept() == 1  # what the policy would have kept
    trio.write(2)  # the engine goes on with the shorter log
    trio.run("heal", *["advance 100", "settle"] * 8)
    assert trio.replica("n3").core.applied == trio.replica().core.applied  # by the snapshot


def test_what_a_live_follower_lacks_stays(trio):
    trio.run("partition n1 n2 | n3")
    retention = trio.replica().retention
    retention.hold("followers", retention._slowest_follower, 1 << 20)  # the stage's profile allows it no byte
    held = trio.replica().replication.progress["n3"].match_index
    trio.write(5)
    trio.run("snapshot n1", "settle n1 n2")
    assert trio.replica().snapshots.index > held + 2
    trio.replica().cut_log()
    assert trio.log().first_index <= held
    trio.run("heal", *["advance 100", "settle"] * 8)
    assert trio.replica("n3").core.applied == trio.replica().core.applied
    assert trio.replica("n3").snapshots.receiver.installed_total == 0


def test_what_another_reason_holds_stays(trio):
    """The archive's, say."""
    trio.write(5)
    trio.run("settle", "snapshot n1", "settle")
    trio.replica().retention.hold("archive", lambda: 4, 1 << 20)
    trio.replica().cut_log()
    assert trio.log().first_index == 4
    trio.replica().retention.release("archive")
    trio.replica().cut_log()
    assert trio.log().first_index == trio.replica().snapshots.index - 1
