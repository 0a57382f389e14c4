"""How long no write is acknowledged when the leader is told to stop, or to hand over, under load.

Writers use raftkv's own client, each with one connection, one write after the other; no write may fail. The gap is the
longest time between two acknowledgements around the change, once of all writers together and once of the writer that
waited longest. ``python -m benchmarks.handover`` measures both ways, ten times each.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks.systems import Crew, RaftKV, wait_until
from benchmarks.tools import BenchError
from raftkv import client
from raftkv.errors import RaftKVError

WRITERS: Final = 6
WARM_ACKS: Final = 300
"""Acknowledged writes before the change, and after it."""

Way = Literal["stop", "transfer"]


@dataclass(frozen=True, slots=True)
class Gap:
    """Seconds without an acknowledgement."""

    all: float
    worst: float
    """Of the writer that waited longest."""


class Writers(Crew):
    """Threads that write through clients of their own until the context ends."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__()
        self._addresses = addresses
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(WRITERS)]
        self.acks: list[list[float]] = [[] for _ in range(WRITERS)]
        """time.perf_counter() of each writer's acknowledgements."""
        self.errors: list[RaftKVError] = []

    def count(self) -> int:
        """Acknowledged writes so far."""
        return sum(map(len, self.acks))

    def wait(self, more: int) -> None:
        """Until so many more were acknowledged."""
        target = self.count() + more
        wait_until(lambda: self.count() >= target, "writes are acknowledged")

    def gap(self, since: float) -> Gap:
        """The longest one after ``since``."""
        lists = [[since, *(ack for ack in acks if ack >= since)] for acks in self.acks]
        return Gap(_longest([moment for acks in lists for moment in acks]), max(map(_longest, lists)))

    def _run(self, number: int) -> None:
        with client.RaftKV(self._addresses, max_connections=1) as db:
            while not self.stop.is_set():
                try:
                    db.incr(f"handover:{number}")
                except RaftKVError as error:
                    self.errors.append(error)
                else:
                    self.acks[number].append(time.perf_counter())


def _longest(moments: list[float]) -> float:
    ordered = sorted(moments)
    return max((later - earlier for earlier, later in itertools.pairwise(ordered)), default=0.0)


def measure(system: RaftKV, way: Way, times: int) -> list[Gap]:
    """One gap a change. Raises BenchError when a write failed."""
    found = []
    for _ in range(times):
        system.heal()
        leader = system.leader()
        with Writers([f"{host}:{port}" for host, port in (one.client for one in system.members)]) as writers:
            writers.wait(WARM_ACKS)
            since = time.perf_counter()
            if way == "stop":
                os.kill(system.pid(leader), signal.SIGTERM)
            else:
                with client.RaftKV([f"{host}:{port}" for host, port in [system.members[leader].client]]) as admin:
                    admin.transfer_leadership()
            wait_until(lambda place=leader: system.leader() != place, "another node leads")  # type: ignore[misc]  # bound now
            writers.wait(WARM_ACKS)
            found.append(writers.gap(since))
        if writers.errors:
            raise BenchError(f"{len(writers.errors)} writes failed, the first with: {writers.errors[0]}")
    return found


def describe(gaps: list[Gap]) -> str:
    """Median and worst of both views, in ms."""
    views = {"all writers": [one.all for one in gaps], "the writer that waited longest": [one.worst for one in gaps]}
    return "; ".join(
        f"{name}: median {statistics.median(values) * 1000:.0f} ms, worst {max(values) * 1000:.0f} ms"
        for name, values in views.items()
    )


def main() -> None:
    """Print the gaps of both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    ways: tuple[Way, ...] = ("transfer", "stop")
    with tempfile.TemporaryDirectory() as directory, RaftKV(Path(directory)) as system:
        for way in ways:
            print(f"{way} x {times}: {describe(measure(system, way, times))}", flush=True)


if __name__ == "__main__":
    main()
