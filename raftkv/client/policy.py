"""Where to send, what to send again, and what an answer means: every decision of the client, and no I/O.

:meth:`Policy.run` is a generator. It yields what it wants done (:class:`Exchange`, :class:`Wait`) and is sent an
:class:`Outcome`; the blocking and the asyncio client are two loops that do it. So both behave the same, and a test
can play the cluster.

What may be repeated
    ==============  =========================================================================================
    read            always: it changes nothing
    write           always, under the same session and sequence: the server answers a repetition with what it
                    answered the first time (Raft thesis 6.3), so that a write happens exactly once
    anything else   only while it certainly did not happen; a lost answer is UnknownOutcomeError
    ==============  =========================================================================================

Caveats: a pipeline keeps its order on one connection, but a command of it that is refused in the middle of a change
of leader is sent again after those that were not; what must stay together belongs in a transaction. A session that
the server has forgotten cannot answer for a write in doubt (SessionExpiredError).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import Any, Final, TypeAlias

from raftkv.client.errors import ConnectionLostError, NoAnswerError, SessionExpiredError, WatchError
from raftkv.client.nodes import STATUS, Nodes
from raftkv.errors import AuthError, NodeStoppedError, NoLeaderError, RaftKVError, UnknownOutcomeError
from raftkv.protocol.decoder import ResponseError
from raftkv.protocol.encoder import encode_commands

EXCHANGE_COMMANDS_MAX: Final = 512
"""A longer pipeline goes in several exchanges: the server sheds clients that send without reading."""
EXCHANGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""As EXCHANGE_COMMANDS_MAX, in bytes; a single larger request goes by itself."""
OUTSTANDING_MAX: Final = 1024
"""Sequences between the oldest unanswered and the newest of a session; beyond that a new session is opened."""
BACKOFF_S_MIN: Final = 0.01
BACKOFF_S_MAX: Final = 0.5
OPENING_POLL_S: Final = 0.005
"""While one operation opens the session, the others that need it look again at this interval."""

_REFUSED: Final = frozenset({"MOVED", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "MASTERDOWN", "READONLY"})
"""The command certainly did not happen, and may later or elsewhere."""
_IN_DOUBT: Final = frozenset({"UNKNOWN", "MISCONF"})
"""The command may have happened: leadership was lost, or the node stopped, in the middle."""
_FULL: Final = "NOSPACE"
"""This attempt did not happen, because a member's disk is full. It is refused before anybody
asks what became of one before."""
_NO_ACCESS: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_READS: Final = re.compile(r"linearizable|bounded \d{1,9}|token|local")


class Kind(Enum):
    """What decides whether a request may be repeated; see the module's text."""

    READ = "read"
    WRITE = "write"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send ``payload`` to a node and read ``replies`` replies."""

    address: str
    payload: bytes
    replies: int
    timeout_s: float
    """For the node, from having a connection or beginning to make one."""
    wait_s: float
    """For all, waiting for a connection of the pool included."""
    connection: Any = None
    """Use this held connection instead of one of the pool."""
    hold: bool = False
    """If all goes well, do not give the connection back to the pool; it comes with the outcome."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for a while."""

    seconds: float


