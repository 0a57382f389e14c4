"""What a node asks other members to do for a client, besides its writes: sync the log, compact it.

A call may be done twice, or for nothing: both are harmless. So an answer that is lost is an error, and who still wants
the outcome asks again. Calls and answers share the links with forwarded writes; their first byte tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from raftkv.errors import BusyError, ForwardedError, NoLeaderError, ProtocolError, RaftKVError
from raftkv.replicator import Compacted

if TYPE_CHECKING:
    from raftkv.clock import Clock
    from raftkv.consensus.node import RaftNode

MARK: Final = b"C"
"""Begins each message. A parcel of forwarded writes, an array in MessagePack, cannot begin with it."""
CALLS_MAX: Final = 10_000
"""Calls of this node without an answer; one more is refused as busy."""
GRACE_S: Final = 1.0
"""An answer to a sync is waited for this much longer than the request timeout, within which the other node gives up."""
COMPACT_S: Final = 600.0
"""How long an answer to a compaction is waited for: a snapshot of a large state takes minutes."""

Task: TypeAlias = Literal["sync", "compact"]
CallDone: TypeAlias = Callable[[Compacted | None, RaftKVError | None], None]


class _Message(msgspec.Struct, array_like=True):
    """A call, or (``is_answer``) what became of it."""

    number: int
    task: Task
    is_answer: bool
    index: int = 0
    """sync: the committed entry that must be on disk."""
    compacted: tuple[int, int, int] | None = None
    error: tuple[str, str, bool] | None = None
    """(code, message, definite)."""


_decode = msgspec.msgpack.Decoder(_Message).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class _Asked:
    peer: str
    deadline: float
    done: CallDone


class PeerCalls:
    """Both sides: calls of this node, and those of others to it."""

    def __init__(self, raft: RaftNode, clock: Clock, compact: Callable[[CallDone], None], *, request_s: float) -> None:
        """``compact`` compacts the log of this node."""
        self._raft = raft
        self._request_s = request_s
        self._clock = clock
        self._compact = compact
        self._number = int(raft.me.boot_id[:15], 16)  # an answer to a call of this node's former life finds nobody
        self._asked: dict[int, _Asked] = {}

    def ask(self, peer: str, task: Task, index: int, done: CallDone) -> None:
        """Have ``peer`` sync its log up to the committed entry ``index``, or compact it (``index`` 0)."""
        if len(self._asked) >= CALLS_MAX:
            done(None, BusyError(f"{CALLS_MAX} calls to other nodes are without an answer; try again"))
            return
        self._number += 1
        call = _Message(self._number, task, is_answer=False, index=index)
        if not (self._raft.links.both_ways(peer) and self._send(peer, call)):
            done(None, NoLeaderError(f"{peer} cannot be reached"))
            return
        patience_s = self._request_s + GRACE_S if task == "sync" else COMPACT_S
        self._asked[self._number] = _Asked(peer, self._clock.monotonic() + patience_s, done)

    def _send(self, peer: str, message: _Message) -> bool:
        return self._raft.send_application(peer, MARK + _encode(message), answers=message.is_answer)

    # ------------------------------------------------------------ events
    def on_link(self, peer: str, up: bool) -> None:
        """A link broke, in one direction or both: the answers to come over it may not."""
        if not up:
            self._give_up([number for number, one in self._asked.items() if one.peer == peer], "the link broke")

    def sweep(self) -> None:
        """Give up what nobody answered in time."""
        if self._asked:
            now = self._clock.monotonic()
            self._give_up([number for number, one in self._asked.items() if one.deadline <= now], "no answer in time")

    def _give_up(self, numbers: list[int], why: str) -> None:
        for number in numbers:
            lost = self._asked.pop(number)
            lost.done(None, NoLeaderError(f"{lost.peer} did not say what became of it: {why}"))

    def on_message(self, peer: str, data: bytes) -> None:
        """A call of ``peer``, or its answer. Raises ProtocolError for what no node of this version sends."""
        try:
            message = _decode(data[len(MARK) :])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for text that is no UTF-8
            msg = f"call of {len(data)} bytes cannot be read ({error})"
            raise ProtocolError(msg) from error
        if not message.is_answer:
            self._serve(peer, message)
            return
        asked = self._asked.pop(message.number, None)
        if asked is not None:
            failed = None if message.error is None else ForwardedError(*message.error)
            asked.done(None if message.compacted is None else Compacted(*message.compacted), failed)

    def _serve(self, peer: str, call: _Message) -> None:
        def answer(compacted: Compacted | None, error: RaftKVError | None) -> None:
            said = _Message(call.number, call.task, is_answer=True)
            if compacted is not None:
                said.compacted = (compacted.index, compacted.first_index, compacted.freed_bytes)
            if error is not None:
                said.error = (error.code, error.message, error.definite)
            self._send(peer, said)

        if call.task == "sync":
            self._raft.await_synced(call.index, lambda error: answer(None, error))
            return
        try:
            self._compact(answer)
        except RaftKVError as error:
            answer(None, error)
