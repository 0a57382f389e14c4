"""What members say to each other, and its binary form.

A frame is ``u32 length | u8 kind | body`` (network order). No message relies on another one arriving: any of
them may be lost, repeated or overtaken, on one connection or across reconnects.

A large frame may travel in fragments, so that others can go in between. Each is a frame itself, its body
``u32 head | u32 total | u32 offset | bytes``: bytes ``[offset, offset + n)`` of the ``total`` bytes of kind and body.
The fragments of a frame follow each other in order, and those of two frames are never mixed. The first ``head`` bytes
are all but the payload that comes last; no fragment holds bytes of both, so that the payload can be put together for
itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from operator import attrgetter
from typing import Any, Final, TypeAlias

from raftkv.errors import ProtocolError

Entry: TypeAlias = tuple[bytes, int, int]
"""(payload, index, term), the engine's own order."""

MAX_FRAME_BYTES: Final = 640 * 1024 * 1024
"""Largest frame accepted: one command of the largest legal size and its envelope. Larger: the link is cut."""
ENTRY_BYTES_MAX: Final = MAX_FRAME_BYTES - 1024 * 1024
"""Largest log entry, and largest request that a follower forwards: in a frame alone it fits with all that goes before
it. A larger one would be in the leader's log and never get to a follower."""
FRAGMENT_BYTES: Final = 128 * 1024
"""What one fragment carries. A link of 10 Mbit/s sends it in a tenth of a second."""

Buffer: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """Leader to follower: entries after ``prev_index``, or none as a heartbeat (Raft, figure 2)."""

    term: int
    sequence: int
    """Counts the leader's appends on this link; the reply echoes it, so that stale replies are recognised."""
    commit: int
    prev_index: int
    prev_term: int
    entries: Sequence[Entry]
    """Contiguous, the first at ``prev_index + 1``."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Leader to a follower that is being sent entries or a snapshot: proves leadership, carries no log position.

    So it may overtake what is on its way; an empty append would name a position that the follower has not reached.
    """

    term: int
    sequence: int
    commit: int
    """Committed, and acknowledged by this follower in this term (or below): it may apply so much."""


@dataclass(frozen=True, slots=True)
class AppendReply:
    """Follower to leader, only after what it covers is durable."""

    term: int
    """Term of the append that it answers."""
    sequence: int
    next_index: int
    """First index the follower lacks (success), or from where to send again."""
    reset: bool
    success: bool


@dataclass(frozen=True, slots=True)
class RequestVote:
    """Candidate to all; its own vote is durable before this leaves."""

    term: int
    last_index: int
    last_term: int
    transfer: bool
    """The leader asked for this election: stickiness does not apply."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A granted vote, durable before this leaves."""

    term: int


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in ``term``? Changes nothing at the receiver (Raft thesis 9.6)."""

    term: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteGranted:
    """Yes, to the pre-vote of ``term``."""

    term: int


@dataclass(frozen=True, slots=True)
class TermNotice:
    """Your term is old: mine is ``term``. Keeps a node with a higher term from being stuck outside."""

    term: int


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Leader to follower: start an election at once (leadership transfer, Raft thesis 3.10)."""

    term: int


@dataclass(frozen=True, slots=True)
class ReadProbe:
    """Leader to follower: am I still your leader in ``term``? (ReadIndex, Raft thesis 6.4)."""

    term: int
    round: int


@dataclass(frozen=True, slots=True)
class ReadProbeAck:
    """Yes, in ``term``, to round ``round``."""

    term: int
    round: int


@dataclass(frozen=True, slots=True)
class ReadIndexRequest:
    """Follower to leader: from which index on may I serve linearizable reads?"""

    request: int


@dataclass(frozen=True, slots=True)
class ReadIndexReply:
    """``index`` to wait for and the leader's ``now_ms``; index 0: not the leader, or lost its quorum."""

    request: int
    index: int
    now_ms: int


