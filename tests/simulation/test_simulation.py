"""Seeds of every profile, with all guards on: no violation. And what a run must be to be worth anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.sim.profiles import PROFILES, shortened
from chaos.sim.world import Result, simulate

SEEDS = range(1, 6)
FIVE_NODE_SEEDS = range(1, 2)
SOAK_SEEDS = range(1, 201)
SHORT = 0.35
"""Share of a profile's usual length, so that all of it stays within a minute."""


def explain(result: Result) -> str:
    command = f"raftkv sim --seeds {result.seed} --profile {result.profile} --nodes {result.nodes} --trace"
    return "\n".join([result.violation, *result.tail[-60:], command])


def judge(seed: int, name: str, nodes: int, length: float) -> Result:
    profile = PROFILES[name] if length == 1.0 else shortened(PROFILES[name], length)
    result = simulate(seed, profile, nodes)
    assert not result.violation, explain(result)
    return result


@pytest.mark.parametrize("name", PROFILES)
def test_three_nodes_keep_every_promise(name):
    results = [judge(seed, name, 3, SHORT) for seed in SEEDS]
    assert sum(one.acknowledged for one in results) > 100
    assert sum(one.reads for one in results) > 50
    if PROFILES[name].faults:
        assert sum(one.faults.total() for one in results) >= len(results)


@pytest.mark.parametrize("name", PROFILES)
def test_five_nodes_keep_every_promise(name):
    for seed in FIVE_NODE_SEEDS:
        judge(seed, name, 5, SHORT)


def test_profiles_reach_what_they_are_for():
    assert sum(judge(seed, "snapshots", 3, 1.0).installed for seed in (1, 2)) > 0
    assert judge(1, "transfers", 3, 1.0).elections > 3
    assert sum(judge(seed, "churn", 3, 1.0).guards["conflict_truncations"] for seed in (1, 2, 3, 4)) > 0


def test_the_same_seed_gives_the_same_trace_in_any_process():
    here = simulate(7, "storm", 3).trace_hash
    code = "from chaos.sim.world import simulate; print(simulate(7, 'storm', 3).trace_hash)"
    root = Path(__file__).resolve().parents[2]
    for hash_seed in ("0", "1", "random"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == here
    assert simulate(8, "storm", 3).trace_hash != here


@pytest.mark.soak
@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("name", PROFILES)
def test_many_seeds(name, nodes):
    for seed in SOAK_SEEDS:
        judge(seed, name, nodes, 1.0)
