"""The options of ``raftkv matrix``.

They stand apart from what they start, so that ``raftkv --help`` need not load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JOBS_MAX = 64


def matrix(
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", metavar="NAME", help="Only this scenario; may be given several times."),
    ] = None,
    call: Annotated[
        int | None, typer.Option("--call", metavar="N", help="Only the N-th file operation of the scenario.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every file operation under every fault, with several seeds; takes minutes.")
    ] = False,
    document: Annotated[
        Path | None,
        typer.Option(
            "--document", metavar="FILE", help="Write the table into this Markdown file, between its matrix marks."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", metavar="N", min=1, max=JOBS_MAX, help="Processes that share the work; the result is the same."
        ),
    ] = 1,
) -> None:
    """Strike every file operation of the persistence layer with every kind of fault, and judge what is left.

    Prints a table of failpoints and faults. Exit code 1 when something acknowledged was lost.
    """
    from chaos.matrix import report
    from chaos.matrix.scenarios import SCENARIOS

    names = scenario or list(SCENARIOS)
    unknown = [one for one in names if one not in SCENARIOS]
    if unknown:
        raise typer.BadParameter(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    result = report.run(names, full=full or call is not None, jobs=jobs, call=call)
    if document is None:
        typer.echo(report.table(result))
        typer.echo()
    else:
        document.write_text(report.with_table(document.read_text("utf-8"), result), "utf-8")
    typer.echo(report.summary(result))
    raise typer.Exit(1 if result.lost else 0)
