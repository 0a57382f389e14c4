"""``raftkv import``: its options; the work is done in :mod:`raftkv.cli.importer`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Final

import typer

from raftkv.cli.options import Password, User
from raftkv.config_values import split_address
from raftkv.errors import RaftKVError

EXIT_FAILED: Final = 1


def import_file(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="An RDB file; an append-only file; Redis 7's directory of append-only files, or the manifest in it; - for standard input.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Any node of the cluster.")] = "127.0.0.1:7379",
    password: Password = "",
    user: User = "",
    skip_unsupported: Annotated[
        bool,
        typer.Option(
            "--skip-unsupported", help="Leave out streams, modules and functions, and name what was left out."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with JSON.")] = False,
) -> None:
    """Import what Redis saved: RDB files up to Redis 7.2, append-only files. Keys of the same name are replaced.

    The file is checked to its end before anything is sent. Exit code 1 when something could not be imported.
    """
    from raftkv.cli import importer

    try:
        split_address(to)
        report = importer.run(file, to, user=user, password=password, skip_unsupported=skip_unsupported)
    except (RaftKVError, OSError, ValueError) as error:
        print(f"raftkv import: {error.message if isinstance(error, RaftKVError) else error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None
    print(json.dumps(report) if as_json else "\n".join(importer.lines(report)))
