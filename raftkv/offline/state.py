"""A snapshot file as the state that it holds."""

from __future__ import annotations

from dataclasses import dataclass

from persistence.errors import CorruptSnapshotError
from persistence.files import File, Files, OsFiles
from persistence.snapshot_file import declared_bytes
from persistence.snapshots import SnapshotContent, SnapshotMeta
from raftkv.consensus.configuration import Configuration, unwrap
from raftkv.errors import InvariantError, RaftKVError
from raftkv.machine.machine import StateMachine
from raftkv.store.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """What one snapshot file holds."""

    meta: SnapshotMeta
    configuration: Configuration | None
    """The members as of its last entry; None in a snapshot of a version without them."""
    last_entry: bytes
    """The payload of entry ``meta.index``: the engine goes on from it."""
    machine: StateMachine
    """Its ``stamp_ms`` is the time of the snapshot: keys that expired later are still in it."""

    @property
    def keyspace(self) -> Keyspace:
        return self.machine.keyspace


def load_snapshot(path: str, files: Files | None = None) -> SnapshotState:
    """Verify the whole file and load it. It may be any copy, under any name. Raises RaftKVError that names it."""
    try:
        file = (files or OsFiles()).open_read(path)
    except OSError as error:
        raise RaftKVError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return read_snapshot(file)
    finally:
        file.close()


def read_snapshot(file: File) -> SnapshotState:
    """As :func:`load_snapshot`, out of any open file (a backup carries a snapshot after a header of its own).

    Raises RaftKVError that names the file when it is damaged, of an unknown version, or cannot be read.
    """
    machine = StateMachine()
    try:
        content = SnapshotContent(file, bytes_max=declared_bytes(file))
        configuration, last_entry = unwrap(content.meta.extra)
        machine.load(content)
    except CorruptSnapshotError as error:
        raise RaftKVError(str(error)) from error
    except InvariantError as error:
        raise RaftKVError(f"{file.path}: {error.message}") from error
    except OSError as error:
        raise RaftKVError(f"cannot read {file.path}: {error.strerror or error}") from error
    return SnapshotState(content.meta, configuration, last_entry, machine)
