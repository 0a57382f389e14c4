"""Clients, and what they may demand: nothing acknowledged is lost, nothing happens twice, reads are linearizable.

Each client does one thing after the other. A *session* client repeats a write in doubt until it is answered; a *plain*
one repeats only what certainly did not happen, and lets go of what is in doubt. Three kinds of keys make every
observation a number that may only grow, so that linearizability of reads is a comparison: a register that one client
sets to 1, 2, 3...; a list that one client appends to (its length); a counter that all session clients increment.

Reads in a weaker mode are checked as exactly: a bounded one against what was known that long before,
one with a token against what was known when the token was asked for, a local one against what was
read at the same node in the same life.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from chaos.sim.checks import Violation
from raftkv.errors import RaftKVError
from raftkv.machine.alarms import NoSpaceError
from raftkv.machine.batch import OPEN, PLAIN, Group, Run, encode_group
from raftkv.server.consistency import LINEARIZABLE, LOCAL, Consistency

if TYPE_CHECKING:
    from chaos.sim.member import Member
    from chaos.sim.world import World

SESSION_TTL_MS: Final = 100_000_000_000
COUNTER: Final = b"counter"
TOKEN: Final = b"TOKEN"
READS: Final = (b"GET", b"LLEN", TOKEN)
BOUNDS_MS: Final = (5, 50, 300, 1000)
LIST_MAX: Final = 100
"""A writer goes on with the next list after so many elements."""
ANSWER_SLACK_S: Final = 2.0
"""A node may be so much later than the request timeout before its silence is a violation."""


def resp(*words: bytes) -> bytes:
    """A command as a client sends it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


@dataclass(slots=True)
class Key:
    """What is known of a key whose observations only grow."""

    floor: int = 0
    """Acknowledged or read: no later read may be below."""
    ceiling: int = 0
    """Asked for: no read may be above."""
    risen: list[tuple[float, int]] = field(default_factory=list)
    """When the floor rose, and to what, ascending."""

    def rise(self, now: float, value: int) -> None:
        """``value`` was acknowledged or read."""
        if value > self.floor:
            self.floor = value
            self.risen.append((now, value))

    def floor_at(self, time: float) -> int:
        """What the floor was at an earlier time."""
        place = bisect_right(self.risen, time, key=lambda one: one[0])
        return self.risen[place - 1][1] if place else 0


@dataclass(slots=True)
class Appended:
    """An element of a list, in the order of asking."""

    token: bytes
    acknowledged: bool = False


@dataclass(slots=True)
class History:
    """All that clients know."""

    keys: dict[bytes, Key] = field(default_factory=dict)
    lists: dict[bytes, list[Appended]] = field(default_factory=dict)
    counted: dict[int, str] = field(default_factory=dict)
    """Answers of the counter, and who got them: each is given once."""
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    reads: int = 0
    seen: dict[tuple[str, int, bytes], int] = field(default_factory=dict)
    """What the state of (node, life) had of a key when it was read last: no later read there may be below."""
    last_acknowledged_s: float = 0.0
    """When the newest acknowledgement came."""

    def key(self, name: bytes) -> Key:
        """The key's record, made when it is first asked for."""
        return self.keys.setdefault(name, Key())


@dataclass(slots=True)
class Operation:
    """One thing that a client wants done; ``attempt`` tells answers of earlier attempts apart."""

    key: bytes
    words: list[bytes]
    value: int = 0
    """What a SET writes."""
    floor: int = 0
    """For a read: what it must see."""
    consistency: Consistency = LINEARIZABLE
    floors: dict[bytes, int] = field(default_factory=dict)
    """For a token: what was known of each key when it was asked for."""
    attempt: int = 0
    sequence: int = 0
    element: Appended | None = None
    done: bool = False


