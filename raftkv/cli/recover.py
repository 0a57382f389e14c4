"""``raftkv recover``: looking at a survivor's data directory, and making a new cluster of it when the quorum is lost.

The work is done in :mod:`raftkv.server.recover`; here it is asked for, confirmed and explained. docs/recovery.md is the
page for operators.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.clock import SystemClock
from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.server.recover import MemberReport, Report

EXIT_NOT_DONE: Final = 1
"""Looked at, and damaged; or not confirmed."""
EXIT_REFUSED: Final = 2

CHOOSING: Final = """\
Quorum lost for good? Run this on every survivor, all of them stopped, and compare the first line: the highest last term wins,
among equals the highest last index (as in an election). Copy that directory to a safe place, then, on that node only:
  raftkv recover --force-new-cluster --data {path}
While a majority of the voters can still be brought back with its data, start those instead: nothing is lost then."""


def recover(
    data: Annotated[Path, typer.Option("--data", help="Data directory of the node, which must be stopped.")],
    force_new_cluster: Annotated[
        bool,
        typer.Option(
            "--force-new-cluster", help="Make this node the only member of a NEW cluster with the data that it holds."
        ),
    ] = False,
    cluster_id: Annotated[
        str,
        typer.Option("--cluster-id", metavar="ID", help="Id of the new cluster. Default: random.", show_default=False),
    ] = "",
    accept: Annotated[
        bool, typer.Option("--yes-i-accept-data-loss", help="Do not ask. Needed where there is no terminal.")
    ] = False,
    even_if_not_a_member: Annotated[
        bool,
        typer.Option(
            "--even-if-not-a-member",
            help="Also take a node that was removed, or never fully added, though its data is old or partial.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """When a majority of the voters is lost for good: look at a survivor, or go on with it alone.

    Without --force-new-cluster nothing is changed: it shows what the directory holds, and how to choose the best
    survivor. docs/recovery.md explains all of it.
    """
    if not force_new_cluster and (cluster_id or accept or even_if_not_a_member):
        _refuse("--cluster-id, --yes-i-accept-data-loss and --even-if-not-a-member belong to --force-new-cluster")
    from raftkv.server.recover import StoppedNode

    try:
        with StoppedNode(str(data), SystemClock().wall_ms() / 1000) as node:
            if not force_new_cluster:
                raise typer.Exit(_show(node.report, data, as_json=as_json))
            node.refuse(even_if_not_a_member=even_if_not_a_member)
            new_id = node.new_cluster_id(cluster_id, secrets.token_hex(8))
            say = _to_stderr if as_json else print
            _confirm(node.report, new_id, say, accepted=accept)
            index = node.recover(new_id, secrets.token_hex(8))
            if as_json:
                print(json.dumps({"cluster_id": new_id, "configuration_index": index, "before": asdict(node.report)}))
            for line in closing(node.report, new_id, index, data):
                say(line)
    except RaftKVError as error:
        _refuse(error.message)


def _refuse(message: str) -> None:
    print(f"raftkv recover: {message}", file=sys.stderr)
    raise typer.Exit(EXIT_REFUSED)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


# --------------------------------------------------------------------- looking
def _show(report: Report, data: Path, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print("\n".join(shown(report)))
        print("\n" + CHOOSING.format(path=quote(str(data))))
    return EXIT_NOT_DONE if report.damage or report.unusable else 0


def shown(report: Report) -> Iterable[str]:
    """The report for people; the first line is the one that survivors are compared by."""
    if report.last_term is None:
        yield "last term unknown, last index unknown"
    else:
        yield f"last term {report.last_term}, last index {report.last_index}"
    yield f"node         {report.node_id}"
    yield f"cluster      {report.cluster_id}"
    if report.next_cluster_id:
        yield f"             on its way to {report.next_cluster_id}: a recovery was interrupted; run it again"
    yield f"disk         {report.disk_id or 'without an id (written by an older version)'}"
    log, snapshot = report.log, report.snapshot
    if log is not None:
        yield f"term         {log.term}, voted for {log.voted_for or 'nobody'}"
        entries = (
            f"entries {log.first_index} to {log.last_index}, last term {log.last_term}" if log.last_index else "empty"
        )
        yield f"log          {entries}"
    if snapshot is None:
        yield "snapshot     none"
    else:
        age = "" if snapshot.age_s is None else f", written {_age(snapshot.age_s)} ago"
        yield f"snapshot     up to entry {snapshot.index}, term {snapshot.term}, {snapshot.size_bytes:,} bytes{age}"
    yield from _shown_members(report)
    for damage in report.damage:
        yield f"DAMAGED      {damage}"
    if report.unusable:
        yield f"UNUSABLE     {report.unusable}"


def _shown_members(report: Report) -> Iterable[str]:
    if report.log is None:
        return
    if not report.members:
        yield "members      neither log nor snapshot names any: those of the setting peers"
        return
    yield f"members      by entry {report.configuration_index}:"
    for one in report.members:
        here = ", this node" if one.node_id == report.node_id and report.is_member else ""
        yield f"  {_named(one)}{'' if one.voter else ', learner'}{here}"
    if not report.is_member:
        yield "             THIS NODE IS NOT AMONG THEM (removed, or never fully added)"


def _named(one: MemberReport) -> str:
    return f"{one.node_id} at {one.address or 'an unknown address'}"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


# ------------------------------------------------------------------ recovering
def _confirm(report: Report, new_id: str, say: Callable[[str], None], *, accepted: bool) -> None:
    for line in warning(report, new_id):
        say(line)
    if accepted:
        return
    if not sys.stdin.isatty():
        _refuse("there is no terminal to confirm at; --yes-i-accept-data-loss confirms. Nothing was changed")
    print(
        f"To go on, type the id of the cluster that is given up ({report.cluster_id}): ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    if sys.stdin.readline().strip() != report.cluster_id:
        print("raftkv recover: not confirmed; nothing was changed", file=sys.stderr)
        raise typer.Exit(EXIT_NOT_DONE)


def warning(report: Report, new_id: str) -> Iterable[str]:
    """What is going to happen, and what it may cost."""
    covered = report.snapshot.index if report.snapshot else 0
    learner = next((one for one in report.members if one.node_id == report.node_id and not one.voter), None)
    yield f"FORCING A NEW CLUSTER: cluster {report.cluster_id} is given up, {report.node_id} alone begins cluster {new_id}."
    yield f"It goes on from entry {report.last_index} (last term {report.last_term})."
    yield "WHAT MAY BE LOST: every write that was acknowledged by the other members and had not reached this node."
    if learner is not None or not report.is_member:
        yield "  THIS NODE WAS NO VOTER: that may be much."
    yield (
        f"WHAT MAY APPEAR: entries after {covered} may never have been committed; they are applied now, also those "
        "whose clients were told that the outcome is unknown."
    )
    yield from (f"DAMAGED: {one}" for one in report.damage)
    yield "The other members, WHICH MUST NEVER BE STARTED AGAIN WITH THEIR OLD DATA (two clusters would serve side by side):"
    yield from _given_up(report)


def _given_up(report: Report) -> Iterable[str]:
    if not report.others:
        yield "  all that the setting peers named, but for this node"
    for one in report.others:
        yield f"  {_named(one)}{f', disk {one.disk_id}' if one.disk_id else ''}"


def closing(report: Report, new_id: str, index: int, data: Path) -> Iterable[str]:
    """What to do next."""
    node_id = report.node_id
    yield ""
    yield f"DONE: {node_id} is the only member of cluster {new_id} (entry {index})."
    yield f"1. Set cluster_id = {new_id} in its settings; what follows from peers is the old id. Its peers need no change: only the"
    yield "   log says who the members are. Then start it; it elects itself, applies its whole log, and serves:"
    yield f"     raftkv server --id {node_id} --cluster-id {new_id} --data {quote(str(data))} ...   (the rest as before)"
    yield "2. Delete, or lock away, the old data of the other members. Never start it again."
    yield "3. One voter alone survives nothing: add fresh nodes, each with an empty directory, and wait until it is a voter:"
    yield f"     raftkv server --id NEW --join --cluster-id {new_id} --data EMPTY ...   (peer_listen reachable, same peer_secret)"
    yield "     raftkv cluster add NEW HOST:PORT                                        (its peer address)"
    yield "4. Tell the clients' owners: acknowledged writes may be missing, and unknown ones may be there."
