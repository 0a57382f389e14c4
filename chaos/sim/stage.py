"""A group whose network, disks and clocks stand still until somebody moves them: what a script acts on.

The nodes are those of the simulation (:class:`chaos.sim.member.Member`): production replica, state machine, log and
snapshot store. Around them nothing happens by chance. A message that is sent lies in :attr:`Wire.flights` until it is
taken from there; each node has a clock of its own; a sync completes at once, unless the disk is stalled; a power cut
takes everything that was not synced. The safety checks see every step, and tell instead of ending the run, so that a
script with a guard switched off can go on to show what the fault leads to.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from chaos.disk import Disk
from chaos.sim.checks import Checks, Violation
from chaos.sim.clients import resp
from chaos.sim.member import WALL_EPOCH_MS, Member
from chaos.sim.network import not_admitted
from chaos.sim.profiles import Profile
from chaos.sim.scheduler import START_S
from raftkv.consensus import snapshot_sender
from raftkv.consensus.configuration import CONFIGURATION, Configuration
from raftkv.consensus.core import Timing
from raftkv.consensus.messages import AppendEntries, AppendReply, Message, SnapshotAck, SnapshotChunk
from raftkv.errors import RaftKVError
from raftkv.machine.batch import OPEN, PLAIN, Group, Run, encode_group, groups
from raftkv.replicator import MembershipChange

if TYPE_CHECKING:
    from chaos.sim.world import World

INSTANT_S: Final = 0.0005
"""What a node does within so long of an event belongs to it: its next tick, a sync."""
INSTANT_CALLS_MAX: Final = 200
"""A node that waits for a stalled disk may tick again and again."""
STALLED: Final = math.inf
CLIENT_S: Final = 1.0
"""Answers reach clients within so long, which is another clock than the nodes'."""
SESSION_TTL_MS: Final = 100_000_000_000
UNSEEN: Final = frozenset({"sequence", "round", "request", "now_ms", "data", "offset", "total_bytes", "seal"})
"""Fields of messages that are not shown: they pair questions with answers, or depend on a compressor's version."""

_Item = TypeVar("_Item")


class NothingKept(Random):
    """A power cut (:meth:`chaos.disk.Disk.power_cut`) draws from it what survives: nothing that was not synced."""

    def choice(self, seq: Sequence[_Item]) -> _Item:  # type: ignore[override]  # the base class asks for less of seq
        return seq[0]

    def randrange(self, start: int, _stop: int | None = None, _step: int = 1) -> int:
        return min(start, 0)


class Clock:
    """A time that moves when it is told to, and what is due then."""

    def __init__(self) -> None:
        self.now = START_S
        self._order = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay_s: float, work: Callable[..., None], *args: object) -> None:
        """Call ``work(*args)`` in ``delay_s`` seconds."""
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._order, work, args))

    def settle(self) -> None:
        """Run what is due within an instant, and some of what follows. Time stands still."""
        for _ in range(INSTANT_CALLS_MAX):
            if not self._queue or self._queue[0][0] > self.now + INSTANT_S:
                return
            _, _, work, args = heapq.heappop(self._queue)
            work(*args)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            due, _, work, args = heapq.heappop(self._queue)
            self.now = max(self.now, due)
            work(*args)
        self.now = end


@dataclass(eq=False, slots=True)
class Flight:
    """A message under way."""

    source: str
    target: str
    message: Message
    held: bool = False
    """It is only delivered when it is asked for by that word."""
    lost: bool = False

    @property
    def kind(self) -> str:
        return kind_of(self.message)

    def __str__(self) -> str:
        return f"{self.source} -> {self.target} {describe(self.message)}" + " (lost)" * self.lost


