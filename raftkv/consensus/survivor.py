"""Loss of quorum: what a stopped node holds, and how it becomes a group of one that goes on with it. No I/O of its own.

Theory: Raft has no answer here. A committed entry is on a majority; when a majority is gone for good, no rule finds out
whether the nodes that are left hold it. What they can do is give up the old group: one survivor, best the one whose log
would win an election among them (Raft 5.4.1: highest last term, then highest last index), starts a new group with all
it has, entries that were never committed included. This is what etcd's ``--force-new-cluster`` does, too.

The new group is made in the log: an entry of a new term with a configuration in which only this node votes. From
there on all rules of consensus hold again.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftkv.consensus.configuration import Configuration, unwrap
from raftkv.consensus.journal import WriteAheadLog
from raftkv.consensus.membership import configurations
from raftkv.consensus.snapshot_sender import Meta
from raftkv.consensus.snapshots import NO_OP, begins_late, continues
from raftkv.errors import InvariantError


@dataclass(frozen=True, slots=True)
class Holding:
    """What a stopped node holds of its group."""

    last_index: int
    """Of log and snapshot together, as a start of the node would see them; 0: nothing."""
    last_term: int
    configuration: Configuration
    """The newest, committed or not; without members when neither log nor snapshot has one."""
    before: Configuration
    """The one before it, or the same."""


def examine(log: WriteAheadLog, snapshot: Meta | None) -> Holding:
    """Raises InvariantError when the two do not belong together, or an entry is damaged."""
    late = begins_late(log, snapshot.index if snapshot else 0)
    if late:
        raise InvariantError(late)
    base = (snapshot and unwrap(snapshot.extra)[0]) or Configuration()
    if snapshot is not None and not continues(log, snapshot):
        return Holding(snapshot.index, snapshot.term, base, base)
    before = newest = base
    for following in configurations(log, snapshot.index if snapshot else 0):
        before, newest = newest, following
    return Holding(log.last_index, log.last_term, newest, before)


def go_alone(log: WriteAheadLog, snapshot: Meta | None, node_id: str, disk: str) -> int:
    """Make ``node_id``, which calls its directory ``disk``, the only member. The entry is durable on return; its index.

    May be repeated after a crash, whatever part of it had become durable. Raises what :func:`examine` does.
    """
    holding = examine(log, snapshot)
    term = max(log.hard_state.term, holding.last_term) + 1
    if snapshot is not None and not continues(log, snapshot):
        # As the engine does when it starts; it needs the entry before the snapshot's last one as well.
        log.clear()
        log.append(snapshot.index - 1, snapshot.term, NO_OP)
        log.append(snapshot.index, snapshot.term, unwrap(snapshot.extra)[1])
    index = holding.last_index + 1
    log.set_hard_state(term, None)
    log.append(index, term, holding.configuration.alone(node_id, disk).encode())
    log.sync()
    return index
