"""Waits for a sync, on three replicas of the simulator whose disks take their time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from chaos.sim.clients import resp
from chaos.sim.script import Block, play
from chaos.sim.verbs import Script
from chaos.sim.world import pinned
from raftkv.errors import NodeStoppedError
from raftkv.machine.batch import PLAIN, Group, encode_group


class Trio:
    def __init__(self, stack):
        self.script = Script(stack)
        self.run("cluster nodes=3", "elect n1", "settle")
        self.outcomes = []

    def run(self, *commands):
        play(self.script, Block([], list(commands), [], 0))

    def member(self, node_id):
        return self.script.stage.members[node_id]

    def write(self):
        """The index of a write that is on its way."""
        member = self.member("n1")
        member.propose(encode_group(Group(PLAIN, 0, 1, resp(b"SET", b"x", b"1"))), lambda *_: None)
        return member.log.last_index

    def wait(self, node_id, index):
        member = self.member(node_id)

        def done(error):
            self.outcomes.append((error, member.durable_index(), member.replica.core.applied))

        member.replica.syncing.wait(index, done)


@pytest.fixture
def trio():
    with ExitStack() as stack:
        stack.enter_context(pinned())
        yield Trio(stack)


@pytest.mark.parametrize("node_id", ["n1", "n2"])
def test_it_ends_when_the_entry_is_applied_and_on_disk(trio, node_id):
    index = trio.write()
    trio.wait(node_id, index)
    assert trio.outcomes == []
    trio.run("settle", "advance 100", "settle")
    ((error, durable, applied),) = trio.outcomes
    assert error is None
    assert min(durable, applied) >= index


def test_what_is_on_disk_already_is_answered_at_once(trio):
    index = trio.write()
    trio.run("settle", "advance 100", "settle")
    trio.wait("n2", index)
    assert [error for error, *_ in trio.outcomes] == [None]


def test_a_log_that_fails_answers_whoever_waits(trio, monkeypatch):
    member = trio.member("n1")
    trio.write()
    trio.wait("n1", 0)
    assert trio.outcomes == []
    monkeypatch.setattr(member.log, "failed", OSError("EIO"))
    member.replica.tick()
    trio.wait("n1", 0)
    assert [type(error) for error, *_ in trio.outcomes] == [NodeStoppedError] * 2


def test_an_entry_that_does_not_come_is_an_error_in_time(trio):
    trio.wait("n2", 1000)
    trio.run("advance n2 5030")
    assert [error.code for error, *_ in trio.outcomes] == ["TRYAGAIN"]
