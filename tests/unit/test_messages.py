"""Messages between members: every one survives the wire however it is cut, and nothing malformed gets through."""

from __future__ import annotations

import struct
import tracemalloc
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.consensus import messages
from raftkv.consensus.messages import (
    MAX_FRAME_BYTES,
    AppendEntries,
    Application,
    FrameReader,
    Heartbeat,
    SnapshotChunk,
    Vote,
    decode,
    encode,
)
from raftkv.errors import ProtocolError

BYTES_MAX = 1 << 20

u64 = st.integers(0, 2**64 - 1)
payloads = st.binary(max_size=60)
BY_FIELD = {"int": u64, "bool": st.booleans(), "bytes": payloads}


@st.composite
def appends(draw):
    prev = draw(st.integers(0, 2**63))
    parts = draw(st.lists(st.tuples(payloads, u64), max_size=5))
    entries = [(payload, prev + 1 + at, term) for at, (payload, term) in enumerate(parts)]
    return AppendEntries(draw(u64), draw(u64), draw(u64), prev, draw(u64), entries)


def strategy_of(kind):
    if kind is AppendEntries:
        return appends()
    return st.builds(kind, **{name: BY_FIELD[text] for name, text in kind.__annotations__.items()})


KINDS = get_args(messages.Message)
any_message = st.one_of(*map(strategy_of, KINDS))


def wire(message):
    return b"".join(encode(message))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_message_survives_the_wire(kind):
    @settings(deadline=None)
    @given(strategy_of(kind))
    def check(message):
        frame = wire(message)
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        assert decode(frame[4:]) == message

    check()


@settings(deadline=None)
@given(st.lists(any_message, max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_frames_come_out_whole_wherever_the_stream_is_cut(sent, sizes):
    stream = b"".join(map(wire, sent))
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += [decode(bytes(frame)) for frame in reader.feed(stream[at : at + size])]
        at, turn = at + size, turn + 1
    assert got == sent


@settings(deadline=None)
@given(st.lists(any_message, min_size=1, max_size=4))
def test_a_frame_is_delivered_with_its_last_byte_and_not_before(sent):
    reader = FrameReader()
    ends, at = [], 0
    for message in sent:
        at += len(wire(message))
        ends.append(at)
    stream = b"".join(map(wire, sent))
    for position in range(len(stream)):
        frames = reader.feed(stream[position : position + 1])
        assert len(frames) == ((position + 1) in ends)


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 2**32 - 1])
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_length_out_of_bounds_is_refused_before_anything_is_kept(length, cut):
    head = struct.pack("!I", length)
    reader = FrameReader()
    reader.feed(wire(Vote(1)) + head[: cut - 1])
    with pytest.raises(ProtocolError, match=f"frame of {length} bytes, allowed are 1 to {MAX_FRAME_BYTES}"):
        reader.feed(head[cut - 1 :])


def test_the_largest_length_is_accepted_and_costs_nothing_until_its_bytes_arrive():
    reader = FrameReader()
    tracemalloc.start()
    try:
        assert reader.feed(struct.pack("!I", MAX_FRAME_BYTES)) == []
        assert reader.feed(b"x" * 1000) == []
        assert tracemalloc.get_traced_memory()[1] < BYTES_MAX
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(any_message, st.data())
def test_a_shortened_frame_is_refused_or_a_shorter_message(message, data):
    frame = wire(message)[4:]
    cut = frame[: data.draw(st.integers(0, len(frame) - 1))]
    if isinstance(message, Application | SnapshotChunk):
        fixed = 1 if isinstance(message, Application) else 41
        if len(cut) >= fixed:
            assert decode(cut).data == cut[fixed:]  # what is cut off is seen by the frame's length
            return
    with pytest.raises(ProtocolError):
        decode(cut)


@settings(deadline=None)
@given(any_message, st.binary(min_size=1, max_size=9))
def test_bytes_behind_a_message_are_refused(message, more):
    if isinstance(message, Application | SnapshotChunk):
        return
    with pytest.raises(ProtocolError):
        decode(wire(message)[4:] + more)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_a_message_or_a_protocol_error(frame):
    try:
        message = decode(frame)
    except ProtocolError:
        return
    assert type(message) in KINDS


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"", "empty"),
        (b"\x00", "kind 0 with 0 bytes"),
        (b"\xff" + b"x" * 8, "kind 255 with 8 bytes"),
        (wire(Heartbeat(1, 2, 3))[4:-1], "kind 10 with 23 bytes"),
        (b"\x01" + struct.pack("!QQQQQI", 1, 1, 1, 1, 1, 2**32 - 1), "malformed"),
        (b"\x01" + struct.pack("!QQQQQIQI", 1, 1, 1, 1, 1, 1, 1, 9) + b"x" * 8, "ends inside an entry"),
        (b"\x01" + struct.pack("!QQQQQI", 1, 1, 1, 1, 1, 0) + b"x", "1 bytes behind its last entry"),
    ],
)
def test_malformed_frames_are_named(frame, text):
    with pytest.raises(ProtocolError, match=text):
        decode(frame)
