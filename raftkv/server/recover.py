"""``raftkv recover``: what the data directory of a stopped node holds, and a new cluster out of it (loss of quorum).

Looking goes through a layer that keeps all changes to itself, so that nothing on the disk changes. A recovery takes
three steps, each durable before the next, in an order that leaves no moment in which a crash does harm:

1. the identity says that the data is on its way to another cluster: from now on no node starts on it, as a member of
   neither cluster, and this command can be run again;
2. the log gets the configuration in which this node is the only member (:mod:`raftkv.consensus.survivor`);
3. the identity says that the data has arrived.

The other way round, a crash after the log was written would leave a node that elects itself under the *old* cluster's
id, beside old members that come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from persistence.directory import DataDirectory, explain
from persistence.errors import CorruptionError, PersistenceError
from persistence.files import Files, OsFiles, join
from persistence.overlay import OverlayFiles
from persistence.snapshots import SnapshotInfo, SnapshotStore
from persistence.wal import Log
from raftkv.config import SETTINGS
from raftkv.consensus.configuration import Configuration, Member
from raftkv.consensus.soundness import never_held_a_term
from raftkv.consensus.survivor import Holding, examine, go_alone
from raftkv.errors import ConfigError, InvariantError, RaftKVError

OTHER_SURVIVOR: Final = "recover another survivor if there is one, or restore this directory from a copy"


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """The newest valid snapshot."""

    file: str
    index: int
    term: int
    size_bytes: int
    age_s: float | None
    """Since it was written; None when the file system does not say."""


@dataclass(frozen=True, slots=True)
class LogReport:
    """The log and the hard state; ``first_index`` and ``last_index`` are 0 when it holds no entry."""

    term: int
    voted_for: str | None
    first_index: int
    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class MemberReport:
    """A member by the newest configuration."""

    node_id: str
    address: str
    disk_id: str
    voter: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What one survivor holds. The first two fields are what survivors are compared by; None when that is not known."""

    last_term: int | None
    last_index: int | None
    node_id: str
    cluster_id: str
    next_cluster_id: str
    """Not empty: a recovery into this cluster was interrupted."""
    disk_id: str
    log: LogReport | None
    """None when it is damaged."""
    snapshot: SnapshotReport | None
    configuration_index: int
    """Log entry of the newest configuration; 0 when neither log nor snapshot has one."""
    members: tuple[MemberReport, ...]
    is_member: bool
    """Whether the newest configuration has this node, with this disk; True also when there is none."""
    others: tuple[MemberReport, ...]
    """The members that a new cluster gives up."""
    damage: tuple[str, ...]
    """What does not verify, by file."""
    unusable: str
    """Why no cluster can be made of it, and what to do; empty if one can."""


