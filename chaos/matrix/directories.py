"""A node's directory: whose it is, and how it moves to another cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chaos.matrix.cells import Judgement, LostError
from chaos.matrix.faults import CellDisk
from chaos.matrix.logs import state_of
from persistence.directory import DataDirectory, Identity
from persistence.errors import CorruptionError, IdentityError
from persistence.overlay import OverlayFiles
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.consensus.configuration import Configuration, Member, wrap
from raftkv.consensus.snapshots import NO_OP
from raftkv.errors import RaftKVError
from raftkv.server.recover import StoppedNode

PATH: Final = "data/n1"
NODE, DISK, NEW_DISK = "n1", "disk1", "disk2"
RESTORED_PATH: Final = "data/restored"
RESTORED: Final = Identity(NODE, "", DISK, "c-restored")
OLD, NEW, OTHER = "c-old", "c-new", "c-other"
OPTIONS: Final = LogOptions(segment_bytes=64 << 10, preallocate=False, salt=1 << 60)
THREE: Final = Configuration.of(Member(f"n{one}", f"h{one}:1", f"disk{one}") for one in (1, 2, 3))
SNAPSHOT_INDEX: Final = 5
LAST_INDEX: Final = 8
STATE: Final = b"state up to 5"


def open_as(disk: CellDisk, cluster: str) -> DataDirectory:
    """As the node of this cluster would. Raises LostError when it says that it lost a log: none ever is."""
    directory = DataDirectory.open(PATH, node_id=NODE, cluster_id=cluster, new_disk_id=DISK, files=disk)
    if lost := directory.lost_log:
        raise LostError(lost)
    return directory


def begin_log(directory: DataDirectory, disk: CellDisk) -> Log:
    """As a node does at its start."""
    log = Log.open(directory.log_path, OPTIONS, disk)
    directory.begin_log(log.salt)
    return log


class DirectoryLife:
    """Created, opened again, given a log, moved to another cluster."""

    def __init__(self) -> None:
        self.clusters = [""]
        """What it may belong to: the last that was certain, and what was begun since; "" for nobody's."""
        self.restored = False
        """Another directory was created for a cluster to which it is on its way (``raftkv restore``)."""
        self.log_begun = False

    def prepare(self, disk: CellDisk) -> None:
        """Nothing was there before."""

    def live(self, disk: CellDisk) -> None:
        DataDirectory.create(RESTORED_PATH, RESTORED, disk).close()
        self.restored = True
        self._to(OLD, lambda: open_as(disk, OLD).close())
        with open_as(disk, OLD) as directory:
            begin_log(directory, disk).close()
            self.log_begun = True
            self._to("moving", lambda: directory.begin_move(NEW, "disk2"))
            self._to(NEW, directory.finish_move)
        open_as(disk, NEW).close()

    def _to(self, cluster: str, step: Callable[[], None]) -> None:
        self.clusters.append(cluster)
        step()
        self.clusters = [cluster]

    def open(self, disk: CellDisk) -> None:
        if disk.exists(f"{PATH}/identity"):
            DataDirectory.open_stopped(PATH, disk).close()
        else:
            self.clusters.append(OLD)
            open_as(disk, OLD).close()

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        try:
            found = self._belongs_to(disk)
            if found and not damaged:
                self._check_log(disk)
        except IdentityError as error:
            if not damaged or "is damaged" not in str(error):
                raise LostError(str(error)) from error
            return "refused"
        if self.restored and not damaged:
            with DataDirectory.open_stopped(RESTORED_PATH, disk) as directory:
                if directory.identity != RESTORED:
                    raise LostError(f"the directory that was created is that of {directory.identity}")
        if found not in self.clusters:
            raise LostError(f"it belongs to {found or 'nobody'}, not to {' or '.join(self.clusters)}")
        disk.power_cut(0, "nothing")
        if found and self._belongs_to(disk) != found:
            raise LostError(f"that it belongs to {found} was not on the disk")
        self._go_on(disk, found)
        return "survived"

    @staticmethod
    def _belongs_to(disk: CellDisk) -> str:
        if not disk.exists(f"{PATH}/identity"):
            return ""
        with DataDirectory.open_stopped(PATH, disk) as directory:
            return "moving" if directory.identity.next_cluster_id else directory.identity.cluster_id

    def _check_log(self, disk: CellDisk) -> None:
        with DataDirectory.open_stopped(PATH, disk) as directory:
            if self.log_begun and directory.log_salt != OPTIONS.salt:
                raise LostError("that a log was begun is forgotten")
            if lost := directory.lost_log:
                raise LostError(lost)
            if directory.log_salt:
                Log.open(directory.log_path, OPTIONS, OverlayFiles(disk)).close()

    @staticmethod
    def _go_on(disk: CellDisk, found: str) -> None:
        if found == "moving":
            for cluster in (OLD, NEW):
                try:
                    open_as(disk, cluster).close()
                except IdentityError:
                    continue
                raise LostError(f"it opened for {cluster} in the middle of a move")
            with DataDirectory.open_stopped(PATH, disk) as directory:
                directory.finish_move()
            found = NEW
        open_as(disk, found or OTHER).close()
        disk.power_cut(0, "nothing")
        with open_as(disk, found or OTHER) as directory:
            if directory.created:
                raise LostError("the identity that it was given after the recovery is not there")


