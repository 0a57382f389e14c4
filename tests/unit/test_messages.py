"""Messages between members: every one survives the wire however it is cut, and nothing malformed gets through."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace
from typing import get_args
from unittest import mock

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
    fragments,
)
from raftkv.errors import ProtocolError

BYTES_MAX = 1 << 20

u64 = st.integers(0, 2**64 - 1)
payloads = st.binary(max_size=60)
seals = st.binary(min_size=messages.SEAL_BYTES, max_size=messages.SEAL_BYTES)
BY_FIELD = {"int": u64, "bool": st.booleans(), "bytes": payloads}


@st.composite
def appends(draw):
    prev = draw(st.integers(0, 2**63))
    parts = draw(st.lists(st.tuples(payloads, u64), max_size=5))
    entries = [(payload, prev + 1 + at, term) for at, (payload, term) in enumerate(parts)]
    return AppendEntries(draw(u64), draw(u64), draw(u64), prev, draw(u64), entries)


@st.composite
def chunks(draw):
    """Pieces that lie within their file."""
    data = draw(st.binary(min_size=1, max_size=200))
    offset = draw(st.integers(0, 2**64 - 1 - len(data)))
    total = draw(st.integers(offset + len(data), 2**64 - 1))
    return SnapshotChunk(draw(u64), draw(u64), draw(u64), total, draw(seals), offset, data)


def strategy_of(kind):
    if kind is AppendEntries:
        return appends()
    if kind is SnapshotChunk:
        return chunks()
    fields = {name: seals if name == "seal" else BY_FIELD[text] for name, text in kind.__annotations__.items()}
    return st.builds(kind, **fields)


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
        got += reader.feed(stream[at : at + size])
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


@settings(deadline=None)
@given(chunks(), st.data())
def test_a_piece_that_is_not_within_its_file_is_refused(chunk, data):
    """The link is cut; the receiver never sees it."""
    end = chunk.offset + len(chunk.data)
    for bad in (replace(chunk, total_bytes=data.draw(st.integers(0, end - 1))), replace(chunk, data=b"")):
        with pytest.raises(ProtocolError, match="snapshot piece"):
            decode(wire(bad)[4:])


# ------------------------------------------------------------------ fragments
large = st.one_of(
    st.builds(Application, st.binary(min_size=1, max_size=200)),
    appends().filter(lambda message: message.entries),
    chunks(),
)


def cut(message, size):
    """The fragments of ``message``, each as it goes over the wire."""
    with mock.patch.object(messages, "FRAGMENT_BYTES", size):
        return [b"".join(piece) for piece in fragments(encode(message))]


@settings(deadline=None)
@given(
    st.lists(st.tuples(large, st.integers(1, 64), st.lists(any_message, max_size=3)), min_size=1, max_size=3),
    st.lists(st.integers(1, 70), min_size=1),
)
def test_frames_in_fragments_come_out_whole_and_others_may_go_in_between(sent, sizes):
    stream, expected = b"", []
    for message, size, between in sent:
        first, *rest = cut(message, size)
        stream += first + b"".join(map(wire, between)) + b"".join(rest)
        expected += [*between, message] if rest else [message, *between]
    reader, got, at, turn = FrameReader(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        got += reader.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert got == expected


@settings(deadline=None)
@given(large, st.integers(1, 300))
def test_a_fragment_carries_no_more_than_it_may_and_nothing_twice(message, size):
    pieces = cut(message, size)
    frame = wire(message)[4:]
    assert b"".join(piece[17:] for piece in pieces) == frame
    assert all(0 < len(piece) - 17 <= size for piece in pieces)
    assert len(pieces) <= len(frame) // size + 2
    assert all(int.from_bytes(piece[:4], "big") == len(piece) - 4 for piece in pieces)


def fragment(head, total, offset, data):
    return struct.pack("!IBIII", 13 + len(data), 4, head, total, offset) + data


X4 = fragment(10, 20, 0, b"x" * 4)


@pytest.mark.parametrize(
    "pieces",
    [
        [fragment(10, 20, 1, b"x")],  # begins in the middle
        [fragment(20, 20, 0, b"x" * 21)],  # more than there is
        [fragment(10, 20, 0, b"x" * 11)],  # of both regions
        [fragment(0, 10, 0, b"x")],  # no head: no kind
        [fragment(0, 0, 0, b"x")],
        [fragment(11, 10, 0, b"x")],
        [fragment(10, 20, 0, b"")],  # would never end
        [X4, fragment(10, 20, 4, b"")],
        [X4, X4],  # repeated
        [X4, fragment(10, 20, 5, b"x" * 5)],  # a gap
        [X4, fragment(10, 20, 3, b"x" * 7)],  # an overlap
        [X4, fragment(10, 21, 4, b"x" * 6)],  # of another frame
        [X4, fragment(9, 20, 4, b"x" * 5)],
        [X4, fragment(10, 20, 10, b"x" * 10)],
        [fragment(10, 20, 0, b"x" * 10), fragment(10, 20, 10, b"x" * 11)],
        [fragment(10, MAX_FRAME_BYTES + 1, 0, b"x")],
        [fragment(10, 2**32 - 1, 0, b"x")],
        [struct.pack("!IB", 1, 4)],
        [struct.pack("!IBQI", 13, 4, 2**64 - 1, 0)],
    ],
)  # fmt: skip
def test_fragments_that_do_not_make_a_frame_are_refused(pieces):
    reader = FrameReader()
    for piece in pieces[:-1]:
        assert reader.feed(piece) == []
    with pytest.raises(ProtocolError, match="fragment"):
        reader.feed(pieces[-1])


def test_a_fragment_in_fragments_is_refused():
    inner = fragment(10, 20, 0, b"x")[4:]
    with pytest.raises(ProtocolError, match="kind 4"):
        FrameReader().feed(fragment(len(inner), len(inner), 0, inner))


@settings(deadline=None)
@given(any_message, st.data())
def test_head_and_tail_may_meet_anywhere_in_the_last_payload_and_nowhere_else(message, data):
    frame = wire(message)[4:]
    cut = data.draw(st.integers(1, len(frame)))
    carries = isinstance(message, Application | SnapshotChunk) or (
        isinstance(message, AppendEntries) and message.entries
    )
    if carries and len(frame) - cut <= len(encode(message)[-1]):
        assert decode(frame[:cut], frame[cut:]) == message
        return
    try:
        assert decode(frame[:cut], frame[cut:]) == message
    except ProtocolError:
        return


@pytest.mark.parametrize(
    "message", [Application(b"x" * 99), AppendEntries(3, 1, 7, 7, 3, [(b"a", 8, 3), (b"x" * 99, 9, 3)])]
)
def test_a_payload_that_came_in_fragments_is_not_copied(message):
    *head, tail = encode(message)
    decoded = decode(b"".join(head)[4:], tail)
    assert (decoded.data if isinstance(decoded, Application) else decoded.entries[-1][0]) is tail


def test_a_frame_in_fragments_costs_what_arrived_of_it():
    reader = FrameReader()
    tracemalloc.start()
    try:
        assert (
            reader.feed(fragment(9, MAX_FRAME_BYTES, 0, b"x" * 9) + fragment(9, MAX_FRAME_BYTES, 9, b"x" * 1000)) == []
        )
        assert tracemalloc.get_traced_memory()[1] < BYTES_MAX
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------ what is refused
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
        fixed = 1 if isinstance(message, Application) else 61
        if len(cut) >= fixed + isinstance(message, SnapshotChunk):
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
        (b"\x01" + struct.pack("!QQQQQI", 1, 1, 1, 1, 1, 0) + b"x", "1 bytes after its last entry"),
    ],
)
def test_malformed_frames_are_named(frame, text):
    with pytest.raises(ProtocolError, match=text):
        decode(frame)
