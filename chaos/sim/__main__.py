"""``python -m chaos.sim``: run seeds, print the table, exit 1 on a violation."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from chaos.sim.guards import GUARDS, switched_off
from chaos.sim.profiles import PROFILES
from chaos.sim.world import Result, simulate

TAIL_LINES = 40
"""Of the trace of each violation."""


def seeds_of(text: str) -> range:
    """``7`` or ``1..200``."""
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def replay(result: Result, off: list[str]) -> str:
    """The command that shows it again."""
    switches = "".join(f" --off {one}" for one in off)
    return (
        f"python -m chaos.sim --seeds {result.seed} --profile {result.profile} --nodes {result.nodes}{switches} --trace"
    )


def row(name: str, results: list[Result], seconds: float) -> str:
    """One profile of the table."""
    virtual = sum(one.virtual_s for one in results)
    faults: Counter[str] = sum((one.faults for one in results), Counter())
    numbers = (
        len(results),
        f"{virtual:.0f}",
        f"{virtual / max(seconds, 1e-9):.0f}",
        sum(one.steps for one in results),
        sum(one.elections for one in results),
        sum(one.snapshots for one in results),
        sum(one.installed for one in results),
        sum(one.acknowledged for one in results),
        sum(one.unknown for one in results),
        sum(one.reads for one in results),
        sum(bool(one.violation) for one in results),
    )
    kinds = " ".join(f"{kind}:{count}" for kind, count in sorted(faults.items()))
    return f"{name:<16}" + "".join(f"{number:>10}" for number in numbers) + f"  {kinds}"


HEADINGS = (
    "runs",
    "virt_s",
    "virt/s",
    "steps",
    "elected",
    "snapshot",
    "installed",
    "acked",
    "unknown",
    "reads",
    "violated",
)


def main(argv: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim", description=__doc__)
    parser.add_argument("--seeds", default="1..20", help="7 or 1..200")
    parser.add_argument("--profile", default="all", help=f"all, or of: {', '.join(PROFILES)} (comma-separated)")
    parser.add_argument("--nodes", default=3, type=int)
    parser.add_argument("--off", action="append", default=[], choices=sorted(GUARDS), help="switch this guard off")
    parser.add_argument("--first", action="store_true", help="stop a profile at its first violation")
    parser.add_argument("--trace", nargs="?", const=400, default=0, type=int, help="print so many lines of the trace")
    parser.add_argument("--hashes", action="store_true", help="print each run's trace hash")
    parser.add_argument("--guards", action="store_true", help="print how often each guard acted")
    options = parser.parse_args(argv)
    names = list(PROFILES) if options.profile == "all" else options.profile.split(",")
    failed: list[Result] = []
    guards: Counter[str] = Counter()
    print(f"{'profile':<16}" + "".join(f"{one:>10}" for one in HEADINGS) + "  faults")
    for name in names:
        begun = time.perf_counter()
        results = []
        for seed in seeds_of(options.seeds):
            with switched_off(options.off):
                result = simulate(seed, name, options.nodes)
            guards.update(result.guards)
            results.append(result)
            if options.hashes:
                print(f"{name} {seed} {result.trace_hash}")
            if options.trace:
                print("\n".join(result.tail[-options.trace :]))
            if not result.violation:
                result.tail.clear()
            if options.first and result.violation:
                break
        failed += [one for one in results if one.violation]
        print(row(name, results, time.perf_counter() - begun), flush=True)
    if options.guards:
        print("guards that acted: " + " ".join(f"{kind}:{count}" for kind, count in sorted(guards.items())))
    for result in failed:
        print("\n" + "\n".join(result.tail[-TAIL_LINES:]))
        print(f"VIOLATION {result.profile} seed {result.seed}: {result.violation}\n  {replay(result, options.off)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
