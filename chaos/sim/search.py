"""Run many plans, print the table as it grows, and every violation at the end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from chaos.sim.coverage import matrix
from chaos.sim.guards import switched_off
from chaos.sim.plan import STOCK, Choice, Plan
from chaos.sim.profiles import PROFILES
from chaos.sim.report import Found, Totals, broken, counts, heading, row, shrunk, story, violations
from chaos.sim.shrink import Shrinker, size
from chaos.sim.stock import simulate_stock
from chaos.sim.world import Result, simulate

AHEAD: Final = 4
"""Runs given out for each process: the others go on while the next one in order is awaited."""


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
    if plan.engine == STOCK:
        return simulate_stock(plan.seed, plan.weather(), plan.nodes, plan.faults, lines=lines)
    with switched_off(plan.off):
        return simulate(plan.seed, plan.weather(), plan.nodes, plan.faults, lines=lines)


class Runner:
    """Makes runs: here, or in ``jobs`` processes."""

    def __init__(self, jobs: int, pool: ProcessPoolExecutor | None) -> None:
        self._jobs = jobs
        self._pool = pool

    def results(self, plans: Iterable[Plan], lines: int) -> Generator[Found, None, None]:
        """In the order of the plans, wherever they were made."""
        if self._pool is None:
            for plan in plans:
                yield plan, run(plan, lines)
            return
        under_way: deque[tuple[Plan, Future[Result]]] = deque()
        try:
            for plan in plans:
                under_way.append((plan, self._pool.submit(run, plan, lines)))
                if len(under_way) >= AHEAD * self._jobs:
                    done, result = under_way.popleft()
                    yield done, result.result()
            while under_way:
                done, result = under_way.popleft()
                yield done, result.result()
        finally:
            for _, result in under_way:
                result.cancel()


@contextmanager
def runner(jobs: int) -> Iterator[Runner]:
    """Ends its processes."""
    if jobs == 1:
        yield Runner(1, None)
        return
    with ProcessPoolExecutor(jobs, initializer=_ignore_alarms) as pool:
        yield Runner(jobs, pool)


def _ignore_alarms() -> None:
    """What the engine calls critical is what is looked for here."""
    logging.getLogger("pysyncobj").addHandler(logging.NullHandler())


def search(choice: Choice, show: Show, *, first: bool, shrink_runs: int, jobs: int = 1) -> list[Found]:
    """All runs with a violation; ``first``: at most one for each profile; ``jobs`` processes make the runs.

    Of each kind that a profile shows, the first is made smaller, with up to ``shrink_runs`` runs; not if the choice
    names the faults, as the command for a run that was made smaller does.
    """
    _ignore_alarms()
    with runner(jobs) as workers:
        failed = _table(choice, show, workers, first=first)
    if failed:
        print(broken(failed, choice.profiles))
        print(violations(failed))
    kinds: set[tuple[str, str]] = set()
    for plan, result in failed:
        if shrink_runs and choice.faults is None and (plan.profile, result.kind) not in kinds:
            kinds.add((plan.profile, result.kind))
            shrinker = Shrinker(plan, result, shrink_runs, run)
            shrinker.shrink()
            print(shrunk(size(plan, result), shrinker), flush=True)
    return failed


def _table(choice: Choice, show: Show, workers: Runner, *, first: bool) -> list[Found]:
    failed: list[Found] = []
    total = Totals()
    print(heading())
    for name in choice.profiles:
        part, begun = Totals(), time.perf_counter()
        with closing(workers.results(choice.plans(name), show.trace)) as results:
            for plan, result in results:
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
    return failed