SEAL_BYTES: Final = 20
"""What tells a snapshot's file from any other of the same snapshot: its checksums
(:mod:`persistence.snapshot_file`)."""


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """Bytes ``[offset, offset + len(data))`` of a file of the snapshot that ends at (index, last_term)."""

    term: int
    index: int
    last_term: int
    total_bytes: int
    """Of the file: with the seal, it says which one."""
    seal: bytes
    offset: int
    data: bytes
    """Never empty, and never beyond ``total_bytes``."""


@dataclass(frozen=True, slots=True)
class SnapshotAck:
    """The follower holds ``offset`` bytes of the file with that seal, and wants the next."""

    term: int
    index: int
    seal: bytes
    offset: int
    installed: bool
    """It needs no more of it: its state and log go on from the snapshot."""
    damaged: bool
    """What it was sent does not verify: it cut that off."""


@dataclass(frozen=True, slots=True)
class Application:
    """Bytes of a layer above (forwarded commands and their replies)."""

    data: bytes
    answers: bool = field(default=False, compare=False)
    """It answers a request, so nobody would send it again. Only the sender's link looks at this: it is not on the
    wire."""


Message: TypeAlias = (
    AppendEntries | Heartbeat | AppendReply | RequestVote | Vote | PreVote | PreVoteGranted | TermNotice | TimeoutNow
    | ReadProbe | ReadProbeAck | ReadIndexRequest | ReadIndexReply | SnapshotChunk | SnapshotAck | Application
)  # fmt: skip

_LENGTH: Final = struct.Struct("!I")
_HEAD: Final = struct.Struct("!IB")
_FRAGMENT: Final = struct.Struct("!III")
_APPEND: Final = struct.Struct("!QQQQQI")
_ENTRY: Final = struct.Struct("!QI")
_CHUNK: Final = struct.Struct(f"!QQQQ{SEAL_BYTES}sQ")

_KIND_APPEND: Final = 1
_KIND_CHUNK: Final = 2
_KIND_APPLICATION: Final = 3
_KIND_FRAGMENT: Final = 4

_FIXED: Final[dict[int, tuple[Callable[..., Message], struct.Struct, tuple[str, ...]]]] = {
    10: (Heartbeat, struct.Struct("!QQQ"), ("term", "sequence", "commit")),
    11: (AppendReply, struct.Struct("!QQQ??"), ("term", "sequence", "next_index", "reset", "success")),
    12: (RequestVote, struct.Struct("!QQQ?"), ("term", "last_index", "last_term", "transfer")),
    13: (Vote, struct.Struct("!Q"), ("term",)),
    14: (PreVote, struct.Struct("!QQQ"), ("term", "last_index", "last_term")),
    15: (PreVoteGranted, struct.Struct("!Q"), ("term",)),
    16: (TermNotice, struct.Struct("!Q"), ("term",)),
    17: (TimeoutNow, struct.Struct("!Q"), ("term",)),
    18: (ReadProbe, struct.Struct("!QQ"), ("term", "round")),
    19: (ReadProbeAck, struct.Struct("!QQ"), ("term", "round")),
    20: (ReadIndexRequest, struct.Struct("!Q"), ("request",)),
    21: (ReadIndexReply, struct.Struct("!QQQ"), ("request", "index", "now_ms")),
    22: (
        SnapshotAck,
        struct.Struct(f"!QQ{SEAL_BYTES}sQ??"),
        ("term", "index", "seal", "offset", "installed", "damaged"),
    ),
}


def _values(names: tuple[str, ...]) -> Callable[[Message], tuple[Any, ...]]:
    """The fields of a message as a tuple; attrgetter gives one field bare."""
    return attrgetter(*names) if len(names) > 1 else lambda message: (getattr(message, names[0]),)


_ENCODING_OF: Final[dict[object, tuple[bytes, struct.Struct, Callable[[Message], tuple[Any, ...]]]]] = {
    made: (_HEAD.pack(1 + form.size, kind), form, _values(names)) for kind, (made, form, names) in _FIXED.items()
}


