"""``python -m benchmarks.compare`` (= ``make bench``): the same load on raftkv, etcd and Redis, in turn, in one run.

Each round starts each system afresh, measures its cases and stops it, so that no two compete and all share what the
machine does over time; the medians of the rounds are compared. Everything runs on loopback and on one disk.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from benchmarks import failover, handover, persistence, report, tools
from benchmarks.goals import GOALS
from benchmarks.systems import Etcd, RaftKV, RedisAlone, RedisReplicated, resident_mib
from benchmarks.tools import BenchError, Sample

KEYS: Final = 100_000
MEMORY_KEYS: Final = 1_000_000
SHAPES: Final = ((50, 1), (200, 1), (50, 16), (50, 100))
"""(clients, pipeline)."""
ETCD_CLIENTS: Final = (50, 200, 1000)
FILL_WITHIN_S: Final = 300.0
PARTS: Final = ("raftkv", "etcd", "redis", "redis-wait", "memory", "failover", "persistence")


@dataclass(frozen=True, slots=True)
class Extent:
    """How long a run measures."""

    rounds: int
    seconds: float
    """Of each case."""
    memory_keys: int
    kills: int


FULL: Final = Extent(rounds=3, seconds=4.0, memory_keys=MEMORY_KEYS, kills=10)
QUICK: Final = Extent(rounds=1, seconds=1.0, memory_keys=100_000, kills=3)


class Run:
    """One run: what it was asked for, and what it found."""

    def __init__(self, extent: Extent, parts: set[str], directory: Path, console: Console) -> None:
        self.extent = extent
        self.parts = parts
        self.directory = directory
        self.console = console
        self.results = report.Results()

    def everything(self) -> None:
        """All parts, the throughput of all systems round by round."""
        systems = {"raftkv": self.raftkv, "etcd": self.etcd, "redis-wait": self.redis_wait, "redis": self.redis}
        for number in range(1, self.extent.rounds + 1):
            for name, part in systems.items():
                if name in self.parts:
                    self.console.print(f"round {number} of {self.extent.rounds}: {name}")
                    self.attempt(name, part)
        if "memory" in self.parts:
            self.attempt("memory of raftkv", self.memory_raftkv)
            self.attempt("memory of redis", self.memory_redis)
        if "failover" in self.parts:
            self.attempt("failover of raftkv", self.failover_raftkv)
            self.attempt("failover of etcd", self.failover_etcd)
        if "persistence" in self.parts:
            self.persistence()

    def attempt(self, what: str, part: Callable[[], None]) -> None:
        """A part that fails is reported and the others go on."""
        try:
            part()
        except (BenchError, OSError, TimeoutError) as error:
            self.results.problems.append(f"{what}: {error}")
            self.console.print(f"  {what}: {error}", markup=False, style="red")

    def case(self, system: str, name: str, measure: Callable[[], Sample]) -> None:
        """Measure and show one case."""

        def once() -> None:
            sample = measure()
            self.results.add(system, name, sample)
            errors = f"  ERRORS {sample.errors}" if sample.errors else ""
            self.console.print(
                f"  {name:<18}{sample.per_second:>12,.0f}/s  p50 {sample.p50_ms:.2f} ms  p99 {sample.p99_ms:.2f} ms{errors}"
            )

        self.attempt(f"{system}/{name}", once)

    def resp_cases(self, system: str, port: int, modes: tuple[str, ...]) -> None:
        """Each mode at each shape against one port."""
        for mode in modes:
            if mode == "get":
                tools.resp(port, "fill", clients=50, pipeline=16, seconds=FILL_WITHIN_S, keys=KEYS)
            for clients, pipeline in SHAPES:
                self.case(
                    system, f"{mode} {clients}x{pipeline}",
                    lambda mode=mode, clients=clients, pipeline=pipeline: tools.resp(  # type: ignore[misc]  # bound now
                        port, mode, clients=clients, pipeline=pipeline, seconds=self.extent.seconds, keys=KEYS
                    ),
                )  # fmt: skip

    # ------------------------------------------------------------- throughput
    def raftkv(self) -> None:
        """Three nodes, fsync always; the leader's port."""
        with RaftKV(self.directory) as system:
            self.resp_cases("raftkv", system.port, ("set", "get"))

    def redis(self) -> None:
        """Redis alone, which keeps nothing."""
        with RedisAlone(self.directory) as system:
            self.resp_cases("redis", system.port, ("set", "get"))

    def redis_wait(self) -> None:
        """Redis that syncs every write and waits for a replica, after each SET and after each batch."""
        with RedisReplicated(self.directory) as system:
            self.resp_cases("redis-wait", system.port, ("setwait", "setwaitb"))

    def etcd(self) -> None:
        """Three nodes; the leader's endpoint, freshly started before the GETs."""
        with Etcd(self.directory) as system:
            self.etcd_cases(system.endpoint, "put")
            tools.etcd(system.endpoint, "fill", clients=200, seconds=FILL_WITHIN_S, keys=KEYS)
            system.restart()
            self.etcd_cases(system.endpoint, "get")

    def etcd_cases(self, endpoint: str, op: str) -> None:
        """One operation at each number of clients."""
        for clients in ETCD_CLIENTS:
            self.case(
                "etcd", f"{op} {clients}x1",
                lambda clients=clients: tools.etcd(  # type: ignore[misc]  # bound now
                    endpoint, op, clients=clients, seconds=self.extent.seconds, keys=KEYS
                ),
            )  # fmt: skip

    # ----------------------------------------------------------------- memory
    def memory_raftkv(self) -> None:
        """Resident memory of each node after every key was written once."""
        with RaftKV(self.directory) as system:
            self.fill(system.port)
            system.settle()
            self.remember_memory("raftkv", [system.pid(place) for place in range(system.nodes)])

    def memory_redis(self) -> None:
        """The same of Redis alone."""
        with RedisAlone(self.directory) as system:
            self.fill(system.port)
            self.remember_memory("redis", [system.processes[0].pid])

    def fill(self, port: int) -> None:
        """Write each key once."""
        sample = tools.resp(port, "fill", clients=50, pipeline=100, seconds=FILL_WITHIN_S, keys=self.extent.memory_keys)
        if sample.errors:
            raise BenchError(f"{sample.errors} of {self.extent.memory_keys} writes were refused")

    def remember_memory(self, system: str, pids: list[int]) -> None:
        """Keep and show one figure a process."""
        found = [resident_mib(pid) for pid in pids]
        figure = (
            "memory MiB" if self.extent.memory_keys == MEMORY_KEYS else f"memory MiB, {self.extent.memory_keys} keys"
        )
        self.results.figures[f"{system}/{figure}"] = found
        shown = ", ".join(f"{one:.0f}" for one in found)
        self.console.print(f"memory of {system} with {self.extent.memory_keys:,} keys: {shown} MiB a process")

    # --------------------------------------------------------------- failover
    def failover_raftkv(self) -> None:
        """Kill the leader under load, again and again; ``raftkv dev --restart`` brings it back."""
        with RaftKV(self.directory) as system:
            self.failovers("raftkv", system, system.heal)
            self.console.print("leader of raftkv told to stop")
            gaps = handover.measure(system, "stop", self.extent.kills)
            self.results.figures["raftkv/leader told to stop s"] = [gap.all for gap in gaps]

    def failover_etcd(self) -> None:
        """The same with etcd's default timeouts."""
        with Etcd(self.directory) as system:
            self.failovers("etcd", system, system.start_nodes)

    # ------------------------------------------------------------ persistence
    def persistence(self) -> None:
        """Group commit, recovery, snapshots, compression; each part once."""
        keys, directory = self.extent.memory_keys, self.directory
        suffix = "" if keys == MEMORY_KEYS else f", {keys} keys"

        def remember(figure: str, value: float) -> None:
            self.results.figures[figure + suffix] = [value]
            self.console.print(f"  {figure}: {value:,.2f}")

        self.console.print(f"persistence, {keys:,} keys")
        self.attempt("group commit", lambda: persistence.group_commit(directory, self.extent.seconds, remember))
        self.attempt("recovery", lambda: persistence.recovery(directory, keys, remember))
        self.attempt("snapshot pause", lambda: persistence.snapshot_pause(directory, keys, remember))
        self.attempt("compression", lambda: persistence.compression(directory, keys, remember))

    def failovers(self, name: str, system: RaftKV | Etcd, heal: Callable[[], None]) -> None:
        """Keep what was found."""
        self.console.print(f"failover of {name}")
        found = failover.measure(system, heal, self.extent.kills, lambda text: self.console.print(f"  {text}"))
        self.results.figures[f"{name}/failover s"] = found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, fewer keys, fewer kills")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}")
    parser.add_argument("--seconds", type=float, help=f"of each case, default {FULL.seconds:g}")
    parser.add_argument("--directory", type=Path, default=tools.BUILD, help="where all systems keep their data")
    parser.add_argument("--check", action="store_true", help="exit code 1 when a goal is not reached")
    arguments = parser.parse_args()
    unknown = set(arguments.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    return arguments


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run it all; 0 unless it was interrupted, or a goal was missed and ``--check`` asked."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    base = QUICK if arguments.quick else FULL
    extent = Extent(
        arguments.rounds or base.rounds, arguments.seconds or base.seconds, base.memory_keys, base.kills
    )  # fmt: skip
    began = time.monotonic()
    tools.build()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="data-", dir=arguments.directory))
    run = Run(extent, set(arguments.only.split(",")), directory, console)
    interrupted = False
    try:
        run.everything()
    except KeyboardInterrupt:
        interrupted = True
        console.print("interrupted; what was measured so far:")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    report.show(run.results, console)
    for path in report.save(run.results):
        console.print(f"written: {path}", soft_wrap=True)
    console.print(f"took {time.monotonic() - began:.0f} s")
    medians = run.results.medians()
    ratios = [(goal, goal.ratio(medians)) for goal in GOALS]
    missed = any(ratio is None or not goal.reached(ratio) for goal, ratio in ratios)
    return 130 if interrupted else int(arguments.check and missed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
