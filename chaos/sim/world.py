"""One run: a group, its clients, its faults, in three phases: warm-up and storm; calm; drain and judgement."""

from __future__ import annotations

import gc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any, Final
from unittest import mock

from chaos.sim import coverage
from chaos.sim.checks import Checks, Violation
from chaos.sim.clients import Client, History, judge
from chaos.sim.member import Member
from chaos.sim.nemesis import FAULTS
from chaos.sim.network import Network
from chaos.sim.operator import Operator
from chaos.sim.profiles import CHUNK_BYTES, PROFILES, Profile
from chaos.sim.scheduler import START_S, Scheduler
from chaos.sim.trace import Trace, line
from persistence import snapshots
from raftkv.consensus import engine, journal, seams, snapshot_receiver, snapshot_sender
from raftkv.consensus.core import Timing

WARM_UP_S: Final = 2.0
PROGRESS_S: Final = 5.0
"""After the last fault, a write must be acknowledged within so long."""
AMBUSH_S: Final = 1.5
"""So long a fault lies in wait, looking again every so often."""
AMBUSH_STEP_S: Final = 0.001
SETTLED_POLL_S: Final = 0.25
VIOLATION_LINES: Final = 400
"""Of the trace, with each violation."""
FILE_CHUNK_BYTES: Final = 512
"""What a checksum in a snapshot's file covers, and what a node loads of it in one tick: small, as the files are."""
SLICE_BYTES: Final = 2048
LOG_SLICES: Final = (journal.SLICE_BYTES_MAX, journal.SLICE_BYTES_MAX, 0, 300)
"""How many bytes of entries the engine is given at once, one of these a run: simulated entries are small, and users'
may each be larger than a slice."""
KINDS: Final = ("session", "list", "register", "session")


@dataclass(slots=True)
class Result:
    """What a run was and what it found."""

    seed: int
    profile: str
    nodes: int
    virtual_s: float = 0.0
    steps: int = 0
    messages: int = 0
    elections: int = 0
    snapshots: int = 0
    installed: int = 0
    acknowledged: int = 0
    unknown: int = 0
    reads: int = 0
    recovery_s: float = 0.0
    """From the last fault to the next acknowledged write."""
    faults: Counter[str] = field(default_factory=Counter)
    done: dict[int, float] = field(default_factory=dict)
    """Which faults happened, and when, in seconds of the storm; what cannot be done (a leader to isolate) does not."""
    coverage: Counter[coverage.Cell] = field(default_factory=Counter)
    guards: Counter[str] = field(default_factory=Counter)
    trace_hash: str = ""
    violation: str = ""
    tail: list[str] = field(default_factory=list)
    """The newest lines of the trace: as many as were asked for, and at least some when there is a violation."""
    notes: list[str] = field(default_factory=list)
    """The whole trace without messages: faults, crashes, starts, leaders, and what was found."""

    @property
    def kind(self) -> str:
        """Which promise was broken; empty when none was."""
        return self.violation.partition(":")[0]