def fill(disk: CellDisk) -> None:
    """The directory of a member that was killed: a snapshot, and a log."""
    with open_as(disk, OLD) as directory:
        writer = SnapshotStore(directory.snapshot_path, disk).begin(
            SnapshotMeta(SNAPSHOT_INDEX, 3, wrap(Configuration.decode(THREE.encode(), 2), b"\x00entry 5"))
        )
        writer.write(STATE)
        writer.commit()
        log = begin_log(directory, disk)
        log.set_hard_state(3, "n2")
        for index in range(1, LAST_INDEX + 1):
            log.append(index, 3, _entry(index))
            log.sync()
    disk.kill()


class MoveLife:
    """``raftkv recover``: the directory of a survivor becomes that of a new cluster's only member."""

    def __init__(self) -> None:
        self.done = False

    def prepare(self, disk: CellDisk) -> None:
        fill(disk)

    def live(self, disk: CellDisk) -> None:
        self._recover(disk)
        self.done = True
        open_as(disk, NEW).close()

    @staticmethod
    def _recover(disk: CellDisk) -> None:
        with StoppedNode(PATH, 0, disk) as node:
            node.refuse(even_if_not_a_member=False)
            node.recover(NEW, "another-disk")

    def open(self, disk: CellDisk) -> None:
        try:
            self._recover(disk)
        except RaftKVError:
            if self._cluster(disk) != NEW:  # it is done: a second time is refused
                raise

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        try:
            found = self._cluster(disk)
            if self.done and found != NEW and not damaged:
                raise LostError(f"it was moved to {NEW}, and belongs to {found}")
            if found == OLD:
                self._check_untouched(disk)
            if found != NEW:
                self._recover(disk)
            self._check(disk, damaged=damaged)
            disk.power_cut(0, "nothing")
            self._check(disk, damaged=damaged)
        except (IdentityError, CorruptionError, RaftKVError) as error:
            if not damaged:
                raise LostError(f"{type(error).__name__}: {error}") from error
            return "refused"
        return "survived"

    @staticmethod
    def _cluster(disk: CellDisk) -> str:
        with DataDirectory.open_stopped(PATH, disk) as directory:
            return "moving" if directory.identity.next_cluster_id else directory.identity.cluster_id

    @staticmethod
    def _check_untouched(disk: CellDisk) -> None:
        """As long as it belongs to the old cluster, its log says nothing of a new one."""
        overlay = OverlayFiles(disk)
        entries, _ = state_of(Log.open(f"{PATH}/log", OPTIONS, overlay))
        overlay.close()
        if entries and entries[-1][1] > LAST_INDEX:
            raise LostError("the old cluster's node would start as the only member of a new one")

    @staticmethod
    def _check(disk: CellDisk, *, damaged: bool) -> None:
        """All entries, after them the configuration in which it is alone; and the snapshot.

        With damage the last sync round may be gone, as the log had not been closed.
        """
        with open_as(disk, NEW) as directory:
            entries, _ = state_of(Log.open(directory.log_path, OPTIONS, disk))
            store = SnapshotStore(directory.snapshot_path, disk)
            newest = store.newest()
            if newest is None or b"".join(store.read(newest)) != STATE:
                raise LostError("the snapshot is not there")
        payloads = {index: payload for payload, index, _ in entries}
        missing = [index for index in range(SNAPSHOT_INDEX + 1, LAST_INDEX + 1) if payloads.get(index) != _entry(index)]
        if missing and not (damaged and missing == [LAST_INDEX]):
            raise LostError(f"entries {missing} are not there, or others")
        last, index, _ = entries[-1]
        alone = Configuration.decode(last, index)
        if alone.ids != (NODE,):
            raise LostError(f"the last entry says that the members are {', '.join(alone.ids)}")


