"""``raftkv snapshot``: looking into snapshots. What is found out is in :mod:`raftkv.offline.snapshot`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from raftkv.cli.tables import table
from raftkv.cli.wal import EXIT_DAMAGED, AsJson, fail
from raftkv.errors import RaftKVError

app = typer.Typer(
    help="Look into a node's snapshots. Nothing is locked or changed; the node may be running.", no_args_is_help=True
)

Anything = Annotated[
    Path,
    typer.Argument(metavar="PATH", help="A snapshot, or a directory with snapshots, such as a node's data directory."),
]


class Form(StrEnum):
    """What ``dump --format`` takes."""

    JSON = "json"
    RESP = "resp"


@app.command("ls")
def _ls(path: Anything, as_json: AsJson = False) -> None:
    """List snapshots by their headers; what follows these is not read."""
    from raftkv.offline.snapshot import listing

    try:
        _show(listing(path), as_json=as_json)
    except RaftKVError as error:
        fail("snapshot", error)


@app.command("verify")
def _verify(path: Anything, as_json: AsJson = False) -> None:
    """Check all checksums, and decompress everything; exit code 1 on damage."""
    from raftkv.offline.snapshot import verified

    try:
        found = verified(path)
    except RaftKVError as error:
        fail("snapshot", error)
    _show(found, as_json=as_json)
    raise typer.Exit(EXIT_DAMAGED if any(one["damage"] for one in found) else 0)


def _show(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        [
            Path(one["file"]).name,
            _number(one["index"]),
            _number(one["term"]),
            _number(one["bytes"]),
            _number(one["content_bytes"]),
            "DAMAGED" if one["damage"] else "" if one["complete"] else "being written or received",
        ]
        for one in found
    ]
    print(table(("file", "index", "term", "bytes", "content", ""), rows, {"index", "term", "bytes", "content"}))
    print("\n".join(f"DAMAGED  {one['damage']}" for one in found if one["damage"]), end="")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


@app.command("info")
def _info(path: Anything, as_json: AsJson = False) -> None:
    """What is in a snapshot (of a directory: the newest): members, keys by type and database, the largest, by prefix.

    Bytes are those of keys and values; memory needs more.
    """
    from raftkv.offline.snapshot import info

    try:
        found = info(path)
    except RaftKVError as error:
        fail("snapshot", error)
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    from raftkv.offline.entries import quoted

    ratio = found["content_bytes"] / found["bytes"]
    keys = sum(one["keys"] for one in found["types"])
    lines = [
        f"file      {found['file']}",
        f"entry     {found['index']}, term {found['term']} ({found['last_entry']})",
        f"time      {found['time']}",
        f"size      {found['bytes']:,} bytes, {found['content_bytes']:,} before compression ({ratio:.1f} to 1)",
        f"members   {_members(found)}",
        f"clients   {found['sessions']} sessions, {found['watches']} watched keys",
        *(f"ALARM     {one['kind']} of {one['node']}: {one['reason']}" for one in found["alarms"]),
        f"keys      {keys:,}, {found['expired']:,} more have expired by then",
        "",
        table(
            ("db", "type", "keys", "elements", "bytes", "with expiry"),
            [[str(one["db"]), one["type"], *map(_number, _sums(one))] for one in found["types"]],
            {"keys", "elements", "bytes", "with expiry"},
        ),
        "",
        table(
            ("largest", "db", "type", "elements", "bytes"),
            [
                [quoted(one["key"]), str(one["db"]), one["type"], _number(one["elements"]), _number(one["bytes"])]
                for one in found["largest"]
            ],
            {"elements", "bytes"},
        ),
        "",
        table(
            ("prefix", "keys", "elements", "bytes", "with expiry"),
            [
                [quoted(one["prefix"]) if one["prefix"] else "(none)", *map(_number, _sums(one))]
                for one in found["prefixes"]
            ],
            {"keys", "elements", "bytes", "with expiry"},
        ),
    ]
    return lines if keys else lines[:-6]


def _sums(one: dict[str, Any]) -> tuple[int, int, int, int]:
    return one["keys"], one["elements"], one["bytes"], one["expiring"]


def _members(found: dict[str, Any]) -> str:
    if found["members"] is None:
        return "none named: it was written by an older version"
    voters, learners = found["members"]["voters"], found["members"]["learners"]
    shown = [one["id"] for one in voters] + [f"{one['id']} (learner)" for one in learners]
    return f"{', '.join(shown) or 'none'}, by entry {found['configuration_index']}"


@app.command("dump")
def _dump(
    path: Anything,
    form: Annotated[
        Form, typer.Option("--format", help="json: one line a key. resp: commands, for `redis-cli --pipe`.")
    ] = Form.JSON,
) -> None:
    """All keys of a snapshot (of a directory: the newest), on standard output."""
    from raftkv.offline.snapshot import as_json, as_resp, state_of

    try:
        keyspace = state_of(path).keyspace
    except RaftKVError as error:
        fail("snapshot", error)
    if form is Form.JSON:
        for one in as_json(keyspace):
            print(json.dumps(one, ensure_ascii=False))
        return
    for data in as_resp(keyspace):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