class StoppedNode:
    """The data directory of a node that does not run, locked. A context manager."""

    def __init__(self, path: str, now_s: float, files: Files | None = None) -> None:
        """Lock it and look at it; ``now_s`` is the time since the Unix epoch.

        Raises RaftKVError when there is no node's data, another process uses it, or the system refuses.
        """
        self._files = files or OsFiles()
        self._now_s = now_s
        try:
            self._directory = DataDirectory.open_stopped(path, self._files)
        except PersistenceError as error:
            raise RaftKVError(str(error)) from error
        try:
            self.report = self._look()
        except OSError as error:
            self.close()
            raise RaftKVError(str(explain(error, path))) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use the directory. Idempotent."""
        self._directory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ looking
    def _look(self) -> Report:
        aside = self._directory.identity.aside
        if aside:
            raise RaftKVError(
                f"a repair of {self._directory.path} was interrupted: run raftkv repair on it, which finishes it, then look into "
                f"what was damaged with --data {join(self._directory.path, aside)}"
            )
        files = OverlayFiles(self._files)
        try:
            store = SnapshotStore(self._directory.snapshot_path, files)
            newest = store.newest()
            damage = [join(store.directory, name) + ": " + reason for name, reason in store.damaged.items()]
            try:
                log = Log.open(self._directory.log_path, files=files)
            except CorruptionError as error:
                return self._report(None, newest, None, [*damage, str(error)], _unusable_log(error, newest))
            newest_index = newest.index if newest else 0
            # What the directory says is of the disk: the layer has a log now.
            if lost := self._directory.lost_log or never_held_a_term(log, newest_index):
                damage.append(f"{log.directory}: {lost}")
            try:
                holding = examine(log, newest.meta if newest else None)
            except (InvariantError, CorruptionError) as error:
                return self._report(log, newest, None, damage, f"{_text(error)}; {OTHER_SURVIVOR}")
            unusable = (
                "" if holding.last_index else "the directory holds no entry and no snapshot: nothing to go on with"
            )
            return self._report(log, newest, holding, damage, unusable)
        finally:
            files.close()

    def _report(
        self, log: Log | None, newest: SnapshotInfo | None, holding: Holding | None, damage: list[str], unusable: str
    ) -> Report:
        identity = self._directory.identity
        configuration = holding.configuration if holding else Configuration()
        given_up = configuration
        if holding and identity.next_cluster_id and configuration.ids == (identity.node_id,):
            given_up = holding.before  # the configuration of the recovery that was interrupted is there already
        own = configuration.get(identity.node_id)
        return Report(
            last_term=holding.last_term if holding else None,
            last_index=holding.last_index if holding else None,
            node_id=identity.node_id,
            cluster_id=identity.cluster_id,
            next_cluster_id=identity.next_cluster_id,
            disk_id=identity.disk_id,
            log=_log_report(log) if log else None,
            snapshot=self._snapshot_report(newest) if newest else None,
            configuration_index=configuration.index,
            members=tuple(map(_member_report, configuration.members)),
            is_member=not configuration.members or (own is not None and own.disk in {"", identity.disk_id}),
            others=tuple(_member_report(one) for one in given_up.members if one.node_id != identity.node_id),
            damage=tuple(damage),
            unusable=unusable,
        )

    def _snapshot_report(self, info: SnapshotInfo) -> SnapshotReport:
        path = Path(self._directory.snapshot_path) / info.name
        try:
            age_s = round(max(0.0, self._now_s - path.stat().st_mtime), 1)
        except OSError:
            age_s = None
        return SnapshotReport(info.name, info.index, info.term, info.size_bytes, age_s)

    # ------------------------------------------------------------ recovering
    def new_cluster_id(self, wanted: str, random: str) -> str:
        """The new cluster's id: what was asked for, what an interrupted recovery began with, or ``c-`` and ``random``.

        Raises ConfigError on one that cannot be.
        """
        chosen = wanted or self.report.next_cluster_id or f"c-{random}"
        kind = SETTINGS["cluster_id"].kind
        try:
            kind.read(chosen)
        except ValueError:
            raise ConfigError(f"--cluster-id is {chosen!r}; allowed: {kind.allowed}") from None
        self._refuse_own_cluster(chosen)
        return chosen

    def _refuse_own_cluster(self, chosen: str) -> None:
        if chosen == self.report.cluster_id:
            raise ConfigError(
                f"--cluster-id is {chosen}, the old one: old members that come back could mix with the new; choose another"
            )

    def refuse(self, *, even_if_not_a_member: bool) -> None:
        """Raise RaftKVError when no cluster can, or should, be made of this directory."""
        report = self.report
        if report.unusable:
            raise RaftKVError(report.unusable)
        if not report.is_member and not even_if_not_a_member:
            raise RaftKVError(
                f"{report.node_id} (disk {report.disk_id or 'without an id'}) is no member by the newest configuration that "
                f"it holds (entry {report.configuration_index}): it was removed, or never fully added, and what it has is "
                "old or partial; recover another survivor. If there is none: --even-if-not-a-member"
            )

    def recover(self, cluster_id: str, new_disk_id: str) -> int:
        """Make the directory that of the only member of cluster ``cluster_id``; the log entry that says so.

        ``new_disk_id`` is for a directory without a disk id, or one whose disk was removed. Raises RaftKVError; then
        the old cluster is as it was, or the same can be run again (the message says so). ConfigError when it is that
        cluster's already, as after a recovery that was done and is run again.
        """
        self._refuse_own_cluster(cluster_id)
        report, directory = self.report, self._directory
        disk_id = report.disk_id if report.is_member and report.disk_id else new_disk_id
        try:
            newest = SnapshotStore(directory.snapshot_path, self._files).newest()
            with Log.open(directory.log_path, files=self._files) as log:
                directory.begin_move(cluster_id, disk_id)
                directory.begin_log(log.salt)
                index = go_alone(log, newest.meta if newest else None, report.node_id, disk_id)
            if log.failed is not None:
                raise log.failed
            directory.finish_move()
        except (PersistenceError, OSError) as error:
            raise RaftKVError(
                f"interrupted: {error}. Whatever was done, no node starts on {directory.path} in a wrong state: mend the "
                "cause and run the same command again"
            ) from error
        return index


def _unusable_log(error: CorruptionError, newest: SnapshotInfo | None) -> str:
    last = (
        f"; if there is neither, move {Path(error.path).parent} away: the snapshot up to entry {newest.index} (term "
        f"{newest.term}) is intact, and everything after it is lost then"
        if newest
        else ""
    )
    return f"the log cannot be trusted, acknowledged entries may be among what is damaged ({error}); {OTHER_SURVIVOR}{last}"


def _text(error: Exception) -> str:
    return error.message if isinstance(error, RaftKVError) else str(error)


def _log_report(log: Log) -> LogReport:
    state = log.hard_state
    return LogReport(state.term, state.voted_for, log.first_index, log.last_index, log.last_term)


def _member_report(member: Member) -> MemberReport:
    return MemberReport(member.node_id, member.address, member.disk, member.voter)
