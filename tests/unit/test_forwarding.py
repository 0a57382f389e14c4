"""Writes forwarded between nodes, played with two forwarders and a wire in the hand of the test."""

from __future__ import annotations

from typing import Any

from raftkv.errors import NodeStoppedError, NoLeaderError
from raftkv.machine.batch import PLAIN, Group, Run
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_command
from raftkv.protocol.replies import OK
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
        self.links = self
        self.core = type("Core", (), {"term": 1, "halted": ""})()
        self.replica = type("Replica", (), {"transferring_to": "", "core": self.core})()
        self.sent: list[tuple[str, bytes]] = []

    def connected(self, _peer: str) -> bool:
        return True

    def send_application(self, peer: str, data: bytes) -> bool:
        self.sent.append((peer, data))
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


def test_a_write_goes_to_the_leader_and_its_answer_comes_back():
    follower, leader = follower_and_leader()
    ticket = Asked()
    follower.forwarder.submit(ticket)
    follower.turn()
    follower.deliver_to(leader)
    leader.proposals.tickets[0].answer([OK])
    leader.turn()
    leader.deliver_to(follower)
    assert ticket.got == [b"+OK\r\n"]


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
