"""Medians, ratios, tables, files."""

from __future__ import annotations

import json
import os
import platform
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.goals import GOALS
from benchmarks.tools import Sample, run

OUT: Final = Path(__file__).parent / "out"
SYSTEMS: Final = ("raftkv", "etcd", "redis-wait", "redis")


class Results:
    """All samples and single figures of a run."""

    def __init__(self) -> None:
        self.samples: dict[str, list[Sample]] = {}
        """``system/case`` to one sample a round."""
        self.figures: dict[str, list[float]] = {}
        """``system/figure unit`` to all values."""
        self.problems: list[str] = []
        """What could not be measured, and why."""

    def add(self, system: str, case: str, sample: Sample) -> None:
        """A round's sample."""
        self.samples.setdefault(f"{system}/{case}", []).append(sample)

    def medians(self) -> dict[str, float]:
        """For the goals: of throughput and of single figures. A case with error replies counts as not measured."""
        good = {
            name: statistics.median(one.per_second for one in samples)
            for name, samples in self.samples.items()
            if not any(one.errors for one in samples)
        }
        return good | {name: statistics.median(values) for name, values in self.figures.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        medians = self.medians()
        return {
            "machine": machine(),
            "samples": {name: [one.as_dict() for one in samples] for name, samples in self.samples.items()},
            "figures": self.figures,
            "medians": medians,
            "goals": [
                {"goal": goal.title, "wanted": goal.wanted, "at_most": goal.at_most, "ratio": goal.ratio(medians)}
                for goal in GOALS
            ],
            "problems": self.problems,
        }


def machine() -> dict[str, str]:
    """Where and when: figures mean nothing without."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} x {cpu}",
        "memory": f"{int(memory.split()[1]) / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": run(["redis-server", "--version"]).split()[2].removeprefix("v="),
        "etcd": run(["etcd", "--version"]).splitlines()[0].split()[-1],
    }


def show(results: Results, console: Console) -> None:
    """The tables."""
    console.print()
    console.print("  ".join(f"{name} {value}" for name, value in machine().items()))
    table = Table("system", "case", "ops/s", "p50 ms", "p99 ms", "rounds", "errors", title="Medians of the rounds")
    for system in SYSTEMS:
        for name, samples in results.samples.items():
            if name.startswith(system + "/"):
                middle = [statistics.median(values) for values in zip(*((s.per_second, s.p50_ms, s.p99_ms) for s in samples), strict=True)]  # fmt: skip
                errors = sum(one.errors for one in samples)
                table.add_row(
                    system, name.partition("/")[2], f"{middle[0]:,.0f}", f"{middle[1]:.2f}", f"{middle[2]:.2f}",
                    str(len(samples)), str(errors) if errors else "none",
                )  # fmt: skip
    console.print(table)
    if results.figures:
        table = Table("system", "figure", "median", "worst", "values", title="Single figures")
        for name, values in results.figures.items():
            system, _, figure = name.partition("/")
            table.add_row(system, figure, f"{statistics.median(values):.3f}", f"{max(values):.3f}", str(len(values)))
        console.print(table)
    console.print(_goals(results.medians()))
    for problem in results.problems:
        console.print(f"not measured: {problem}", markup=False)


def _goals(medians: dict[str, float]) -> Table:
    table = Table("goal", "wanted", "measured", "", title="Goals")
    for goal in GOALS:
        ratio = goal.ratio(medians)
        wanted = f"{'<=' if goal.at_most else '>='} {goal.wanted:g}"
        if ratio is None:
            table.add_row(goal.title, wanted, "-", "not measured")
        else:
            table.add_row(goal.title, wanted, f"{ratio:.2f}", "reached" if goal.reached(ratio) else "NOT REACHED")
    return table


def save(results: Results) -> list[Path]:
    """JSON under the date and as ``latest.json``, and the plot."""
    OUT.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    text = json.dumps(results.as_dict(), indent=2) + "\n"
    paths = [OUT / f"compare-{stamp}.json", OUT / "latest.json"]
    for path in paths:
        path.write_text(text)
    plot = OUT / "compare.png"
    _plot(results, plot)
    return [*paths, plot]


def _plot(results: Results, path: Path) -> None:
    """Throughput of every case, a row of bars a system, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colors = {"raftkv": "tab:blue", "etcd": "tab:orange", "redis-wait": "tab:green", "redis": "tab:gray"}
    rows = [
        (name, statistics.median(one.per_second for one in samples))
        for system in SYSTEMS
        for name, samples in results.samples.items()
        if name.startswith(system + "/")
    ][::-1]
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(9, 0.3 * len(rows) + 1.5))
    bars = axes.barh([name for name, _ in rows], [value for _, value in rows], color=[colors[name.partition("/")[0]] for name, _ in rows])  # fmt: skip
    axes.bar_label(bars, labels=[f"{value:,.0f}" for _, value in rows], padding=3, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("operations per second (median of the rounds)")
    facts = machine()
    axes.set_title(f"{facts['cpu']}, {facts['date']}", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
