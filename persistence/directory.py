"""The data directory of one node: who owns it, and that one process at a time uses it.

::

    DIR/lock        flock'ed by the process that uses the directory; holds its process id
    DIR/identity    one line of JSON: format version, node id, cluster id, disk id, checksum
    DIR/log/        see persistence.wal
    DIR/snapshots/  see persistence.snapshots
"""

from __future__ import annotations

import errno
import json
import os
from types import TracebackType
from typing import NamedTuple, Self

from crc32c import crc32c

from persistence.errors import DirectoryError, DirectoryLockedError, IdentityError
from persistence.files import FileLock, Files, LockHeldError, OsFiles, join

FORMAT_VERSION = 1
IDENTITY_BYTES_MAX = 64 << 10
IDENTITY, LOCK, LOG, SNAPSHOTS = "identity", "lock", "log", "snapshots"
_IDENTITY_PART = IDENTITY + ".part"

_REMEDIES = {
    errno.EROFS: "the file system is read-only; remount it writable (check the kernel log for disk errors first)",
    errno.EACCES: "permission denied; give this user read and write access",
    errno.EPERM: "permission denied; give this user read and write access",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EIO: "the disk reports an input/output error; replace it and let the node recover from its peers",
    errno.ENOTDIR: "a file is in the way; choose another directory",
    errno.EEXIST: "a file is in the way; choose another directory",
    errno.ENOENT: "its parent directory does not exist; create it",
}


def explain(error: OSError, path: str) -> DirectoryError:
    """An error of the system, said with what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    return DirectoryError(f"cannot use data directory {path}: {remedy}")


class Identity(NamedTuple):
    """Whose data a directory holds."""

    node_id: str
    cluster_id: str
    disk_id: str


class DataDirectory:
    """An open, locked data directory. ``created`` is True when this :meth:`open` made it: a node without a past."""

    def __init__(
        self, path: str, node_id: str, cluster_id: str, disk_id: str, lock: FileLock, *, created: bool
    ) -> None:
        """Use :meth:`open`."""
        self.path = path
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.disk_id = disk_id
        """Random, made with the directory: tells it from another one of the same node."""
        self.created = created
        self.log_path = join(path, LOG)
        self.snapshot_path = join(path, SNAPSHOTS)
        self._lock = lock

    @classmethod
    def open(
        cls, path: str, *, node_id: str, cluster_id: str, new_disk_id: str = "", files: Files | None = None
    ) -> DataDirectory:
        """Create or check the directory and lock it for this process.

        ``new_disk_id`` (random) is what it is called from now on if it has no disk id yet.
        Raises DirectoryLockedError, IdentityError (another node's, another cluster's, a newer version's, or
        damaged), or DirectoryError for what the system refuses.
        """
        files = files or OsFiles()
        try:
            files.make_dir(path)
            lock = files.lock(join(path, LOCK), str(os.getpid()).encode())
        except LockHeldError as held:
            raise DirectoryLockedError(path, int(held.note) if held.note.isdigit() else None) from None
        except OSError as error:
            raise explain(error, path) from error
        try:
            disk_id, created = _check_or_create(path, Identity(node_id, cluster_id, new_disk_id), files)
        except OSError as error:
            lock.release()
            raise explain(error, path) from error
        except BaseException:
            lock.release()
            raise
        return cls(path, node_id, cluster_id, disk_id, lock, created=created)

    def close(self) -> None:
        """Let another process use the directory. Idempotent."""
        self._lock.release()

    def forget_in_child(self) -> None:
        """For a forked child that outlives its parent: drop the inherited lock without releasing the parent's."""
        self._lock.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_or_create(path: str, identity: Identity, files: Files) -> tuple[str, bool]:
    """(disk id, whether it was created)."""
    names = files.listdir(path)
    if IDENTITY in names:
        return _check_identity(path, identity, files), False
    others = [name for name in names if name not in (LOCK, _IDENTITY_PART)]
    if others:
        raise IdentityError(
            f"{path} holds {', '.join(others[:3])} but no identity file, so it is not known whose data this is; "
            "choose an empty directory, or restore the identity file from a backup"
        )
    _write_identity(path, identity, files)
    return identity.disk_id, True


def _write_identity(path: str, identity: Identity, files: Files) -> None:
    part = join(path, _IDENTITY_PART)
    file = files.open(part, create=True)
    try:
        file.pwrite([_encode_identity(identity)], 0)
        file.fdatasync()
    finally:
        file.close()
    files.rename(part, join(path, IDENTITY))
    files.fsync_dir(path)


def _encode_identity(identity: Identity) -> bytes:
    fields = {"format": FORMAT_VERSION, **identity._asdict()}
    return json.dumps({**fields, "crc32c": _checksum(fields)}).encode() + b"\n"


def _checksum(fields: dict[str, object]) -> int:
    return crc32c(json.dumps(fields, sort_keys=True).encode())


def _check_identity(path: str, identity: Identity, files: Files) -> str:
    """Its disk id; a directory of before there were any gets one now."""
    node_id, cluster_id, _ = identity
    fields = _read_identity(path, files)
    version = fields["format"]
    if version != FORMAT_VERSION:
        raise IdentityError(
            f"{path} was written in format {version}, this program knows up to {FORMAT_VERSION}; "
            "start it with the version that wrote it, or a newer one"
        )
    for what, expected, flag in (("node", node_id, "node_id"), ("cluster", cluster_id, "cluster_id")):
        if fields[flag] != expected:
            raise IdentityError(
                f"{path} belongs to {what} {fields[flag]!r}, this is {what} {expected!r}; "
                f"start it with its own {what} id, or choose another directory"
            )
    if "disk_id" not in fields:
        _write_identity(path, identity, files)
        return identity.disk_id
    return str(fields["disk_id"])


def _read_identity(path: str, files: Files) -> dict[str, object]:
    file = files.open_read(join(path, IDENTITY))
    try:
        text = file.pread(IDENTITY_BYTES_MAX, 0)
    finally:
        file.close()
    try:
        fields = json.loads(text)
        checksum = fields.pop("crc32c")
        intact = {"format", "node_id", "cluster_id"} <= set(fields) and checksum == _checksum(fields)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise IdentityError(
            f"{join(path, IDENTITY)} is damaged; restore it from a backup, or empty the directory and let the node "
            "recover from its peers under a new id"
        )
    return dict(fields)
