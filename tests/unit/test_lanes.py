"""The two lanes of a link: what is urgent overtakes, what is large keeps its order, and what is queued is bounded."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.consensus import lanes as lanes_module
from raftkv.consensus.lanes import FRAGMENTS_A_TURN, Outbound
from raftkv.consensus.messages import (
    FRAGMENT_BYTES,
    AppendEntries,
    Application,
    FrameReader,
    Heartbeat,
    SnapshotChunk,
    Vote,
)

SMALL = b"x" * 100
LARGE = b"x" * (5 * FRAGMENT_BYTES)
TURNS_MAX = 10_000


class Pipe:
    """A transport that takes ``room`` bytes and pauses its protocol above the high-water mark, as asyncio's does."""

    def __init__(self, room):
        self.room = room
        self.taken = bytearray()
        self.buffer = bytearray()
        self.writes = 0
        self.closing = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def set_write_buffer_limits(self, high, low):
        self.high, self.low, self.paused = high, low, False

    def get_write_buffer_size(self):
        return len(self.buffer)

    def is_closing(self):
        return self.closing

    def write(self, data):
        assert not self.closing
        self.writes += 1
        self.buffer += data
        self._take()
        if len(self.buffer) > self.high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def writelines(self, parts):
        self.write(b"".join(parts))

    def _take(self):
        size = min(self.room, len(self.buffer))
        self.taken += self.buffer[:size]
        del self.buffer[:size]
        self.room -= size

    def drain(self, size):
        """The other side reads."""
        self.room += size
        self._take()
        if self.paused and len(self.buffer) <= self.low:
            self.paused = False
            self.protocol.resume_writing()


class Loop:
    """Runs what is to run soon when the test says so."""

    def __init__(self):
        self.soon = []

    def call_soon(self, work):
        self.soon.append(work)

    def create_future(self):
        return SimpleNamespace(done=lambda: False, set_result=lambda _result: None)

    def turn(self):
        ready, self.soon = self.soon, []
        for work in ready:
            work()
        return bool(ready)


@pytest.fixture
def loop(monkeypatch):
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def outbound(room=0):
    pipe = Pipe(room)
    reader = SimpleNamespace(at_eof=lambda: False)
    writer = SimpleNamespace(transport=pipe, get_extra_info=lambda _name: None, close=lambda: None)
    return Outbound(reader, writer), pipe


def arrived(pipe):
    """Messages that came out at the other side, in order."""
    return FrameReader().feed(bytes(pipe.taken))


def drain(pipe, loop, step=FRAGMENT_BYTES):
    for _ in range(TURNS_MAX):
        if not (loop.turn() or pipe.buffer or not pipe.protocol.direct):
            return
        pipe.drain(step)
    pytest.fail("what is queued never leaves")


def append(*payloads):
    entries = [(payload, 8 + at, 3) for at, payload in enumerate(payloads)]
    return AppendEntries(3, 1, 7, 7, 3, entries)


# ------------------------------------------------------------------ the two lanes
def test_on_an_idle_link_small_frames_are_written_at_once_each_with_one_write(loop):
    link, pipe = outbound(room=1 << 20)
    sent = [Vote(1), Application(SMALL), append(SMALL, SMALL), append(), Heartbeat(1, 2, 3)]
    assert all(link.send(message) for message in sent)
    assert arrived(pipe) == sent
    assert pipe.writes == len(sent)
    assert loop.soon == []


@pytest.mark.parametrize("urgent", [Heartbeat(1, 2, 3), Vote(1), append()], ids=lambda one: type(one).__name__)
def test_what_is_urgent_waits_for_two_fragments_at_most(loop, urgent):
    link, pipe = outbound()
    assert link.send(Application(LARGE))
    assert link.send(urgent)
    assert len(pipe.buffer) < 2 * FRAGMENT_BYTES
    pipe.drain(2 * FRAGMENT_BYTES)
    assert arrived(pipe) == [urgent]
    drain(pipe, loop)
    assert arrived(pipe) == [urgent, Application(LARGE)]


def test_what_is_urgent_does_not_wait_for_small_bulk_frames_either(loop):
    link, pipe = outbound()
    bulk = [Application(b"%9d" % at + SMALL) for at in range(5000)]
    assert all(link.send(one) for one in bulk)
    assert link.send(Vote(1))
    assert len(pipe.buffer) < 2 * FRAGMENT_BYTES
    drain(pipe, loop)
    got = arrived(pipe)
    assert got.index(Vote(1)) < len(bulk) / 2
    assert [one for one in got if one != Vote(1)] == bulk


