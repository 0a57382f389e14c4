"""What a client notices while a node writes a snapshot, and what that costs in memory.

``python -m benchmarks.pause`` fills one node, loads it with writes, and compares the latency of single
writes of one client before and during BGSAVE. The node forks: the fork stops it once, and afterwards each
page that it changes first is copied.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.single import OneRaftKV, OneRedis, fill
from benchmarks.systems import Crew, wait_until
from benchmarks.tools import BenchError
from raftkv.cli.connection import Connection
from raftkv.cli.topology import LOOPBACK

CALM_S: Final = 5.0
"""How long the latency before the snapshot is looked at."""
MEMORY_POLL_S: Final = 0.05
SNAPSHOT_WITHIN_S: Final = 300.0


@dataclass(slots=True)
class Latency:
    """Of single commands, milliseconds."""

    p50: float
    p99: float
    worst: float
    above_20: int
    """Commands that took more than 20 ms."""

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """From samples, of which there must be some."""
        ordered = sorted(one * 1000 for one in seconds)
        return cls(
            statistics.median(ordered), ordered[int(len(ordered) * 0.99)], ordered[-1], sum(one > 20 for one in ordered)
        )

    def __str__(self) -> str:
        return f"p50 {self.p50:.2f}  p99 {self.p99:.2f}  max {self.worst:.1f} ms, {self.above_20} above 20 ms"


@dataclass(slots=True)
class Pause:
    """What was found."""

    calm: Latency
    during: Latency
    seconds: float
    """That the snapshot took."""
    copied_mib: float
    """Most memory that the two processes had and the one before did not (proportional set size)."""


@dataclass(slots=True)
class _Probe:
    """One client that writes, one command at a time."""

    port: int
    keys: int
    stop: threading.Event
    samples: list[tuple[float, float]] = field(default_factory=list)
    """(when it was sent, seconds)"""

    def run(self) -> None:
        rng = Random(3)  # noqa: S311 -- which key is written
        with Connection(LOOPBACK, self.port, timeout_s=60.0) as connection:
            while not self.stop.is_set():
                began = time.monotonic()
                connection.ask("SET", f"key:{rng.randrange(self.keys):012d}", "y" * 64)
                self.samples.append((began, time.monotonic() - began))

    def between(self, start: float, end: float) -> list[float]:
        """Commands that were under way at some time from ``start`` to ``end``."""
        return [took for began, took in self.samples if began + took >= start and began <= end]


def _load(port: int, keys: int, pipeline: int, stop: threading.Event) -> None:
    """Writes all over the keys, so that pages are changed and copied; a little rest, so that
    the machine is not full.
    """
    rng = Random(4)  # noqa: S311 -- which keys are written
    with Connection(LOOPBACK, port, timeout_s=60.0) as connection:
        while not stop.wait(0.002):
            for _ in range(pipeline):
                connection.send(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$2\r\nzz\r\n" % rng.randrange(keys))
            for _ in range(pipeline):
                connection.read()


def _pss_mib(pid: int) -> float:
    """Proportional set size: shared pages are counted by halves, so that parent and child may be added."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def measure(system: OneRaftKV | OneRedis, keys: int, pipeline: int) -> Pause:
    """``pipeline`` commands at a time load the node besides the client that is measured; 0: none."""
    pid, crew = system.processes[0].pid, Crew()
    one = _Probe(system.port, keys, crew.stop)
    crew.threads.append(threading.Thread(target=one.run))
    if pipeline:
        crew.threads.append(threading.Thread(target=_load, args=(system.port, keys, pipeline, crew.stop)))
    with crew:
        start = time.monotonic()
        time.sleep(CALM_S)
        before, most = _pss_mib(pid), 0.0
        asked = time.monotonic()
        system.call("BGSAVE")
        wait_until(lambda: _children(pid), "the snapshot begins", SNAPSHOT_WITHIN_S)
        while children := _children(pid):
            most = max(most, _pss_mib(pid) + sum(map(_pss_mib, children)))
            time.sleep(MEMORY_POLL_S)
        ended = time.monotonic()
    if not one.samples:
        raise BenchError("the client wrote nothing")
    return Pause(
        Latency.of(one.between(start, asked)), Latency.of(one.between(asked, ended)), ended - asked, most - before
    )


def main() -> None:
    """Measure raftkv and Redis, each without and with load."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pause", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for kind in (OneRaftKV, OneRedis):
            with kind(Path(directory)) as system:
                fill(system.port, arguments.keys)
                for pipeline in (0, 50):
                    for _ in range(arguments.rounds):
                        found = measure(system, arguments.keys, pipeline)
                        print(f"{system.name}, load {pipeline}: calm {found.calm}; snapshot of {found.seconds:.1f} s {found.during}; {found.copied_mib:.0f} MiB more", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
