"""Writes that reach a follower: forwarded to the leader, answered in order, never sent twice.

A ticket waits here while no leader is known (until its deadline: then it certainly was not done). Once it left for the
leader it is answered by that leader, or its outcome is unknown: when the link breaks, or nothing comes in time. The
leader may also say that it certainly did nothing (it had just lost its leadership); then the ticket waits again.

Commands of one connection take effect in the order in which they were sent, also when some of them are refused and
tried again (:meth:`Forwarder.take_back`). Replies carry the request's number, so that they cannot be crossed (failure
class RedisRaft #26), whatever happens to leaders and links meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftkv.consensus.messages import ENTRY_BYTES_MAX
from raftkv.errors import (
    BusyError,
    ForwardedError,
    InvariantError,
    NoLeaderError,
    ProtocolError,
    RaftKVError,
    UnknownOutcomeError,
)
from raftkv.machine.batch import OPEN, RUN, TXN, WATCH, encode_group, groups, header, plain, stamp_of
from raftkv.protocol.encoder import encode, encode_commands, encode_many
from raftkv.protocol.replies import NIL_ARRAY, Raw
from raftkv.protocol.sizes import exceeds
from raftkv.server.proposer import too_large
from raftkv.server.tickets import GroupTicket, Ticket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.clock import Clock
    from raftkv.commands.registry import Argv
    from raftkv.consensus.node import RaftNode
    from raftkv.machine.batch import Group
    from raftkv.machine.machine import StateMachine
    from raftkv.protocol.replies import Reply
    from raftkv.server.accounting import Accounting
    from raftkv.server.metrics import Metrics
    from raftkv.server.proposer import Proposer

HELD_MAX: Final = 100_000
"""Tickets waiting for a leader at one node; one more is refused as busy."""
NUMBER_DIGITS: Final = 15
"""Hex digits of the boot id that the first request's number is made of: 60 of 64 bits."""
PARCEL_BYTES: Final = 16 * 1024 * 1024
"""Requests or answers that share one message take at most so much; a larger one goes alone."""
PROTOS: Final = frozenset({2, 3})
"""RESP versions of senders."""
REPLY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Most bytes of replies to one request (the default of ``client_output_buffer_limit``). Larger frames would delay what
the members have to tell each other, and one above 640 MiB would cut the link."""
GRACE_S: Final = 1.0
"""How much longer than the leader's own time-out a follower waits for its answer."""


class _Answer(msgspec.Struct, array_like=True):
    """What became of one request: exactly one of the forms is filled."""

    number: int
    raw: bytes | None = None
    """Replies in RESP."""
    parts: list[bytes] | None = None
    """A transaction's replies, each in RESP."""
    index: int | None = None
    """A watch's log index."""
    error: tuple[str, str, bool] | None = None
    """(code, message, definite)."""


class _Parcel(msgspec.Struct, array_like=True):
    """One message between servers: requests, or answers."""

    numbers: list[int]
    protos: list[int]
    entry: bytes
    """The requests' groups in the form of a log entry (its stamp means nothing)."""
    answers: list[_Answer]
    term: int = 0
    """The leader's term that the sender knew: requests that were under way for longer must not be run now."""


_decode = msgspec.msgpack.Decoder(_Parcel).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class _Sent:
    ticket: Ticket
    peer: str
    started: float
    deadline: float
    until: float
    """How long it may wait for a leader, should this one refuse it."""


