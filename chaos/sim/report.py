"""What a search prints: a line for each profile, their sum, and every violation with the command that shows it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.sim.plan import Plan
from chaos.sim.world import Result

NUMBERS: Final = ("virtual_s", "steps", "elections", "snapshots", "installed", "acknowledged", "unknown", "reads")
"""Fields of a result that are added up."""
HEADINGS: Final = (
    *("runs", "virt_s", "virt/s", "steps", "elected", "snapshot", "installed", "acked", "unknown", "reads"),
    *("faults", "violated"),
)
TAIL_LINES: Final = 40
"""Of the trace of each violation."""


@dataclass(slots=True)
class Totals:
    """Runs added up."""

    runs: int = 0
    seconds: float = 0.0
    """Of real time."""
    violated: int = 0
    numbers: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    guards: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """One more run."""
        self.runs += 1
        self.violated += bool(result.violation)
        self.numbers.update({name: getattr(result, name) for name in NUMBERS})
        self.faults.update(result.faults)
        self.guards.update(result.guards)

    def merge(self, other: Totals) -> None:
        """All runs of ``other``."""
        self.runs += other.runs
        self.seconds += other.seconds
        self.violated += other.violated
        self.numbers.update(other.numbers)
        self.faults.update(other.faults)
        self.guards.update(other.guards)


def heading() -> str:
    """The first line of the table."""
    return f"{'profile':<16}" + "".join(f"{one:>10}" for one in HEADINGS) + "  faults by kind"


def row(name: str, totals: Totals) -> str:
    """A line of the table."""
    virtual = totals.numbers["virtual_s"]
    cells = (
        totals.runs,
        round(virtual),
        round(virtual / max(totals.seconds, 1e-9)),
        *(totals.numbers[one] for one in NUMBERS[1:]),
        totals.faults.total(),
        totals.violated,
    )
    return f"{name:<16}" + "".join(f"{cell:>10}" for cell in cells) + f"  {counts(totals.faults)}"


def counts(counter: Counter[str]) -> str:
    """``kind:count``, sorted by kind."""
    return " ".join(f"{kind}:{count}" for kind, count in sorted(counter.items()))


def violation(plan: Plan, result: Result) -> str:
    """The end of the trace, what was found, and how to see it again."""
    tail: Sequence[str] = result.tail[-TAIL_LINES:]
    found = f"VIOLATION {result.profile} seed {result.seed}: {result.violation}"
    return "\n".join(["", *tail, found, f"  {plan.command()} --trace"])
