"""pysyncobj without our guards breaks promises in the same simulation, and not because of the simulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.sim.plan import STOCK, Plan
from chaos.sim.search import run

SAFETY = {"state machine safety", "two leaders", "lost write", "applied twice", "applied twice or lost", "digest"}


@pytest.mark.parametrize(
    ("profile", "seeds"),
    [
        ("blackout", range(1, 6)),  # power cuts: nothing is synced
        ("crashes", range(1, 9)),
        ("snapshots", range(1, 7)),
        ("crowd", range(1, 9)),  # partitions alone: a part of a snapshot moves the commit index
    ],
)
def test_safety_is_lost(profile, seeds):
    assert any(run(Plan(seed, profile, engine=STOCK)).kind in SAFETY for seed in seeds)


@pytest.mark.parametrize("profile", ["rejoin", "deaf"])
def test_one_follower_that_was_away_costs_a_healthy_leader_its_office(profile):
    assert [run(Plan(seed, profile, engine=STOCK)).kind for seed in (1, 2, 3)] == ["deposed"] * 3


def test_without_faults_it_works():
    for nodes in (3, 5):
        result = run(Plan(1, "calm", nodes, engine=STOCK))
        assert not result.violation
        assert result.acknowledged > 50
        assert result.reads > 30


def test_a_plan_gives_the_same_run_in_any_process():
    plan = Plan(5, "snapshots", engine=STOCK)
    here = run(plan).trace_hash
    code = f"from chaos.sim.search import run; from chaos.sim.plan import Plan; print(run({plan!r}).trace_hash)"
    root = Path(__file__).resolve().parents[2]
    for hash_seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here
