"""What nodes ask of each other: two of them, and a wire in the hand of the test."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.errors import BusyError, CommandError, ProtocolError
from raftkv.replicator import Compacted
from raftkv.server import calls as calls_module
from raftkv.server.calls import MARK, PeerCalls


class Node:
    """One node; ``sent`` is what it put on the wire."""

    def __init__(self, name: str) -> None:
        self.me = SimpleNamespace(node_id=name, boot_id="0123456789abcdef0123")
        self.now = 100.0
        self.sent: list[bytes] = []
        self.reachable = self.answers_arrive = True
        self.links = self
        self.syncs: list[tuple[int, Any]] = []
        self.compactions: list[Any] = []
        self.refuses: Exception | None = None
        self.got: list[tuple[Any, Any]] = []
        self.calls = PeerCalls(self, self, self.compact, request_s=5.0)

    def monotonic(self) -> float:
        return self.now

    def both_ways(self, _peer: str) -> bool:
        return self.answers_arrive

    def send_application(self, _peer: str, data: bytes, *, answers: bool = False) -> bool:
        assert answers == bool(self.syncs or self.compactions or self.refuses), "who was asked answers, and only he"
        if self.reachable:
            self.sent.append(data)
        return self.reachable

    def await_synced(self, index: int, done: Any) -> None:
        self.syncs.append((index, done))

    def compact(self, done: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.compactions.append(done)

    def ask(self, task: Any, index: int = 0) -> None:
        self.calls.ask("b", task, index, lambda result, error: self.got.append((result, error)))

    def deliver(self, other: Node) -> None:
        sent, self.sent = self.sent, []
        for data in sent:
            other.calls.on_message(self.me.node_id, data)


@pytest.fixture
def pair() -> tuple[Node, Node]:
    return Node("a"), Node("b")


def test_a_sync_is_answered_when_it_is_done(pair):
    a, b = pair
    a.ask("sync", 42)
    a.deliver(b)
    ((index, done),) = b.syncs
    assert (index, a.got, b.sent) == (42, [], [])
    done(None)
    b.deliver(a)
    assert a.got == [(None, None)]


def test_a_compaction_says_what_it_did(pair):
    a, b = pair
    a.ask("compact")
    a.deliver(b)
    b.compactions[0](Compacted(7, 6, 4096), None)
    b.deliver(a)
    assert a.got == [(Compacted(7, 6, 4096), None)]


def test_errors_travel(pair):
    a, b = pair
    a.ask("sync", 1)
    b.refuses = CommandError("Background save already in progress")
    a.ask("compact")
    a.deliver(b)
    b.syncs[0][1](BusyError("entry 1 is not applied"))
    b.deliver(a)
    assert [(str(error), error.definite) for _, error in a.got] == [
        ("ERR Background save already in progress", True), ("TRYAGAIN entry 1 is not applied", True),
    ]  # fmt: skip


@pytest.mark.parametrize("lacks", ["reachable", "answers_arrive"])
def test_who_cannot_be_reached_or_answer_is_named(pair, lacks):
    a, _ = pair
    setattr(a, lacks, False)
    a.ask("sync")
    assert a.sent == []
    assert str(a.got[0][1]) == "CLUSTERDOWN b cannot be reached"


def test_a_broken_link_ends_the_wait_and_a_late_answer_finds_nobody(pair):
    a, b = pair
    a.ask("sync")
    a.deliver(b)
    a.calls.on_link("c", False)
    a.calls.on_link("b", True)
    assert a.got == []
    a.calls.on_link("b", False)
    assert "the link broke" in str(a.got[0][1])
    b.syncs[0][1](None)
    b.deliver(a)
    assert len(a.got) == 1


@pytest.mark.parametrize(("task", "patience_s"), [("sync", 6.0), ("compact", calls_module.COMPACT_S)])
def test_nobody_waits_for_ever(pair, task, patience_s):
    a, _ = pair
    a.ask(task)
    a.now += patience_s - 0.5
    a.calls.sweep()
    assert a.got == []
    a.now += 0.5
    a.calls.sweep()
    assert "no answer in time" in str(a.got[0][1])


def test_calls_are_bounded(pair, monkeypatch):
    a, _ = pair
    monkeypatch.setattr(calls_module, "CALLS_MAX", 1)
    a.ask("sync")
    a.ask("sync")
    assert isinstance(a.got[0][1], BusyError)


@example(b"\x93\x00\xa3\x00\x00\x80")  # text that is no UTF-8
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_protocol_error(data):
    node = Node("a")
    with suppress(ProtocolError):
        node.calls.on_message("b", MARK + data)