class Wire:
    """Takes the place of :class:`chaos.sim.network.Network`: nothing arrives by itself."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.flights: list[Flight] = []
        self.cuts: set[tuple[str, str]] = set()
        self._closed: set[tuple[str, str]] = set()
        """Where a handshake failed: nothing leaves from one to the other."""

    def send(self, source: str, target: str, message: Message) -> bool:
        """Lost without a word when a partition lies between."""
        if not self._stage.members[target].up or (source, target) in self._closed:
            return False
        flight = Flight(source, target, message, lost=(source, target) in self.cuts)
        if not flight.lost:
            self.flights.append(flight)
        self._stage.sent.append(flight)
        return True

    def partition(self, sides: list[list[str]]) -> None:
        """Nothing gets from one side to another; what is in flight between them is lost, unless it is held.

        Who is on two sides talks to both.
        It takes the place of an earlier partition: connections that were cut and are not any more are made anew.
        """
        before, named = self.cuts, {one for side in sides for one in side}
        self.cuts = {(a, b) for a in named for b in named if a != b and not any({a, b} <= {*side} for side in sides)}
        self.flights = [one for one in self.flights if one.held or (one.source, one.target) not in self.cuts]
        for source, target in sorted(before - self.cuts):
            if source < target:
                self._link(source, target, up=False)
                self._link(target, source, up=False)
                self.redial(source, target)

    def dial_all(self, source: str) -> None:
        """A process started: connections to it and from it are made."""
        for peer in self._stage.members:
            if peer != source:
                self.redial(source, peer)

    def redial(self, source: str, target: str) -> None:
        """Both connections are made, if one of the two wants to talk to the other."""
        one, other = self._stage.members[source], self._stage.members[target]
        pairs = {(source, target), (target, source)}
        if one.up and other.up and (one.dials(target) or other.dials(source)):
            for pair in sorted(pairs):
                self._link(*pair, up=True)
        else:
            self._closed |= pairs

    def try_again(self, node_id: str) -> None:
        """Handshakes of the node that failed: nodes dial until they are let in, or are members no more."""
        for pair in sorted(pair for pair in self._closed if node_id in pair):
            self.redial(*pair)

    def process_ended(self, node_id: str) -> None:
        """What was on its way to it is lost; what it has sent may still arrive."""
        self.flights = [one for one in self.flights if one.target != node_id]
        for peer in self._stage.members:
            if peer != node_id:
                self._link(peer, node_id, up=False)

    def _link(self, source: str, target: str, *, up: bool) -> None:
        one, other = self._stage.members[source], self._stage.members[target]
        if not one.up or (up and (not other.up or (source, target) in self.cuts)):
            return
        self._closed.discard((source, target))
        if up and not_admitted(one, other):
            self._closed.add((source, target))
        else:
            one.link(target, up=up)


class Actor(Member):
    """A node with a clock of its own, and a disk that can be stalled."""

    def __init__(self, stage: Stage, node_id: str, peers: list[str]) -> None:
        self.registers = stage.disks
        super().__init__(cast("World", stage), node_id, peers)  # the stage has what a member uses of a world
        self.joins = not peers
        self.clock = Clock()
        self.stalled = False
        self._syncs: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []

    @staticmethod
    def _new_disk(_seed: str) -> Disk:
        disk = Disk(NothingKept())
        disk.make_dir("data")
        return disk

    def _on_configuration(self, configuration: Configuration) -> None:
        super()._on_configuration(configuration)
        self.later(0.0, cast("Wire", self.world.network).try_again, self.id)

    def monotonic(self) -> float:
        return self.clock.now

    def wall_ms(self) -> int:
        return WALL_EPOCH_MS + int(self.clock.now * 1000)

    def fsync_s(self) -> float:
        return STALLED if self.stalled else 0.0

    def snapshot_s(self) -> float:
        return 0.0

    def charge(self, seconds: float) -> None:
        """A sync inside a handler takes no time here."""

    def later(self, delay_s: float, work: Callable[..., Any], *args: object) -> None:
        if delay_s == STALLED:
            self._syncs.append((self.incarnation, work, args))
        else:
            self.clock.after(delay_s, self._run_later, self.incarnation, work, args)

    def sync(self) -> bool:
        """The sync that is under way completes; False when there is none."""
        syncs, self._syncs = self._syncs, []
        for incarnation, work, args in syncs:
            self._run_later(incarnation, work, args)
        return bool(syncs)

    def crash(self, *, power: bool) -> None:
        self._syncs.clear()
        self.stalled = False
        super().crash(power=power)

    def arrive(self, source: str, message: Message) -> None:
        """A message is delivered."""
        self.call(self.replica.receive, source, message)
        if self.up:
            self.schedule_tick()

    def state(self) -> str:
        """One line: role, term, vote, the log's last entry (index/term), commit index."""
        if not self.up:
            return "down"
        core, log = self.replica.core, self.log
        if core.halted:
            return f"halted: {core.halted}"
        member = self.replica.membership.latest.get(self.id)
        role = "no member" if member is None else str(core.engine.role()) if member.voter else "learner"
        leader = core.engine.leader_id
        following = f" of {leader}" if leader not in ("", self.id) else ""
        parts = [f"{role}{following}", f"term {core.term}"]
        if log.hard_state.voted_for:
            parts.append(f"voted {log.hard_state.voted_for}")
        durable = self.durable_index()
        parts.append(f"last {log.last_index}/{log.last_term}" + (f" (durable {durable})" * (durable < log.last_index)))
        parts.append(f"commit {core.committed}" + (f" (applied {core.applied})" * (core.applied < core.committed)))
        if self.replica.membership.index:
            parts.append(f"voters {' '.join(core.voters)}")
        if self.replica.snapshots.index:
            parts.append(f"snapshot {self.replica.snapshots.index}")
        return ", ".join(parts)


