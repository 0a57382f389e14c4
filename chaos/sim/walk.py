"""Random schedules on the stage of the scripts: every step is a command of a script, and so is what a violation leaves.

The simulation makes weather; here anything may happen at any time. Messages arrive in any order, twice, late or never;
one clock runs and another stands; disks sync when they like. What is found is a script, to be cut down by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Final

from chaos.sim.script import Block, play, prepared
from chaos.sim.stage import Actor
from chaos.sim.verbs import Script, ScriptError

NODES_MAX: Final = 6
DOWN_MAX: Final = 1
IN_FLIGHT_MAX: Final = 120
ROT_ENTRIES: Final = 3
"""A log whose first record is damaged has so many durable entries after it, which tell that it was no torn end."""


@dataclass(slots=True)
class Walk:
    """A schedule that was played."""

    commands: list[str]
    violations: list[str]
    applied: int = 0
    """The highest entry that any node applied."""
    repairs: int = 0
    """How often damage was set aside."""


class Walker:
    """Chooses the next command. Whatever cannot be said at the moment is left out."""

    def __init__(self, script: Script, rng: Random) -> None:
        self.script = script
        self.rng = rng
        self.written = 0
        self.moves: dict[Callable[[], str], int] = {
            self.deliver: 1600, self.lose: 20, self.repeat: 20, self.advance: 90, self.write: 80, self.read: 30,
            self.crash: 10, self.restart: 30, self.stall: 20, self.sync: 40, self.snapshot: 10, self.transfer: 8,
            self.part: 5, self.change: 12,
        }  # fmt: skip
        if script.stage.disks:
            self.moves |= {self.rot: 30, self.bridge: 6}

    def next(self) -> str:
        """A command, or nothing."""
        if len(self.script.stage.network.flights) > IN_FLIGHT_MAX:
            return "drop"
        return self.rng.choices(list(self.moves), list(self.moves.values()))[0]()

    def node(self, fits: Callable[[Actor], bool] = lambda one: one.up) -> str:
        """A node of which this holds, if there is one."""
        found = [one.id for one in self.script.stage.members.values() if fits(one)]
        return self.rng.choice(found) if found else "none"

    def leader(self) -> str:
        """Who believes to lead, or anybody."""
        name = self.node(lambda one: one.up and one.replica.core.is_leader)
        return name if name != "none" else self.node()

    def message(self) -> str:
        """One of those under way: mostly the first of its link."""
        flights = self.script.stage.network.flights
        if not flights:
            return "none->none"
        one = self.rng.choice(flights)
        same = [
            other for other in flights if (other.source, other.target, other.held) == (one.source, one.target, one.held)
        ]
        nth = 1 if self.rng.random() < 0.7 else self.rng.randrange(len(same)) + 1
        return f"{'held ' * one.held}{one.source}->{one.target} nth={nth}"

    def deliver(self) -> str:
        return f"deliver {self.message()}"

    def lose(self) -> str:
        return f"drop {self.message()}"

    def repeat(self) -> str:
        return f"duplicate {self.message()}"

    def advance(self) -> str:
        return f"advance {self.node()} {self.rng.choice((5, 20, 60, 200, 450))}"

    def write(self) -> str:
        self.written += 1
        return f"propose {self.leader()} SET x {self.written}"

    def read(self) -> str:
        return f"read {self.node()} GET y"

    def crash(self) -> str:
        down = sum(not one.up for one in self.script.stage.members.values())
        return f"crash {self.node()}{self.rng.choice((' power', ''))}" if down < DOWN_MAX else ""

    def restart(self) -> str:
        return f"restart {self.node(lambda one: not one.up)}"

    def rot(self) -> str:
        return f"rot {self.node(lambda one: not one.up and one.durable_index() >= one.log.first_index + ROT_ENTRIES)}"

    def bridge(self) -> str:
        """One node between two sides."""
        names = list(self.script.stage.members)
        self.rng.shuffle(names)
        at = self.rng.randrange(1, len(names) + 1)
        return f"partition {' '.join(names[:at])} | {' '.join([names[0], *names[at:]])}"

    def stall(self) -> str:
        return f"stall {self.node()}"

    def sync(self) -> str:
        return f"sync {self.node()}"

    def snapshot(self) -> str:
        return f"snapshot {self.node()}"

    def transfer(self) -> str:
        return f"transfer {self.leader()} {self.node()}"

    def part(self) -> str:
        names = list(self.script.stage.members)
        self.rng.shuffle(names)
        at = self.rng.randrange(len(names))
        return f"partition {' '.join(names[:at])} | {' '.join(names[at:])}" if at else "heal"

    def change(self) -> str:
        names = self.script.stage.members
        if self.rng.random() < 0.3 and len(names) < NODES_MAX:
            return f"join n{len(names) + 1}"
        return f"{self.rng.choice(('add', 'promote', 'remove'))} {self.leader()} {self.node(lambda _: True)}"


def walk(seed: int, steps: int, off: str = "", *, disks: bool = False) -> Walk:
    """Play ``steps`` random commands, up to the first violation; without the guard ``off``.

    With ``disks``, nodes are known by their disks, and disks are damaged.
    """
    rng = Random(f"walk/{'disks/' * disks}{seed}")  # noqa: S311 -- seeded on purpose
    nodes, batch, chunk = rng.choice((1, 3, 3, 4, 5)), rng.choice((1, 64)), rng.choice((150, 1500))
    walked = Walk([f"off {off}"] if off else [], [])
    walked.commands.append(f"cluster nodes={nodes} {'disks ' * disks}batch={batch} chunk={chunk}")
    with ExitStack() as stack:
        script = prepared(stack)
        for command in walked.commands:
            play(script, Block([], [command], [], 0))
        walker = Walker(script, rng)
        for _ in range(steps):
            command = walker.next()
            if not command:
                continue
            try:
                outcome = play(script, Block([], [command], [], 0))
            except ScriptError:
                continue
            walked.commands.append(command)
            walked.violations = [line.strip() for line in outcome if "VIOLATION" in line]
            if walked.violations:
                break
        walked.applied = script.stage.checks.highest
        walked.repairs = sum(member.generation - 1 for member in script.stage.members.values())
    return walked
