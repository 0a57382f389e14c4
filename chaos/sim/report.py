"""What a search prints: a line for each profile, their sum, and every violation with the
command that shows it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from chaos.sim.coverage import Cell
from chaos.sim.plan import Plan
from chaos.sim.shrink import Shrinker, Size, size
from chaos.sim.world import Result

Found = tuple[Plan, Result]

NUMBERS: Final = ("virtual_s", "steps", "elections", "snapshots", "installed", "acknowledged", "unknown", "reads")
"""Fields of a result that are added up."""
HEADINGS: Final = (
    *("runs", "virt_s", "virt/s", "steps", "elected", "snapshot", "installed", "acked", "unknown", "reads"),
    *("faults", "violated"),
)
TAIL_LINES: Final = 40
"""Of the trace, after the story of a violation."""


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
    coverage: Counter[Cell] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """One more run."""
        self.runs += 1
        self.violated += bool(result.violation)
        self.numbers.update({name: getattr(result, name) for name in NUMBERS})
        self.faults.update(result.faults)
        self.guards.update(result.guards)
        self.coverage.update(result.coverage)

    def merge(self, other: Totals) -> None:
        """All runs of ``other``."""
        self.runs += other.runs
        self.seconds += other.seconds
        self.violated += other.violated
        self.numbers.update(other.numbers)
        self.faults.update(other.faults)
        self.guards.update(other.guards)
        self.coverage.update(other.coverage)


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


def broken(found: Sequence[Found], profiles: Sequence[str]) -> str:
    """How many runs of each profile broke which promise first; a run ends there."""
    seen = Counter((plan.profile, result.kind) for plan, result in found)
    kinds = sorted({kind for _, kind in seen})
    widths = [max(len(kind), 4) + 2 for kind in kinds]
    lines = [
        "",
        f"{'broken first':<16}" + "".join(f"{kind:>{width}}" for kind, width in zip(kinds, widths, strict=True)),
    ]
    for profile in [one for one in profiles if any(seen[one, kind] for kind in kinds)]:
        cells = (f"{seen[profile, kind] or '':>{width}}" for kind, width in zip(kinds, widths, strict=True))
        lines.append(f"{profile:<16}" + "".join(cells))
    return "\n".join(lines)


def violations(found: Sequence[Found]) -> str:
    """A line for each kind of violation of each profile, with the seeds and the command for the first of them."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for plan, result in found:
        groups.setdefault((plan.profile, result.kind), []).append((plan, result))
    lines = []
    for (profile, _), group in groups.items():
        plan, result = group[0]
        lines += ["", f"VIOLATION {profile} seed {result.seed}: {result.violation}"]
        if len(group) > 1:
            lines.append(f"  also seeds {', '.join(str(one.seed) for _, one in group[1:])}")
        lines.append(f"  {plan.command()} --trace")
    return "\n".join(lines)


def story(result: Result, lines: int = TAIL_LINES) -> str:
    """What happened, from the beginning without messages, and the last steps with them."""
    return "\n".join([*result.notes, "the last of it, with messages:", *result.tail[-lines:]])


def shrunk(was: Size, shrinker: Shrinker) -> str:
    """A violation in its smallest run, and the command that shows it again."""
    plan, result = shrinker.plan, shrinker.result
    return "\n".join(
        (
            "",
            f"made smaller in {shrinker.runs} runs: {was}",
            f"{'to':>29}: {size(plan, result)}",
            story(result),
            f"VIOLATION {result.profile} seed {result.seed}: {result.violation}",
            f"  {plan.command()} --trace",
        )
    )
