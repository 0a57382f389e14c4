"""Making and reading backups: what :mod:`persistence.backup` does, with the state's own facts
and this package's errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from persistence.backup import Backup, BackupInfo, Origin, save_backup, show_time, stream_backup
from persistence.errors import PersistenceError
from persistence.files import Files, OsFiles
from raftkv.errors import RaftKVError
from raftkv.machine.summary import StateSummary

__all__ = ["BackupInfo", "Origin", "info", "opened", "save", "show_time", "stream", "told", "verify"]

Read = Callable[[int, int], bytes]
"""``read(offset, length)``: at least one byte of a snapshot, at most ``length``."""


@contextmanager
def told(path: str) -> Iterator[None]:
    """Errors of persistence and of the system as RaftKVError that names ``path``."""
    try:
        yield
    except PersistenceError as error:
        raise RaftKVError(str(error)) from error
    except OSError as error:
        raise RaftKVError(f"cannot use {error.filename or path}: {error.strerror or error}") from error


def save(path: str, origin: Origin, read: Read, files: Files | None = None) -> BackupInfo:
    """Write the backup ``path``, which must not exist: verified, synced, all of it or nothing. Raises RaftKVError."""
    files = files or OsFiles()
    if files.exists(path):
        raise RaftKVError(f"{path} exists; nothing was written. Choose another name, or remove it")
    with told(path):
        return save_backup(files, str(Path(path).parent), path, origin, read, StateSummary())


def stream(write: Callable[[bytes], None], origin: Origin, read: Read) -> BackupInfo:
    """Write a backup into a pipe: who reads it has to check its end (``raftkv backup verify``). Raises RaftKVError."""
    with told("the output"):
        return stream_backup(write, origin, read, StateSummary())


def info(path: str, files: Files | None = None) -> BackupInfo:
    """What a backup says of itself; its content is not read. Raises RaftKVError."""
    with opened(path, files) as backup:
        return backup.info


def verify(path: str, files: Files | None = None) -> BackupInfo:
    """Read all of a backup, decompression included. Raises RaftKVError that names file and offset of the damage."""
    summary = StateSummary()
    with opened(path, files) as backup:
        for piece in backup:
            summary.feed(piece)
        found, facts = summary.finish(), backup.facts
        if found != (facts.stamp_ms, facts.keys):
            raise RaftKVError(f"{path} does not hold what its trailer says: {found[1]} keys, not {facts.keys}")
        return backup.info


@contextmanager
def opened(path: str, files: Files | None = None) -> Iterator[Backup]:
    """An open backup. Raises RaftKVError, also for what is raised while it is read."""
    with told(path):
        file = (files or OsFiles()).open_read(path)
        try:
            yield Backup(file)
        finally:
            file.close()
