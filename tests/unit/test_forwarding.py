"""Writes forwarded between nodes, played with two forwarders and a wire in the hand of the test."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import NodeStoppedError, NoLeaderError, ProtocolError, RaftKVError, UnknownOutcomeError
from raftkv.machine.batch import OPEN, PLAIN, RUN, TXN, WATCH, Group, Run, Watched, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_command
from raftkv.protocol.replies import NIL_ARRAY, OK
from raftkv.server import forwarding as forwarding_module
from raftkv.server.forwarding import Forwarder
from raftkv.server.tickets import GroupTicket, Ticket

SET = [b"SET", b"k", b"v"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Wire:
    """What a forwarder sees of Raft, as plain attributes."""

    def __init__(self, node_id: str, boot_id: str) -> None:
        self.me = type("Me", (), {"node_id": node_id, "boot_id": boot_id})()
        self.is_leader = False
        self.leader_id = ""
        self.why_hopeless: RaftKVError | None = None
        self.links = self
        self.answers_arrive = True
        self.core = type("Core", (), {"term": 1, "halted": ""})()
        self.replica = type("Replica", (), {"transfer": SimpleNamespace(target=""), "core": self.core})()
        self.sent: list[tuple[str, bytes]] = []
        self.answers: list[bool] = []

    def refusal(self) -> RaftKVError | None:
        return NodeStoppedError(self.core.halted) if self.core.halted else self.why_hopeless

    def both_ways(self, _peer: str) -> bool:
        return self.answers_arrive

    def send_application(self, peer: str, data: bytes, *, answers: bool = False) -> bool:
        self.sent.append((peer, data))
        self.answers.append(answers)
        return True


class Proposals:
    def __init__(self) -> None:
        self.tickets: list[Ticket] = []

    def add(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)


class Counters:
    commands_forwarded = 0
    protocol_errors = 0

    def tickets(self, tickets: list[Ticket], started: float) -> None:
        """Accounting, of which these tests ask nothing."""


class Node:
    """A forwarder and all that it talks to."""

    def __init__(self, node_id: str, boot: str = "0123456789abcdef0123") -> None:
        self.clock = Clock()
        self.raft = Wire(node_id, boot)
        self.proposals = Proposals()
        self.soon: list[Any] = []
        counters = Counters()
        self.forwarder = Forwarder(
            self.raft, StateMachine(), self.proposals, self.clock, counters, self.soon.append, request_s=5.0,
            account=counters,
        )  # fmt: skip

    def turn(self) -> None:
        soon, self.soon[:] = list(self.soon), []
        for work in soon:
            work()

    def deliver_to(self, other: Node) -> None:
        """Everything this node sent, in order."""
        sent, self.raft.sent[:] = list(self.raft.sent), []
        for _, data in sent:
            other.forwarder.on_parcel(self.raft.me.node_id, data)


class Asked(Ticket):
    __slots__ = ("got",)

    def __init__(self) -> None:
        super().__init__([SET], None, 0)
        self.got: list[Any] = []

    def answer_raw(self, replies: bytes) -> None:
        self.got.append(replies)

    def fail(self, error: Any) -> None:
        self.got.append(error)


def follower_and_leader() -> tuple[Node, Node]:
    follower, leader = Node("f"), Node("l")
    follower.raft.leader_id = "l"
    leader.raft.leader_id, leader.raft.is_leader = "l", True
    return follower, leader


def assert_that_a_write_is_answered(follower, leader):
    """It goes to the leader, and its answer comes back."""
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    follower.deliver_to(leader)
    leader.proposals.tickets[0].answer([OK])
    leader.turn()
    leader.deliver_to(follower)
    assert ticket.got == [b"+OK\r\n"]
    assert leader.raft.answers[-1], "a full link would drop it"
    assert not follower.raft.answers[-1]


def test_a_write_goes_to_the_leader_and_its_answer_comes_back():
    follower, leader = follower_and_leader()
    assert_that_a_write_is_answered(follower, leader)


def test_a_node_that_nobody_has_added_lets_no_write_wait():
    node = Node("f")
    ticket = Asked()
    node.forwarder.submit(ticket)
    node.turn()
    assert not ticket.got, "a leader may be found"
    node.raft.why_hopeless = NoLeaderError("no member of the cluster yet")
    node.forwarder.sweep()
    [error] = ticket.got
    assert (error.code, error.definite) == ("CLUSTERDOWN", True)


def test_a_leader_that_lost_its_office_sends_a_forwarded_write_back_to_where_it_came_from():
    follower, leader = follower_and_leader()
    ticket, results = Asked(), []
    run = Group(PLAIN, 0, 1, encode_command(SET), run=Run(b"s" * 16, 1, 0))
    follower.forwarder.submit(ticket)
    follower.forwarder.submit(GroupTicket(run, [SET], 2, lambda result, error: results.append((result, error))))
    follower.turn()
    follower.deliver_to(leader)
    leader.raft.is_leader, leader.raft.leader_id = False, "n"
    leader.forwarder.take_back(leader.proposals.tickets)
    leader.turn()
    assert [peer for peer, _ in leader.raft.sent] == ["f"], "it is not passed on to the new leader from here"
    leader.deliver_to(follower)
    assert not ticket.got
    assert not results

    new = Node("n")
    follower.raft.leader_id = "n"
    follower.forwarder.retry()
    follower.deliver_to(new)
    new.proposals.tickets[0].answer([OK])
    new.proposals.tickets[1].answer([(b"+OK\r\n", b"+OK\r\n")])
    new.turn()
    new.deliver_to(follower)
    assert ticket.got == [b"+OK\r\n"]
    assert bytes(results[0][0]) == b"+OK\r\n"


def test_the_answer_to_a_request_of_a_former_life_finds_nobody():
    follower, leader = follower_and_leader()
    follower.forwarder.submit(Asked())
    follower.turn()
    follower.deliver_to(leader)

    reborn = Node("f", boot="fedcba98765432100000")
    reborn.raft.leader_id = "l"
    ticket = Asked()
    reborn.forwarder.submit(ticket)
    reborn.turn()
    leader.proposals.tickets[0].answer([OK])
    leader.turn()
    leader.deliver_to(reborn)
    assert not ticket.got, "its own request has not even reached the leader"


def test_a_write_that_finds_no_leader_in_time_was_certainly_not_done():
    follower = Node("f")
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    follower.clock.now += 5.1
    follower.forwarder.sweep()
    assert [type(one) for one in ticket.got] == [NoLeaderError]


def test_a_broken_link_leaves_the_outcome_unknown():
    follower, _ = follower_and_leader()
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    follower.forwarder.on_link("l", False)
    assert [one.definite for one in ticket.got] == [False]


def test_a_write_is_not_sent_while_its_answer_could_not_arrive():
    follower, _ = follower_and_leader()
    follower.raft.answers_arrive = False
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    assert (ticket.got, follower.raft.sent) == ([], [])
    follower.raft.answers_arrive = True
    follower.forwarder.on_link("l", True)
    assert len(follower.raft.sent) == 1


def test_a_node_that_halted_refuses_writes_and_says_why():
    follower, _ = follower_and_leader()
    follower.raft.core.halted = "state diverged"
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    assert [type(one) for one in ticket.got] == [NodeStoppedError]
    assert "state diverged" in str(ticket.got[0])
    assert not follower.raft.sent


def test_a_write_that_is_refused_again_and_again_ends_at_its_deadline():
    follower, leader = follower_and_leader()
    leader.raft.core.halted = "the disk is full"
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    for _ in range(100):
        follower.deliver_to(leader)
        leader.turn()
        leader.deliver_to(follower)
        follower.clock.now += 0.1
        follower.forwarder.sweep()
        follower.turn()
    assert [type(one) for one in ticket.got] == [NoLeaderError]
    assert not leader.proposals.tickets


def test_a_write_that_no_parcel_can_carry_is_refused_where_it_arrived(monkeypatch):
    follower, _ = follower_and_leader()
    monkeypatch.setattr(forwarding_module, "ENTRY_BYTES_MAX", len(encode_command(SET)) - 1)
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    (error,) = ticket.got
    assert (error.code, error.definite) == ("ERR", True)
    assert follower.raft.sent == []


# ------------------------------------------------------------------ what no member sends
def parcel(
    *groups: bytes, numbers: Any = None, protos: Any = None, entry: Any = None, answers: Any = (), term: Any = 1
):
    numbers = list(range(1, len(groups) + 1)) if numbers is None else numbers
    protos = [2] * len(numbers) if protos is None else protos
    entry = header(0) + b"".join(groups) if entry is None else entry
    return msgspec.msgpack.encode([numbers, protos, entry, list(answers), term])


def group(kind: int, data: bytes = b"", commands: int = 1, database: int = 0, head: bytes = b"") -> bytes:
    return struct.pack("!BBII", kind, database, commands, len(head) + len(data)) + head + data


GOOD = encode_group(Group(PLAIN, 0, 1, encode_command(SET)))
RUN_HEAD = struct.pack("!16sQQB", b"s" * 16, 1, 0, PLAIN)
MALFORMED = {
    "no msgpack": b"\xc1",
    "no parcel": msgspec.msgpack.encode({"a": 1}),
    "an entry that ends in its header": parcel(GOOD, entry=b"\0"),
    "an entry of another version": parcel(entry=b"\0\x09" + bytes(8) + GOOD, numbers=[1]),
    "more numbers than groups": parcel(GOOD, numbers=[1, 2]),
    "more groups than numbers": parcel(GOOD, GOOD, numbers=[1]),
    "fewer versions than numbers": parcel(GOOD, protos=[]),
    "a version that is none": parcel(GOOD, protos=[4]),
    "a group that ends early": parcel(GOOD[:-1]),
    "a group of no kind": parcel(group(99)),
    "what is not RESP": parcel(group(PLAIN, b"hello, this is not RESP")),
    "fewer commands than declared": parcel(group(PLAIN, encode_command(SET), 2)),
    "more commands than declared": parcel(group(PLAIN, encode_command(SET) * 2, 1)),
    "half a command behind the last": parcel(group(PLAIN, encode_command(SET) + b"*1\r\n$1", 1)),
    "a reply instead of a command": parcel(group(PLAIN, b"+this is a reply\r\n")),
    "an error instead of a command": parcel(group(PLAIN, b"-ERR this is a reply\r\n")),
    "nothing instead of a command": parcel(group(PLAIN, b"*-1\r\n" + bytes(0), 0), GOOD),
    "a command without words": parcel(group(PLAIN, b"*0\r\n*1\r\n$8\r\nFLUSHALL\r\n", 2)),
    "a number for a name": parcel(group(PLAIN, b"*2\r\n:123\r\n$3\r\nabc\r\n")),
    "a command in a command": parcel(group(PLAIN, b"*1\r\n*1\r\n$4\r\nPING\r\n")),
    "a database that is none": parcel(group(PLAIN, encode_command(SET), database=16)),
    "a watch in a database that is none": parcel(encode_group(Group(TXN, 0, 0, b"", (Watched(99, b"k", 1),)))),
    "a watch of nothing": parcel(group(WATCH, commands=0)),
    "a session's request without a command": parcel(group(RUN, commands=0, head=RUN_HEAD)),
    "a good request before a bad one": parcel(GOOD, group(PLAIN, b"*1\r\n$5\r\nhalf")),
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_parcel_is_refused_as_a_whole_and_harms_nobody(data):
    follower, leader = follower_and_leader()
    with pytest.raises(ProtocolError):
        leader.forwarder.on_parcel("f", data)
    assert leader.proposals.tickets == []
    leader.turn()
    assert_that_a_write_is_answered(follower, leader)


def test_the_requests_of_a_malformed_parcel_are_answered_as_certainly_not_done():
    follower, leader = follower_and_leader()
    tickets = [Asked(), Asked()]
    for ticket in tickets:
        follower.forwarder.submit(ticket)
    follower.turn()
    ((_, data),) = follower.raft.sent
    damaged = data.replace(b"$3", b"$9")
    with pytest.raises(ProtocolError, match="2 requests"):
        leader.forwarder.on_parcel("f", damaged)
    leader.turn()
    leader.deliver_to(follower)
    assert [(error.code, error.definite) for ticket in tickets for error in ticket.got] == [("ERR", True)] * 2


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (Asked, [None]),
        (Asked, [None, None, 7]),
        (lambda: Group(PLAIN, 0, 1, encode_command(SET), run=Run(b"s" * 16, 1, 0)), [None, [b"+OK\r\n"]]),
        (lambda: Group(OPEN, 0, 0, b"", numbers=(1000,)), [None]),
        (lambda: Group(WATCH, 0, 1, encode_command([b"k"])), [b"+OK\r\n"]),
        (lambda: Group(TXN, 0, 1, encode_command(SET)), [b"+OK\r\n"]),
    ],
)
def test_an_answer_in_the_wrong_form_leaves_the_outcome_unknown(asked, answer):
    follower, _ = follower_and_leader()
    got: list[Any] = []
    ticket = asked()
    if isinstance(ticket, Group):
        ticket = GroupTicket(ticket, [SET], 2, lambda result, error: got.append(error))
    else:
        got = ticket.got
    follower.forwarder.submit(ticket)
    follower.turn()
    (number,) = follower.forwarder._sent
    with pytest.raises(ProtocolError, match="form"):
        follower.forwarder.on_parcel("l", parcel(answers=[[number, *answer]]))
    assert [type(error) for error in got] == [UnknownOutcomeError]


def test_a_transaction_that_did_not_run_is_answered_by_nothing():
    follower, _ = follower_and_leader()
    got: list[Any] = []
    follower.forwarder.submit(GroupTicket(Group(TXN, 0, 0, b""), [], 2, lambda *one: got.append(one)))
    follower.turn()
    (number,) = follower.forwarder._sent
    follower.forwarder.on_parcel("l", parcel(answers=[[number]]))
    assert got == [(NIL_ARRAY, None)]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([parcel(GOOD, GOOD), *MALFORMED.values()]), st.data())
def test_whatever_arrives_is_taken_up_or_is_a_protocol_error(start, data):
    damaged = bytearray(start)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _, leader = follower_and_leader()
    try:
        leader.forwarder.on_parcel("f", bytes(damaged))
    except ProtocolError:
        assert leader.proposals.tickets == []
    machine = StateMachine()
    for index, ticket in enumerate(
        leader.proposals.tickets, 1
    ):  # what was taken up may be refused by the machine, but never stop it
        entry = (
            ticket.group
            if ticket.group is not None
            else Group(PLAIN, ticket.database, len(ticket.commands), ticket.raw)
        )
        machine.apply(index, header(0) + encode_group(entry))
