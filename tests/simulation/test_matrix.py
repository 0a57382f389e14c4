"""The crash matrix: nothing is lost, no file operation is left out, and it can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chaos.matrix import report
from chaos.matrix.cells import Cell, LostError, cells, play, rehearse
from chaos.matrix.faults import COLUMNS, FAULTS
from chaos.matrix.plants import OF_NO_USE_ALONE, PLANTS, left_out, planted
from chaos.matrix.scenarios import SCENARIOS
from chaos.matrix.sites import BELOW, METHODS, Site, reached, sites
from persistence.errors import PersistenceError
from raftkv.cli.main import app
from raftkv.errors import RaftKVError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architecture" / "durability.md"
QUICK = ("directory", "archive", "snapshots", "move", "set aside", "log", "full disk")
"""Without a whole node: where planted bugs are looked for."""


@cache
def sample(name: str) -> report.Matrix:
    """Each failpoint of a scenario, once, with each kind of fault."""
    return report.run([name], full=False)


# ------------------------------------------------------------------ nothing is lost
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_failpoint_survives_every_kind_of_fault(name):
    matrix = sample(name)
    print(f"\n{name}: {report.summary(matrix)}")
    assert not matrix.lost, "\n".join(report.losses(matrix.lost))
    hit = {cell.point.name for cell in matrix.played}
    assert hit == {point.name for point in rehearse(name, SCENARIOS[name])}
    assert {cell.fault.column for cell in matrix.played} == set(COLUMNS)


@pytest.mark.soak
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_file_operation_survives_every_fault(name):
    matrix = report.run([name], full=True, jobs=2)
    print(f"\n{name}: {report.summary(matrix)}")
    assert not matrix.lost, "\n".join(report.losses(matrix.lost))


# ------------------------------------------------------------------ nothing is left out
def test_every_file_operation_in_the_source_is_struck():
    places = {point.site for name in SCENARIOS for point in rehearse(name, SCENARIOS[name])}
    found = sites()
    assert len(found) > 50
    missed = [str(one) for one in found if not reached(one, places)]
    assert not missed, f"no scenario of chaos/matrix comes by: {', '.join(missed)}"


def test_a_new_file_operation_would_be_noticed(tmp_path, monkeypatch):
    (tmp_path / "persistence").mkdir()
    (tmp_path / "raftkv").mkdir()
    source = "def new(files, file):\n    file.fdatasync()\n    files.rename(\n        'a', 'b'\n    )\n    files.open('c', create=True)\n"
    (tmp_path / "persistence" / "new.py").write_text(source + "    open('d').close()\n    path.unlink()\n")
    monkeypatch.setattr("chaos.matrix.sites.ROOT", tmp_path)
    found = sites()
    assert found == [
        Site("persistence/new.py", (2, 2), "sync"),
        Site("persistence/new.py", (3, 5), "rename"),
        Site("persistence/new.py", (6, 6), "create"),
    ]
    assert reached(found[1], {("persistence/new.py", 4, "rename")})
    assert not reached(found[1], {("persistence/new.py", 4, "sync"), ("persistence/new.py", 6, "rename")})


def test_the_list_of_methods_is_that_of_the_port():
    text = (DOCUMENT.parents[2] / "persistence" / "files.py").read_text("utf-8")
    for method in METHODS:
        assert f"def {method}(self" in text
    assert all((DOCUMENT.parents[2] / name).exists() for name in BELOW)


# ------------------------------------------------------------------ it can fail
def first_lost(name: str, bug: Callable[[], AbstractContextManager[None]], *, full: bool) -> Cell | str | None:
    """The first cell that is lost with the bug; or why even a life without a fault fails."""
    try:
        with bug():
            points = rehearse(name, SCENARIOS[name])
    except (LostError, PersistenceError, RaftKVError) as error:
        return f"without a fault: {error}"
    for cell in cells(name, points, FAULTS, full=full):
        with bug():
            if play(cell, SCENARIOS[name], full=full).outcome == "LOST":
                return cell
    return None


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name):
    plant = PLANTS[name]
    found = first_lost(plant.scenario, lambda: planted(plant), full=False)
    print(f"\n{plant.mistake}: {found}" + f": {found.reason}" * isinstance(found, Cell))
    assert found, f"no cell of {plant.scenario} is lost, though {plant.mistake}"


def syncs() -> dict[str, str]:
    """Each sync of the product, and the scenario in which it is left out."""
    return {
        point.name: name
        for name in reversed(QUICK)
        for point in rehearse(name, SCENARIOS[name])
        if point.call.operation in ("sync", "syncdir") and point.name not in OF_NO_USE_ALONE
    }


def test_no_sync_can_be_left_out():
    for sync, name in syncs().items():
        without = partial(left_out, sync)
        found = first_lost(name, without, full=False) or first_lost(name, without, full=True)
        assert found, f"no cell of {name} is lost without {sync}"


def test_a_sync_of_no_use_is_one_of_the_product():
    assert set(OF_NO_USE_ALONE) <= {point.name for name in QUICK for point in rehearse(name, SCENARIOS[name])}


def test_a_loss_is_told_with_an_exit_code_and_a_way_to_see_it_again():
    whole = CliRunner().invoke(app, ["matrix", "--scenario", "directory"])
    assert whole.exit_code == 0, whole.output
    assert "| open directory: mkdir n1 | ok |" in whole.output
    assert " 0 lost" in whole.output
    with planted(PLANTS["identity-in-place"]):
        lost = CliRunner().invoke(app, ["matrix", "--scenario", "directory"])
    assert lost.exit_code == 1
    assert "(open directory: write identity), killed, seed 0: " in lost.output
    assert re.search(r"LOST directory, call (\d+) .*\n  raftkv matrix --scenario directory --call \1\n", lost.output)
    wrong = CliRunner().invoke(app, ["matrix", "--scenario", "moon"])
    assert wrong.exit_code == 2


def test_it_is_the_same_in_any_process():
    words = [sys.executable, "-m", "chaos.matrix", "--scenario", "move", "--jobs", "2"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{report.table(sample('move'))}\n\n{report.summary(sample('move'))}"


# ------------------------------------------------------------------ the document
def test_the_document_has_the_table():
    whole = report.Matrix([cell for name in SCENARIOS for cell in sample(name).played])
    text = DOCUMENT.read_text("utf-8")
    assert report.with_table(text, whole) == text, f"run `python -m chaos.matrix --document {DOCUMENT}`"
