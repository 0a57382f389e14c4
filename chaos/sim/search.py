"""Run many plans, print the table as it grows, and every violation at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chaos.sim.guards import switched_off
from chaos.sim.plan import Choice, Plan
from chaos.sim.report import Totals, counts, heading, row, violation
from chaos.sim.world import Result, simulate

Found = tuple[Plan, Result]


@dataclass(frozen=True, slots=True)
class Show:
    """What is printed beside the table."""

    trace: int = 0
    """So many of each trace's last lines."""
    hashes: bool = False
    guards: bool = False


def run(plan: Plan) -> Result:
    """The same plan gives the same result, in any process."""
    with switched_off(plan.off):
        return simulate(plan.seed, plan.weather(), plan.nodes, plan.faults)


def run_all(plans: Iterable[Plan]) -> Iterator[Found]:
    """Results in the order of the plans."""
    for plan in plans:
        yield plan, run(plan)


def search(choice: Choice, show: Show, *, first: bool) -> list[Found]:
    """All runs with a violation; ``first``: at most one for each profile."""
    failed: list[Found] = []
    total = Totals()
    print(heading())
    for name in choice.profiles:
        part, begun = Totals(), time.perf_counter()
        for plan, result in run_all(choice.plans(name)):
            part.add(result)
            if show.hashes:
                print(f"{name} {result.seed} {result.trace_hash}")
            if show.trace:
                print("\n".join(result.tail[-show.trace :]))
            if result.violation:
                failed.append((plan, result))
                if first:
                    break
        part.seconds = time.perf_counter() - begun
        total.merge(part)
        print(row(name, part), flush=True)
    if len(choice.profiles) > 1:
        print(row("total", total))
    if show.guards:
        print("guards that acted: " + counts(total.guards))
    for plan, result in failed:
        print(violation(plan, result))
    return failed
