"""Damage: what a node's directory has lost, and setting it aside so that the others take the node back.

By itself at the start (setting ``repair``), or by ``raftkv repair``. What happens then between the nodes is
in :mod:`raftkv.consensus.readmission`, the order on the disk in :mod:`persistence.directory`;
docs/repair.md is the operator's page.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from persistence import inspect
from persistence.directory import DataDirectory, explain
from persistence.errors import DirectoryError, PersistenceError
from persistence.files import Files, OsFiles, join
from persistence.overlay import OverlayFiles
from persistence.records import ENTRY, Record
from persistence.snapshots import SnapshotInfo, SnapshotStore
from persistence.wal import Log
from raftkv.config_values import split_address
from raftkv.consensus.configuration import CONFIGURATION, Configuration, unwrap
from raftkv.consensus.soundness import UnsoundError, check_sound, sound_log
from raftkv.errors import InvariantError, RaftKVError

KEPT: Final = 2
"""Directories with damaged content that are kept; older ones are deleted."""


@dataclass(frozen=True, slots=True)
class Damage:
    """``offset`` is None when all of the file, or something that is not there, is meant."""

    file: str
    offset: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class KnownMember:
    """A member by the newest configuration that could be read, which need not be the newest."""

    node_id: str
    address: str
    voter: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """What a directory has lost, and what can still be read of it."""

    path: str
    node_id: str
    cluster_id: str
    disk_id: str
    unsound: str
    """Why no node may go on with it as it is; empty if one may."""
    damage: tuple[Damage, ...]
    entries: int
    """That verify, also after the damage, and also such that were replaced later."""
    first_index: int
    last_index: int
    snapshot_index: int
    """Last entry in the newest valid snapshot; 0: there is none."""
    members: tuple[KnownMember, ...]
    addresses: dict[str, str]
    """Where other members were, by all configurations that could be read."""

    @property
    def helpers(self) -> tuple[str, ...]:
        """The other voters, one of which has to take this node back."""
        return tuple(one.node_id for one in self.members if one.voter and one.node_id != self.node_id)


def examine(directory: DataDirectory, files: Files | None = None) -> Finding:
    """Read all of it, and change nothing. Raises UnknownVersionError for another program's files, and OSError."""
    layer = OverlayFiles(files or OsFiles())
    try:
        store = SnapshotStore(directory.snapshot_path, layer)
        newest = store.newest()
        unsound = ""
        damage: list[Damage] = []
        try:
            log = sound_log(directory, lambda: Log.open(directory.log_path, files=layer))
            check_sound(log, newest.index if newest else 0, store)
        except UnsoundError as error:
            unsound = str(error)
            damage.append(Damage(error.path, error.offset, error.reason))
        damage += (one for one in _gaps(directory.log_path, layer) if all(one.offset != it.offset for it in damage))
        damage += (Damage(join(store.directory, name), None, reason) for name, reason in store.damaged.items())
        return _finding(directory, unsound, damage, newest, layer)
    finally:
        layer.close()


def _gaps(log: str, files: Files) -> Iterator[Damage]:
    for segment in inspect.look(log, files).segments if _is_there(log, files) else ():
        if segment.needed:
            yield from (Damage(join(log, segment.name), gap.start, gap.reason) for gap in segment.gaps)


def _is_there(log: str, files: Files) -> bool:
    try:
        files.listdir(log)
    except FileNotFoundError:  # nothing, or a link to what is not mounted
        return False
    return True