class Watch(Checks):
    """The simulation's checks; a violation is told, once, and the script goes on."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._told: set[str] = set()

    def tell(self, violation: Violation) -> None:
        """A property does not hold."""
        if str(violation) not in self._told:
            self._told.add(str(violation))
            self._stage.violations.append(f"VIOLATION {violation}")

    def sent(self, member: Member, peer: str, message: Message) -> None:
        try:
            super().sent(member, peer, message)
        except Violation as found:
            self.tell(found)

    def applied(self, member: Member, index: int, entry: bytes) -> None:
        try:
            super().applied(member, index, entry)
        except Violation as found:
            self.tell(found)

    def after(self, member: Member) -> None:
        try:
            super().after(member)
        except Violation as found:
            self.tell(found)


@dataclass(slots=True)
class Stage:
    """The group, and what has happened since :meth:`report` was called last. Use it inside ``world.pinned()``."""

    nodes: int
    disks: bool = False
    """Nodes say which disk they have and where they are, and the group remembers."""
    label: str = "script"
    timing: Timing = field(default_factory=Timing)
    profile: Profile = field(
        default_factory=lambda: Profile("script", "nothing by chance", snapshot_entries=1 << 30, retain_bytes=0)
    )
    scheduler: Clock = field(default_factory=Clock)
    members: dict[str, Actor] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    snapshots: int = 0
    checks: Watch = field(init=False)
    network: Wire = field(init=False)
    sent: list[Flight] = field(default_factory=list)
    """Since the last report."""
    _answers: list[str] = field(default_factory=list)
    _states: dict[str, str] = field(default_factory=dict)
    _sessions: dict[str, bytes] = field(default_factory=dict)
    _acknowledged: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checks, self.network = Watch(self), Wire(self)
        ids = [f"n{number}" for number in range(1, self.nodes + 1)]
        for node_id in ids:
            self.members[node_id] = self.make_member(node_id, ids)
        for member in self.members.values():
            member.start()
        self.settle()

    def make_member(self, node_id: str, peers: list[str]) -> Actor:
        """A node, not started yet."""
        return Actor(self, node_id, peers)

    # -- what happens
    def note(self, kind: str, where: str, text: str) -> None:
        """A script says itself what it does."""

    def power_cut(self, member: Member) -> None:
        """The power of a node goes in the middle of a file operation."""
        member.crash(power=True)

    def settle(self) -> None:
        """After each move: the nodes do what is due, clients get their answers. No time passes."""
        for member in self.members.values():
            if member.up:
                member.clock.settle()
        self.scheduler.run(CLIENT_S)

    def deliver(self, flight: Flight) -> None:
        """The message arrives."""
        self.network.flights.remove(flight)
        self.members[flight.target].arrive(flight.source, flight.message)
        self.settle()

    def report(self, *, messages: bool = True) -> list[str]:
        """What changed since the last call: states, messages sent, answers to clients, violations."""
        changed: dict[str, list[str]] = {}
        for node_id, member in self.members.items():
            state = member.state()
            if self._states.get(node_id) != state:
                self._states[node_id] = state
                changed.setdefault(state, []).append(node_id)
        lines = [f"{','.join(nodes)} {state}" for state, nodes in changed.items()]
        if messages:
            lines += counted(map(str, self.sent))
        lines += self._answers + self.violations
        self.sent, self._answers, self.violations = [], [], []
        return lines

    # -- clients
    def open_session(self, node_id: str, name: str) -> None:
        """A client opens a session, which requests refer to by ``name``."""

        def done(result: Any, error: RaftKVError | None) -> None:
            if error is None:
                self._sessions[name] = bytes.fromhex(bytes(result).decode())
            self._answers.append(f"{node_id} answers open {name}: {'OK' if error is None else outcome(error)}")

        self.members[node_id].propose(encode_group(Group(OPEN, 0, 0, b"", numbers=(SESSION_TTL_MS,))), done)
        self.settle()

    def propose(self, node_id: str, words: list[str], session: str, sequence: int) -> None:
        """A client writes; with a session, as its request number ``sequence``."""
        run = Run(self._sessions[session], sequence, sequence - 1) if session else None

        def done(result: Any, error: RaftKVError | None) -> None:
            if error is None and words[0] == "SET":
                self._acknowledged.setdefault(words[1], []).append(words[2])
            reply = shown(result[0]) if error is None else outcome(error)
            self._answers.append(f"{node_id} answers {' '.join(words)}: {reply}")

        data = resp(*(word.encode() for word in words))
        self.members[node_id].propose(encode_group(Group(PLAIN, 0, 1, data, run=run)), done)
        self.settle()

    def join(self, node_id: str) -> None:
        """A node that belongs to no group starts, connected to all."""
        self.members[node_id] = Actor(self, node_id, [])
        self.members[node_id].start()
        self.settle()

    def change(self, node_id: str, change: MembershipChange) -> None:
        """Somebody asks for a change of the members."""
        member = self.members[node_id]
        done = self._operator(node_id, f"{type(change).__name__.lower()} {change.node_id}")
        member.call(member.replica.membership.change, change, lambda _, error: done(error))
        self.settle()

    def transfer(self, node_id: str, target: str) -> None:
        """Somebody asks for another leader."""
        member = self.members[node_id]
        member.call(member.replica.transfer.start, target, self._operator(node_id, f"transfer {target}"))
        member.schedule_tick()
        self.settle()

    def _operator(self, node_id: str, asked: str) -> Callable[[RaftKVError | None], None]:
        def done(error: RaftKVError | None) -> None:
            text = "done" if error is None else f"{outcome(error)}: {error.message}"
            self._answers.append(f"{node_id} answers {asked}: {text}")

        return done

    def read(self, node_id: str, words: list[str]) -> None:
        """A client reads. A GET must not answer what an acknowledged SET had replaced before it was asked."""
        replaced = self._acknowledged.get(words[1], [])[:]
        current = replaced.pop() if replaced else None

        def done(result: object, error: RaftKVError | None) -> None:
            reply = shown(result) if error is None else outcome(error)
            self._answers.append(f"{node_id} answers {' '.join(words)}: {reply}")
            if error is None and current is not None and reply in (*replaced, "nil"):
                self.checks.tell(
                    Violation("stale read", f"{node_id} answers {reply}, {current} was acknowledged before")
                )

        self.members[node_id].read([word.encode() for word in words], done)
        self.settle()

    def peek(self, node_id: str, words: list[str]) -> str:
        """The reply of a read on the node's own state, whoever leads."""
        member = self.members[node_id]
        return shown(member.look([word.encode() for word in words], member.machine.stamp_ms))


