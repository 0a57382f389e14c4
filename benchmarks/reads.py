"""``python -m benchmarks.reads``: GETs at the leader, at a follower and at all three nodes, in each mode of READ.

On a machine with fewer cores than nodes and load generators the rate says how the cores were shared, not what a node
can serve. So the processor time that a read costs each node is measured as well: a node that has a core to itself
serves at most 1 000 000 / (microseconds a read) of them a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import tools
from benchmarks.systems import RaftKV
from benchmarks.tools import BenchError

KEYS: Final = 100_000
FILL_WITHIN_S: Final = 300.0
CLIENTS: Final = 48
MODES: Final = ("READ LINEARIZABLE", "READ BOUNDED 100", "READ LOCAL")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


class Reads:
    """One cluster under measurement."""

    def __init__(self, system: RaftKV, seconds: float, pipeline: int, table: Table) -> None:
        self._system = system
        self._seconds = seconds
        self._pipeline = pipeline
        self._table = table
        leader = system.leader()
        self._order = [leader, *(place for place in range(system.nodes) if place != leader)]
        tools.resp(system.port, "fill", clients=50, pipeline=16, seconds=FILL_WITHIN_S, keys=KEYS)

    def measure(self, name: str, mode: str, asked: Sequence[int]) -> None:
        """Load the nodes at these places (0: the leader) at once."""
        system = self._system
        before = [processor_s(system.pid(place)) for place in self._order]

        def load(at: int) -> float:
            port = system.members[self._order[at]].client_port
            sample = tools.resp(
                port, "get", clients=CLIENTS // len(asked), pipeline=self._pipeline, seconds=self._seconds, keys=KEYS,
                first=mode,
            )  # fmt: skip
            if sample.errors:
                raise BenchError(f"{name}, {mode}: {sample.errors} errors")
            return sample.per_second

        with ThreadPoolExecutor(len(asked)) as pool:
            rates = list(pool.map(load, asked))
        spent = [processor_s(system.pid(place)) - then for place, then in zip(self._order, before, strict=True)]
        total = sum(rates)
        reads = total * self._seconds
        own = [
            f"{1e6 * spent[at] / (rates[asked.index(at)] * self._seconds):.1f}" if at in asked else "-" for at in (0, 1)
        ]
        self._table.add_row(name, mode, f"{total:,.0f}", *own, f"{1e6 * sum(spent) / reads:.1f}")


def measure_all(directory: Path, seconds: float, pipeline: int, table: Table) -> None:
    """Every mode and place, without and with the leader's lease."""
    for lease in ("no", "yes"):
        os.environ["RAFTKV_READ_LEASE"] = lease
        with RaftKV(directory) as system:
            reads = Reads(system, seconds, pipeline, table)
            note = ", lease" if lease == "yes" else ""
            for mode in MODES if lease == "no" else MODES[:1]:
                reads.measure(f"leader{note}", mode, [0])
                reads.measure(f"follower{note}", mode, [1])
                reads.measure(f"all three{note}", mode, [0, 1, 2])
        shutil.rmtree(directory / "data", ignore_errors=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each case")
    parser.add_argument("--pipeline", type=int, default=1, help="commands that a client sends at once")
    arguments = parser.parse_args()
    tools.build()
    table = Table(
        "where", "mode", "GET/s", "leader us a read", "follower us a read", "all nodes us a read",
        title=f"{CLIENTS} clients, pipeline {arguments.pipeline}; load {os.getloadavg()[0]:.1f} at the beginning",
    )  # fmt: skip
    directory = Path(tempfile.mkdtemp(prefix="reads-", dir=tools.BUILD))
    try:
        measure_all(directory, arguments.seconds, arguments.pipeline, table)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