class World:
    """Everything of one run."""

    late = False
    """What was never answered may take effect after what was asked for later, which linearizability allows and our
    leaders never do. Clients then go on with another key, so that what they may demand of each stays simple."""

    def __init__(self, seed: int, profile: Profile, nodes: int, only_faults: frozenset[int] | None = None) -> None:
        self.seed = seed
        self.profile = profile
        self.only_faults = only_faults
        self.label = f"{seed}/{profile.name}/{nodes}"
        least_s, most_s = profile.election_s
        self.timing = Timing(
            election_min_s=least_s, election_max_s=most_s, request_s=profile.request_s, read_lease=profile.read_lease
        )
        self.scheduler = Scheduler()
        self.checks = self.make_checks()
        self.history = History()
        self.ids = [f"n{number}" for number in range(1, nodes + 1)]
        """Of the nodes that are in use."""
        reserve = [f"n{number}" for number in range(nodes + 1, nodes + 1 + profile.reserve)]
        self.rng = Random(f"{self.label}/faults")  # noqa: S311 -- seeded on purpose
        self.members: dict[str, Member] = {}
        self.network = Network(self, [*self.ids, *reserve], Random(f"{self.label}/network"))  # noqa: S311 -- seeded on purpose
        for node_id in (*self.ids, *reserve):
            self.members[node_id] = self.make_member(node_id)
        self.operator = Operator(self, reserve)
        self.clients = [Client(self, number, KINDS[number % len(KINDS)]) for number in range(profile.clients)]
        self.faults: Counter[str] = Counter()
        self.coverage: Counter[coverage.Cell] = Counter()
        self.fault_number = 0
        self.done: dict[int, float] = {}
        self.notes: list[str] = []
        self._storm_began = 0.0
        self.guards: Counter[str] = Counter()
        self.hushed_until = 0.0
        """Clients only read until then."""
        self.storming = False
        self.draining = False
        self.recovery_s = 0.0
        self.snapshots = 0
        self.trace = Trace()

    # -- what it is made of
    def make_checks(self) -> Checks:
        """What is judged after each step."""
        return Checks(self.on_leader)

    def make_member(self, node_id: str) -> Member:
        """A node, not started yet."""
        return Member(self, node_id, self.ids)

    # -- the trace
    def on_leader(self, member: Member, term: int) -> None:
        """A node begins to lead."""
        self.note("leads", member.id, f"term {term}")

    def note(self, kind: str, where: str, text: str) -> None:
        """A line of the trace."""
        self.trace.note(self.scheduler.now, kind, where, text)
        self.notes.append(line(self.scheduler.now, where, kind, text))

    # -- what faults use
    def leader(self) -> Member | None:
        """Who leads in the highest term, if anybody does."""
        leading = [one for one in self.members.values() if one.up and one.replica.core.is_leader]
        return max(leading, key=lambda one: one.replica.core.term, default=None)

    def crash(self, member: Member, *, power: bool) -> None:
        """End a process, and start it again later if nobody else has planned to."""
        self._collect(member)
        member.crash(power=power)
        self.note("crash", member.id, "power" if power else "kill")
        self.scheduler.after(6.0, self._restart, member, member.incarnation)

    def plan_crash(self, member: Member, delay_s: float) -> None:
        """Kill a process later, unless it has ended by then; it is started again."""
        incarnation = member.incarnation

        def strike() -> None:
            if member.up and member.incarnation == incarnation:
                self.crash(member, power=False)
                self.plan_restart(member, 0.2)

        self.scheduler.after(delay_s, strike)

    def end(self, member: Member) -> None:
        """End a process for good."""
        if member.up:
            self._collect(member)
            member.crash(power=False)
        member.incarnation += 1
        self.note("end", member.id, f"disk {member.disk_id}")

    def power_cut(self, member: Member) -> None:
        """The power of a node goes in the middle of a file operation (see the fault ``power_at_operation``)."""
        self.coverage.update(("power_at_operation", *one) for one in coverage.observe(self)[member.id])
        self.note("power", member.id, "cut inside a file operation")
        self.crash(member, power=True)

    def plan_restart(self, member: Member, delay_s: float) -> None:
        self.scheduler.after(delay_s, self._restart, member, member.incarnation)

    def _restart(self, member: Member, incarnation: int) -> None:
        if not member.up and member.incarnation == incarnation:
            self.note("start", member.id, "")
            member.start()

    def _collect(self, member: Member) -> None:
        if hasattr(member, "replica"):
            self.guards.update({k: v for k, v in member.replica.core.counters.items() if isinstance(v, int)})
            self.guards["snapshots_installed"] += member.replica.snapshots.receiver.installed_total
            self.guards["elections_started"] += member.replica.election.elections

    # -- phases
    def run(self) -> None:
        """All phases. Raises Violation."""
        for node_id in self.ids:
            self.members[node_id].start()
        for client in self.clients:
            client.start()
        self.scheduler.run_until(START_S + WARM_UP_S)
        while self.leader() is None:
            in_time = self.scheduler.now < START_S + WARM_UP_S + PROGRESS_S
            self._require(in_time, "no progress", "no leader after the start")
            self.scheduler.run_until(self.scheduler.now + SETTLED_POLL_S)
        steady = self._leadership()
        self.storming = True
        self._storm_began = self.scheduler.now
        self.scheduler.after(0.0, self._storm)
        self.scheduler.run_until(self.scheduler.now + self.profile.storm_s)
        self._heal()
        healed = self.scheduler.now
        # Who waits for a disk that hung goes on when the sync that was begun has ended, and clients wait with it.
        calm = max(healed, *(member.busy_until for member in self.members.values() if member.up))
        while self.history.last_acknowledged_s <= healed:
            in_time = self.scheduler.now < calm + PROGRESS_S
            self._require(in_time, "no progress", f"no write in {PROGRESS_S} s of calm")
            self.scheduler.run_until(self.scheduler.now + SETTLED_POLL_S)
        self.recovery_s = self.scheduler.now - healed
        self.scheduler.run_until(self.scheduler.now + self.profile.calm_s)
        if self.profile.steady_leader:
            self._require(
                self._leadership() == steady, "deposed", f"leadership went from {steady} to {self._leadership()}"
            )
        self._drain()

    def _leadership(self) -> tuple[str, int]:
        leader = self.leader()
        return (leader.id, leader.replica.core.term) if leader is not None else ("", 0)

    def _require(self, holds: bool, kind: str, text: str) -> None:
        if not holds:
            raise Violation(kind, text)

    def _storm(self) -> None:
        if not self.storming or not self.profile.faults:
            return
        # Everything that a fault depends on is drawn before it is left out, and its details from dice of its own:
        # a plan without it changes no other.
        self.fault_number = number = self.fault_number + 1
        kinds = list(self.profile.faults)
        kind = self.rng.choices(kinds, [self.profile.faults[one] for one in kinds])[0]
        gap_s = self.profile.fault_gap_s * self.rng.expovariate(1.0)
        waits = self.profile.ambush > 0 and self.rng.random() < self.profile.ambush
        if self.only_faults is None or number in self.only_faults:
            if waits:
                self._lie_in_wait(number, kind, self.scheduler.now + AMBUSH_S)
            else:
                self._harm(number, kind)
        self.scheduler.after(gap_s, self._storm)

    def _lie_in_wait(self, number: int, kind: str, until: float) -> None:
        """Strike while somebody is receiving a snapshot: by chance that is hardly ever hit."""
        if any(
            one.up and one.replica.snapshots.receiver.is_receiving for one in map(self.members.__getitem__, self.ids)
        ):
            self._harm(number, kind)
        elif self.storming and self.scheduler.now < until:
            self.scheduler.after(AMBUSH_STEP_S, self._lie_in_wait, number, kind, until)

    def _harm(self, number: int, kind: str) -> None:
        dice = Random(f"{self.label}/fault/{number}")  # noqa: S311 -- seeded on purpose
        before = coverage.observe(self)
        harm = FAULTS[kind](self, dice)
        if harm is not None:
            self.faults[kind] += 1
            self.done[number] = self.scheduler.now - self._storm_began
            self.coverage.update((kind, *one) for node_id in harm.nodes for one in before[node_id])
            self.note(f"fault {number}", kind, harm.text)

    def _heal(self) -> None:
        self.storming = False
        self.note("healed", "", "")
        self.network.heal_all()
        for member in [self.members[node_id] for node_id in self.ids]:
            member.slow_disk = 1.0
            member.disk.full = False
            member.disk.disarm()
            if member.up and member.replica.core.halted and not member.wiped:
                self.crash(member, power=False)
            if not member.up:
                self._restart(member, member.incarnation)

    def _drain(self) -> None:
        self.draining = True
        end = self.scheduler.now + self.profile.drain_s
        while not self._settled():
            if self.scheduler.now >= end:
                raise Violation("left behind", "; ".join(self._state(self.members[one]) for one in self.ids))
            self.scheduler.run_until(self.scheduler.now + SETTLED_POLL_S)
        digests = {
            one.id: (one.machine.digest(), one.machine.alarms.standing)
            for one in map(self.members.__getitem__, self.ids)
        }
        self._require(len(set(digests.values())) == 1, "digest", f"states differ: {digests}")
        leader = self.leader()
        if leader is not None:
            judge(self.history, leader)

    def _settled(self) -> bool:
        leader = self.leader()
        if leader is None or any(client.busy for client in self.clients):
            return False
        if self.profile.reserve and not self.operator.settled:
            return False
        last = leader.log.last_index
        return all(
            one.up and one.replica.core.applied == last and not (one.registers and one.replica.membership.repairing)
            for one in map(self.members.__getitem__, self.ids)
        )

    def _state(self, member: Member) -> str:
        if not member.up:
            return f"{member.id} down"
        core = member.replica.core
        role = "leader" if core.is_leader else "follower"
        return f"{member.id} {role} t{core.term} applied {core.applied} of {member.log.last_index} {core.halted}"

    # -- the end
    def result(self, violation: str, lines: int) -> Result:
        """What there is to say about the run, with so many lines of the trace."""
        for member in self.members.values():
            self._collect(member)
        history = self.history
        return Result(
            seed=self.seed,
            profile=self.profile.name,
            nodes=len(self.ids),
            virtual_s=self.scheduler.now - START_S,
            steps=self.scheduler.steps,
            messages=self.network.messages,
            elections=self.checks.elections,
            snapshots=self.snapshots,
            installed=self.guards["snapshots_installed"],
            acknowledged=history.acknowledged,
            unknown=history.unknown,
            reads=history.reads,
            recovery_s=self.recovery_s,
            faults=self.faults,
            done=self.done,
            coverage=self.coverage,
            guards=self.guards,
            trace_hash=self.trace.digest(),
            violation=violation,
            tail=self.trace.lines(max(lines, VIOLATION_LINES) if violation else lines),
            notes=self.notes,
        )


