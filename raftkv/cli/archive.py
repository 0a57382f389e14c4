"""``raftkv archive``: what an archive can be gone back to, whether all of it verifies, and making it smaller."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from raftkv.cli.tables import table
from raftkv.errors import RaftKVError

EXIT_DAMAGED: Final = 1
EXIT_CANNOT: Final = 2

app = typer.Typer(help="Look at an archive, verify it, prune it; its node may be running.", no_args_is_help=True)
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="An archive (archive_dir).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def _fail(error: RaftKVError) -> NoReturn:
    print(f"raftkv archive: {error.message}", file=sys.stderr)
    raise typer.Exit(EXIT_CANNOT) from None


@app.command("ls")
def _ls(directory: Directory, as_json: AsJson = False) -> None:
    """The runs, which points each holds, and its bases. Any point within a run can be restored, none between two."""
    from raftkv.offline.archive import listing
    from raftkv.offline.backup import show_time

    try:
        found = listing(str(directory))
    except RaftKVError as error:
        _fail(error)
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        [
            str(one["run"]), f"{one['first']} to {one['last']}", show_time(one["first_stamp_ms"]), show_time(one["last_stamp_ms"]),
            ", ".join(map(str, one["bases"])) or "none: from entry 1", str(one["files"]), f"{one['bytes']:,}",
        ]
        for one in found
    ]  # fmt: skip
    if found:
        print(f"cluster {found[-1]['cluster_id']}")
    print(table(("run", "entries", "from", "to", "bases", "files", "bytes"), rows, {"run", "files", "bytes"}))


@app.command("verify")
def _verify(directory: Directory, as_json: AsJson = False) -> None:
    """Read everything. Exit code 1 when a file is damaged or missing, or does not belong to its run."""
    from raftkv.offline.archive import verified

    try:
        problems = verified(str(directory))
    except RaftKVError as error:
        _fail(error)
    if as_json:
        print(json.dumps(problems))
    else:
        for one in problems:
            print(f"{one['path']}: {one['reason']}")
        print("verified: every file, and that they follow each other" if not problems else f"{len(problems)} problems")
    if problems:
        raise typer.Exit(EXIT_DAMAGED)


@app.command("prune")
def _prune(
    directory: Directory,
    keep_from: Annotated[
        str,
        typer.Option(
            "--keep-from",
            metavar="TIME|INDEX",
            help="The earliest point that must stay restorable.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete what no point from TIME or INDEX on needs. The newest base and what follows it always stay."""
    from raftkv.offline.archive import pruned

    try:
        gone = pruned(str(directory), keep_from)
    except RaftKVError as error:
        _fail(error)
    print(json.dumps(gone) if as_json else f"{len(gone)} files deleted")
