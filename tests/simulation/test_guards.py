"""The simulation can fail: with one guard off, some seed of some profile shows the violation that the guard stops."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.sim.guards import GUARDS, switched_off
from chaos.sim.world import simulate

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architecture" / "consensus.md"


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
    Case("snapshot-newer", "stale_snapshots", range(30, 91), ("acknowledged entries lost", "commit lost", "halt")),
    Case("read-own-entry", "elections", range(1, 10), ("stale read",)),
    Case("sessions", "crashes", range(1, 16), ("reply", "applied twice", "applied twice or lost", "stale read")),
    Case("read-bound", "relaxed", range(1, 6), ("stale read",)),
    Case("read-token", "relaxed", range(1, 6), ("stale read",)),
    Case("member-vote", "members", range(1, 4), ("commit without a majority", "leader without a vote", "two leaders")),
    Case("repair-disk", "rot", range(1, 4), ("term lost", "acknowledged entries lost", "vote doubled")),
    Case("lost-log", "rot", range(1, 11), ("term lost", "acknowledged entries lost", "vote doubled")),
    Case("lease-margin", "lease", range(1, 21), ("stale read",)),
    Case("lease-transfer", "lease", range(1, 13), ("stale read",)),
    Case("lease-restart", "lease", range(1, 31), ("stale read",)),
)
SLOW = (
    Case("acknowledged-term", "minority", range(1, 81), ("commit without a majority", "lost write"), nodes=5),
    Case("term-notice", "churn", range(1, 41), ("left behind", "no progress"), nodes=5),
    Case("read-majority", "crowd", range(1, 61), ("stale read",)),
)


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


def scripts() -> dict[str, str]:
    """The scripts that play without a guard, by the guard: what takes schedules that chance hardly hits upon."""
    found: dict[str, list[str]] = {}
    for path in sorted((Path(__file__).parent / "scripts").glob("*.off.txt")):
        for guard in re.findall(r"^off (\S+)$", path.read_text("utf-8"), re.MULTILINE):
            found.setdefault(guard, []).append(path.name)
    return {guard: ", ".join(names) for guard, names in found.items()}


def guard_table() -> str:
    """The table of ``docs/architecture/consensus.md``, in Markdown."""
    cases = {case.guard: case for case in (*QUICK, *SLOW)}
    lines = ["| switch | without it | shown by seeds | as | and by script |", "|---|---|---|---|---|"]
    for name, guard in GUARDS.items():
        case = cases.get(name)
        seeds, kinds = "", ""
        if case is not None:
            seeds = f"{case.seeds.start}..{case.seeds.stop - 1} of `{case.profile}`" + ", 5 nodes" * (case.nodes == 5)
            kinds = ", ".join(case.kinds)
        lines.append(f"| `{name}` | {guard.stops} | {seeds} | {kinds} | {scripts().get(name, '')} |")
    return "\n".join(lines)


def test_every_switch_is_missed_by_a_seed_or_by_a_script():
    assert {"stale-replies", "vote-count"} <= set(scripts())
    assert {case.guard for case in (*QUICK, *SLOW)} | set(scripts()) == set(GUARDS)


def test_the_document_has_the_table_of_the_guards():
    text = DOCUMENT.read_text("utf-8")
    begin, end = "<!-- guards: begin -->\n", "<!-- guards: end -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)]
    assert shown.strip() == guard_table(), f"write what guard_table() gives into {DOCUMENT.name}:\n{guard_table()}"


def test_a_guard_is_on_again_afterwards():
    before = simulate(3, "calm").trace_hash
    with switched_off(GUARDS):
        pass
    assert simulate(3, "calm").trace_hash == before
