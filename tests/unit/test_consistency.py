"""What reads wait for in each mode, and which time they see."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import BusyError, CommandError, NoLeaderError
from raftkv.machine.batch import header, plain
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_commands
from raftkv.server.consistency import LINEARIZABLE, LOCAL, Consistency, Gates, parse
from raftkv.server.reader import Readers


class Node:
    """A replica whose barriers and entries the test opens."""

    def __init__(self):
        self.now = 100.0
        self.barriers = []
        self.applied = 5
        self.waiting = []
        self.gates = Gates(self, lambda: self.now)
        self.got = []

    def read_barrier(self, done):
        self.barriers.append(done)

    def await_applied(self, index, done):
        if index <= self.applied:
            done(None)
        else:
            self.waiting.append(done)

    def read(self, consistency, name="read"):
        self.gates.gate(consistency)(lambda now_ms, error: self.got.append((name, now_ms, error)))

    def barrier(self, *, took_s, now_ms):
        """A barrier that began now and is completed ``took_s`` later."""
        self.read(LINEARIZABLE)
        self.now += took_s
        self.barriers.pop()(now_ms, None)
        self.got.clear()


def bounded(ms):
    return Consistency("bounded", ms)


# ------------------------------------------------------------------ parsing
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("LINEARIZABLE", LINEARIZABLE),
        ("local", LOCAL),
        ("Bounded 0", bounded(0)),
        ("BOUNDED 1500", bounded(1500)),
        ("at least 17", Consistency("at least", 17)),
    ],
)
def test_what_read_takes(words, wanted):
    assert parse(words.encode().split()) == wanted


@pytest.mark.parametrize(
    "words", ["FRESH", "LOCAL 1", "BOUNDED", "BOUNDED x", "BOUNDED -1", "BOUNDED 99999999999", "AT", "AT LEAST", "AT MOST 3",
              "AT LEAST -1", "AT LEAST 1 2"]
)  # fmt: skip
def test_what_read_refuses(words):
    with pytest.raises(CommandError):
        parse(words.encode().split())


@given(st.integers(0, 2**31 - 1), st.sampled_from(["bounded", "at least"]))
def test_a_mode_reads_as_it_is_shown(number, mode):
    one = Consistency(mode, number)
    assert parse(str(one).encode().split()) == one


# ------------------------------------------------------------------ gates
def test_a_local_read_waits_for_nothing():
    node = Node()
    node.read(LOCAL)
    assert node.got == [("read", 0, None)]


def test_a_bounded_read_needs_a_barrier_until_one_was_completed():
    node = Node()
    node.read(bounded(1000))
    assert node.got == []
    node.barriers.pop()(42, None)
    assert node.got == [("read", 42, None)]


def test_a_bound_counts_from_when_the_barrier_began():
    node = Node()
    node.barrier(took_s=0.25, now_ms=42)
    node.now += 0.25
    node.read(bounded(500))
    assert node.got == [("read", 42, None)]
    node.read(bounded(499))
    assert len(node.barriers) == 1
    node.now += 0.001
    node.read(bounded(500))
    assert len(node.barriers) == 2


def test_a_barrier_that_began_earlier_and_ends_later_makes_nothing_older():
    node = Node()
    node.read(LINEARIZABLE, "early")
    node.now += 1.0
    node.barrier(took_s=0.0, now_ms=50)
    node.barriers.pop()(40, None)
    node.got.clear()
    node.read(bounded(0))
    assert node.got == [("read", 50, None)]


def test_a_barrier_that_failed_proves_nothing():
    node = Node()
    node.read(bounded(1000))
    node.barriers.pop()(0, NoLeaderError("none"))
    node.read(bounded(1000))
    assert len(node.barriers) == 1
    assert [type(error) for _, _, error in node.got] == [NoLeaderError]


def test_a_token_that_is_applied_is_read_at_once_and_one_that_is_not_is_waited_for():
    node = Node()
    node.read(Consistency("at least", 5), "there")
    node.read(Consistency("at least", 6), "ahead")
    assert [name for name, _, _ in node.got] == ["there"]
    node.waiting.pop()(None)
    assert [name for name, _, _ in node.got] == ["there", "ahead"]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 100)), max_size=8), st.integers(0, 2000))
def test_no_read_sees_an_earlier_time_than_a_barrier_completed_before(barriers, bound):
    node = Node()
    for took_s, now_ms in barriers:
        node.barrier(took_s=took_s, now_ms=now_ms)
    latest = max((now_ms for _, now_ms in barriers), default=0)
    for one in (LOCAL, bounded(bound), Consistency("at least", 1)):
        node.read(one)
    assert all(now_ms == latest for _, now_ms, _ in node.got)


# ------------------------------------------------------------------ readers
class World(Node):
    """Readers of a state machine."""

    def __init__(self):
        super().__init__()
        self.machine = StateMachine()
        self.turns = []
        account = SimpleNamespace(
            monotonic=lambda: self.now, hits=0, misses=0, tickets=lambda *_: None, alone=lambda *_: None
        )
        self.readers = Readers(self, self.machine, Random(1), self.turns.append, account)
        self.answers = []

    def ask(self, consistency, *words):
        ticket = SimpleNamespace(database=0, commands=[list(words)], client=None)
        ticket.answer = lambda replies: self.answers.append(replies[0])
        ticket.fail = self.answers.append
        self.readers.of(consistency).add(ticket)

    def turn(self):
        while self.turns:
            self.turns.pop(0)()

    def write(self, index, stamp_ms, *words):
        group = b"".join([header(stamp_ms), *plain(0, 1, [encode_commands([list(words)])])])
        self.machine.apply(index, group)


def test_a_key_that_a_linearizable_read_did_not_show_any_more_does_not_come_back():
    world = World()
    world.write(2, 1000, b"SET", b"k", b"v", b"PX", b"500")
    world.ask(LOCAL, b"GET", b"k")
    world.turn()
    world.ask(LINEARIZABLE, b"GET", b"k")
    world.turn()
    world.barriers.pop()(1600, None)
    world.ask(LOCAL, b"GET", b"k")
    world.turn()
    assert world.answers == [b"v", None, None]


def test_connections_of_one_mode_share_a_reader_and_it_goes_with_them():
    world = World()
    mode = bounded(50)
    assert world.readers.of(mode) is not world.readers.of(bounded(60))
    reader = world.readers.of(mode)
    assert world.readers.of(bounded(50)) is reader
    del reader
    assert len(world.readers._others) == 0


def test_an_error_of_the_gate_is_everybodys_answer():
    world = World()
    for _ in range(2):
        world.ask(Consistency("at least", 9), b"GET", b"k")
    world.turn()
    (done,) = world.waiting
    done(BusyError("later"))
    assert [type(one) for one in world.answers] == [BusyError, BusyError]