Effect: TypeAlias = "Exchange | Wait"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an effect."""

    replies: Sequence[Any] = ()
    """In order; fewer than asked for if ``error`` is set."""
    error: RaftKVError | None = None
    sent: bool = True
    """False when nothing of the payload can have reached the node."""
    connection: Any = None


Flow: TypeAlias = Generator[Effect, Outcome, None]


@dataclass(slots=True, eq=False)
class Session:
    """A client session of the server: numbers for writes, and which of them are unanswered."""

    identity: bytes
    _next: int = 1
    _outstanding: dict[int, None] = field(default_factory=dict)  # ascending: sequences are handed out in order
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> int | None:
        """The next sequence; None when one more could exceed the replies that the server keeps."""
        with self._lock:
            sequence = self._next
            if sequence - next(iter(self._outstanding), sequence) >= OUTSTANDING_MAX:
                return None
            self._next += 1
            self._outstanding[sequence] = None
            return sequence

    def answered(self, sequence: int) -> None:
        """``sequence`` will not be asked for again."""
        with self._lock:
            self._outstanding.pop(sequence, None)

    def acknowledged(self) -> int:
        """The highest sequence up to which nothing will be asked for again: the server forgets those replies."""
        with self._lock:
            return next(iter(self._outstanding), self._next) - 1


@dataclass(slots=True, eq=False)
class Request:
    """One command, or several as one transaction, and in the end its reply."""

    commands: Sequence[Sequence[bytes]]
    kind: Kind
    atomic: bool = False
    """MULTI ... EXEC around the commands."""
    reply: Any = None
    """The server's reply; an exception instance if it failed."""
    done: bool = False
    in_doubt: bool = False
    """It was sent at least once without an answer."""
    session: Session | None = None
    sequence: int = 0

    @property
    def replies(self) -> int:
        """How many replies the server sends."""
        return len(self.commands) + 2 if self.atomic else 1

    def finish(self, reply: Any) -> None:
        """Set the reply."""
        self.reply = reply
        self.done = True

    def argvs(self) -> Iterable[Sequence[bytes]]:
        """The commands to send for one attempt."""
        if not self.atomic:
            return (self._last(self.commands[0]),)
        return ([b"MULTI"], *self.commands, self._last([b"EXEC"]))

    def _last(self, argv: Sequence[bytes]) -> Sequence[bytes]:
        session = self.session
        if session is None:
            return argv
        numbers = (b"%d" % self.sequence, b"%d" % session.acknowledged())
        return [b"RAFT.SESSION", b"RUN", session.identity, *numbers, *argv]


@dataclass(frozen=True, slots=True)
class Options:
    """What a client is told at construction. Times in seconds."""

    nodes: tuple[str, ...]
    """host:port of any members; the others are learnt."""
    deadline_s: float = 10.0
    """For an operation with all its repetitions."""
    attempt_timeout_s: float = 3.0
    """For one exchange with one node, connecting included."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    client_name: str = ""
    max_connections: int = 8
    """Open at once, to all nodes together; callers beyond that wait."""
    reads: str = "linearizable"
    """How fresh reads have to be: ``linearizable``, ``bounded <milliseconds>``, ``token`` (what
    :meth:`Policy.read_after` was told, and later) or ``local``. In all but the first they go to the nodes in turn;
    writes go to the leader always."""

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("nodes: give at least one host:port")
        for node in self.nodes:
            host, _, port = node.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"nodes: {node!r} is not host:port")
        for name in ("deadline_s", "attempt_timeout_s", "max_connections"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be more than 0")
        if not _READS.fullmatch(self.reads):
            raise ValueError(f"reads: {self.reads!r} is none of linearizable, bounded <milliseconds>, token, local")


class _Budget:
    """The time that is left for one operation, and how often it failed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.until = policy.monotonic() + policy.options.deadline_s
        self.renew()
        self.last_error: RaftKVError | None = None

    def renew(self) -> None:
        """It went well: what fails from now on fails for the first time."""
        self.failures = 0
        self._hops_left = len(self._policy.nodes) + 1

    def hop(self) -> bool:
        """Whether to try at once: once at each node, and once more where the leader turned out to be."""
        self._hops_left -= 1
        return self._hops_left >= 0

    def left_s(self) -> float:
        return self.until - self._policy.monotonic()

    def backoff_s(self) -> float:
        """Half to whole of a time that doubles with each failure, but never past the deadline."""
        delay_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * (1 << min(self.failures, 16)))
        self.failures += 1
        return max(0.0, min(delay_s * self._policy.rng.uniform(0.5, 1.0), self.left_s()))


