"""Play a scenario up to a failpoint, let the fault strike, open what is left, and judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from chaos.disk import Call, PowerCut, ProcessEnd
from chaos.matrix.faults import AGAIN_MAX, SEEDS, CellDisk, Fault
from chaos.matrix.sites import called_from, name_of
from chaos.sim.checks import Violation
from chaos.sim.verbs import ScriptError
from persistence.errors import PersistenceError
from raftkv.errors import RaftKVError

Outcome = Literal["survived", "refused", "LOST"]
Judgement = Literal["survived", "refused"]
SAMPLE_AGAIN: Final = 2
"""Calls of the recovery that a sample strikes."""


class LostError(Exception):
    """What was promised is not there, or something is there that was not asked for. Says what."""


class Scenario(Protocol):
    """One life. An instance serves once, and remembers what was promised to it."""

    def prepare(self, disk: CellDisk) -> None:
        """What was there before; nothing strikes here."""
        ...

    def live(self, disk: CellDisk) -> None:
        """The life. It may be ended by :class:`ProcessEnd`, OSError, PersistenceError or RaftKVError at any call."""
        ...

    def open(self, disk: CellDisk) -> None:
        """A start on what is left; the recovery that a second fault may interrupt."""
        ...

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        """Open, compare, go on. With ``damaged`` a bit was changed: then it may refuse, and lose its last unclosed
        round.

        Raises LostError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Point:
    """The ``number``-th mutating call of a scenario."""

    number: int
    name: str
    call: Call
    site: tuple[str, int, str]
    """File, line, operation."""


@dataclass(slots=True)
class Cell:
    """One failpoint under one fault, and what came of it."""

    scenario: str
    point: Point
    fault: Fault
    seed: int = 0
    outcome: Outcome = "survived"
    reason: str = ""
    """Of a refusal or a loss."""
    lives: int = 0
    """How often the files were opened again and judged."""

    def __str__(self) -> str:
        return f"{self.scenario}, call {self.point.number} ({self.point.name}), {self.fault.name}, seed {self.seed}"


def rehearse(name: str, make: Callable[[], Scenario]) -> list[Point]:
    """Play it without a fault, and judge it: its failpoints, in order. Raises LostError when even that is wrong."""
    disk, scenario = CellDisk(name), make()
    points: list[Point] = []
    scenario.prepare(disk)
    disk.arm(0)

    def note(call: Call) -> None:
        place = called_from()
        points.append(Point(len(points) + 1, name_of(place, call), call, (place.path, place.line, call.operation)))

    disk.on_call = note
    scenario.live(disk)
    disk.on_call = None
    disk.kill()
    scenario.judge(disk, damaged=False)
    return points


def cells(name: str, points: Sequence[Point], faults: Sequence[Fault], *, full: bool) -> Iterator[Cell]:
    """What there is to play: with ``full`` each call, otherwise some of each name."""
    for point in points if full else _some(points):
        for fault in faults:
            if fault.applies(point.call.operation) and (full or fault.sampled):
                for seed in range(SEEDS if full and fault.raises is not None else 1):
                    yield Cell(name, point, fault, seed)


def _some(points: Sequence[Point]) -> list[Point]:
    """One call of each name, in the middle of the life."""
    by_name: dict[str, list[Point]] = {}
    for point in points:
        by_name.setdefault(point.name, []).append(point)
    return sorted((same[len(same) // 2] for same in by_name.values()), key=lambda one: one.number)


def play(cell: Cell, make: Callable[[], Scenario], *, full: bool) -> Cell:
    """Fill in the outcome."""
    try:
        if cell.fault.again:
            _play_again(cell, make, full=full)
        else:
            disk, scenario = _life(cell, make)
            _judge(cell, disk, scenario)
    except LostError as lost:
        cell.outcome, cell.reason = "LOST", str(lost)
    except (Violation, ScriptError, PersistenceError, RaftKVError, OSError, AssertionError) as error:
        cell.outcome, cell.reason = "LOST", f"{type(error).__name__}: {error}"
    return cell


def _life(cell: Cell, make: Callable[[], Scenario]) -> tuple[CellDisk, Scenario]:
    disk, scenario = CellDisk(f"{cell.scenario}/{cell.seed}"), make()
    scenario.prepare(disk)
    cell.fault.arm(disk, cell.point.number)
    struck = ""
    try:
        scenario.live(disk)
    except (ProcessEnd, OSError, PersistenceError, RaftKVError) as error:
        struck = repr(error)
    met = disk.journal[cell.point.number - 1] if len(disk.journal) >= cell.point.number else None
    if met != cell.point.call:
        raise LostError(f"the life took another course than before: {met}, not {cell.point.call} ({struck})")
    cell.fault.end(disk)
    return disk, scenario


def _judge(cell: Cell, disk: CellDisk, scenario: Scenario) -> None:
    cell.lives += 1
    outcome = scenario.judge(disk, damaged=bool(disk.flipped))
    if outcome == "refused" and not disk.flipped:
        raise LostError("it refuses to serve, though nothing is damaged")
    if outcome == "refused":
        cell.outcome, cell.reason = "refused", disk.flipped


def _play_again(cell: Cell, make: Callable[[], Scenario], *, full: bool) -> None:
    """Strike the calls of the recovery, one a life, until a recovery is through before it is struck."""
    number = 0
    while number < (AGAIN_MAX if full else SAMPLE_AGAIN):
        number += 1
        disk, scenario = _life(cell, make)
        disk.arm(number, PowerCut)
        try:
            scenario.open(disk)
        except PowerCut:
            disk.power_cut()
        if disk.armed:
            disk.kill()
            _judge(cell, disk, scenario)
            return
        _judge(cell, disk, scenario)