def encode(message: Message) -> list[bytes]:
    """The frame of ``message`` as buffers to be written one after the other (large payloads are not copied)."""
    fixed = _ENCODING_OF.get(type(message))
    if fixed is not None:
        head, form, values = fixed
        return [head + form.pack(*values(message))]
    if isinstance(message, AppendEntries):
        return _encode_append(message)
    if isinstance(message, Application):
        return [_HEAD.pack(1 + len(message.data), _KIND_APPLICATION), message.data]
    assert isinstance(message, SnapshotChunk)
    chunk = _CHUNK.pack(
        message.term, message.index, message.last_term, message.total_bytes, message.seal, message.offset
    )
    return [_HEAD.pack(1 + len(chunk) + len(message.data), _KIND_CHUNK), chunk, message.data]


def _encode_append(message: AppendEntries) -> list[bytes]:
    entries = message.entries
    fixed = _APPEND.pack(
        message.term, message.sequence, message.commit, message.prev_index, message.prev_term, len(entries)
    )
    parts = [b"", fixed]
    size = 1 + len(fixed)
    for payload, _, term in entries:
        parts += (_ENTRY.pack(term, len(payload)), payload)
        size += _ENTRY.size + len(payload)
    parts[0] = _HEAD.pack(size, _KIND_APPEND)
    return parts


def frame_bytes(parts: Sequence[bytes]) -> int:
    """Length of an encoded frame, without the four bytes that say it."""
    length: int = _LENGTH.unpack_from(parts[0])[0]
    return length


def fragments(parts: Sequence[bytes]) -> Iterator[list[Buffer]]:
    """An encoded frame as fragments, each as buffers to be written one after the other (nothing is copied)."""
    total = frame_bytes(parts)
    head = total - len(parts[-1])
    yield from _region((parts[0][_LENGTH.size :], *parts[1:-1]), head, total, 0)
    yield from _region(parts[-1:], head, total, head)


def _region(parts: Sequence[bytes], head: int, total: int, offset: int) -> Iterator[list[Buffer]]:
    piece: list[Buffer] = []
    size = 0
    for part in parts:
        rest = memoryview(part)
        while rest:
            taken = rest[: FRAGMENT_BYTES - size]
            rest = rest[len(taken) :]
            piece.append(taken)
            size += len(taken)
            if size == FRAGMENT_BYTES:
                yield _fragment(head, total, offset, size, piece)
                offset += size
                piece, size = [], 0
    if piece:
        yield _fragment(head, total, offset, size, piece)


def _fragment(head: int, total: int, offset: int, size: int, piece: list[Buffer]) -> list[Buffer]:
    return [_HEAD.pack(1 + _FRAGMENT.size + size, _KIND_FRAGMENT) + _FRAGMENT.pack(head, total, offset), *piece]


def decode(frame: memoryview | bytes, tail: bytes = b"") -> Message:
    """A message from the frame's bytes after the length. Raises ProtocolError on anything malformed.

    ``tail`` are the last bytes of the frame where they are at hand by themselves: a payload that is just these is them.
    """
    if not frame:
        msg = "empty peer frame"
        raise ProtocolError(msg)
    kind = frame[0]
    body = memoryview(frame)[1:]
    try:
        if kind == _KIND_APPEND:
            return _decode_append(body, tail)
        if kind == _KIND_APPLICATION:
            return Application(_last(body, 0, tail))
        if kind == _KIND_CHUNK:
            return _decode_chunk(body, tail)
        made, form, _ = _FIXED[kind]
        return made(*form.unpack(bytes(body) + tail if tail else body))
    except (struct.error, KeyError) as error:
        msg = f"peer frame of kind {kind} with {len(body) + len(tail)} bytes is malformed ({error})"
        raise ProtocolError(msg) from error


def _last(body: memoryview, at: int, tail: bytes) -> bytes:
    """Everything from ``at`` on; ``tail`` itself, not a copy, when that is all of it."""
    return tail if at == len(body) else bytes(body[at:]) + tail


def _decode_chunk(body: memoryview, tail: bytes) -> SnapshotChunk:
    term, index, last_term, total_bytes, seal, offset = _CHUNK.unpack_from(body)
    data = _last(body, _CHUNK.size, tail)
    if not data or offset + len(data) > total_bytes:
        msg = f"snapshot piece of {len(data)} bytes at {offset} is not in a file of {total_bytes}"
        raise ProtocolError(msg)
    return SnapshotChunk(term, index, last_term, total_bytes, seal, offset, data)


