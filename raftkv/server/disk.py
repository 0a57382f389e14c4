"""What a node finds on its disk at the start: its log, its snapshots, and the state machine that the newest one gives.

It takes seconds at a million keys, so it runs on a thread and says how far it is; the event loop answers meanwhile.
What cannot be trusted is set aside, so that the others take this node back (:mod:`raftkv.server.repair`), or leaves as
PersistenceError, before the node exists: it then serves nobody and votes for nobody.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from persistence.directory import DataDirectory
from persistence.files import OsFiles
from persistence.reserve import Reserve
from persistence.snapshots import SnapshotInfo, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.clock import Clock
from raftkv.config import Settings
from raftkv.consensus.soundness import UnsoundError, check_sound, sound_log
from raftkv.errors import RaftKVError
from raftkv.machine.machine import StateMachine
from raftkv.server import logs
from raftkv.server.metrics import Metrics
from raftkv.server.progress import Progress
from raftkv.server.repair import examine, refuse_alone, set_aside
from raftkv.server.timing import TimedFiles


@dataclass(frozen=True, slots=True)
class Disk:
    """Recovered, and ready for a node to go on with."""

    log: Log
    store: SnapshotStore
    machine: StateMachine
    """As ``snapshot`` has it; empty without one."""
    snapshot: SnapshotInfo | None
    """The newest that verifies."""
    reserve: Reserve
    """Found, or to be made."""


def open_disk(settings: Settings, directory: DataDirectory, clock: Clock, metrics: Metrics, progress: Progress) -> Disk:
    """Check the log, load the newest snapshot; with ``repair = auto``, set aside what is damaged and begin anew.

    Raises UnsoundError (damage that was durable once), UnknownVersionError, InvariantError (a snapshot of another
    version), RaftKVError (damage, and nobody to repair it from), OSError, AbandonedError.
    """
    try:
        return _open(settings, directory, clock, metrics, progress)
    except UnsoundError as damage:
        _repair(settings, directory, damage)
    return _open(settings, directory, clock, metrics, progress)


def _repair(settings: Settings, directory: DataDirectory, damage: UnsoundError) -> None:
    if settings.repair == "manual":
        raise RaftKVError(
            f"{damage}. This node may have forgotten what it acknowledged, so it serves nobody and votes for nobody. To have "
            f"it repaired by the others: raftkv repair {directory.path}, and start it again (repair is manual)"
        ) from damage
    report = logs.get_logger("raftkv.server")
    finding = examine(directory)
    refuse_alone(finding, settings.peers)
    for one in finding.damage:
        report.error("damaged", file=one.file, offset=one.offset, reason=one.reason)
    path = set_aside(directory, finding, secrets.token_hex(8))
    report.error(
        "this node has lost a part of what it held: it waits until the others take it back, and gets everything from them",
        former_disk=finding.disk_id, disk=directory.disk_id, damaged_content=path, others=",".join(finding.addresses),
    )  # fmt: skip


def _begin_log(directory: DataDirectory, salt: int, reserve: Reserve) -> None:
    """Writes when the log is new; on a full disk, as that is, with the room of the ``reserve``."""
    try:
        directory.begin_log(salt)
    except OSError as error:
        if not reserve.helps(error, "the identity"):
            raise
        directory.begin_log(salt)


def _open(settings: Settings, directory: DataDirectory, clock: Clock, metrics: Metrics, progress: Progress) -> Disk:
    reserve = Reserve(directory.path, settings.disk_reserve_bytes, OsFiles())
    metrics.slow_syncs.bound_s = settings.disk_slow_ms / 1000
    progress.begin("log")
    salt = secrets.randbelow((1 << 64) - 1) + 1  # for a log that has none
    log = sound_log(
        directory,
        lambda: Log.open(
            directory.log_path,
            LogOptions(segment_bytes=settings.segment_bytes, fsync=settings.fsync, salt=salt),
            TimedFiles(OsFiles(), clock.monotonic, metrics.observe_fsync),
            reserve=reserve,
            progress=progress.at,
        ),
    )
    try:
        _begin_log(directory, log.salt, reserve)
        progress.begin("snapshot")
        machine = StateMachine(digest_interval=settings.digest_interval)
        store = SnapshotStore(directory.snapshot_path, reserve=reserve)
        snapshot = store.load_newest(machine.load, progress.at)
        check_sound(log, snapshot.index if snapshot else 0, store)
    except BaseException:
        log.close()
        raise
    report = logs.get_logger("raftkv.consensus")
    for name, reason in store.damaged.items():
        report.error("damaged snapshot skipped", file=name, reason=reason)
    progress.begin("replay")
    return Disk(log, store, machine, snapshot, reserve)
