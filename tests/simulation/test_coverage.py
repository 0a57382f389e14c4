"""What a search says of where its faults hit."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from chaos.sim.coverage import AIMS_AT, PHASES, PHASES_OF_ROLE, cells, matrix
from chaos.sim.nemesis import FAULTS
from chaos.sim.plan import Plan
from chaos.sim.profiles import PROFILES
from chaos.sim.search import run

PLANS = [
    *(Plan(seed, "storm") for seed in (1, 2, 3)),
    Plan(1, "snapshots"),
    Plan(1, "transfers"),
    Plan(1, "minority", 5),
]


@pytest.fixture(scope="module")
def visits() -> Counter:
    return sum((run(plan).coverage for plan in PLANS), Counter())


def test_nothing_is_visited_that_cannot_be(visits):
    assert set(visits) <= set(cells(FAULTS))


def test_a_few_runs_see_most_phases_and_all_roles(visits):
    assert {phase for _, _, phase in visits} >= set(PHASES) - {"sending snapshot", "receiving snapshot"}
    assert {role for _, role, _ in visits} == set(PHASES_OF_ROLE)


def test_a_cut_inside_a_file_operation_counts_where_it_happens(visits):
    assert any(kind == "power_at_operation" for kind, _, _ in visits)


def test_hits_are_those_of_the_faults_that_happened():
    result = run(Plan(4, "partitions"))
    assert {kind for kind, _, _ in result.coverage} == set(result.faults)
    leaders = sum(count for (kind, _, _), count in result.coverage.items() if kind == "isolate_leader")
    assert leaders >= result.faults["isolate_leader"]


def test_the_matrix_tells_visited_from_not_visited_from_impossible():
    visited = Counter({("transfer", "leader", "idle"): 17})
    lines = matrix(visited, ["transfer", "kill"]).splitlines()
    transfer = next(line for line in lines if line.startswith("transfer"))
    assert transfer.split() == ["transfer", "leader", "17", *["--"] * (len(PHASES_OF_ROLE["leader"]) - 1)]
    assert sum(line.startswith("kill ") for line in lines) == len(PHASES_OF_ROLE)
    possible = sum(map(len, PHASES_OF_ROLE.values())) + len(PHASES_OF_ROLE["leader"])
    assert re.search(rf"visited: 1 of {possible} cells \(4 %\)", lines[-1])


def test_the_tables_name_what_there_is():
    assert set(AIMS_AT) <= set(FAULTS)
    assert set().union(*PHASES_OF_ROLE.values()) == set(PHASES)
    assert {kind for profile in PROFILES.values() for kind in profile.faults} <= set(FAULTS)
