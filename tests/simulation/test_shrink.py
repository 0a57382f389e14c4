"""A failing run becomes smaller and stays the same failure; the effort is bounded."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.sim.plan import Plan
from chaos.sim.search import run
from chaos.sim.shrink import Shrinker, size
from chaos.sim.world import Result

KIND = "lost write"


class Fake:
    """A world with faults 1 to ``count``, one a second; a promise breaks when all of ``needed`` happen."""

    def __init__(self, count: int, needed: frozenset[int], clients: int = 1, nodes: int = 3) -> None:
        self.count, self.needed, self.clients, self.nodes = count, needed, clients, nodes
        self.runs = 0

    def __call__(self, plan: Plan) -> Result:
        self.runs += 1
        weather = plan.weather()
        happens = [
            n for n in range(1, self.count + 1) if (plan.faults is None or n in plan.faults) and n <= weather.storm_s
        ]
        fails = self.needed <= set(happens) and weather.clients >= self.clients and plan.nodes >= self.nodes
        # With too few nodes something else breaks: that is no smaller run of the same failure.
        violation = f"{KIND}: x" if fails else "halt: y" if plan.nodes < self.nodes else ""
        return Result(
            plan.seed, plan.profile, plan.nodes, violation=violation, done={number: float(number) for number in happens}
        )


@settings(deadline=None)  # a busy machine is no failure
@given(st.data())
def test_exactly_the_faults_that_are_needed_are_left(data):
    count = data.draw(st.integers(0, 40))
    needed = data.draw(st.frozensets(st.integers(1, count), max_size=5)) if count else frozenset()
    clients, nodes = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([3, 5]))
    world = Fake(count, needed, clients, nodes)
    plan = Plan(1, "storm", 5, storm_s=60.0)
    shrinker = Shrinker(plan, world(plan), 10_000, world)
    shrinker.shrink()
    assert shrinker.plan.faults == needed
    assert shrinker.plan.weather().clients == clients
    assert shrinker.plan.nodes == nodes
    assert shrinker.plan.weather().storm_s <= max(needed, default=0) + 0.5
    assert shrinker.result.kind == KIND
    assert world(shrinker.plan) == shrinker.result


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(0, 30))
def test_no_more_runs_than_allowed_and_always_a_failing_plan(limit):
    world = Fake(40, frozenset({3, 17, 31}))
    plan = Plan(1, "storm", 5, storm_s=60.0)
    shrinker = Shrinker(plan, world(plan), limit, world)
    shrinker.shrink()
    assert world.runs - 1 == shrinker.runs <= limit
    assert world(shrinker.plan).kind == KIND


def test_a_real_failure_gets_smaller_and_is_replayed_by_its_plan():
    plan = Plan(2, "bursts", 3, ("truncation",))
    found = run(plan)
    assert found.kind == "halt"  # the node itself notices that something committed would be cut
    shrinker = Shrinker(plan, found, 12, run)
    shrinker.shrink()
    was, now = size(plan, found), size(shrinker.plan, shrinker.result)
    assert now.clients < was.clients
    assert now.faults < was.faults
    assert now.storm_s < was.storm_s
    again = run(shrinker.plan)
    assert again.violation == shrinker.result.violation
    assert again.trace_hash == shrinker.result.trace_hash
    assert again.kind == found.kind
    assert not run(
        Plan(2, "bursts", 3, (), shrinker.plan.clients, shrinker.plan.storm_s, shrinker.plan.faults)
    ).violation
