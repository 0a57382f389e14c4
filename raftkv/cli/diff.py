"""``raftkv diff``: what changed between two points, each a backup, a snapshot, a stopped node,
or a point of an archive.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.offline.diff import Counts, Difference, Side
    from raftkv.offline.points import Point

EXIT_DIFFERENT: Final = 1
EXIT_CANNOT: Final = 2
_MARKS: Final = {"added": "+", "removed": "-", "changed": "~"}
_WHAT: Final = "A backup, a snapshot file, a stopped node's data directory, an archive, or ARCHIVE@INDEX, ARCHIVE@TIME."


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=_WHAT, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with; the same kinds.", show_default=False)],
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Leave out types, sizes and values.")] = False,
    match: Annotated[str, typer.Option("--match", metavar="PATTERN", help="Only keys that match, as KEYS does.")] = "*",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for each difference; the last line has the counts.")
    ] = False,
) -> None:
    """Keys that were added (+), removed (-) or changed (~) from A to B, by database.

    Exit code 0 when the two are equal, 1 when they differ, 2 when one cannot be had. Both
    states are loaded into memory.
    """
    from raftkv.offline.diff import Counts, differences
    from raftkv.offline.points import load_point

    counts = Counts()
    try:
        old, new = load_point(a), load_point(b)
        for one in (old, new):
            print(_told(one), file=sys.stderr)
        for found in differences(old.machine.keyspace, new.machine.keyspace, counts, os.fsencode(match)):
            print(_as_json(found, keys_only=keys_only) if as_json else line(found, keys_only=keys_only))
    except RaftKVError as error:
        print(f"raftkv diff: {error.message}", file=sys.stderr)
        raise typer.Exit(EXIT_CANNOT) from None
    print(json.dumps(_sums(counts)) if as_json else summary(counts))
    raise typer.Exit(EXIT_DIFFERENT if counts.differ else 0)


def _told(point: Point) -> str:
    from raftkv.offline.backup import show_time

    cluster = f", cluster {point.cluster_id}" if point.cluster_id else ""
    note = f"\n  {point.note}" if point.note else ""
    return f"{point.source}: entry {point.index}, {show_time(point.machine.stamp_ms)}{cluster}{note}"


def _as_json(found: Difference, *, keys_only: bool) -> str:
    fields = found.fields()
    return json.dumps({name: fields[name] for name in ("database", "key", "change")} if keys_only else fields)


def _sums(counts: Counts) -> dict[str, dict[str, int]]:
    return {
        name: {str(database): count for database, count in getattr(counts, name).items()}
        for name in ("added", "removed", "changed", "equal")
    }


def line(found: Difference, *, keys_only: bool = False) -> str:
    """``~ 0 key  string of 1 bytes "a" -> "b"``, always one line."""
    text = _line(found, keys_only=keys_only)
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _line(found: Difference, *, keys_only: bool) -> str:
    head = f"{_MARKS[found.change]} {found.database} {found.name}"
    if keys_only:
        return head
    old, new = found.before, found.after
    if old is None or new is None:
        side = old or new
        assert side is not None  # it is in one of them
        return f"{head}  {_kind(side)} {side.value}{_expiry(side)}"
    what = f"{_kind(old)} {old.value} -> {_kind(new) + ' ' if _kind(old) != _kind(new) else ''}{new.value}"
    if (old.kind, old.elements, old.bytes, old.value) == (new.kind, new.elements, new.bytes, new.value):
        what = (
            f"{_kind(old)}"
            if old.expire_at_ms != new.expire_at_ms
            else f"{_kind(old)} {old.value}, different further on"
        )
    if old.expire_at_ms != new.expire_at_ms:
        what += f", expires {_when(old)} -> {_when(new)}"
    return f"{head}  {what}"


def _kind(side: Side) -> str:
    return f"{side.kind} of {side.bytes:,} bytes" if side.kind == "string" else f"{side.kind} of {side.elements:,}"


def _expiry(side: Side) -> str:
    return "" if side.expire_at_ms is None else f", expires {_when(side)}"


def _when(side: Side) -> str:
    from raftkv.offline.backup import show_time

    return "never" if side.expire_at_ms is None else show_time(side.expire_at_ms)


def summary(counts: Counts) -> str:
    """A line for each database that holds anything, and their sum."""
    names = ("added", "removed", "changed", "equal")
    databases = sorted({number for name in names for number in getattr(counts, name)})
    lines = [
        f"db{number}: " + ", ".join(f"{getattr(counts, name).get(number, 0):,} {name}" for name in names)
        for number in databases
    ]
    if len(databases) != 1:
        lines.append("all: " + ", ".join(f"{sum(getattr(counts, name).values()):,} {name}" for name in names))
    return "\n".join(lines)
