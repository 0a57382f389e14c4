"""Run many plans, print the table as it grows, and every violation at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chaos.sim.coverage import matrix
from chaos.sim.guards import switched_off
from chaos.sim.plan import Choice, Plan
from chaos.sim.profiles import PROFILES
from chaos.sim.report import Found, Totals, counts, heading, row, shrunk, story, violations
from chaos.sim.shrink import Shrinker, size
from chaos.sim.world import Result, simulate


@dataclass(frozen=True, slots=True)
class Show:
    """What is printed beside the table."""

    trace: int = 0
    """Tell the story of each run, with so many of its last messages."""
    hashes: bool = False
    guards: bool = False
    coverage: bool = False


def run(plan: Plan, lines: int = 0) -> Result:
    """The same plan gives the same result, in any process. ``lines``: as for :func:`simulate`."""
    with switched_off(plan.off):
        return simulate(plan.seed, plan.weather(), plan.nodes, plan.faults, lines=lines)


def run_all(plans: Iterable[Plan], lines: int) -> Iterator[Found]:
    """Results in the order of the plans."""
    for plan in plans:
        yield plan, run(plan, lines)


def search(choice: Choice, show: Show, *, first: bool, shrink_runs: int) -> list[Found]:
    """All runs with a violation; ``first``: at most one for each profile.

    Of each kind that a profile shows, the first is made smaller, with up to ``shrink_runs`` runs; not if the choice names
    the faults, as the command for a run that was made smaller does.
    """
    logging.getLogger("pysyncobj").addHandler(logging.NullHandler())  # its alarms are what is looked for here
    failed: list[Found] = []
    total = Totals()
    print(heading())
    for name in choice.profiles:
        part, begun = Totals(), time.perf_counter()
        for plan, result in run_all(choice.plans(name), show.trace):
            part.add(result)
            if show.hashes:
                print(f"{name} {result.seed} {result.trace_hash}")
            if show.trace:
                print(story(result, show.trace))
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
    if show.coverage:
        print("\n" + matrix(total.coverage, (kind for name in choice.profiles for kind in PROFILES[name].faults)))
    print(violations(failed), end="\n" if failed else "")
    kinds: set[tuple[str, str]] = set()
    for plan, result in failed:
        if shrink_runs and choice.faults is None and (plan.profile, result.kind) not in kinds:
            kinds.add((plan.profile, result.kind))
            shrinker = Shrinker(plan, result, shrink_runs, run)
            shrinker.shrink()
            print(shrunk(size(plan, result), shrinker), flush=True)
    return failed