# -- words for things
def counted(lines: Iterable[str]) -> list[str]:
    """Each line once, with how often it was there."""
    return [line if count == 1 else f"{line} ({count} times)" for line, count in Counter(lines).items()]


def kind_of(message: Message) -> str:
    """``AppendEntries`` is ``append-entries``."""
    name = type(message).__name__
    return "".join(f"-{one.lower()}" if one.isupper() else one for one in name).lstrip("-")


def describe(message: Message) -> str:
    """Kind and fields, positions in the log as index/term."""
    kind = kind_of(message)
    if isinstance(message, AppendEntries):
        entries = " ".join(f"{index}/{term}" for _, index, term in message.entries)
        after = f"after {message.prev_index}/{message.prev_term}"
        return f"{kind} term {message.term} {after}: {entries or 'no entries'}, commit {message.commit}"
    if isinstance(message, AppendReply):
        last = message.next_index - 1
        verdict = f"holds {last}" if message.success else f"rejected, has to {last}" if message.reset else "here"
        return f"{kind} term {message.term} {verdict}"
    if isinstance(message, SnapshotChunk):
        last = message.offset + len(message.data) == message.total_bytes
        end = " to the end" * last
        return f"{kind} term {message.term} of {message.index}/{message.last_term} from {message.offset}{end}"
    if isinstance(message, SnapshotAck):
        whole = message.offset % snapshot_sender.CHUNK_BYTES == 0
        verdict = "installed" if message.installed else "damaged" if message.damaged else "here"
        return f"{kind} term {message.term} index {message.index} {verdict}" + f" to {message.offset}" * whole
    shown_fields = {one.name: getattr(message, one.name) for one in fields(message) if one.name not in UNSEEN}
    if "last_index" in shown_fields:
        shown_fields["last"] = f"{shown_fields.pop('last_index')}/{shown_fields.pop('last_term')}"
    words = [name if value is True else f"{name} {value}" for name, value in shown_fields.items() if value is not False]
    return " ".join([kind, *words])


def entry_text(payload: bytes) -> str:
    """The commands of a log entry."""
    if payload[0] == CONFIGURATION:
        return f"members {Configuration.decode(payload, 0).listed()}"
    if payload[0]:
        return "no-op"
    found = []
    for group in groups(payload):
        words = " ".join(word.decode() for word in bytes(group.data).split(b"\r\n")[2::2])
        found.append("open a session" if group.kind == OPEN else words)
    return "; ".join(found)


def shown(value: Any) -> str:
    """A reply, as a client would print it."""
    if value is None:
        return "nil"
    if isinstance(value, bytes):
        return value.decode().strip().lstrip("+:")
    return str(value)


def outcome(error: RaftKVError) -> str:
    """What a client knows after an error."""
    return f"{error.code}, {'not done' if error.definite else 'in doubt'}"