def _finding(
    directory: DataDirectory, unsound: str, damage: list[Damage], newest: SnapshotInfo | None, files: Files
) -> Finding:
    found = [(newest.term, held) for held in (unwrap(newest.meta.extra)[0],) if held] if newest else []
    indices = []
    for record, body in _entries(directory.log_path, files):
        indices.append(record.entry_index)
        if body[:1] == bytes([CONFIGURATION]):
            with suppress(InvariantError):
                found.append((record.term, Configuration.decode(body, record.entry_index)))
    found.sort(key=lambda one: (one[0], one[1].index))
    latest = found[-1][1] if found else Configuration()
    own = directory.node_id
    return Finding(
        path=directory.path,
        node_id=own,
        cluster_id=directory.identity.cluster_id,
        disk_id=directory.disk_id,
        unsound=unsound,
        damage=tuple(damage),
        entries=len(indices),
        first_index=min(indices, default=0),
        last_index=max(indices, default=0),
        snapshot_index=newest.index if newest else 0,
        members=tuple(KnownMember(one.node_id, one.address, one.voter) for one in latest.members),
        addresses={
            one.node_id: one.address for _, held in found for one in held.members if one.address and one.node_id != own
        },
    )


def _entries(log: str, files: Files) -> Iterator[tuple[Record, bytes]]:
    if _is_there(log, files):
        for _, one, body in inspect.records(log, files):
            if isinstance(one, Record) and one.kind == ENTRY:
                yield one, body


def refuse_alone(finding: Finding, peers: Mapping[str, str]) -> None:
    """Raise RaftKVError when there is nobody who could give the node what it lost. ``peers``: of the settings."""
    others = finding.helpers if finding.members else tuple(one for one in peers if one != finding.node_id)
    if not others:
        raise RaftKVError(
            f"{finding.unsound}. {finding.node_id} is the only voter by all that can be read of its log: nobody else has what is "
            "damaged. Restore a backup (raftkv restore) or a copy of the directory, or go on with what is intact (raftkv "
            "recover, docs/recovery.md). Nothing was changed"
        )


def set_aside(directory: DataDirectory, finding: Finding, new_disk_id: str) -> str:
    """Move what there is away, and make the node one that waits to be taken back; the path where the old content is.

    Raises PersistenceError or OSError; then it is as it was, or the next start (or ``raftkv repair``) finishes it.
    """
    for one in (directory.log_path, directory.snapshot_path):
        if Path(one).is_mount():  # said before anything is begun: nobody could finish it
            raise DirectoryError(
                f"{finding.unsound}. {one} is a mount point, and cannot be set aside: unmount it, keep what is on it, and run "
                f"raftkv repair {directory.path}; then mount an empty file system there. Nothing was changed"
            )
    path = directory.set_aside(new_disk_id, json.dumps(asdict(finding), indent=1).encode())
    for old in directory.asides()[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)  # what stays of it is deleted the next time
    return path


class StoppedNode:
    """The data directory of a node that does not run, locked, and what it has lost. A context manager."""

    def __init__(self, path: str, files: Files | None = None) -> None:
        """Raises RaftKVError when there is no node's data, another process uses it, or the system refuses.

        Finishes what an interrupted :func:`set_aside` had begun: then ``aside`` is not empty, and nothing is left to
        do.
        """
        self.aside = ""
        self._path = path
        with self._explained():
            self._directory = DataDirectory.open_stopped(path, files)
            try:
                if self._directory.identity.aside:
                    self._directory.finish_setting_aside()
                    self.aside = self._directory.asides()[-1]
                self.finding = examine(self._directory, files)
            except BaseException:
                self._directory.close()
                raise

    def set_aside(self, new_disk_id: str) -> None:
        """:func:`set_aside`, and where its content is now, in ``aside``. Raises RaftKVError."""
        with self._explained():
            self.aside = set_aside(self._directory, self.finding, new_disk_id)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except PersistenceError as error:
            raise RaftKVError(str(error)) from error
        except OSError as error:
            raise RaftKVError(str(explain(error, self._path))) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.close()


def known_members(directory: DataDirectory) -> dict[str, str]:
    """Where the others were, by the report of the newest damage; empty when nothing of it can be read any more."""
    found = {}
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        for node_id, address in json.loads(directory.notes())["addresses"].items():
            split_address(address)
            found[str(node_id)] = str(address)
    return found
