"""A fresh data directory out of a point in a cluster's history: the beginning of a new cluster.

The directory is created under an identity that says "on its way to the new cluster": no node starts on it until
state and log are complete and durable, and the last step says that it has arrived. What stands in it:

* one snapshot, the state after the point's entry, with the new members as its configuration. The members' disks are not
  in it (the leader registers them when it meets them), so that it is the same on every node that is restored alike;
* a log that goes on from it: the hard state with the point's term, without a vote, and two empty entries that carry
  the point's index and term, as a survivor's log has them (:mod:`raftkv.consensus.survivor`).

The new cluster has an id of its own, which members prove to each other when they connect: nodes of the old cluster are
never talked to. With several members it is derived from the state, so that nodes which were restored to different
points, or from different backups, do not talk to each other either.

Time stamps go on from the point's (the state remembers the newest, and never goes back). Client sessions and watches
are forgotten: they are promises about the old history. A client that goes on with an old session is told
SESSIONEXPIRED. Alarms are forgotten as well: they speak of disks that the new cluster has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from persistence.directory import DataDirectory, Identity, refuse_content
from persistence.errors import PersistenceError
from persistence.files import Files, OsFiles
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log
from raftkv.consensus.configuration import Configuration, Member, wrap
from raftkv.consensus.snapshots import NO_OP
from raftkv.errors import RaftKVError
from raftkv.machine.machine import StateMachine
from raftkv.offline.backup import told
from raftkv.offline.points import Point

INDEX_MIN = 2
"""The log needs an entry before the point's."""
PROOF_DIGITS = 12
SNAPSHOT_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Restored:
    """What came about."""

    cluster_id: str
    digest: str
    """Of the whole state, as RAFT.STATUS shows it."""
    keys: int


def new_cluster_id(wanted: str, random: str, point: Point, members: dict[str, str]) -> str:
    """The id of the new cluster. Raises RaftKVError when it cannot be one.

    With several members ``wanted`` is needed (it must be the same on all, and new for every restore) and gets a proof
    appended to it: a hash of state, place and members.
    """
    if len(members) > 1 and not wanted:
        raise RaftKVError(
            "with several members --cluster-id is needed: a new name, the same for each of them, or they would not "
            "find together. Simpler: restore one node, start it, and add the others"
        )
    chosen = wanted or f"c-{random}"
    if len(members) > 1:
        about = f"{point.cluster_id} {point.index} {point.term} {point.machine.digest()[0]} {sorted(members.items())}"
        chosen += "." + sha256(about.encode()).hexdigest()[:PROOF_DIGITS]
    if point.cluster_id in (wanted, chosen):
        raise RaftKVError(
            f"--cluster-id is {point.cluster_id}, the id that the data comes from: old nodes could mix with the new; choose another"
        )
    return chosen


def check_destination(path: str, files: Files | None = None) -> None:
    """Raise RaftKVError when no data directory can be made at ``path``: to be known before
    minutes go into reading a state.
    """
    files = files or OsFiles()
    with told(path):
        if files.exists(path):
            refuse_content(path, files)
        elif not files.exists(parent := str(Path(path).absolute().parent)):
            raise RaftKVError(f"cannot make {path}: there is no directory {parent}; create it")


def restore(
    point: Point,
    path: str,
    *,
    node_id: str,
    members: dict[str, str],
    cluster_id: str,
    disk_id: str,
    files: Files | None = None,
) -> Restored:
    """Make the data directory ``path`` of node ``node_id``; ``members`` are ids and peer
    addresses (empty: not known yet).

    Raises RaftKVError. Then there is no directory, or one on which no node starts; to try again, empty it.
    """
    files = files or OsFiles()
    if point.index < INDEX_MIN:
        raise RaftKVError(f"entry {point.index} cannot be restored to, {INDEX_MIN} is the first that can")
    if node_id not in members:
        raise RaftKVError(f"{node_id} is not among the members: {', '.join(members)}")
    machine = point.machine
    machine.begin_anew()
    digest, _ = machine.digest()
    configuration = Configuration.of(Member(one, address) for one, address in members.items())
    extra = wrap(Configuration(configuration.members, point.index), NO_OP)
    with told(path):
        identity = Identity(node_id, point.cluster_id, disk_id, next_cluster_id=cluster_id)
        with DataDirectory.create(path, identity, files) as directory:
            try:
                _fill(directory, machine, SnapshotMeta(point.index, point.term, extra), files)
            except (PersistenceError, OSError) as error:
                raise RaftKVError(
                    f"interrupted: {error}. No node starts on {path} unless it is whole; mend the cause, empty it, and restore again"
                ) from error
    return Restored(cluster_id, digest, sum(one.size for one in machine.keyspace.databases))


def _fill(directory: DataDirectory, machine: StateMachine, meta: SnapshotMeta, files: Files) -> None:
    writer = SnapshotStore(directory.snapshot_path, files).begin(meta, SNAPSHOT_LEVEL)
    for chunk in machine.dump():
        writer.write(chunk)
    writer.commit()
    with Log.open(directory.log_path, files=files) as log:
        log.append(meta.index - 1, meta.term, NO_OP)
        log.append(meta.index, meta.term, NO_OP)
        log.set_hard_state(meta.term, None)
    if log.failed is not None:
        raise log.failed
    directory.finish_move()
