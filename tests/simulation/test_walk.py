"""Random schedules on the stage of the scripts: no violation with the guards, and with one off it is found."""

from __future__ import annotations

import pytest

from chaos.sim.script import played
from chaos.sim.walk import walk

STEPS = 1200


def explain(commands: list[str]) -> str:
    return "\n\n".join(commands)


def test_no_schedule_breaks_a_promise():
    applied = 0
    for seed in range(12):
        walked = walk(seed, STEPS)
        assert not walked.violations, f"seed {seed}: {walked.violations}\n{explain(walked.commands)}"
        applied += walked.applied
    assert applied > 100


def test_no_schedule_breaks_a_promise_though_disks_are_damaged():
    repairs = 0
    for seed in range(15):
        walked = walk(seed, 2 * STEPS, disks=True)
        assert not walked.violations, f"seed {seed}: {walked.violations}\n{explain(walked.commands)}"
        repairs += walked.repairs
    assert repairs > 10


@pytest.mark.soak
def test_many_schedules_break_no_promise():
    for seed in range(100, 400):
        walked = walk(seed, 3 * STEPS)
        assert not walked.violations, f"seed {seed}: {walked.violations}\n{explain(walked.commands)}"
        walked = walk(seed, 3 * STEPS, disks=True)
        assert not walked.violations, f"seed {seed}, disks: {walked.violations}\n{explain(walked.commands)}"


@pytest.mark.parametrize(
    ("guard", "disks"),
    [("truncation", False), ("leader-durability", False), ("alone-first-entry", False), ("member-disk", True)],
)
def test_what_is_found_is_a_script(guard, disks):
    walks = (walk(seed, STEPS, guard, disks=disks) for seed in range(120 if disks else 40))
    found = next((one for one in walks if one.violations), None)
    assert found is not None
    assert found.violations[0] in played(explain(found.commands))
