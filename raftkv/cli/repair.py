"""``raftkv repair``: setting the damaged content of a stopped node aside, so that the others take the node back.

The work is done in :mod:`raftkv.server.repair`; here it is asked for, confirmed and explained.
docs/repair.md is the page for operators.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.cli.tables import table
from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.server.repair import Finding, StoppedNode

EXIT_NOT_DONE: Final = 1
"""Damaged, and not confirmed."""
EXIT_REFUSED: Final = 2


def repair(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Data directory of the node, which must be stopped.")],
    accept: Annotated[bool, typer.Option("--yes", help="Do not ask. Needed where there is no terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """A damaged log or snapshot: say what is damaged, and set it aside so that the other nodes take this one back.

    Its next start does the rest. A sound directory is refused, and left as it is. docs/repair.md explains all of it.
    """
    from raftkv.server.repair import StoppedNode

    try:
        with StoppedNode(str(data)) as node:
            _repair(node, accepted=accept, as_json=as_json)
    except RaftKVError as error:
        _refuse(error.message)


def _repair(node: StoppedNode, *, accepted: bool, as_json: bool) -> None:
    from raftkv.server.repair import refuse_alone

    finding = node.finding
    if node.aside:
        _say(finding, node.aside, as_json=as_json)
        return
    if not finding.unsound:
        _refuse(f"nothing that {finding.node_id} needs is damaged in {finding.path}; start it. Nothing was changed")
    if not as_json:
        print("\n".join(shown(finding)))
    if finding.members:
        refuse_alone(finding, {})
    if not accepted and not _confirmed(finding, as_json=as_json):
        raise typer.Exit(EXIT_NOT_DONE)
    node.set_aside(secrets.token_hex(8))
    _say(finding, node.aside, as_json=as_json)


def _refuse(message: str) -> None:
    print(f"raftkv repair: {message}", file=sys.stderr)
    raise typer.Exit(EXIT_REFUSED)


def _confirmed(finding: Finding, *, as_json: bool) -> bool:
    if as_json:
        print(json.dumps({"done": False, "aside": "", **asdict(finding)}))
    if not sys.stdin.isatty():
        print("raftkv repair: there is no terminal to confirm at; --yes confirms. Nothing was changed", file=sys.stderr)
        return False
    print(f"To go on, type the id of the node ({finding.node_id}): ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() == finding.node_id:
        return True
    print("raftkv repair: not confirmed; nothing was changed", file=sys.stderr)
    return False


def shown(finding: Finding) -> Iterator[str]:
    """For people: what is damaged, what can be read, what is going to happen."""
    yield f"node         {finding.node_id} of cluster {finding.cluster_id}, disk {finding.disk_id}"
    yield f"unusable     {finding.unsound}"
    yield ""
    rows = [(one.file, "" if one.offset is None else f"{one.offset:,}", one.reason) for one in finding.damage]
    yield table(("damaged", "offset", "reason"), rows, {"offset"})
    yield ""
    between = f", between {finding.first_index} and {finding.last_index}" if finding.entries else ""
    yield f"readable     {finding.entries:,} entries of the log{between}"
    covered = finding.snapshot_index
    yield f"             {f'a snapshot up to entry {covered}' if covered else 'no snapshot'}"
    if not finding.members:
        yield "members      none can be read: those of the setting peers are asked"
    for one in finding.members:
        here = ", this node" if one.node_id == finding.node_id else ""
        yield f"member       {one.node_id} at {one.address or 'an unknown address'}{'' if one.voter else ', learner'}{here}"
    yield ""
    yield "What happens: all of it is moved aside and kept, and this node begins empty, with another disk id. When it is started, a"
    yield "leader makes it a member without a vote, and it gets everything; then it votes again. For that a majority of the OTHER"
    yield "voters must be up, with their data. If another one is damaged, too: copy both directories first (docs/repair.md)."


def _say(finding: Finding, aside: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"done": True, "aside": aside, **asdict(finding)}))
        return
    print()
    print(f"DONE: what was damaged is in {aside}; delete it when you need it no more.")
    print("Start the node as before. Until it votes again, /ready answers 503 and says what it waits for.")
