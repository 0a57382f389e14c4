"""The data directory of one node: who owns it, and that one process at a time uses it.

::

    DIR/lock        flock'ed by the process that uses the directory; holds its process id
    DIR/identity    one line of JSON: format version, node id, cluster id, disk id, checksum; while the directory moves
                    to another cluster also that one's id
    DIR/log/        see persistence.wal
    DIR/snapshots/  see persistence.snapshots
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
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
    """Random, made with the directory: tells it from another one of the same node."""
    next_cluster_id: str = ""
    """Where the data is on its way to (:meth:`DataDirectory.begin_move`). Until it has arrived no node may use it."""


class DataDirectory:
    """An open, locked data directory. ``created`` is True when this :meth:`open` made it: a node without a past."""

    def __init__(self, path: str, identity: Identity, lock: FileLock, files: Files, *, created: bool) -> None:
        """Use :meth:`open` or :meth:`open_stopped`."""
        self.path = path
        self.identity = identity
        self.created = created
        self.log_path = join(path, LOG)
        self.snapshot_path = join(path, SNAPSHOTS)
        self._lock = lock
        self._files = files

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    @property
    def disk_id(self) -> str:
        return self.identity.disk_id

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
        except OSError as error:
            raise explain(error, path) from error
        wanted = Identity(node_id, cluster_id, new_disk_id)
        return cls._lock_and(path, files, lambda: _check_or_create(path, wanted, files))

    @classmethod
    def open_stopped(cls, path: str, files: Files | None = None) -> DataDirectory:
        """Lock the directory of a node that does not run, whoever's it is, and change nothing in it.

        Raises DirectoryLockedError, IdentityError when it has no identity or a damaged one, or DirectoryError.
        """
        files = files or OsFiles()
        if not files.exists(join(path, IDENTITY)):
            raise IdentityError(f"{path} has no identity file: it is not the data directory of a node")
        return cls._lock_and(path, files, lambda: (_read_identity(path, files), False))

    @classmethod
    def _lock_and(cls, path: str, files: Files, identify: Callable[[], tuple[Identity, bool]]) -> DataDirectory:
        try:
            lock = files.lock(join(path, LOCK), str(os.getpid()).encode())
        except LockHeldError as held:
            raise DirectoryLockedError(path, int(held.note) if held.note.isdigit() else None) from None
        except OSError as error:
            raise explain(error, path) from error
        try:
            identity, created = identify()
        except OSError as error:
            lock.release()
            raise explain(error, path) from error
        except BaseException:
            lock.release()
            raise
        return cls(path, identity, lock, files, created=created)

    def begin_move(self, cluster_id: str, disk_id: str) -> None:
        """From now on, also after a crash, no node can use the directory until :meth:`finish_move`. May be repeated.

        ``disk_id`` is what it is called from now on. Raises OSError; then it is as it was, or as it is to be.
        """
        self._identify(self.identity._replace(disk_id=disk_id, next_cluster_id=cluster_id))

    def finish_move(self) -> None:
        """What the directory holds is that of its next cluster now."""
        self._identify(self.identity._replace(cluster_id=self.identity.next_cluster_id, next_cluster_id=""))

    def _identify(self, identity: Identity) -> None:
        _write_identity(self.path, identity, self._files)
        self.identity = identity

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


def _check_or_create(path: str, wanted: Identity, files: Files) -> tuple[Identity, bool]:
    """(what it is, whether it was created)."""
    names = files.listdir(path)
    if IDENTITY in names:
        return _check_identity(path, wanted, files), False
    others = [name for name in names if name not in (LOCK, _IDENTITY_PART)]
    if others:
        raise IdentityError(
            f"{path} holds {', '.join(others[:3])} but no identity file, so it is not known whose data this is; "
            "choose an empty directory, or restore the identity file from a backup"
        )
    _write_identity(path, wanted, files)
    return wanted, True


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
    if not identity.next_cluster_id:
        del fields["next_cluster_id"]
    return json.dumps({**fields, "crc32c": _checksum(fields)}).encode() + b"\n"


def _checksum(fields: dict[str, object]) -> int:
    return crc32c(json.dumps(fields, sort_keys=True).encode())


def _check_identity(path: str, wanted: Identity, files: Files) -> Identity:
    """The directory's, which must be the wanted node and cluster's; one of before there were disk ids gets one now."""
    found = _read_identity(path, files)
    if found.node_id != wanted.node_id:
        raise IdentityError(
            f"{path} belongs to node {found.node_id!r}, this is node {wanted.node_id!r}; "
            "start it with its own node id, or choose another directory"
        )
    if found.next_cluster_id:
        raise IdentityError(
            f"{path} is on its way from cluster {found.cluster_id!r} to {found.next_cluster_id!r}: that was begun and "
            "interrupted; run the same recovery again before the node is started"
        )
    if found.cluster_id != wanted.cluster_id:
        raise IdentityError(
            f"{path} belongs to cluster {found.cluster_id!r}, this is cluster {wanted.cluster_id!r}; start it with its own "
            f"cluster id (the setting cluster_id = {found.cluster_id}; left out, it follows from the members in peers), or "
            "choose another directory"
        )
    if not found.disk_id:
        _write_identity(path, wanted, files)
        return wanted
    return found


def _read_identity(path: str, files: Files) -> Identity:
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
    if fields["format"] != FORMAT_VERSION:
        raise IdentityError(
            f"{path} was written in format {fields['format']}, this program knows up to {FORMAT_VERSION}; "
            "start it with the version that wrote it, or a newer one"
        )
    return Identity(*(str(fields.get(name, "")) for name in Identity._fields))
