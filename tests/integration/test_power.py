"""Power cuts, and kills at a chosen file operation: real processes on the real file system, of which only what was synced survives.

Failure classes (see chaos/): acked before fsync, a name that was not synced, a sync of the wrong file or of a part of it,
compaction before the snapshot is durable, unreadable leftovers of a start, a roll or a snapshot that was interrupted.
"""

from __future__ import annotations

import itertools
import signal
from random import Random
from typing import Any

import pytest

from chaos.checker import check
from chaos.power import Power
from raftkv.errors import RaftKVError
from tests.integration.judging import describe, judge

PAD_BYTES = 100_000
STRUCK_WITHIN_S = 60.0


def fill(cluster: Any, rng: Random) -> None:
    """A megabyte of log, as far as the node lives."""
    try:
        with cluster.connect(0) as client:
            for number in range(12):
                client.ask("SET", f"pad{number}", rng.randbytes(PAD_BYTES))
    except (OSError, RaftKVError):
        pass  # struck; or not serving yet


# ---------------------------------------------------------------- all at once
SKIPS_DIRECTORIES = """
from persistence.files import OsFiles

OsFiles.fsync_dir = lambda self, path: None
"""


def outage(cluster: Any, powers: list[Power], load: Any) -> None:
    """Every node loses its power under the load, and gets it back."""
    cluster.kill(*range(len(powers)))
    for power in powers:
        power.cut()
    cluster.start_all()
    cluster.wait_ready()
    load.wait_acknowledged(50)


def violations(cluster: Any, load: Any) -> list[Any]:
    load.stop()
    return check(load.read_all(cluster.addresses[cluster.leader()])).violations


def test_power_of_all_nodes_at_once(powered, load_on):
    cluster, powers = powered(3)
    cluster.start_all()
    cluster.wait_ready()
    load = load_on(cluster)
    fill(cluster, Random(1))
    outage(cluster, powers, load)
    print(f"\n{describe(judge(cluster, load))}")


def test_without_syncs_the_same_loses_acknowledged_writes(powered, load_on):
    cluster, powers = powered(3, fsync="no")
    cluster.start_all()
    cluster.wait_ready()
    load = load_on(cluster)
    outage(cluster, powers, load)
    assert violations(cluster, load), "nothing was synced and nothing is lost: the power did not go"


def test_planted_directories_that_are_not_synced_are_seen(powered, load_on):
    cluster, powers = powered(1)
    cluster.start_patched(0, SKIPS_DIRECTORIES)
    cluster.wait_ready()
    load = load_on(cluster)
    outage(cluster, powers, load)
    assert violations(cluster, load), "no name was synced and nothing is lost: the power did not go"


# -------------------------------------------------------- at a file operation
FIRST_START = [
    "1 rename /identity.part -> /identity",
    "1 write+sync /log/*.wal",
]
UNDER_LOAD = [
    "30 write+sync /log/*.wal",
    "1 rename /log/*.spare -> /log/*.wal",
    "1 rename /snapshots/*.part -> /snapshots/*.snap",
    "2 sync /snapshots",
    "1 unlink /log/*.wal",
]


def strike(cluster: Any, power: Power, where: str, rng: Random, *, cut: bool) -> str:
    """Start node 0, which dies at ``where``; the call that was hit."""
    cluster.variables[0] = power.environment(where)
    cluster.start(0)
    process = cluster.processes[0]

    def dead() -> bool:
        if process.poll() is None:
            fill(cluster, rng)
        return process.poll() is not None

    cluster.wait_until(dead, f"a call like {where!r}", STRUCK_WITHIN_S)
    assert process.returncode == -signal.SIGKILL, cluster.log(0)
    hit = power.struck()
    assert hit, f"it died without reaching {where!r}"
    if cut:
        power.cut()
    cluster.variables[0] = power.environment()
    return hit


def struck_again_and_again(powered: Any, load_on: Any, first: list[str], later: list[str], *, cuts: list[bool]) -> None:
    """A node alone, which nobody helps, dies at one call after the other; the history is judged."""
    cluster, (power,) = powered(1)
    rng, cut = Random(1), itertools.cycle(cuts)
    for where in first:
        print("\n" + strike(cluster, power, where, rng, cut=next(cut)), end="")
    cluster.start(0)
    cluster.wait_ready()
    load = load_on(cluster)
    cluster.kill(0)
    for where in later:
        print("\n" + strike(cluster, power, where, rng, cut=next(cut)), end="")
    cluster.start(0)
    cluster.wait_ready()
    load.wait_acknowledged(50)
    print(f"\n{describe(judge(cluster, load, patient=False))}")


def test_struck_at_starts_rolls_snapshots_and_compactions(powered, load_on):
    struck_again_and_again(powered, load_on, FIRST_START, UNDER_LOAD, cuts=[True, False])


# ------------------------------------------------------------------------- soak
ALL_OF_A_START = [f"{number} *" for number in range(1, 31)]
MORE_SITES = [
    "1 create /log/*.prep",
    "1 preallocate /log/*.prep",
    "1 sync /log/*.prep",
    "1 rename /log/*.prep -> /log/*.spare",
    "2 rename /log/*.spare -> /log/*.wal",
    "2 sync /log",
    "1 create /snapshots/*.part",
    "2 write /snapshots/*.part",
    "1 sync /snapshots/*.part",
    "2 unlink /log/*.wal",
    "1 unlink /snapshots/*.snap",
]


@pytest.mark.soak
@pytest.mark.parametrize("cut", [False, True], ids=["killed", "power"])
def test_struck_at_every_call_of_a_start(powered, load_on, cut):
    struck_again_and_again(powered, load_on, ALL_OF_A_START, ALL_OF_A_START, cuts=[cut])


@pytest.mark.soak
@pytest.mark.parametrize("cut", [False, True], ids=["killed", "power"])
def test_struck_at_every_kind_of_call(powered, load_on, cut):
    struck_again_and_again(powered, load_on, FIRST_START, UNDER_LOAD + MORE_SITES, cuts=[cut])
