"""The data directory of one node: who owns it, and that one process at a time uses it.

::

    DIR/lock        flock'ed by the process that uses the directory; holds its process id
    DIR/identity    one line of JSON: format version, node id, cluster id, disk id, log id, checksum;
                    while the directory moves to another cluster also that one's id
    DIR/log/        see persistence.wal
    DIR/snapshots/  see persistence.snapshots
    DIR/damaged-N/  log and snapshots that were set aside because they were damaged, and the identity they had

**Setting aside.** A damaged log must never be followed by an empty one under the same disk id: its node would pass for
the one that remembers. So the directory first gets a new disk id, and an identity that says where the old content
belongs; then the content goes there; then the identity says that it has gone. A crash leaves the damaged directory as
it was, or one that the next :meth:`DataDirectory.open` finishes before anybody looks into it.

**The log that must be there.** An empty log is what a new node has, and what a node has whose log was removed, or is on
a file system that is not mounted. And the log of a former disk of this node may come back, with its file system. The
identity tells these apart: it says which log is here, before anything that counts is in it
(:meth:`DataDirectory.begin_log`).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from crc32c import crc32c

from persistence.errors import CorruptLogError, DirectoryError, DirectoryLockedError, IdentityError
from persistence.files import FileLock, Files, LockHeldError, OsFiles, join
from persistence.segment import DATA_START, decode_segment_header, segment_name, segment_number

FORMAT_VERSION = 2
IDENTITY_BYTES_MAX = 64 << 10
_LOG_ID = re.compile("([0-9a-f]{16})?")
IDENTITY, LOCK, LOG, SNAPSHOTS = "identity", "lock", "log", "snapshots"
_IDENTITY_PART = IDENTITY + ".part"
DAMAGED = "damaged-"
NOTES = "report.json"
REPAIRS_MAX = 16
"""Former disk ids that are remembered: the others know one of them until they have taken the node back."""
LOG_GONE = "this node has had a log, and there is none: it was removed or its file system is not mounted"
LOG_OF_OTHERS = (
    "this is not the log of this disk: another one, perhaps of a disk that this node had before, is in its place"
)

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


def explain(error: OSError, path: str, what: str = "data directory") -> DirectoryError:
    """An error of the system, said with what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    if error.errno == errno.ENOENT and error.filename and Path(error.filename).is_symlink():
        remedy = f"{error.filename} is a link to what is not there; mount that, or mend the link"
    return DirectoryError(f"cannot use {what} {path}: {remedy}")


