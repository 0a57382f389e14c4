"""The options of ``raftkv sim``. They stand apart from what they start, so that ``raftkv --help`` need not load it."""

from __future__ import annotations

from typing import Annotated

import typer


def sim(
    seeds: Annotated[str, typer.Option("--seeds", metavar="N|A..B", help="One seed, or all from A to B.")] = "1..20",
    profile: Annotated[str, typer.Option("--profile", metavar="NAME,..", help="Kinds of weather, or all.")] = "all",
    nodes: Annotated[int, typer.Option("--nodes", metavar="3|5", help="Size of the group.")] = 3,
    engine: Annotated[
        str, typer.Option("--engine", metavar="raftkv|stock", help="stock: pysyncobj as it is, to compare.")
    ] = "raftkv",
    off: Annotated[list[str] | None, typer.Option("--off", metavar="GUARD", help="Switch a guard off.")] = None,
    clients: Annotated[int | None, typer.Option("--clients", help="Only so many of the profile's clients.")] = None,
    storm: Annotated[float | None, typer.Option("--storm", metavar="SECONDS", help="Faults come for so long.")] = None,
    faults: Annotated[
        str | None, typer.Option("--faults", metavar="1-3,7", help="Only these faults, by their number in the trace.")
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", help="Make the runs in so many processes; the results are the same.")
    ] = 1,
    first: Annotated[bool, typer.Option("--first", help="Leave a profile at its first violation.")] = False,
    shrink: Annotated[
        int, typer.Option("--shrink", metavar="RUNS", help="Make the first violation of each kind smaller; 0: do not.")
    ] = 80,
    trace: Annotated[bool, typer.Option("--trace", help="Tell the story of each run.")] = False,
    trace_lines: Annotated[int, typer.Option("--trace-lines", help="How many of its last messages to show.")] = 400,
    hashes: Annotated[bool, typer.Option("--hashes", help="Print the hash of each run's trace.")] = False,
    guards: Annotated[bool, typer.Option("--guards", help="Print how often each guard acted.")] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Print which faults hit which role in the middle of what.")
    ] = False,
) -> None:
    """Search a simulated group for schedules that break a promise: production code, virtual time, seeded faults.

    Exit code 1 when one is found; it is made as small as it gets and printed with the command that shows it again.
    """
    from chaos.sim import plan, search

    plan.within("--jobs", jobs, 1, plan.JOBS_MAX)
    chosen = plan.Choice(
        plan.parse_seeds(seeds), tuple(plan.parse_profiles(profile)), nodes, tuple(off or ()), clients, storm,
        None if faults is None else plan.parse_faults(faults), engine,
    )  # fmt: skip
    plan.within("--shrink", shrink, 0, plan.SHRINK_RUNS_MAX)
    plan.within("--trace-lines", trace_lines, 1, plan.TRACE_LINES_MAX)
    show = search.Show(trace=trace_lines if trace else 0, hashes=hashes, guards=guards, coverage=coverage)
    found = search.search(chosen, show, first=first, shrink_runs=shrink, jobs=jobs)
    raise typer.Exit(1 if found else 0)