def _decode_append(body: memoryview, tail: bytes) -> AppendEntries:
    term, sequence, commit, prev_index, prev_term, count = _APPEND.unpack_from(body)
    at, size = _APPEND.size, len(body) + len(tail)
    entries: list[Entry] = []
    index = prev_index
    for _ in range(count):
        entry_term, length = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        end = at + length
        if end > len(body) and end != size:
            msg = "append frame ends inside an entry"
            raise ProtocolError(msg)
        index += 1
        entries.append((_last(body, at, tail) if end == size else bytes(body[at:end]), index, entry_term))
        at = end
    if at != size:
        msg = f"append frame has {size - at} bytes after its last entry"
        raise ProtocolError(msg)
    return AppendEntries(term, sequence, commit, prev_index, prev_term, entries)


class FrameReader:
    """Cuts a byte stream into messages and puts those together that came in fragments. Bounded by MAX_FRAME_BYTES."""

    __slots__ = ("_buffer", "_head", "_need", "_parts", "_shape", "_tail")

    def __init__(self) -> None:
        self._buffer = b""
        self._parts: list[bytes] = []
        self._need = 0
        self._shape: tuple[int, int] | None = None
        """(head, total) of the frame that comes in fragments."""
        self._head = BytesIO()
        self._tail = BytesIO()
        """Grows in place and gives away what it holds: a payload of many megabytes is never copied as a whole."""

    def feed(self, data: bytes) -> list[Message]:
        """Messages completed by ``data``.

        Raises ProtocolError on an oversized or malformed frame, and on a fragment that does not go on where the last
        one ended.
        """
        if self._need:
            self._need -= len(data)
            self._parts.append(data)
            if self._need > 0:
                return []
            data = b"".join(self._parts)
            self._parts = []
            self._need = 0
        elif self._buffer:
            data = self._buffer + data
        messages: list[Message] = []
        view = memoryview(data)
        at, size = 0, len(data)
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(view, at)
            if not 0 < length <= MAX_FRAME_BYTES:
                msg = f"peer frame of {length} bytes, allowed are 1 to {MAX_FRAME_BYTES}"
                raise ProtocolError(msg)
            end = at + 4 + length
            if end > size:
                rest = data[at:]
                self._parts, self._need, self._buffer = [rest], end - size, b""
                return messages
            if data[at + 4] != _KIND_FRAGMENT:
                messages.append(decode(view[at + 4 : end]))
            elif self._put_together(view[at + 5 : end]):
                messages.append(decode(self._head.getvalue(), self._tail.getvalue()))
                self._shape, self._head, self._tail = None, BytesIO(), BytesIO()
            at = end
        self._buffer = data[at:]
        return messages

    def _put_together(self, body: memoryview) -> bool:
        """Take in one fragment. True: its frame is complete."""
        piece = body[_FRAGMENT.size :]
        if not piece:
            msg = f"fragment frame of {len(body)} bytes carries nothing"
            raise ProtocolError(msg)
        head: int
        total: int
        offset: int
        head, total, offset = _FRAGMENT.unpack_from(body)
        there, end = self._head.tell() + self._tail.tell(), offset + len(piece)
        whole = end <= head or offset >= head
        if (self._shape or (head, total)) != (head, total) or offset != there or not whole or end > total:
            msg = (
                f"fragment at {offset} with {len(piece)} bytes of a frame of {head} and {total - head}; "
                f"{there} are there, of a frame of {self._shape}"
            )
            raise ProtocolError(msg)
        if not 0 < head <= total <= MAX_FRAME_BYTES:
            msg = f"fragment of a frame of {total} bytes, allowed are {MAX_FRAME_BYTES}, and {head} in its head"
            raise ProtocolError(msg)
        self._shape = (head, total)
        (self._head if end <= head else self._tail).write(piece)
        return end == total