class Identity(NamedTuple):
    """Whose data a directory holds."""

    node_id: str
    cluster_id: str
    disk_id: str
    """Random, made with the directory: tells it from another one of the same node."""
    next_cluster_id: str = ""
    """Where the data is on its way to (:meth:`DataDirectory.begin_move`). Until it has arrived no node may use it."""
    repairs: tuple[str, ...] = ()
    """Former disk ids, newest last: what they held was damaged and set aside, and this disk takes their place."""
    aside: str = ""
    """Name of the directory that log and snapshots are being moved to; not empty only until they are there."""
    log_id: str = ""
    """Of the log that is here: its salt, in hexadecimal. A directory without that log has lost it."""


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

    @property
    def repairs(self) -> tuple[str, ...]:
        return self.identity.repairs

    @property
    def log_salt(self) -> int:
        """Of the log that was begun here; 0 if none was."""
        return int(self.identity.log_id or "0", 16)

    @property
    def lost_log(self) -> str:
        """Why the log that was begun here is not what is here now; empty if it is, or may be: damage is told by a look at
        the log. Raises OSError.
        """
        if not self.identity.log_id:
            return ""
        numbers = [number for name in self._log_names() if (number := segment_number(name)) is not None]
        if not numbers:
            return LOG_GONE
        path = join(self.log_path, segment_name(max(numbers)))
        try:
            header = decode_segment_header(_read_file(path, self._files, DATA_START), path, max(numbers))
        except CorruptLogError:
            return ""
        return LOG_OF_OTHERS if header.salt != self.log_salt else ""

    def _log_names(self) -> list[str]:
        try:
            return self._files.listdir(self.log_path)
        except FileNotFoundError:  # nothing, or a link to what is not mounted
            return []

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
        directory = cls._lock_and(path, files, lambda: _check_or_create(path, wanted, files))
        try:
            directory.finish_setting_aside()
        except OSError as error:
            directory.close()
            raise explain(error, path) from error
        except BaseException:
            directory.close()
            raise
        return directory

    @classmethod
    def create(cls, path: str, identity: Identity, files: Files | None = None) -> DataDirectory:
        """Create the directory, which may exist when it is empty, and lock it.

        With a ``next_cluster_id`` no node starts on it until :meth:`finish_move`. Raises DirectoryLockedError,
        IdentityError when there is anything in it, or DirectoryError.
        """
        files = files or OsFiles()
        try:
            files.make_dir(path)
        except OSError as error:
            raise explain(error, path) from error

        def begin() -> tuple[Identity, bool]:
            refuse_content(path, files)
            _write_identity(path, identity, files)
            return identity, True

        return cls._lock_and(path, files, begin)

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

        ``disk_id`` is what it is called from now on. Raises OSError; then it is as it was, or as it is to be. Raises
        IdentityError when setting its content aside was interrupted.
        """
        if self.identity.aside:
            raise IdentityError(f"what {self.path} holds is being set aside: {self.identity.aside}; finish that first")
        self._identify(self.identity._replace(disk_id=disk_id, next_cluster_id=cluster_id))

    def finish_move(self) -> None:
        """What the directory holds is that of its next cluster now."""
        there = self.identity.next_cluster_id
        self._identify(self.identity._replace(cluster_id=there, next_cluster_id="", repairs=()))

    def begin_log(self, salt: int) -> None:
        """To be called when a log was opened or made, and before a term, a vote or an entry is written to it.

        ``salt`` is that of its newest segment. From now on, also after a crash, a log with another one, or none, is
        known not to be it; nothing is known of one without a salt (0). Writes once in the life of a log. Raises OSError.
        """
        if salt != self.log_salt:
            self._identify(self.identity._replace(log_id=f"{salt:016x}" if salt else ""))

    def set_aside(self, new_disk_id: str, notes: bytes) -> str:
        """Move log and snapshots away and go on empty under ``new_disk_id`` (random); the path where they are now.

        ``notes`` are left there as :data:`NOTES`. Nothing may have log or snapshots open. Raises OSError; then it is as
        it was, or the next :meth:`open` (or :meth:`finish_setting_aside`) finishes it.
        """
        old = self.identity
        if old.next_cluster_id:
            raise IdentityError(
                f"{self.path} is on its way to cluster {old.next_cluster_id!r}; finish that recovery first"
            )
        name = self._next_aside()
        target = join(self.path, name)
        self._files.make_dir(target)
        _write_file(target, NOTES, notes, self._files)
        _write_identity(target, old, self._files)
        former = dict.fromkeys((*old.repairs, old.disk_id))
        repairs = tuple(former)[-REPAIRS_MAX:]
        self._identify(old._replace(disk_id=new_disk_id, repairs=repairs, aside=name, log_id=""))
        self.finish_setting_aside()
        return target

    def finish_setting_aside(self) -> None:
        """Do what is left of a :meth:`set_aside` that was interrupted; mostly nothing. Raises OSError."""
        if not self.identity.aside:
            return
        target = join(self.path, self.identity.aside)
        for source in (self.log_path, self.snapshot_path):
            if self._files.exists(source):
                self._files.rename(source, join(target, LOG if source == self.log_path else SNAPSHOTS))
        self._files.fsync_dir(target)
        self._files.fsync_dir(self.path)
        self._identify(self.identity._replace(aside=""))

    def asides(self) -> list[str]:
        """Paths of what was set aside, oldest first."""
        numbers = [name.removeprefix(DAMAGED) for name in self._files.listdir(self.path) if name.startswith(DAMAGED)]
        return [join(self.path, DAMAGED + number) for number in sorted(filter(str.isdecimal, numbers), key=int)]

    def notes(self) -> bytes:
        """What was left with the newest content that was set aside; empty when there is none (any more)."""
        for path in reversed(self.asides()):
            if self._files.exists(join(path, NOTES)):
                return _read_file(join(path, NOTES), self._files)
        return b""

    def _next_aside(self) -> str:
        """A new name, or that of a directory which a crash left before anything was moved there."""
        newest = self.asides()[-1:]
        for path in newest:
            if not any(self._files.exists(join(path, name)) for name in (LOG, SNAPSHOTS)):
                return path.rpartition("/")[2]
        return f"{DAMAGED}{int(newest[0].rpartition(DAMAGED)[2]) + 1 if newest else 1}"

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


def refuse_content(path: str, files: Files) -> None:
    """Raise IdentityError unless the directory ``path`` is empty."""
    there = [name for name in files.listdir(path) if name != LOCK]
    if there:
        raise IdentityError(f"{path} holds {', '.join(there[:3])}; choose a new directory, or empty this one")


def _check_or_create(path: str, wanted: Identity, files: Files) -> tuple[Identity, bool]:
    """(what it is, whether it was created)."""
    names = files.listdir(path)
    if IDENTITY in names:
        found = _check_identity(path, wanted, files)
        part = join(path, _IDENTITY_PART)
        if files.exists(part):  # of a process that ended while it wrote
            files.unlink(part)
        return found, False
    others = [name for name in names if name not in (LOCK, _IDENTITY_PART)]
    if others:
        raise IdentityError(
            f"{path} holds {', '.join(others[:3])} but no identity file, so it is not known whose data this is; "
            "choose an empty directory, or restore the identity file from a backup"
        )
    _write_identity(path, wanted, files)
    return wanted, True


def _write_identity(path: str, identity: Identity, files: Files) -> None:
    _write_file(path, IDENTITY, _encode_identity(identity), files)


def _write_file(path: str, name: str, content: bytes, files: Files) -> None:
    """Durable under its name, or not there."""
    part = join(path, name + ".part")
    file = files.open(part, create=True)
    try:
        file.pwrite([content], 0)
        file.fdatasync()
    finally:
        file.close()
    files.rename(part, join(path, name))
    files.fsync_dir(path)


def _read_file(path: str, files: Files, length: int | None = None) -> bytes:
    file = files.open_read(path)
    try:
        return file.pread(file.size() if length is None else length, 0)
    finally:
        file.close()


def _encode_identity(identity: Identity) -> bytes:
    fields: dict[str, object] = {"format": 1, **identity._asdict()}
    for name in ("next_cluster_id", "repairs", "aside", "log_id"):
        if not fields[name]:
            del fields[name]
    if identity.repairs:
        fields["format"] = FORMAT_VERSION  # a program of before must not open what was set aside, or is being
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
            "interrupted; run the same recovery again before the node is started (was it a restore, empty the directory "
            "and restore again)"
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
    files.fsync_dir(path)  # whoever wrote it may have been killed before it was durable under its name
    file = files.open_read(join(path, IDENTITY))
    try:
        text = file.pread(IDENTITY_BYTES_MAX, 0)
    finally:
        file.close()
    try:
        fields = json.loads(text)
        checksum = fields.pop("crc32c")
        intact = {"format", "node_id", "cluster_id"} <= set(fields) and checksum == _checksum(fields)
        intact = intact and _LOG_ID.fullmatch(fields.get("log_id", "")) is not None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise IdentityError(
            f"{join(path, IDENTITY)} is damaged; restore it from a backup, or empty the directory and let the node "
            "recover from its peers under a new id"
        )
    if fields["format"] not in range(1, FORMAT_VERSION + 1):
        raise IdentityError(
            f"{path} was written in format {fields['format']}, this program knows up to {FORMAT_VERSION}; "
            "start it with the version that wrote it, or a newer one"
        )
    known = {name: str(fields[name]) for name in Identity._fields if name in fields}
    former = tuple(map(str, fields.get("repairs", ())))
    return Identity(**{"disk_id": "", **known, "repairs": former})  # type: ignore[arg-type]  # by name