def _entry(index: int) -> bytes:
    if index == 1:
        return NO_OP
    return THREE.encode() if index == 2 else b"\x00entry %d" % index


class AsideLife:
    """``raftkv repair``: log and snapshots are set aside, and the node begins anew as another disk."""

    def __init__(self) -> None:
        self.done = False

    def prepare(self, disk: CellDisk) -> None:
        fill(disk)
        disk.open(f"{PATH}/identity.part", create=True).append(b"of a process that ended while it wrote")

    def live(self, disk: CellDisk) -> None:
        with open_as(disk, OLD) as directory:
            directory.set_aside(NEW_DISK, b"why")
            self.done = True
            begin_log(directory, disk).close()

    def open(self, disk: CellDisk) -> None:
        open_as(disk, OLD).close()

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        try:
            with open_as(disk, OLD) as directory:
                if self.done and directory.disk_id != NEW_DISK:
                    raise LostError("it was set aside, and the node is the disk that it was")
                self._check(disk, directory)
            disk.power_cut(0, "nothing")
            with open_as(disk, OLD) as directory:
                self._check(disk, directory)
                if directory.disk_id == DISK:
                    directory.set_aside(NEW_DISK, b"why")
            disk.power_cut(0, "nothing")
            with open_as(disk, OLD) as directory:
                self._check(disk, directory)
                if directory.disk_id != NEW_DISK:
                    raise LostError("what was set aside after the recovery is back")
        except IdentityError as error:
            if not damaged:
                raise LostError(str(error)) from error
            return "refused"
        return "survived"

    @staticmethod
    def _check(disk: CellDisk, directory: DataDirectory) -> None:
        """As it was under the old disk id, all in the place that was set aside under the new one; never less."""
        held = directory.log_path, directory.snapshot_path
        if directory.disk_id == NEW_DISK:
            if DISK not in directory.repairs:
                raise LostError("the node does not know which disk it was")
            entries, _ = state_of(Log.open(directory.log_path, OPTIONS, disk))
            if entries:
                raise LostError("it has its old log as a new disk")
            aside = directory.asides()[-1]
            held = f"{aside}/log", f"{aside}/snapshots"
        entries, hard_state = state_of(Log.open(held[0], OPTIONS, OverlayFiles(disk)))
        newest = SnapshotStore(held[1], disk).newest()
        if len(entries) != LAST_INDEX or hard_state != (3, "n2") or newest is None or newest.index != SNAPSHOT_INDEX:
            raise LostError(f"{held[0]} holds {len(entries)} entries, term and vote {hard_state}, snapshot {newest}")
