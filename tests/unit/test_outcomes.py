"""Each cause of a request without a result, brought about on production replicas; and the documentation's table of them."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.sim.clients import resp
from chaos.sim.script import Block, play
from chaos.sim.verbs import Script
from chaos.sim.world import pinned
from raftkv.consensus import reads as reads_module
from raftkv.consensus import replica as replica_module
from raftkv.consensus import syncing as syncing_module
from raftkv.consensus.outcomes import Cause, table
from raftkv.machine.batch import PLAIN, Group, encode_group
from raftkv.server.consistency import LINEARIZABLE, Consistency

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture" / "consensus.md"


class Trio:
    """Three replicas, n1 the leader, moved by the verbs of golden scripts (``chaos/sim/verbs.py``)."""

    def __init__(self, stack):
        self.script = Script(stack)
        self.errors = []
        self.run("cluster nodes=3", "elect n1", "settle")

    def run(self, *commands):
        play(self.script, Block([], list(commands), [], 0))

    def member(self, node_id="n1"):
        return self.script.stage.members[node_id]

    def answered(self, _result, error):
        self.errors.append(error)

    def write(self, node_id="n1"):
        self.member(node_id).propose(encode_group(Group(PLAIN, 0, 1, resp(b"SET", b"x", b"1"))), self.answered)
        self.script.stage.settle()

    def read(self, node_id="n1", consistency=LINEARIZABLE):
        self.member(node_id).read([b"GET", b"x"], self.answered, consistency)
        self.script.stage.settle()

    def halt(self):
        self.member().replica.core.halt("a test says so")


@pytest.fixture
def trio():
    with ExitStack() as stack:
        stack.enter_context(pinned())
        yield Trio(stack)


def stopped(trio, _patch):
    trio.halt()
    trio.write()


def not_leader(trio, _patch):
    trio.write("n2")


def log_failed(trio, patch):
    patch.setattr(trio.member().log, "failed", OSError("no space"))
    trio.write()


def handing_over(trio, _patch):
    trio.member().replica.transfer.start("n2", lambda _: None)
    trio.write()


def queue_full(trio, patch):
    patch.setattr(replica_module, "PENDING_MAX", 1)
    trio.run("partition n1 | n2 n3")
    trio.write()
    trio.write()


def overwritten(trio, _patch):
    trio.run("partition n1 | n2 n3")
    trio.write()
    trio.run("elect n2 n3", "settle n2 n3", "heal", "settle")


def displaced(trio, _patch):
    """Three entries of n1 give way to one of n2; n1 leads again and writes where its third one was."""
    trio.run("partition n1 | n2 n3")
    for _ in range(3):
        trio.write()
    trio.run("elect n2 n3", "partition n3 | n1 n2", *["deliver n2->n1", "deliver n1->n2"] * 2, "deliver n2->n1")
    trio.run("partition n2 | n1 n3", "elect n1 n3")
    trio.write()
    trio.run("advance n1 20")


def covered(trio, _patch):
    trio.run("partition n1 | n2 n3")
    trio.write()
    trio.run("elect n2 n3")
    for _ in range(3):
        trio.run("propose n2 SET y 1", "settle n2 n3", "snapshot n2", "settle n2 n3")
    trio.run("heal", *["advance 100", "settle"] * 6, "propose n2 SET y 2", "settle")


def late(trio, _patch):
    trio.run("partition n1 | n2 n3")
    trio.write()
    trio.run("advance n1 5030")


def stopped_meanwhile(trio, _patch):
    trio.run("partition n1 | n2 n3")
    trio.write()
    trio.halt()
    trio.run("advance n1 30")


def read_stopped(trio, _patch):
    trio.halt()
    trio.read()


def reads_full(trio, patch):
    patch.setattr(reads_module, "WAITING_MAX", 0)
    trio.read("n2")


def read_late(trio, _patch):
    trio.run("partition n1 | n2 n3")
    trio.read()
    trio.run("advance n1 5030")


def token_late(trio, _patch):
    trio.read("n2", Consistency("at least", 1000))
    trio.run("advance n2 5030")


def syncs_full(trio, patch):
    patch.setattr(syncing_module, "WAITING_MAX", 0)
    trio.member().propose(encode_group(Group(PLAIN, 0, 1, resp(b"SET", b"x", b"1"))), lambda *_: None)
    trio.member().replica.syncing.wait(0, lambda error: trio.answered(None, error))


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.name)
def test_the_cause_ends_the_request_as_the_table_says(trio, monkeypatch, cause):
    provoke = globals()[cause.name.lower()]
    provoke(trio, monkeypatch)
    (error,) = trio.errors
    row = cause.value
    assert type(error) is row.kind, error
    assert re.fullmatch(re.escape(row.text).replace(r"\{\}", ".+"), error.message), error.message


def test_nothing_that_may_be_in_somebodys_log_is_called_definite():
    unknown = {cause.name for cause in Cause if not cause.value.kind.definite}
    assert unknown == {"DISPLACED", "COVERED", "LATE", "STOPPED_MEANWHILE"}
    assert all(cause.value.kind.definite for cause in Cause if cause.value.request == "read")


def test_the_documentation_has_this_table():
    shown = re.search(r"<!-- outcomes: begin -->\n(.*)\n<!-- outcomes: end -->", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert shown is not None
    assert shown[1] == table(), "write what raftkv.consensus.outcomes.table() gives into docs/architecture/consensus.md"
