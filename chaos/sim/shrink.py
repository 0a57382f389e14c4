"""A failing run made smaller: fewer nodes, clients and faults, a shorter storm, and still the same promise broken.

Faults are left out by delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
2002): halves first, then ever smaller parts. Each step is a run of the simulator, so the effort is counted in runs and
bounded; the outcome depends on nothing but the plan and the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from chaos.sim.plan import NODES, Plan
from chaos.sim.world import Result

CLIENTS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
AFTER_LAST_FAULT_S: Final = (0.1, 0.5, 1.0, 2.0, 4.0)
"""How long the storm may have to go on after its last fault: until then nothing is healed."""

Run = Callable[[Plan], Result]


@dataclass(frozen=True, slots=True)
class Size:
    """What a reader of the trace has to follow."""

    nodes: int
    clients: int
    faults: int
    storm_s: float

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.clients} clients, {self.faults} faults, {self.storm_s:g} s of storm"


def size(plan: Plan, result: Result) -> Size:
    """Of a run that was made."""
    weather = plan.weather()
    return Size(plan.nodes, weather.clients, len(result.done), weather.storm_s)


class Shrinker:
    """Holds the smallest failing run so far. ``result`` must be what ``plan`` gives, with a violation."""

    def __init__(self, plan: Plan, result: Result, runs_max: int, run: Run) -> None:
        self.plan = plan
        self.result = result
        self.runs = 0
        self._runs_max = runs_max
        self._run = run

    def shrink(self) -> None:
        """Until nothing gets smaller, or ``runs_max`` runs were made."""
        self._any(replace(self.plan, nodes=nodes) for nodes in NODES if nodes < self.plan.nodes)
        self._keep_what_happened()
        before = None
        while before != self.plan and self.runs < self._runs_max:
            before = self.plan
            self._fewer_clients()
            self._fewer_faults()
            self._shorter_storm()

    def _fails(self, plan: Plan) -> bool:
        """Whether ``plan`` breaks the same promise; if so, it is the smallest so far."""
        if self.runs >= self._runs_max:
            return False
        self.runs += 1
        result = self._run(plan)
        if result.kind != self.result.kind:
            return False
        self.plan, self.result = plan, result
        self._keep_what_happened()
        return True

    def _any(self, plans: Iterable[Plan]) -> bool:
        return any(self._fails(plan) for plan in plans)

    def _keep_what_happened(self) -> None:
        """To leave out what did not happen changes nothing, and costs no run."""
        self.plan = replace(self.plan, faults=frozenset(self.result.done))

    def _fewer_clients(self) -> None:
        clients = self.plan.weather().clients
        self._any(replace(self.plan, clients=count) for count in CLIENTS if count < clients)

    def _shorter_storm(self) -> None:
        last = max(self.result.done.values(), default=0.0)
        lengths = [round(last + more, 1) for more in AFTER_LAST_FAULT_S]
        storm_s = self.plan.weather().storm_s
        self._any(replace(self.plan, storm_s=length) for length in lengths if last < length < storm_s)

    # -- delta debugging
    def _fewer_faults(self) -> None:
        if not self.result.done or self._with([]):
            return
        parts = 2
        while len(self.result.done) > 1 and self.runs < self._runs_max:
            numbers = sorted(self.result.done)
            parts = min(parts, len(numbers))
            if self._a_part(numbers, parts):
                parts = 2
            elif self._all_but_a_part(numbers, parts):
                parts = max(parts - 1, 2)
            elif parts == len(numbers):
                return
            else:
                parts *= 2

    def _a_part(self, numbers: list[int], parts: int) -> bool:
        return any(self._with(part) for part in _split(numbers, parts))

    def _all_but_a_part(self, numbers: list[int], parts: int) -> bool:
        if parts == 2:
            return False  # the other half was tried
        return any(self._with(sorted({*numbers} - {*part})) for part in _split(numbers, parts))

    def _with(self, numbers: list[int]) -> bool:
        return self._fails(replace(self.plan, faults=frozenset(numbers)))


def _split(numbers: list[int], parts: int) -> list[list[int]]:
    """``parts`` runs of almost equal length; ``parts`` is at most the length."""
    ends = [len(numbers) * number // parts for number in range(parts + 1)]
    return [numbers[a:b] for a, b in pairwise(ends)]
