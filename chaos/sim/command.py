"""The options of ``raftkv sim``. They stand apart from what they start, so that ``raftkv --help`` need not load it."""

from __future__ import annotations

from typing import Annotated

import typer


def sim(
    seeds: Annotated[str, typer.Option("--seeds", metavar="N|A..B", help="One seed, or all from A to B.")] = "1..20",
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            metavar="NAME,..",
            help="Profiles of faults, or all.",
        ),
    ] = "all",
    nodes: Annotated[int, typer.Option("--nodes", metavar="3|5", help="Size of the group.")] = 3,
    engine: Annotated[
        str,
        typer.Option("--engine", metavar="raftkv|stock", help="stock: pysyncobj without our guards."),
    ] = "raftkv",
    off: Annotated[
        list[str] | None,
        typer.Option(
            "--off",
            metavar="GUARD",
            help="Switch this guard off; may be repeated.",
        ),
    ] = None,
    clients: Annotated[int | None, typer.Option("--clients", help="At most so many clients in a run.")] = None,
    storm: Annotated[float | None, typer.Option("--storm", metavar="SECONDS", help="For how long faults come.")] = None,
    faults: Annotated[
        str | None, typer.Option("--faults", metavar="1-3,7", help="Only these faults, by their number in the trace.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Processes that share the runs.")] = 1,
    first: Annotated[bool, typer.Option("--first", help="Go on to the next profile at the first violation.")] = False,
    shrink: Annotated[
        int,
        typer.Option(
            "--shrink",
            metavar="RUNS",
            help="Runs to spend on making a violation smaller.",
        ),
    ] = 80,
    trace: Annotated[bool, typer.Option("--trace", help="Print what happened in each run.")] = False,
    trace_lines: Annotated[
        int, typer.Option("--trace-lines", help="How many of its last messages --trace prints.")
    ] = 400,
    hashes: Annotated[bool, typer.Option("--hashes", help="Print the hash of each run's trace.")] = False,
    guards: Annotated[bool, typer.Option("--guards", help="Print how often each guard acted.")] = False,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Print which faults hit which role in the middle of what."),
    ] = False,
) -> None:
    """Search a simulated group for schedules that break a promise: production code, virtual time, seeded faults.

    Exit code 1 when one is found. It is made as small as possible, and printed with the command that shows it again.
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
