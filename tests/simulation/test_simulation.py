"""Seeds of every profile, with all guards on: no violation. And what a run must be to be worth anything."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from chaos.sim import world
from chaos.sim.checks import Violation
from chaos.sim.clients import Client
from chaos.sim.plan import NODES, Plan
from chaos.sim.profiles import PROFILES
from chaos.sim.search import run, runner
from chaos.sim.world import Result, World, simulate
from raftkv.consensus.replica import Replica

SEEDS = range(1, 9)
FIVE_NODE_SEEDS = range(1, 4)
SOAK_SEEDS = range(1, 351)
"""With both sizes of the group and all profiles more than twenty thousand runs."""
STORM_S = 3.5
CLIENTS_MAX = 3
"""Shorter and with less traffic than the profiles say, so that three hundred runs take two minutes."""


def check(plan: Plan, result: Result) -> Result:
    assert not result.violation, "\n".join([result.violation, *result.tail[-60:], plan.command() + " --trace"])
    return result


def judge(seed: int, name: str, nodes: int) -> Result:
    """A run at its full length."""
    plan = Plan(seed, name, nodes)
    return check(plan, run(plan))


def judge_shorter(seed: int, name: str, nodes: int) -> Result:
    profile = PROFILES[name]
    plan = Plan(seed, name, nodes, clients=min(CLIENTS_MAX, profile.clients), storm_s=min(STORM_S, profile.storm_s))
    return check(plan, run(plan))


@pytest.mark.parametrize("name", PROFILES)
def test_three_nodes_keep_every_promise(name):
    results = [judge_shorter(seed, name, 3) for seed in SEEDS]
    assert sum(one.acknowledged for one in results) > 100
    assert sum(one.reads for one in results) > 50
    if PROFILES[name].faults:
        assert sum(one.faults.total() for one in results) >= len(results)


@pytest.mark.parametrize("name", PROFILES)
def test_five_nodes_keep_every_promise(name):
    for seed in FIVE_NODE_SEEDS:
        judge_shorter(seed, name, 5)


def test_profiles_reach_what_they_are_for():
    assert sum(judge(seed, "snapshots", 3).installed for seed in (1, 2)) > 0
    assert judge(1, "transfers", 3).elections > 3
    assert sum(judge(seed, "churn", 3).guards["conflict_truncations"] for seed in (1, 2, 3, 4)) > 0


def test_a_log_that_is_cut_without_its_snapshot_is_found(monkeypatch):
    def cut_to_what_is_applied(self):
        core = self.core
        if core.applied - 1 > core.log.first_index:
            core.log.compact_to(core.applied - 1)
            core.journal.view_first = core.log.first_index
            core.log.request_sync()

    monkeypatch.setattr(Replica, "cut_log", cut_to_what_is_applied)
    assert any(simulate(seed, "compactions", 3).violation for seed in range(1, 21))


def test_a_proposal_that_is_never_answered_is_found(monkeypatch):
    monkeypatch.setattr(Replica, "_fail", lambda _self, _proposal, _cause: None)
    found = [simulate(seed, "partitions", 3).violation for seed in range(1, 6)]
    assert any("no answer" in one for one in found), found


def test_time_that_a_node_stands_still_is_not_counted_against_its_answers():
    later = []
    world = SimpleNamespace(scheduler=SimpleNamespace(after=lambda *what: later.append(what)))
    client = SimpleNamespace(world=world, name="c0")
    client._must_be_answered = ask = partial(Client._must_be_answered, client)
    operation = SimpleNamespace(attempt=2, done=False, words=[b"INCR", b"counter"])
    member = SimpleNamespace(id="n1", up=True, incarnation=3, stood_s=1.5)
    ask(operation, (2, 3), member, 1.0)
    assert later == [(0.5, ask, operation, (2, 3), member, 1.5)]
    with pytest.raises(Violation, match="no answer"):
        ask(operation, (2, 3), member, 1.5)
    for gone in ({"attempt": 3}, {"done": True}):
        ask(SimpleNamespace(**vars(operation) | gone), (2, 3), member, 1.5)
    for gone in ({"up": False}, {"incarnation": 4}):
        ask(operation, (2, 3), SimpleNamespace(**vars(member) | gone), 1.5)
    assert len(later) == 1


def test_entries_larger_than_a_slice_are_found_in_conflict(monkeypatch):
    """Simulated entries are small; a log that gives the engine one entry at a time shows what large ones would."""
    monkeypatch.setattr(world, "LOG_SLICES", (0,))
    for seed in range(1, 5):
        plan = Plan(seed, "decay", 3, storm_s=5.0)
        check(plan, run(plan))


def test_the_same_seed_gives_the_same_trace_in_any_process():
    here = simulate(7, "storm", 3).trace_hash
    code = "from chaos.sim.world import simulate; print(simulate(7, 'storm', 3).trace_hash)"
    root = Path(__file__).resolve().parents[2]
    for hash_seed in ("0", "1", "random"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        there = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == here
    assert simulate(8, "storm", 3).trace_hash != here


def test_a_run_leaves_nothing_behind():
    """A search makes thousands of runs in one process."""
    simulate(1, "rejoin")
    simulate(2, "rejoin")
    assert not [one for one in gc.get_objects() if isinstance(one, World)]


@pytest.mark.soak
@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("name", PROFILES)
def test_many_seeds(name, nodes):
    plans = (Plan(seed, name, nodes) for seed in SOAK_SEEDS)
    with runner(os.cpu_count() or 1) as processes:
        for plan, result in processes.results(plans, 0):
            check(plan, result)
