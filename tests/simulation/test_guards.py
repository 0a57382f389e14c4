"""The simulation can fail: with one guard off, some seed of some profile shows the violation that the guard stops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.sim.guards import GUARDS, switched_off
from chaos.sim.world import simulate


@dataclass(frozen=True)
class Case:
    """``seeds`` are tried until one shows a violation of one of ``kinds``."""

    guard: str
    profile: str
    seeds: range
    kinds: tuple[str, ...]
    nodes: int = 3


QUICK = (
    Case("fsync", "blackout", range(1, 4), ("acknowledged too early", "vote too early", "term lost")),
    Case("follower-durability", "blackout", range(1, 4), ("acknowledged too early",)),
    Case("vote-sync", "blackout", range(1, 4), ("vote too early", "vote doubled", "term lost")),
    Case("truncation", "bursts", range(1, 6), ("acknowledged entries lost", "commit lost", "halt")),
    Case("commit-clip", "churn", range(1, 10), ("commit", "commit lost", "state machine safety", "halt")),
    Case("lanes", "bulk", range(1, 4), ("deposed",)),
    Case("pre-vote", "rejoin", range(1, 6), ("deposed",)),
    Case("stickiness", "deaf", range(1, 6), ("deposed",)),
    Case("snapshot-newer", "stale_snapshots", range(10, 31), ("acknowledged entries lost", "commit lost", "halt")),
    Case("read-own-entry", "elections", range(1, 10), ("stale read",)),
    Case("sessions", "crashes", range(1, 10), ("reply", "applied twice", "applied twice or lost")),
)
SLOW = (
    Case("acknowledged-term", "minority", range(1, 41), ("commit without a majority", "lost write"), nodes=5),
    Case("term-notice", "churn", range(1, 41), ("left behind", "no progress"), nodes=5),
    Case("read-majority", "crowd", range(1, 61), ("stale read",)),
)
SCRIPTED = {"stale-replies": "stale-reply.off.txt", "vote-count": "repeated-vote.off.txt"}
"""What no seed tried so far shows: a script does (``tests/simulation/scripts``), whose schedule was thought out."""


def show(case: Case) -> None:
    for seed in case.seeds:
        with switched_off([case.guard]):
            result = simulate(seed, case.profile, case.nodes)
        if result.violation:
            assert result.violation.split(":")[0] in case.kinds, result.violation
            return
    pytest.fail(f"{case.guard} is off and {len(case.seeds)} seeds of {case.profile} found nothing")


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.guard)
def test_a_guard_that_is_off_is_missed(case):
    show(case)


@pytest.mark.soak
@pytest.mark.parametrize("case", SLOW, ids=lambda case: case.guard)
def test_a_guard_that_is_off_is_missed_in_rarer_schedules(case):
    show(case)


def test_every_switch_is_accounted_for():
    shown = {case.guard for case in (*QUICK, *SLOW)}
    assert shown | set(SCRIPTED) == set(GUARDS)
    assert not shown & set(SCRIPTED)


@pytest.mark.parametrize(("guard", "name"), SCRIPTED.items())
def test_a_script_shows_what_no_seed_does(guard, name):
    text = (Path(__file__).parent / "scripts" / name).read_text(encoding="utf-8")
    assert f"\noff {guard}\n" in text
    assert "VIOLATION" in text


def test_a_guard_is_on_again_afterwards():
    before = simulate(3, "calm").trace_hash
    with switched_off(GUARDS):
        pass
    assert simulate(3, "calm").trace_hash == before
