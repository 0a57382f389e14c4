"""Errors of this package. Each says whether the operation certainly did not happen (``definite``)."""

from __future__ import annotations


class PersistenceError(Exception):
    """Base of all errors raised on purpose here.

    ``definite`` is True when the operation that raised it certainly has no effect, now or after a restart.
    """

    definite = True


class OutOfRangeError(PersistenceError, IndexError):
    """The caller's fault: an index that the log does not hold, or an append that would leave a hole."""


class CorruptionError(PersistenceError):
    """Bytes that were once durable are damaged; names the file and the offset of the damage."""

    definite = False

    def __init__(self, path: str, offset: int, reason: str) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        super().__init__(f"{path} is damaged at offset {offset}: {reason}")


class CorruptLogError(CorruptionError):
    """A log that must not be used: acknowledged records may be among the damaged ones."""


class CorruptSnapshotError(CorruptionError):
    """A snapshot whose bytes do not match its checksums."""


class CorruptBackupError(CorruptionError):
    """A backup whose bytes do not match its checksums."""


class CorruptArchiveError(CorruptionError):
    """A file of an archive whose bytes do not match its checksums."""


class ArchiveError(PersistenceError):
    """An archive that does not hold what was asked of it: a gap, another cluster's files, a point out of range."""


class UnknownVersionError(CorruptLogError, CorruptSnapshotError):
    """Intact, and of a format version that this program does not read: another program's data, no damage."""


class LogFailedError(PersistenceError):
    """A write or a sync failed once. What the disk holds is unknown until the log is opened again."""

    definite = False


class LogClosedError(PersistenceError):
    """The log was closed by its owner."""


class SnapshotError(PersistenceError):
    """A snapshot could not be written or received; the ones that were there are untouched."""


class DirectoryError(PersistenceError):
    """A data directory that cannot be used; the message says why and what to do."""


class DirectoryLockedError(DirectoryError):
    """Another process uses the directory; ``holder_pid`` is its process id, or None if it cannot be read."""

    def __init__(self, path: str, holder_pid: int | None, what: str = "data directory") -> None:
        self.holder_pid = holder_pid
        holder = f"process {holder_pid}" if holder_pid is not None else "another process"
        super().__init__(f"{what} {path} is in use by {holder}; stop it first, or choose another directory")


class IdentityError(DirectoryError):
    """The directory belongs to another node or cluster, or to a newer version of the format."""