@contextmanager
def pinned(chunk_bytes: int = CHUNK_BYTES, log_slice: int = LOG_SLICES[0]) -> Iterator[None]:
    """What the engine and the modules hold globally, set for a simulation and put back afterwards."""
    globals_of_engine = vars(seams)["syncobj"]
    with ExitStack() as stack:
        for owner, name, value in (
            (globals_of_engine, "monotonicTime", globals_of_engine.monotonicTime),
            (globals_of_engine, "random", globals_of_engine.random),
            (vars(engine)["Node"], "__hash__", _steady_hash),
            (journal, "SLICE_BYTES_MAX", log_slice),
            (snapshot_sender, "CHUNK_BYTES", chunk_bytes),
            (snapshots, "CHUNK_BYTES", FILE_CHUNK_BYTES),
            (snapshot_receiver, "SLICE_BYTES", SLICE_BYTES),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def _steady_hash(node: Any) -> int:
    """The engine iterates over sets of nodes: their order must not depend on the process."""
    return _hash_of(node._id)


@cache
def _hash_of(node_id: str) -> int:
    return zlib.crc32(node_id.encode())


@contextmanager
def without_collection() -> Iterator[None]:
    """A run makes few cycles, so looking for them all the time costs more than it frees: it is done once, after it."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        if enabled:
            gc.enable()


def simulate(
    seed: int,
    profile: str | Profile,
    nodes: int = 3,
    only_faults: frozenset[int] | None = None,
    *,
    lines: int = 0,
) -> Result:
    """One run, judged. ``only_faults``: as :attr:`chaos.sim.plan.Plan.faults`.

    ``lines``: how much of the trace is wanted even without a violation.
    """
    weather = PROFILES[profile] if isinstance(profile, str) else profile
    log_slice = Random(f"{seed}/{weather.name}/{nodes}/slice").choice(LOG_SLICES)  # noqa: S311 -- seeded on purpose
    limits = pinned(weather.chunk_bytes, log_slice)
    return judged(lambda: World(seed, weather, nodes, only_faults), lines, limits)


def judged(make: Callable[[], World], lines: int, limits: AbstractContextManager[None] | None = None) -> Result:
    """Make a world and run it; ``limits`` is what is :func:`pinned` otherwise than it is by default."""
    # In this order: as long as the engine's clock is pinned to a member of the world, the world is not garbage.
    with without_collection(), limits or pinned():
        return _simulate(make(), lines)


def _simulate(world: World, lines: int) -> Result:
    violation = ""
    try:
        world.run()
    except Violation as found:
        violation = str(found)
        world.note("VIOLATION", "", violation)
    result = world.result(violation, lines)
    world.trace.forget()  # most of what a run leaves behind: the collector need not walk through it
    return result
