"""What the search has been through: which kind of fault hit a node in which role, in the middle of what.

A cell is (kind of fault, role, phase). A node may be in several phases at once, then it counts for each. What a cell
can be is bounded by what the fault aims at and by what a role does; the share of cells visited says how far a search
got, and the empty ones where a profile is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from chaos.sim.member import Member
    from chaos.sim.world import World

Cell = tuple[str, str, str]
"""Kind of fault, role, phase."""
State = list[tuple[str, str]]
"""Role and phase, for each phase that a node is in; empty for one that is down or has stopped."""

_COMMON: Final = ("replicating", "writing snapshot", "recovering")
_FOLLOWING: Final = (*_COMMON, "electing", "receiving snapshot", "behind")
PHASES: Final[dict[str, str]] = {
    "idle": "nothing of what follows",
    "replicating": "its log holds entries that it does not know to be committed",
    "electing": "it knows no leader",
    "transferring": "it leads and is handing over",
    "writing snapshot": "a snapshot of its state is being written",
    "sending snapshot": "it leads, and a follower is getting a snapshot",
    "receiving snapshot": "it has a part of one",
    "behind": "its log lacks entries that the leader knows to be committed",
    "recovering": "it was started again and has not yet applied what was applied somewhere before",
}
PHASES_OF_ROLE: Final[dict[str, frozenset[str]]] = {
    "leader": frozenset({*_COMMON, "idle", "transferring", "sending snapshot"}),
    "follower": frozenset({*_FOLLOWING, "idle"}),
    "candidate": frozenset(_FOLLOWING),
}
_LEADER: Final = ("leader",)
_OTHERS: Final = ("follower", "candidate")
AIMS_AT: Final[dict[str, tuple[str, ...]]] = {
    "isolate_leader": _LEADER,
    "kill_leader": _LEADER,
    "transfer": _LEADER,
    "isolate_follower": _OTHERS,
    "deaf_follower": _OTHERS,
}
"""Roles that a kind of fault can hit; what is not listed hits any."""


# -- observing
def observe(world: World) -> dict[str, State]:
    """Every node as it is right now."""
    leader = world.leader()
    return {one.id: _state(one, leader) for one in world.members.values()}


def _state(member: Member, leader: Member | None) -> State:
    if not member.up:
        return []
    incarnation, there_was = member.world.checks.lives.get(member.key, (0, 0))
    if incarnation != member.incarnation:  # it is reading its disk; ``replica`` still is that of its last life
        return [("follower", "recovering")]
    core = member.replica.core
    if core.halted:
        return []
    role = core.engine.role()
    phases = list(_leading(member) if role == "leader" else _following(member, leader))
    if member.replica.snapshots.checking:
        phases.append("writing snapshot")
    if member.log.last_index > core.committed:
        phases.append("replicating")
    if core.applied < there_was:
        phases.append("recovering")
    return [(role, phase) for phase in phases or ["idle"]]


def _leading(member: Member) -> Iterator[str]:
    if member.replica.transfer.target:
        yield "transferring"
    if member.replica.snapshots.sender.peers:
        yield "sending snapshot"


def _following(member: Member, leader: Member | None) -> Iterator[str]:
    if not member.replica.core.engine.leader_id:
        yield "electing"
    if member.replica.snapshots.receiver.is_receiving:
        yield "receiving snapshot"
    if leader is not None and member.log.last_index < leader.replica.core.committed:
        yield "behind"


# -- reporting
def cells(kinds: Iterable[str]) -> list[Cell]:
    """All that faults of these kinds can visit, by kind, role and phase."""
    return [
        (kind, role, phase)
        for kind in sorted(set(kinds))
        for role in PHASES_OF_ROLE
        if role in AIMS_AT.get(kind, PHASES_OF_ROLE)
        for phase in PHASES
        if phase in PHASES_OF_ROLE[role]
    ]


def matrix(visits: Counter[Cell], kinds: Iterable[str]) -> str:
    """Hits of each cell: ``--`` was not visited, an empty place is none that can be."""
    possible = cells(kinds)
    rows = dict.fromkeys((kind, role) for kind, role, _ in possible)
    heads = [phase.split() for phase in PHASES]
    wide = " " * 30
    lines = [
        "coverage: how often a fault of a kind hit a node in a role and phase (-- never)",
        wide + "".join(f"{head[0]:>13}" for head in heads),
        wide + "".join(f"{head[1] if len(head) > 1 else '':>13}" for head in heads),
    ]
    known = set(possible)
    for kind, role in rows:
        texts = (str(visits[kind, role, phase] or "--") if (kind, role, phase) in known else "" for phase in PHASES)
        lines.append(f"{kind:<19}{role:<11}" + "".join(f"{text:>13}" for text in texts))
    visited = sum(1 for cell in possible if visits[cell])
    share = 100 * visited / len(possible) if possible else 100.0
    lines.append(f"visited: {visited} of {len(possible)} cells ({share:.0f} %)")
    return "\n".join(lines)