class Client:
    """``kind``: session, list or register."""

    def __init__(self, world: World, number: int, kind: str) -> None:
        self.world = world
        self.name = f"c{number}"
        self.kind = kind
        self.rng = Random(f"{world.label}/{self.name}")  # noqa: S311 -- seeded on purpose
        self.history = world.history
        self.session = b""
        self._sequence = 0
        self._writes = 0
        self._list = 0
        self._register = 0
        self._hint = ""
        self._token = 0
        self._token_floors: dict[bytes, int] = {}
        self._operation: Operation | None = None

    def start(self) -> None:
        """Begin soon."""
        self.world.scheduler.after(0.5 * self.rng.random(), self._next)

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._operation is not None and not self._operation.done

    # -- what to do
    def _next(self) -> None:
        self._operation = None
        if self.world.draining:
            return
        if self.kind == "session" and not self.session:
            operation = Operation(b"", [b"OPEN"])
        elif self.rng.random() < 0.4 or self.world.hushed_until > self.world.scheduler.now:
            operation = self._read()
        else:
            operation = self._write()
        self._operation = operation
        self._try(operation)

    def _write(self) -> Operation:
        self._writes += 1
        self._sequence += 1
        if self.kind == "register":
            key = b"register-" + self.name.encode() + (b"-%d" % self._register if self._register else b"")
            value = str(self._writes).encode().rjust(self.world.profile.value_bytes, b"0")
            self.history.key(key).ceiling = self._writes
            return Operation(key, [b"SET", key, value], value=self._writes)
        if self.kind == "session" and self._writes % 2:
            self.history.key(COUNTER).ceiling += 1
            return Operation(COUNTER, [b"INCR", COUNTER], sequence=self._sequence)
        key = b"list-%s-%d" % (self.name.encode(), self._list)
        elements = self.history.lists.setdefault(key, [])
        element = Appended(b"%s-%d." % (self.name.encode(), self._writes))
        elements.append(element)
        self.history.key(key).ceiling += 1
        if len(elements) >= LIST_MAX:
            self._list += 1
        profile = self.world.profile
        large = profile.large_share and self.rng.random() < profile.large_share
        token = element.token.ljust(profile.large_bytes if large else profile.value_bytes, b".")
        sequence = self._sequence if self.kind == "session" else 0
        return Operation(key, [b"RPUSH", key, token], sequence=sequence, element=element)

    def _read(self) -> Operation:
        known = list(self.history.keys)
        share = self.world.profile.hot
        hot = not known or (share and self.rng.random() < share)
        key = COUNTER if hot else self.rng.choice(known)
        command = b"LLEN" if key.startswith(b"list") else b"GET"
        relaxed = self.world.profile.relaxed
        if not relaxed or self.rng.random() >= relaxed:
            return Operation(key, [command, key])
        mode = self.rng.choice(("local", "bounded", "at least", "token"))
        if mode == "token":
            return Operation(b"", [TOKEN])
        chosen = LOCAL
        if mode == "bounded":
            chosen = Consistency("bounded", self.rng.choice(BOUNDS_MS))
        elif mode == "at least":
            chosen = Consistency("at least", self._token)
        return Operation(key, [command, key], consistency=chosen)

    def _floor(self, operation: Operation, member: Member) -> int:
        """What a read that is sent now must see."""
        key, consistency = self.history.key(operation.key), operation.consistency
        match consistency.mode:
            case "local":
                return self.history.seen.get((member.id, member.incarnation, operation.key), 0)
            case "at least":
                return self._token_floors.get(operation.key, 0)
            case "bounded":
                slowest = 1.0 - self.world.profile.clock_rate
                return key.floor_at(self.world.scheduler.now - consistency.number / 1000 / slowest)
            case "linearizable":
                return key.floor

    # -- how it is asked for
    def _try(self, operation: Operation) -> None:
        if self.world.draining and operation.attempt:
            self._unknown(operation)
            return
        operation.attempt += 1
        member = self._choose(operation)
        if not member.up or member.replica.core.halted or not member.belongs:
            self._hint = ""
            self.world.scheduler.after(0.02 + 0.08 * self.rng.random(), self._try, operation)
            return
        attempt = operation.attempt

        def done(result: Any, error: RaftKVError | None) -> None:
            if operation.attempt == attempt and not operation.done:
                self._answered(operation, member, result, error)

        limit = self.world.timing.request_s + ANSWER_SLACK_S
        self.world.scheduler.after(
            limit, self._must_be_answered, operation, (attempt, member.incarnation), member, member.stood_s
        )
        if operation.words[0] == TOKEN:
            operation.floors = {name: key.floor for name, key in self.history.keys.items()}
            member.token(done)
        elif operation.words[0] in READS:
            operation.floor = self._floor(operation, member)
            member.read(operation.words, done, operation.consistency)
        else:
            member.propose(self._group(operation), done)

    def _choose(self, operation: Operation) -> Member:
        members = self.world.members
        reading = operation.words[0] in READS
        if self._hint and not reading and self.rng.random() < self.world.profile.trust:
            return members[self._hint]
        return members[self.rng.choice(self.world.ids)]

    def _group(self, operation: Operation) -> bytes:
        if operation.words[0] == b"OPEN":
            return encode_group(Group(OPEN, 0, 0, b"", numbers=(SESSION_TTL_MS,)))
        run = None
        if operation.sequence:
            run = Run(self.session, operation.sequence, operation.sequence - 1)
        return encode_group(Group(PLAIN, 0, 1, resp(*operation.words), run=run))

    def _must_be_answered(self, operation: Operation, asked: tuple[int, int], member: Member, stood_s: float) -> None:
        """``asked`` is the attempt and the life of the member; ``stood_s`` how long that had stood still when it was given the time."""
        if operation.done or not member.up or (operation.attempt, member.incarnation) != asked:
            return
        stood = member.stood_s - stood_s
        if stood <= 0:
            raise Violation("no answer", f"{self.name}: {operation.words[:2]} at {member.id} got none in time")
        self.world.scheduler.after(stood, self._must_be_answered, operation, asked, member, member.stood_s)

    # -- what came back
    def _answered(self, operation: Operation, member: Member, result: Any, error: RaftKVError | None) -> None:
        if error is not None:
            self._failed(operation, member, error)
            return
        if _lacks_space(result):
            # Answered as certainly not done. Should it have been done all the same, it is done twice now.
            self.history.refused += 1
            if operation.sequence:
                self._sequence += 1
                operation.sequence = self._sequence
            self.world.scheduler.after(0.05 + 0.1 * self.rng.random(), self._try, operation)
            return
        if isinstance(result, RaftKVError):
            raise Violation("reply", f"{self.name}: {operation.words[:2]} was answered {result}")
        operation.done = True
        if operation.words[0] == b"OPEN":
            self.session = bytes.fromhex(bytes(result).decode())
            self._sequence = 0
        elif operation.words[0] == TOKEN:
            self._token, self._token_floors = int(result), operation.floors
        elif operation.words[0] in READS:
            self._saw(operation, member, int(result or 0))
        else:
            self._acknowledged(operation, member, result)
        self._pause()

    def _failed(self, operation: Operation, member: Member, error: RaftKVError) -> None:
        self._hint = member.replica.core.engine.leader_id if member.up else ""
        reading = operation.words[0] in READS
        if error.definite or reading or operation.sequence:
            self.history.refused += error.definite
            self.world.scheduler.after(0.01 + 0.1 * self.rng.random(), self._try, operation)
        else:
            self._unknown(operation)
            self._pause()

    def _unknown(self, operation: Operation) -> None:
        operation.done = True
        self.history.unknown += 1
        if self.world.late:
            self._list += 1
            self._register += 1

    def _pause(self) -> None:
        self.world.scheduler.after(self.world.profile.think_s * self.rng.expovariate(1.0), self._next)

    def _acknowledged(self, operation: Operation, member: Member, result: Any) -> None:
        history = self.history
        history.acknowledged += 1
        history.last_acknowledged_s = self.world.scheduler.now
        key = history.key(operation.key)
        if operation.element is not None:
            operation.element.acknowledged = True
        if operation.words[0] == b"SET":
            key.rise(self.world.scheduler.now, operation.value)
            return
        number = _integer(result)
        if operation.key == COUNTER:
            if number in history.counted:
                text = f"INCR answered {number} to {history.counted[number]} and to {self.name}"
                raise Violation("applied twice or lost", text)
            history.counted[number] = self.name
        if not 0 < number <= key.ceiling:
            raise Violation(
                "reply", f"{self.name} at {member.id}: {operation.words[:2]} answered {number} > {key.ceiling}"
            )
        key.rise(self.world.scheduler.now, number)

    def _saw(self, operation: Operation, member: Member, value: int) -> None:
        self.history.reads += 1
        key = self.history.key(operation.key)
        if not operation.floor <= value <= key.ceiling:
            raise Violation(
                "stale read",
                f"{self.name} read {value} of {operation.key.decode()} at {member.id} ({operation.consistency}); "
                f"{operation.floor} was known before, {key.ceiling} were asked for",
            )
        key.rise(self.world.scheduler.now, value)
        place = (member.id, member.incarnation, operation.key)
        self.history.seen[place] = max(value, self.history.seen.get(place, 0))