class Forwarder:
    """Both sides: requests of this node to the leader, and of others to this node."""

    def __init__(
        self,
        raft: RaftNode,
        machine: StateMachine,
        proposer: Proposer,
        clock: Clock,
        metrics: Metrics,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        request_s: float,
        account: Accounting,
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._proposer = proposer
        self._clock = clock
        self._metrics = metrics
        self._call_soon = call_soon
        self._request_s = request_s
        self._account = account
        self._number = int(raft.me.boot_id[:NUMBER_DIGITS], 16)
        """Begins anywhere at each start: the answer to a request of this node's former life must find nobody."""
        self._outbox: list[Ticket] = []
        self._held: deque[tuple[Ticket, float]] = deque()
        """Tickets without a leader, and until when they may wait."""
        self._sent: dict[int, _Sent] = {}
        self._answers: dict[str, list[_Answer]] = {}

    # ------------------------------------------------------------ out
    def submit(self, ticket: Ticket) -> None:
        """Bring a write to the leader, wherever it is."""
        if self._raft.is_leader and not self._held and not self._outbox:
            self._proposer.add(ticket)
            return
        if not self._outbox:
            self._call_soon(self._flush)
        self._outbox.append(ticket)

    def _flush(self) -> None:
        tickets, self._outbox = self._outbox, []
        until = self._clock.monotonic() + self._request_s
        for ticket in tickets:
            if ticket.raw is None:
                ticket.raw = encode_commands(ticket.commands)
            if len(ticket.raw) > ENTRY_BYTES_MAX:
                ticket.fail(too_large(len(ticket.raw)))
            elif len(self._held) >= HELD_MAX:
                ticket.fail(_too_many_held())
            else:
                self._held.append((ticket, until))
        self.retry()

    def take_back(self, tickets: Sequence[Ticket], until: float = 0.0) -> None:
        """Tickets that certainly were not done, because this node does not lead (any more): let them wait again.

        They go before all that waits, because they were sent before it. A ticket is not tried again when a later one of
        the same sender is on its way or done already: that would reverse their order.
        """
        until = until or self._clock.monotonic() + self._request_s
        waiting = {id(ticket) for ticket in (*tickets, *self._outbox, *(held for held, _ in self._held))}
        kept: list[tuple[Ticket, float]] = []
        for ticket in tickets:
            if isinstance(ticket, _Remote | _RemoteGroupTicket):
                ticket.fail(NoLeaderError("this node does not lead; nothing was done"))  # its own node asks again
            elif len(self._held) + len(kept) >= HELD_MAX:
                ticket.fail(_too_many_held())
            elif all(id(later) in waiting for later in ticket.later()):
                kept.append((ticket, until))
            else:
                ticket.fail(NoLeaderError("the leader changed, and later commands of this connection came first"))
        self._held.extendleft(reversed(kept))

    def retry(self) -> None:
        """Bring held tickets on their way if there is a leader; called when one is found, and now and then."""
        self._expire_held()
        if not self._held:
            return
        leader = self._raft.leader_id
        held, self._held = self._held, deque()
        if self._raft.is_leader and not self._raft.replica.transfer.target:
            for ticket, _ in held:
                self._proposer.add(ticket)
        elif leader and leader != self._raft.me.node_id and self._raft.links.both_ways(leader):
            self._send(leader, held)
        else:
            self._held = held

    def _expire_held(self) -> None:
        """A write waits until its deadline; at a node that learns of no leader, because it has
        halted or is no member, not at all.
        """
        if not self._held:
            return
        now, refusal = self._clock.monotonic(), self._raft.refusal()
        held, self._held = self._held, deque()
        late = [ticket for ticket, until in held if until <= now or refusal is not None]
        self._held.extend(one for one in held if one[1] > now and refusal is None)
        for ticket in late:
            ticket.fail(
                refusal or NoLeaderError("no leader was found within request_timeout_ms; nothing was done, try again")
            )

    def _send(self, leader: str, held: deque[tuple[Ticket, float]]) -> None:
        """Send all, in parcels that a link can carry; what cannot leave now stays held."""
        while held:
            parcel: list[tuple[Ticket, float]] = []
            size = 0
            while held and (not parcel or size + len(held[0][0].raw or b"") <= PARCEL_BYTES):
                size += len(held[0][0].raw or b"")
                parcel.append(held.popleft())
            if not self._send_parcel(leader, parcel):
                held.extendleft(reversed(parcel))
                self._held = held
                return

    def _send_parcel(self, leader: str, tickets: list[tuple[Ticket, float]]) -> bool:
        numbers, protos, parts = [], [], [header(0)]
        now = self._clock.monotonic()
        deadline = now + self._request_s + GRACE_S
        sent: dict[int, _Sent] = {}
        for ticket, until in tickets:
            self._number += 1
            numbers.append(self._number)
            protos.append(ticket.proto)
            if ticket.group is not None:
                parts.append(encode_group(ticket.group))
            else:
                parts += plain(ticket.database, len(ticket.commands), [ticket.raw or b""])
            sent[self._number] = _Sent(ticket, leader, now, deadline, until)
        parcel = _Parcel(numbers, protos, b"".join(parts), [], self._raft.replica.core.term)
        if not self._raft.send_application(leader, _encode(parcel)):
            return False
        self._sent.update(sent)
        self._metrics.commands_forwarded += sum(len(ticket.commands) for ticket, _ in tickets)
        return True

    # ------------------------------------------------------------ events
    def on_link(self, peer: str, up: bool) -> None:
        """A link broke, in one direction or both: what was sent may have been done or not, and
        its answer may be lost.
        """
        if up:
            self.retry()
            return
        for number in [number for number, one in self._sent.items() if one.peer == peer]:
            lost = self._sent.pop(number)
            lost.ticket.fail(UnknownOutcomeError("the link to the leader broke; the command may have been applied"))

    def sweep(self) -> None:
        """Answer what nobody answered in time; look for a leader for what waits."""
        now = self._clock.monotonic()
        for number in [number for number, one in self._sent.items() if one.deadline <= now]:
            late = self._sent.pop(number)
            late.ticket.fail(UnknownOutcomeError("the leader did not answer in time; the command may be applied"))
        self.retry()

    def on_parcel(self, peer: str, data: bytes) -> None:
        """Something of the same layer at ``peer`` arrived.

        Raises ProtocolError for what no node of this version sends; then nothing of its requests is done.
        """
        try:
            parcel = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the latter for text that is no UTF-8
            msg = f"parcel of {len(data)} bytes cannot be read ({error})"
            raise ProtocolError(msg) from error
        refused: list[_Sent] = []
        misfits: list[int] = []
        for answer in parcel.answers:
            sent = self._sent.pop(answer.number, None)
            if sent is None:
                continue
            if answer.error is not None and answer.error[2] and answer.error[0] == NoLeaderError.code:
                refused.append(sent)
                continue
            if not _fits(sent.ticket, answer):
                misfits.append(answer.number)
                sent.ticket.fail(UnknownOutcomeError("the leader's answer cannot be read; the command may be applied"))
                continue
            self._answer(sent.ticket, answer)
            if sent.ticket.group is None:
                self._account.tickets([sent.ticket], sent.started)
        if refused:
            self.take_back([sent.ticket for sent in refused], refused[0].until)
        if misfits:
            msg = f"parcel answers requests {misfits} in a form that does not belong to them"
            raise ProtocolError(msg)
        if parcel.numbers:
            self._serve(peer, parcel)

    def _answer(self, ticket: Ticket, answer: _Answer) -> None:
        if answer.error is not None:
            ticket.fail(ForwardedError(*answer.error))
        elif answer.parts is not None:
            ticket.answer([[Raw(part) for part in answer.parts]])
        elif answer.index is not None:
            ticket.answer([answer.index])
        elif answer.raw is None:
            ticket.answer([NIL_ARRAY])
        elif ticket.group is not None:
            ticket.answer([Raw(answer.raw)])
        else:
            ticket.answer_raw(answer.raw)

    # ------------------------------------------------------------ the leader's side
    def _serve(self, peer: str, parcel: _Parcel) -> None:
        core = self._raft.replica.core
        if parcel.term != core.term or core.halted:
            # Meant for another term's leader: what its sender gave to that one's successor must not be overtaken.
            error = NoLeaderError("the leader changed on the way; nothing was done")
            for number in parcel.numbers:
                self.reply(peer, _failed(number, error))
            return
        try:
            requests = self._examine(parcel)
        except InvariantError as error:
            for number in parcel.numbers:
                self.reply(peer, _failed(number, RaftKVError("the leader cannot read the command; nothing was done")))
            msg = f"parcel with {len(parcel.numbers)} requests: {error.message}"
            raise ProtocolError(msg) from error
        for number, proto, group, commands in requests:
            if group.kind == 0 and group.run is None:
                self._proposer.add(_Remote(self, peer, number, proto, commands, bytes(group.data), group.database))
            else:
                done = _RemoteGroup(self, peer, number, proto, group.kind if group.run is None else RUN)
                self._proposer.add(_RemoteGroupTicket(group, commands, proto, done))

    def _examine(self, parcel: _Parcel) -> list[tuple[int, int, Group, list[Argv]]]:
        """All requests of a parcel, before any of them is taken up. Raises InvariantError if one is malformed."""
        numbers, protos = parcel.numbers, parcel.protos
        stamp_of(parcel.entry)
        found = list(groups(parcel.entry))
        if not (len(numbers) == len(protos) == len(found) and {*protos} <= PROTOS):
            msg = f"{len(numbers)} numbers, {len(found)} groups, and of RESP versions {protos[:10]}"
            raise InvariantError(msg)
        commands = map(self._machine.examine, found)
        return list(zip(numbers, protos, found, commands, strict=True))

    def reply(self, peer: str, answer: _Answer) -> None:
        """Queue an answer; all of one turn of the loop leave together."""
        if not self._answers:
            self._call_soon(self._flush_answers)
        self._answers.setdefault(peer, []).append(answer)

    def _flush_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for peer, ready in answers.items():
            start = size = 0
            for end, answer in enumerate(ready):
                size += len(answer.raw or b"") + sum(map(len, answer.parts or ()))
                if size > PARCEL_BYTES or end == len(ready) - 1:
                    said = _encode(_Parcel([], [], b"", ready[start : end + 1]))
                    self._raft.send_application(peer, said, answers=True)
                    start, size = end + 1, 0


class _Remote(Ticket):
    """Commands of another node's client."""

    __slots__ = ("_forwarder", "_number", "_peer", "_proto")

    def __init__(
        self, forwarder: Forwarder, peer: str, number: int, proto: int, commands: Any, raw: bytes, database: int
    ) -> None:
        super().__init__(commands, raw, database)
        self._forwarder = forwarder
        self._peer = peer
        self._number = number
        self._proto = proto

    @property
    def proto(self) -> int:
        return self._proto

    def answer(self, replies: Sequence[Reply]) -> None:
        if exceeds(replies, REPLY_BYTES_MAX):
            self.fail(_too_large())
        else:
            self._forwarder.reply(self._peer, _Answer(self._number, raw=encode_many(replies, self._proto)))

    def fail(self, error: RaftKVError) -> None:
        self._forwarder.reply(self._peer, _failed(self._number, error))


class _RemoteGroupTicket(GroupTicket):
    """A transaction, watch or session request of another node's client."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _RemoteGroup:
    """Callback of another node's transaction, watch or session request."""

    forwarder: Forwarder
    peer: str
    number: int
    proto: int
    kind: int

    def __call__(self, result: Any, error: RaftKVError | None) -> None:
        error = result if isinstance(result, RaftKVError) else error
        if error is not None:
            answer = _failed(self.number, error)
        elif self.kind == TXN and exceeds((result,), REPLY_BYTES_MAX):
            answer = _failed(self.number, _too_large())
        elif self.kind == RUN:
            answer = _Answer(self.number, raw=result[self.proto - 2])
        elif self.kind == TXN:
            parts = None if result is NIL_ARRAY else [encode(one, self.proto) for one in result]
            answer = _Answer(self.number, parts=parts)
        elif isinstance(result, int):
            answer = _Answer(self.number, index=result)
        else:
            answer = _Answer(self.number, raw=encode(result, self.proto))
        self.forwarder.reply(self.peer, answer)


def _fits(ticket: Ticket, answer: _Answer) -> bool:
    """Whether the answer has the form that :class:`_RemoteGroup` gives to this kind of request."""
    group = ticket.group
    if answer.error is not None:
        return True
    if group is None or group.run is not None or group.kind == OPEN:
        return answer.raw is not None
    if group.kind == TXN:
        return answer.raw is None and answer.index is None
    return group.kind != WATCH or answer.index is not None


def _too_many_held() -> BusyError:
    return BusyError(
        f"{HELD_MAX} writes are waiting for a leader at this node, which takes no more; nothing was done, try again"
    )


def _too_large() -> UnknownOutcomeError:
    return UnknownOutcomeError(
        f"the commands were applied, but their replies take more than the {REPLY_BYTES_MAX} bytes that one node sends "
        "to another at once; ask for less, or ask the leader"
    )


def _failed(number: int, error: RaftKVError) -> _Answer:
    return _Answer(number, error=(error.code, error.message, error.definite))