def test_a_small_bulk_frame_never_overtakes_a_large_one(loop):
    link, pipe = outbound(room=1 << 20)
    sent = [
        append(LARGE),
        Application(SMALL),
        SnapshotChunk(1, 2, 3, 4 + len(LARGE), bytes(20), 4, LARGE),
        append(SMALL),
        Application(LARGE),
    ]
    assert all(link.send(message) for message in sent)
    drain(pipe, loop)
    assert arrived(pipe) == sent
    assert link.direct
    assert link.queued_bytes == 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["vote", "small", "large", "read", "turn"]), max_size=60),
    st.integers(1, 3 * FRAGMENT_BYTES),
)
def test_each_lane_keeps_its_order_whatever_happens(steps, read_bytes):
    loop = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        link, pipe = outbound()
    urgent, bulk = [], []
    for at, step in enumerate(steps):
        if step == "read":
            pipe.drain(read_bytes)
        elif step == "turn":
            loop.turn()
        else:
            message = Vote(at) if step == "vote" else Application(b"%d" % at + (LARGE if step == "large" else SMALL))
            (urgent if step == "vote" else bulk).append(message)
            assert link.send(message)
    drain(pipe, loop)
    got = arrived(pipe)
    assert [one for one in got if type(one) is Vote] == urgent
    assert [one for one in got if type(one) is Application] == bulk
    assert link.queued_bytes == 0
    assert link.direct


def test_a_link_as_fast_as_memory_leaves_turns_to_others(loop):
    link, pipe = outbound(room=1 << 30)
    assert link.send(Application(b"x" * (3 * FRAGMENTS_A_TURN * FRAGMENT_BYTES)))
    assert pipe.writes == FRAGMENTS_A_TURN
    assert link.send(Vote(1))
    drain(pipe, loop)
    assert arrived(pipe)[0] == Vote(1)


# ------------------------------------------------------------------ bounds and ends
def test_bulk_above_the_bound_is_refused_and_what_is_urgent_is_not(loop, monkeypatch):
    monkeypatch.setattr(lanes_module, "BUFFER_BYTES_MAX", 20 * FRAGMENT_BYTES)
    link, pipe = outbound()
    accepted = 0
    while link.send(Application(LARGE)):
        accepted += 1
    assert 4 <= accepted <= 5
    assert link.queued_bytes + len(pipe.buffer) <= (20 + 5 + 2) * FRAGMENT_BYTES
    assert not link.send(Application(SMALL))
    assert link.send(Vote(1))
    drain(pipe, loop)
    assert len(arrived(pipe)) == accepted + 1
    assert link.send(Application(SMALL))


def test_answers_find_room_beside_a_large_entry_up_to_a_bound_of_their_own(loop, monkeypatch):
    monkeypatch.setattr(lanes_module, "BUFFER_BYTES_MAX", 20 * FRAGMENT_BYTES)
    link, pipe = outbound()
    assert link.send(append(b"x" * (21 * FRAGMENT_BYTES)))
    assert not link.send(Application(SMALL))
    answers = 0
    while link.send(Application(LARGE, answers=True)):
        answers += 1
    assert 3 <= answers <= 5
    assert link.queued_bytes + len(pipe.buffer) <= (2 * 20 + 5 + 2) * FRAGMENT_BYTES
    drain(pipe, loop)
    assert len(arrived(pipe)) == 1 + answers


def test_what_is_urgent_is_bounded_too(loop, monkeypatch):
    monkeypatch.setattr(lanes_module, "BUFFER_BYTES_MAX", 1000)
    link, pipe = outbound()
    while link.send(Vote(1)):
        assert len(pipe.buffer) < 2000
    pipe.drain(1 << 20)
    assert link.send(Vote(1))


def test_a_link_that_ends_drops_what_is_queued(loop):
    link, pipe = outbound()
    assert link.send(Application(LARGE))
    assert link.queued_bytes
    pipe.closing = True
    assert not link.send(Vote(1))
    link.connection_lost(None)
    assert link.queued_bytes == 0
    loop.turn()
    link.resume_writing()


def test_a_link_that_ends_between_two_turns_writes_nothing_more(loop):
    link, pipe = outbound(room=1 << 30)
    assert link.send(Application(b"x" * (3 * FRAGMENTS_A_TURN * FRAGMENT_BYTES)))
    pipe.closing = True
    assert loop.turn()
    assert link.queued_bytes == 0
    assert not loop.turn()


def test_a_connection_that_has_ended_already_is_not_taken_over(loop):
    writer = SimpleNamespace(transport=Pipe(0), get_extra_info=lambda _name: None)
    with pytest.raises(ConnectionResetError):
        Outbound(SimpleNamespace(at_eof=lambda: True), writer)
    writer.transport.closing = True
    with pytest.raises(ConnectionResetError):
        Outbound(SimpleNamespace(at_eof=lambda: False), writer)
