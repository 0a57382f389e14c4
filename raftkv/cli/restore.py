"""``raftkv restore``: a fresh data directory, and with it a new cluster, out of a backup or a point of an archive."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.config import SETTINGS
from raftkv.errors import ConfigError, RaftKVError

if TYPE_CHECKING:
    from raftkv.offline.points import Point, Target
    from raftkv.offline.restore import Restored

EXIT_REFUSED: Final = 2


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A backup, or an archive's directory.", show_default=False)
    ],
    data: Annotated[
        Path, typer.Option("--data", help="Data directory to make. It must be empty, or not exist.", show_default=False)
    ],
    node_id: Annotated[str, typer.Option("--id", help="Name of the node.")] = "n1",
    peers: Annotated[
        str,
        typer.Option("--peers", metavar="ID=HOST:PORT,...", help="All members of the new cluster. Default: this node alone.",
                     show_default=False),
    ] = "",
    archive: Annotated[
        Path | None, typer.Option("--archive", help="After the backup, apply the entries of this archive.", show_default=False)
    ] = None,
    to_index: Annotated[int | None, typer.Option("--to-index", help="Stop after this log entry.", show_default=False)] = None,
    to_time: Annotated[
        str,
        typer.Option("--to-time", metavar="TIME", help="Stop after the last entry stamped at or before this time, such as 2026-11-21T14:03:07Z.",
                     show_default=False),
    ] = "",
    cluster_id: Annotated[
        str,
        typer.Option("--cluster-id", metavar="ID", help="Id of the new cluster. Default: random; needed with several members.",
                     show_default=False),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:  # fmt: skip
    """Make the data directory of a node of a NEW cluster with the state of a backup, or of a point in an archive.

    Simplest: restore one node, start it, and add the others with `raftkv cluster add`.
    docs/backup.md explains all of it.
    """
    try:
        members = _members(node_id, peers)
        _check("cluster_id", cluster_id, "--cluster-id")
        _check("node_id", node_id, "--id")
        from raftkv.offline.restore import check_destination, new_cluster_id
        from raftkv.offline.restore import restore as make

        check_destination(str(data))
        point = _point(source, archive, _target(to_index, to_time))
        print(f"entry {point.index}, term {point.term}, of cluster {point.cluster_id} is loaded", file=sys.stderr)
        chosen = new_cluster_id(cluster_id, secrets.token_hex(8), point, members)
        _check("cluster_id", chosen, "--cluster-id")
        made = make(point, str(data), node_id=node_id, members=members, cluster_id=chosen, disk_id=secrets.token_hex(8))
    except RaftKVError as error:
        print(f"raftkv restore: {error.message}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from None
    if as_json:
        about = {"node": node_id, "index": point.index, "term": point.term, "stamp_ms": point.machine.stamp_ms}
        print(json.dumps(asdict(made) | about | {"from_cluster": point.cluster_id}))
        return
    for line in closing(made, point, node_id, members, data):
        print(line)


def _target(index: int | None, time: str) -> Target:
    from raftkv.offline.points import Target, parse_time

    return Target(index, parse_time(time) if time else None)


def _point(source: Path, archive: Path | None, target: Target) -> Point:
    from raftkv.offline import points
    from raftkv.offline.backup import told

    with told(str(source)):
        is_archive = source.is_dir()
    if is_archive:
        if archive is not None:
            raise RaftKVError("--archive goes with a backup; an archive alone needs no other one")
        return points.of_archive(str(source), target)
    if archive is not None:
        return points.of_backup_and_archive(str(source), str(archive), target)
    if target != points.NEWEST:
        raise RaftKVError(f"{source} is one point; to go to {target}, give the --archive that goes on from it")
    return points.of_backup(str(source))


def _members(node_id: str, peers: str) -> dict[str, str]:
    if not peers:
        return {node_id: ""}
    _check("peers", peers, "--peers")
    members: dict[str, str] = SETTINGS["peers"].kind.read(peers)
    return members


def _check(name: str, value: str, flag: str) -> None:
    kind = SETTINGS[name].kind
    try:
        kind.read(value)
    except ValueError as error:
        raise ConfigError(f"{flag} is {value!r}: {error}; allowed: {kind.allowed}") from None


def closing(made: Restored, point: Point, node_id: str, members: dict[str, str], data: Path) -> Iterable[str]:
    """What came about, and what to do next."""
    from raftkv.offline.backup import show_time

    peers = ",".join(f"{one}={address}" for one, address in members.items())
    given = f" --peers {peers}" if len(members) > 1 else ""
    yield f"restored     entry {point.index}, of {show_time(point.machine.stamp_ms)}: {made.keys:,} keys"
    yield f"digest       {made.digest}"
    yield f"new cluster  {made.cluster_id} (was {point.cluster_id})"
    yield f"start        raftkv server --id {node_id} --cluster-id {made.cluster_id} --data {quote(str(data))}{given} ...   (the rest as before)"
    if given:
        yield "others       restore each from the same source to the same point, with the same --peers and --cluster-id;"
        yield "             the new id must come out the same, or their states differ and they will not talk to each other"
    else:
        yield f"others       raftkv server --id NEW --join --cluster-id {made.cluster_id} --data EMPTY ..., then raftkv cluster add"
