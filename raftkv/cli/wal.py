"""``raftkv wal``: looking into a log, also while its node runs. What is found out is in :mod:`raftkv.offline.wal`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer

from raftkv.cli.tables import table
from raftkv.errors import RaftKVError

EXIT_DAMAGED: Final = 1
EXIT_CANNOT: Final = 2
"""There is no log, or it cannot be read."""

app = typer.Typer(
    help="Look into a node's log. Nothing is locked or changed; the node may be running.", no_args_is_help=True
)

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="A node's data directory, or the directory `log` in it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def fail(command: str, error: RaftKVError) -> NoReturn:
    """Say why nothing could be looked at."""
    print(f"raftkv {command}: {error.message}", file=sys.stderr)
    raise typer.Exit(EXIT_CANNOT) from None


def _listing(path: Path) -> dict[str, Any]:
    from raftkv.offline.wal import listing

    try:
        return listing(path)
    except RaftKVError as error:
        fail("wal", error)


@app.command("ls")
def _ls(directory: Directory, as_json: AsJson = False) -> None:
    """The segments, and the state that the log as a whole is in."""
    found = _listing(directory)
    if as_json:
        print(json.dumps(found))
        return
    print("\n".join([*_state(found), ""]))
    columns = ("file", "records", "entries", "indices", "used", "bytes", "")
    rows = [_row(one) for one in found["segments"]]
    rows += [[one["name"], "", "", "", "", f"{one['bytes']:,}", one["kind"]] for one in found["others"]]
    print(table(columns, rows, {"records", "entries", "used", "bytes"}))
    print("\n".join(_notes(found)))


def _state(found: dict[str, Any]) -> list[str]:
    if found["term"] is None:
        return ["the log is DAMAGED: no node starts with it"]
    entries = f"{found['first_index']} to {found['last_index']}" if found["last_index"] else "none"
    return [
        f"entries        {entries}" + (f", last term {found['last_term']}" if found["last_index"] else ""),
        f"hard state     term {found['term']}, voted for {found['voted_for'] or 'nobody'}",
        f"oldest needed  segment {found['oldest_needed']}",
    ]


def _row(one: dict[str, Any]) -> list[str]:
    indices = f"{one['first_index']} - {one['last_index']}" if one["entries"] else ""
    note = "" if one["needed"] else "not needed any more"
    if one["gaps"]:
        note = "DAMAGED at " + ", ".join(str(gap["start"]) for gap in one["gaps"])
    return [
        one["name"], f"{one['records']:,}", f"{one['entries']:,}", indices, f"{one['used']:,}", f"{one['bytes']:,}", note,
    ]  # fmt: skip


def _notes(found: dict[str, Any]) -> list[str]:
    notes = []
    if found["in_use_by"] is not None:
        notes.append(f"process {found['in_use_by']} uses the directory: the end of the log moves")
    elif found["moving"]:
        notes.append("it was written to while it was read: the end of the log moves")
    if found["tail_bytes"]:
        notes.append(
            f"{found['tail_bytes']:,} bytes after the last record: a write in progress, or one that was interrupted and "
            "never acknowledged (the next start cuts it)"
        )
    notes += [f"DAMAGED  {one['file']} at offset {one['offset']}: {one['reason']}" for one in found["damage"]]
    return notes


@app.command("dump")
def _dump(
    directory: Directory,
    low: Annotated[int, typer.Option("--from", metavar="INDEX", help="Only entries from this one on.")] = 0,
    high: Annotated[
        int | None, typer.Option("--to", metavar="INDEX", help="Only entries up to this one.", show_default=False)
    ] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print all commands of an entry, with all their arguments in full.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each record.")] = False,
) -> None:
    """The records one by one, oldest first: where each lies, and what it says."""
    from raftkv.offline.wal import dumped

    if not as_json:
        print(f"{'segment':>8} {'offset':>10} {'kind':<10} {'term':>5} {'index':>10} {'bytes':>9} {'stored':>9}  round")
    try:
        for one in dumped(directory, low, high, whole=commands):
            print(json.dumps(one) if as_json else "\n".join(_lines(one, whole=commands)))
    except RaftKVError as error:
        fail("wal", error)


def _lines(one: dict[str, Any], *, whole: bool) -> list[str]:
    from raftkv.offline.entries import all_lines, one_line

    segment = one["segment"].partition(".")[0].lstrip("0") or "0"
    if one["kind"] == "DAMAGED":
        return [f"{segment:>8} {one['offset']:>10} DAMAGED    up to {one['end']}: {one['reason']}"]
    stored = f"{one['stored']}{' lz4' if one['lz4'] else ''}"
    line = (
        f"{segment:>8} {one['offset']:>10} {one['kind']:<10} {one['term']:>5} {one['index']:>10} {one['bytes']:>9} {stored:>9}"
        f"  {one['round']}"
    )
    if "voted_for" in one:
        return [f"{line}  voted for {one['voted_for'] or 'nobody'}"]
    if "entry" not in one:
        return [line]
    first, *more = all_lines(one) if whole else [one_line(one)]
    return [f"{line}  {first}", *(" " * 10 + text for text in more)]


@app.command("verify")
def _verify(directory: Directory, as_json: AsJson = False) -> None:
    """Check every header, every record and every rule of docs/architecture/formats.md; exit code 1 on damage."""
    found = _listing(directory)
    if as_json:
        print(json.dumps(found))
    else:
        print("\n".join(_verdict(found)))
    raise typer.Exit(EXIT_DAMAGED if found["damage"] else 0)


def _verdict(found: dict[str, Any]) -> list[str]:
    needed = [one for one in found["segments"] if one["needed"]]
    records = sum(one["records"] for one in needed)
    behind = sum(one["records_behind"] for one in needed)
    if not found["damage"]:
        entries = f"entries {found['first_index']} to {found['last_index']}" if found["last_index"] else "no entry"
        return [f"intact: {records:,} records in {len(needed)} segments, {entries}", *_notes(found)]
    lost = sum(gap["end"] - gap["start"] for one in needed for gap in one["gaps"])
    return [
        *_notes(found),
        f"{records:,} records verify, {behind:,} of them after damage in their segment; {lost:,} bytes do not",
        "No node leads or votes with this log: acknowledged entries may be among what is damaged. Its peers have them.",
    ]