class Policy:
    """The state that all operations of one client share: who leads, who is down, the session.

    Safe to use from several threads: each of its changes is made under a lock, never held across a ``yield``.
    """

    def __init__(self, options: Options, monotonic: Callable[[], float], rng: Random) -> None:
        self.options = options
        self.monotonic = monotonic
        self.rng = rng
        self.nodes = Nodes(options.nodes, monotonic)
        self._session: Session | None = None
        self._opening = False
        self._token = 0
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- connecting
    def hello(self) -> tuple[bytes, int]:
        """What a new connection says first, and how many replies that gets."""
        options = self.options
        hello = [b"HELLO", b"3"]
        if options.password is not None:
            hello += [b"AUTH", (options.username or "default").encode(), options.password.encode()]
        if options.client_name:
            hello += [b"SETNAME", options.client_name.encode()]
        commands = [hello, [b"SELECT", b"%d" % options.db]]
        if options.reads not in {"linearizable", "token"}:
            commands.append([b"READ", *options.reads.encode().split()])
        commands.append(STATUS)
        return encode_commands(commands), len(commands)

    def greeted(self, address: str, replies: Sequence[Any]) -> bool:
        """Whether the connection to ``address`` is to be used; if not, the leader is another and now known.

        A client whose reads need not be linearizable uses all nodes. Raises AuthError when the server does not let us
        in, NoLeaderError when it cannot serve yet, NodeStoppedError when it never will again (it was removed, say),
        ResponseError when it refuses anything else.
        """
        for reply in replies[:-1]:
            if isinstance(reply, ResponseError):
                if reply.code in _NO_ACCESS:
                    raise AuthError(reply.message, code=reply.code)
                if reply.code in _REFUSED:
                    raise NoLeaderError(str(reply))
                raise reply
        halted = self.nodes.learn(address, replies[-1])
        if halted:
            raise NodeStoppedError(f"{address} has stopped: {halted}")
        return self.nodes.leader in {None, address} or self.options.reads != "linearizable"

    def read_after(self, token: int) -> None:
        """From now on reads see what ``token`` covers; an earlier one changes nothing."""
        with self._lock:
            self._token = max(self._token, token)

    def _blame(self, address: str, outcome: Outcome) -> None:
        """Avoid a node that cannot be reached or does not answer. A connection that broke says less: try it again."""
        error = outcome.error
        if isinstance(error, NoAnswerError) or (isinstance(error, ConnectionLostError) and not outcome.sent):
            self.nodes.failed(address)

    # ---------------------------------------------------------------- operations
    def run(self, requests: Sequence[Request]) -> Flow:
        """Carry out ``requests`` in order; afterwards each is ``done``. Raises nothing: replies hold the errors."""
        budget = _Budget(self)
        waiting = list(requests)
        try:
            while waiting:
                chunk = self._chunk(waiting)
                if any(one.kind is Kind.WRITE and one.session is None for one in chunk):
                    yield from self._number(chunk, budget)
                yield from self._attempt([one for one in chunk if not one.done], budget)
                for request in chunk:
                    if request.done:
                        self._answered(request)
                waiting = [one for one in chunk if not one.done] + waiting[len(chunk) :]
        finally:
            for request in requests:
                self._answered(request)

    def _chunk(self, waiting: Sequence[Request]) -> list[Request]:
        """As many requests as one exchange may hold, at least one."""
        chunk: list[Request] = []
        commands = size = 0
        for request in waiting:
            commands += request.replies
            size += sum(len(word) for argv in request.commands for word in argv)
            if chunk and (commands > EXCHANGE_COMMANDS_MAX or size > EXCHANGE_BYTES_MAX):
                break
            chunk.append(request)
        return chunk

    def _attempt(self, chunk: Sequence[Request], budget: _Budget) -> Flow:
        """Send ``chunk`` once, settle what was answered, and wait before the rest may be sent again."""
        if not chunk:
            return
        left_s = budget.left_s()
        if left_s <= 0:
            self._give_up(chunk, budget)
            return
        spread = self.options.reads != "linearizable" and all(request.kind is Kind.READ for request in chunk)
        address = self.nodes.pick(spread=spread)
        check = self.nodes.check_is_due
        argvs = [argv for request in chunk for argv in request.argvs()] + [STATUS] * check
        first = [[b"READ", b"AT", b"LEAST", b"%d" % self._token]] if spread and self.options.reads == "token" else []
        argvs = [*first, *argvs]
        outcome = yield Exchange(address, encode_commands(argvs), len(argvs), self.options.attempt_timeout_s, left_s)
        outcome = replace(outcome, replies=outcome.replies[len(first) :])
        self._settle(chunk, outcome, address, budget)
        if check and len(first) + len(outcome.replies) == len(argvs):
            self.nodes.learn(address, outcome.replies[-1])
        if all(request.done for request in chunk):
            budget.renew()
            return
        elsewhere = outcome.error is not None or self.nodes.leader not in {None, address}
        if not (elsewhere and budget.hop()):
            yield Wait(budget.backoff_s())

    def _settle(self, chunk: Sequence[Request], outcome: Outcome, address: str, budget: _Budget) -> None:
        at = 0
        for request in chunk:
            replies = outcome.replies[at : at + request.replies]
            at += request.replies
            if len(replies) == request.replies:
                self._judge(request, _decisive(replies), address, budget)
            elif outcome.sent:
                self._lost(request, outcome.error)
        if outcome.error is None:
            return
        budget.last_error = outcome.error
        if isinstance(outcome.error, AuthError | ResponseError):
            for request in chunk:
                if not request.done:
                    _not_let_in(request, outcome.error)
        else:
            self._blame(address, outcome)

    def _judge(self, request: Request, reply: Any, address: str, budget: _Budget) -> None:
        """Finish ``request`` with ``reply``, or leave it to be sent again."""
        code = reply.code if isinstance(reply, ResponseError) else ""
        if code in _REFUSED:
            budget.last_error = reply
            self._redirected(reply, address)
        elif request.in_doubt and code and _FULL in str(reply):
            budget.last_error = reply
        elif code in _IN_DOUBT:
            budget.last_error = reply
            self.nodes.failed(address)  # it stopped, or has just lost its leadership
            self._lost(request, reply)
        elif code == "SESSIONEXPIRED" and request.session is not None:
            self._expired(request, reply)
        elif code in _NO_ACCESS:
            _not_let_in(request, AuthError(reply.message, code=code))
        else:
            request.finish(reply)

    def _redirected(self, reply: ResponseError, address: str) -> None:
        words = reply.message.split()
        if reply.code == "MOVED" and len(words) == 2 and words[1].rpartition(":")[2].isdigit():
            host = words[1].rpartition(":")[0] or address.rpartition(":")[0]  # an empty host means the same
            self.nodes.follow(f"{host}:{words[1].rpartition(':')[2]}")
        elif reply.code != "TRYAGAIN":
            self.nodes.leads_no_more(address)

    def _lost(self, request: Request, error: RaftKVError | None) -> None:
        """The answer to ``request`` did not come, or says that nobody knows."""
        if request.kind is not Kind.READ:
            request.in_doubt = True
        if request.kind is Kind.OTHER or (request.kind is Kind.WRITE and request.session is None):
            request.finish(UnknownOutcomeError(f"the command may have taken effect: {error}"))

    def _give_up(self, chunk: Sequence[Request], budget: _Budget) -> None:
        deadline_s, last = self.options.deadline_s, budget.last_error
        for request in chunk:
            if request.in_doubt:
                request.finish(
                    UnknownOutcomeError(f"no answer within {deadline_s:g} s, the write may yet happen: {last}")
                )
            else:
                request.finish(NoLeaderError(f"not done within {deadline_s:g} s: {last}"))

    # ---------------------------------------------------------------- the session
    def _number(self, chunk: Sequence[Request], budget: _Budget) -> Flow:
        """Give each write of ``chunk`` its sequence, opening a session where needed."""
        for request in chunk:
            if request.kind is not Kind.WRITE or request.session is not None or request.done:
                continue
            while not self._take(request):
                if not self._begin_opening():
                    yield Wait(OPENING_POLL_S)
                    continue
                try:
                    opened = yield from self._open(chunk, budget)
                finally:
                    self._opening = False
                if not opened:
                    return

    def _begin_opening(self) -> bool:
        """Whether this operation is the one to open a session; the others wait for it."""
        with self._lock:
            if self._opening:
                return False
            self._opening = True
            return True

    def _open(self, chunk: Sequence[Request], budget: _Budget) -> Generator[Effect, Outcome, bool]:
        """Open a session; or finish all of ``chunk`` with the reason why there is none, and return False."""
        opening = Request([[b"RAFT.SESSION", b"OPEN"]], Kind.READ)  # may be repeated: one too many expires unused
        while not opening.done:
            yield from self._attempt([opening], budget)
        if isinstance(opening.reply, Exception):
            for request in chunk:
                if not request.done:
                    request.finish(opening.reply)
            return False
        with self._lock:
            self._session = Session(opening.reply)
        return True

    def _take(self, request: Request) -> bool:
        session = self._session
        sequence = session.take() if session is not None else None
        if session is None or sequence is None:
            return False
        request.session, request.sequence = session, sequence
        return True

    def _answered(self, request: Request) -> None:
        """The sequence will not be asked for again, so the server may forget its reply."""
        if request.session is not None:
            request.session.answered(request.sequence)

    def _expired(self, request: Request, reply: ResponseError) -> None:
        with self._lock:
            if self._session is request.session:
                self._session = None
        self._answered(request)
        request.session = None
        if request.in_doubt:
            request.finish(SessionExpiredError(reply.message))

    # ---------------------------------------------------------------- watched transactions
    def watch(self, request: Request) -> Generator[Effect, Outcome, tuple[str, Any]]:
        """Carry out a WATCH, and hold its connection; returns (address, connection).

        Raises what made it impossible.
        """
        budget = _Budget(self)
        while True:
            left_s = budget.left_s()
            if left_s <= 0:
                self._give_up([request], budget)
                raise request.reply
            address = self.nodes.pick()
            payload = encode_commands(request.argvs())
            outcome = yield Exchange(address, payload, 1, self.options.attempt_timeout_s, left_s, hold=True)
            self._settle([request], outcome, address, budget)
            if outcome.connection is not None:
                return address, outcome.connection
            if request.done:
                raise request.reply
            yield Wait(budget.backoff_s())

    def converse(self, request: Request, address: str, connection: Any) -> Generator[Effect, Outcome, bool]:
        """Carry out ``request`` once on a held connection, whose watches no other connection has.

        A refusal and a broken connection are definite, except for what EXEC may have done. Returns whether EXEC was
        answered, so that the connection has no watches left.
        """
        argvs = list(request.argvs())
        timeout_s, wait_s = self.options.attempt_timeout_s, self.options.deadline_s
        outcome = yield Exchange(address, encode_commands(argvs), len(argvs), timeout_s, wait_s, connection, hold=True)
        if outcome.error is None:
            reply = _decisive(outcome.replies)
            if request.atomic and reply is None:
                reply = WatchError()
            elif isinstance(reply, ResponseError) and reply.code in _REFUSED:
                self._redirected(reply, address)
                reply = NoLeaderError(f"the transaction did not happen: {reply}")
            elif isinstance(reply, ResponseError) and reply.code in _IN_DOUBT and request.kind is Kind.WRITE:
                reply = UnknownOutcomeError(f"the transaction may have taken effect: {reply}")
            request.finish(reply)
            return request.atomic and not isinstance(outcome.replies[-1], ResponseError)
        self._blame(address, outcome)
        if outcome.sent and request.kind is Kind.WRITE:
            request.finish(UnknownOutcomeError(f"the transaction may have taken effect: {outcome.error}"))
        else:
            request.finish(ConnectionLostError(f"the transaction did not happen: {outcome.error}"))
        return False


def _not_let_in(request: Request, error: RaftKVError) -> None:
    """No node that refuses the connection says what became of an attempt before."""
    doubt = UnknownOutcomeError(f"the command may have taken effect, and cannot be asked for: {error}")
    request.finish(doubt if request.in_doubt else error)


def _decisive(replies: Sequence[Any]) -> Any:
    """Of a transaction's replies the first error (a refused command is why EXEC fails), else EXEC's."""
    for reply in replies:
        if isinstance(reply, ResponseError):
            return reply
    return replies[-1]
