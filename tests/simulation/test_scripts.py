"""Golden scripts: each plays as its file says. ``REWRITE_SCRIPTS=1`` writes what they do now into the files."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from chaos.sim.guards import GUARDS
from chaos.sim.script import Block, difference, main, parse, played, prepared
from chaos.sim.stage import Actor, Stage
from chaos.sim.verbs import VERBS, Arguments, Script, ScriptError

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
OFF = ".off.txt"
"""A script that plays what its namesake does with a guard switched off, and on from where that makes a difference."""


NO_VIOLATION = {
    "rejoin.off.txt",
    "deaf.off.txt",
    "term-notice.off.txt",
    "session.off.txt",
    "member-rollback.off.txt",
    "member-reply.off.txt",
    "stalled-disk.off.txt",
}
"""These cost availability, or a client's count: nothing that the checks of a replica see."""


def blocks_of(path: Path) -> list[Block]:
    return parse(path.read_text(encoding="utf-8"))[0]


def switches_of(path: Path) -> list[str]:
    lines = [line.split() for block in blocks_of(path) for line in block.commands]
    return [name for verb, *names in lines if verb == "off" for name in names]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_plays_as_it_is_written(path: Path):
    if os.environ.get("REWRITE_SCRIPTS"):
        main(["--rewrite", str(path)])
    changed = difference(path)
    assert not changed, (
        f"{changed}\nIf that is right: REWRITE_SCRIPTS=1 pytest {Path(__file__).name}, and look at the diff"
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_violation_needs_a_guard_that_is_off(path: Path):
    assert bool(switches_of(path)) == path.name.endswith(OFF)
    violated = any("VIOLATION" in line for block in blocks_of(path) for line in block.outcome)
    assert violated == (path.name.endswith(OFF) and path.name not in NO_VIOLATION)


@pytest.mark.parametrize("path", [one for one in SCRIPTS if one.name.endswith(OFF)], ids=lambda path: path.name)
def test_without_the_guard_the_same_schedule_ends_otherwise(path: Path):
    """The commands are those of the script with the guard on, until their outcome differs."""
    guarded = blocks_of(path.with_name(path.name.replace(OFF, ".txt")))
    without = [block for block in blocks_of(path) if not block.commands[0].startswith("off ")]
    for one, other in zip(guarded, without, strict=False):
        assert one.commands == other.commands
        if one.outcome != other.outcome:
            return
    pytest.fail("the outcome is the same with the guard and without")


def test_a_changed_outcome_is_found(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("# two nodes\ncluster nodes=2\n\ncampaign n1\n", encoding="utf-8")
    assert main(["--rewrite", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# two nodes\ncluster nodes=2\n----\nn1,n2 follower")
    assert main([str(path)]) == 0
    path.write_text(text.replace("n1 -> n2 pre-vote", "n1 -> n2 vote"), encoding="utf-8")
    assert "+n1 -> n2 pre-vote term 1 last 1/0" in difference(path)
    assert main([str(path)]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("campaign n1\n", "line 1: campaign n1: a script begins with a cluster"),
        ("cluster nodes=1\n\ncrawl n1\n", "line 3: no verb 'crawl'"),
        ("cluster nodes=1\n\ncrash n2\n", "'n2' is no node that runs, of n1"),
        ("cluster nodes=2\n\ndeliver n1->n2\n", "no such message"),
        ("cluster nodes=2\n\nsync n1\n", "no sync is under way at n1"),
        ("cluster nodes=3\n\npartition n1 | n2 n3\nelect n1\n", "n1 was not elected"),
    ],
)
def test_what_is_not_there_is_an_error_and_no_outcome(text, message):
    with pytest.raises(ScriptError, match=message):
        played(text)


def test_a_candidate_that_goes_down_is_waited_for_no_longer(monkeypatch):
    """Its clock stands still, so that no time-out of the script's would ever come."""
    with ExitStack() as stack:
        script = prepared(stack)
        script.stage = Stage(3, label="down")
        candidate = script.stage.members["n1"]
        candidate.clock.after(0.01, partial(candidate.crash, power=False))
        elapse, steps = Script.elapse, iter(range(1000))

        def counted(self: Script, members: list[Actor], seconds: float) -> None:
            next(steps)  # raises StopIteration rather than go on for ever
            elapse(self, members, seconds)

        monkeypatch.setattr(Script, "elapse", counted)
        with pytest.raises(ScriptError, match="n1 does not campaign: down"):
            VERBS["elect"](script, Arguments(["n1"]))


def test_every_verb_is_explained(capsys):
    assert main(["--verbs"]) == 0
    assert re.findall(r"^``(\w+)", capsys.readouterr().out, re.MULTILINE) == list(VERBS)


def test_the_guards_that_scripts_name_exist():
    named = {name for path in SCRIPTS for name in switches_of(path)}
    assert named
    assert named <= set(GUARDS)