def _integer(result: Any) -> int:
    """``[int]`` of a plain group; RESP2 bytes of one that ran in a session."""
    if isinstance(result, tuple):
        return int(result[0][1:-2])
    return int(result[0])


def judge(history: History, member: Member) -> None:
    """At the end, the state of a node against everything that clients know."""

    def value(*words: bytes) -> Any:
        return member.look(list(words), member.machine.stamp_ms)

    for name, key in history.keys.items():
        if name not in history.lists:
            found = int(value(b"GET", name) or 0)
            if not key.floor <= found <= key.ceiling:
                raise Violation("lost write", f"{name.decode()} is {found}, not {key.floor}..{key.ceiling}")
    for name, elements in history.lists.items():
        judge_list(name, elements, value(b"LRANGE", name, b"0", b"-1"))


def judge_list(name: bytes, asked: list[Appended], found: object) -> None:
    """Everything acknowledged is there, in order, and nothing twice."""
    assert isinstance(found, list)
    tokens = [bytes(one).rstrip(b".") for one in found]
    if len(set(tokens)) != len(tokens):
        raise Violation("applied twice", f"{name.decode()} holds an element twice: {tokens}")
    there = {token: place for place, token in enumerate(tokens)}
    last = -1
    for one in asked:
        place = there.pop(one.token.rstrip(b"."), None)
        if place is None and one.acknowledged:
            raise Violation("lost write", f"{name.decode()} lacks {one.token.decode()}, which was acknowledged")
        if place is not None and place < last:
            raise Violation("order", f"{name.decode()}: {one.token.decode()} is before what was asked for earlier")
        last = last if place is None else place
    if there:
        raise Violation("invented", f"{name.decode()} holds what nobody asked for: {sorted(there)[:3]}")


def _lacks_space(result: Any) -> bool:
    """Whether the command of a batch, or of a session, was refused because a member is full."""
    if isinstance(result, tuple):
        return bytes(result[0]).startswith(b"-NOSPACE")
    return isinstance(result, list) and len(result) == 1 and isinstance(result[0], NoSpaceError)
