"""``raftkv sim``: what it answers, and that a plan says exactly what happens."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.sim.plan import Choice, Plan, parse_faults, parse_seeds, ranges_text
from chaos.sim.search import run
from raftkv.cli.main import main
from raftkv.errors import ConfigError


@pytest.fixture
def sim(monkeypatch, capsys):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raftkv", "sim", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


def replayed(text: str) -> list[str]:
    """The words of the last command that was printed, without ``raftkv sim``."""
    return [line.split()[2:] for line in text.splitlines() if line.startswith("  raftkv sim ")][-1]


def test_a_clean_search_prints_its_table_and_ends_with_0(sim):
    code, out, _ = sim(
        "--seeds", "1..2", "--profile", "rejoin,partitions", "--storm", "3", "--hashes", "--guards", "--coverage"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["profile", "runs", "virt_s", "virt/s", "steps"]
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(("rejoin ", "partitions ", "total "))}
    assert rows["rejoin"][1] == "2"
    assert int(rows["total"][4]) == int(rows["rejoin"][4]) + int(rows["partitions"][4])
    assert any(cell.startswith("isolate_leader:") for cell in rows["total"])
    assert "guards that acted: " in out
    assert "visited: " in out
    assert "VIOLATION" not in out


def test_a_violation_ends_with_1_and_its_command_shows_it_again(sim):
    code, out, _ = sim("--seeds", "1..6", "--profile", "bursts", "--off", "truncation", "--first", "--shrink", "12")
    assert code == 1
    whole, smaller = [line for line in out.splitlines() if line.startswith("VIOLATION bursts")]
    assert whole.split(": ")[1] == smaller.split(": ")[1]
    assert "--faults" in replayed(out)
    code, again, _ = sim(*replayed(out))
    assert code == 1
    assert smaller in again
    assert " leads: term " in again
    assert "made smaller" not in again


def test_runs_made_in_several_processes_make_the_same_table(sim):
    words = (
        "--seeds",
        "1..3",
        "--profile",
        "rejoin,partitions",
        "--off",
        "truncation",
        "--storm",
        "3",
        "--hashes",
        "--shrink",
        "0",
    )
    code, alone, _ = sim(*words)
    assert sim(*words, "--jobs", "2")[0] == code == 1

    def without_speed(text):
        return [line.split()[:3] + line.split()[4:] for line in text.splitlines()]

    assert without_speed(sim(*words, "--jobs", "2")[1]) == without_speed(alone)
    assert "VIOLATION rejoin" in alone


def test_several_processes_stop_at_the_first_violation_too(sim):
    words = (
        "--seeds",
        "1..40",
        "--profile",
        "bursts",
        "--off",
        "truncation",
        "--storm",
        "3",
        "--shrink",
        "0",
        "--first",
    )
    rows = [
        next(line for line in sim(*words, *more)[1].splitlines() if line.startswith("bursts "))
        for more in ((), ("--jobs", "2"))
    ]
    assert rows[0].split()[:3] == rows[1].split()[:3]
    assert int(rows[0].split()[1]) < 40


def test_the_stock_engine_is_searched_shrunk_and_replayed_in_the_same_way(sim):
    words = ("--engine", "stock", "--profile", "rejoin,calm")
    code, out, _ = sim("--seeds", "1..2", *words, "--shrink", "15")
    assert code == 1
    lines = out.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("broken first"))
    assert lines[at].split() == ["broken", "first", "deposed"]
    assert lines[at + 1].split() == ["rejoin", "2"]
    found = [line for line in lines if line.startswith("VIOLATION rejoin")][-1]
    assert "--engine stock" in out
    code, again, _ = sim(*replayed(out))
    assert code == 1
    assert found in again


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--jobs", "0"], ["--jobs", "1 to"]),
        (["--seeds", "x"], ["--seeds", "'x'", "1..200"]),
        (["--seeds", "3..1"], ["--seeds", "1..200"]),
        (["--seeds", "1.."], ["--seeds", "1..200"]),
        (["--profile", "fog"], ["--profile is fog", "all", "storm", "calm"]),
        (["--nodes", "4"], ["--nodes is 4", "3, 5"]),
        (["--off", "gravity"], ["--off is gravity", "truncation", "fsync"]),
        (["--engine", "steam"], ["--engine is steam", "raftkv, stock"]),
        (["--engine", "stock", "--off", "fsync"], ["--off is fsync", "--engine stock"]),
        (["--shrink", "-1"], ["--shrink is -1", "0 to"]),
        (["--trace-lines", "0"], ["--trace-lines is 0", "1 to"]),
        (["--clients", "0"], ["--clients is 0", "1 to 100"]),
        (["--storm", "-1"], ["--storm is -1", "0 to"]),
        (["--faults", "0-3"], ["--faults", "'0-3'", "none"]),
        (["--faults", "2,x"], ["--faults", "1-3,7"]),
    ],
)
def test_bad_input_ends_with_2_and_names_what_is_allowed(sim, words, told):
    code, out, err = sim(*words)
    assert code == 2
    assert not out
    for part in told:
        assert part in err


def test_what_is_left_out_of_a_storm_does_not_change_the_rest():
    whole = run(Plan(4, "partitions"))
    assert len(whole.done) >= 4
    chosen = frozenset([*whole.done][:3:2])
    part = run(Plan(4, "partitions", faults=chosen))
    assert part.done.keys() <= chosen

    def faults(result):
        return {int(line.split("fault ")[1].split(":")[0]): line for line in result.notes if " fault " in line}

    first = min(chosen)
    assert faults(part)[first] == faults(whole)[first]
    for number in part.done:
        assert faults(part)[number].split()[:2] == faults(whole)[number].split()[:2], "another time, or another kind"


def test_a_plan_may_leave_out_clients_faults_and_most_of_the_storm():
    result = run(Plan(4, "partitions", clients=1, storm_s=0.5, faults=frozenset()))
    assert not result.faults
    assert not result.violation
    assert 0 < result.acknowledged < run(Plan(4, "partitions", storm_s=0.5)).acknowledged


@settings(deadline=None)  # a busy machine is no failure
@given(st.frozensets(st.integers(1, 60)))
def test_numbers_of_faults_survive_the_command_line(numbers):
    assert parse_faults(ranges_text(numbers)) == numbers


def test_the_command_of_a_plan_names_everything_that_differs():
    plan = Plan(17, "storm", 5, ("fsync", "sessions"), clients=2, storm_s=4.1, faults=frozenset({1, 2, 3, 9}))
    assert plan.command() == (
        "raftkv sim --seeds 17 --profile storm --nodes 5 --off fsync --off sessions --clients 2 --storm 4.1 --faults 1-3,9"
    )
    assert Plan(17, "storm").command() == "raftkv sim --seeds 17 --profile storm --nodes 3"


def test_a_choice_is_every_seed_of_every_profile():
    choice = Choice(parse_seeds("3..5"), ("storm", "calm"), 5, clients=2)
    assert [plan.seed for plan in choice.plans("calm")] == [3, 4, 5]
    assert {(plan.profile, plan.nodes, plan.clients) for plan in choice.plans("calm")} == {("calm", 5, 2)}
    with pytest.raises(ConfigError):
        Choice(range(1), ("storm",), 7)
