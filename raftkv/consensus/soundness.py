"""Whether a node that starts may go on as the member that it was. No I/O of its own.

What it promised must still be there. It is not when the log is damaged, gone, or another disk's (the directory's identity
says which log was begun in it), or when a damaged snapshot held what the log does not. A snapshot without a log
counts as a loss whatever the identity says: who has one has had a term, and terms are only in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from persistence.directory import DataDirectory
from persistence.errors import CorruptLogError, PersistenceError, UnknownVersionError
from persistence.snapshots import SnapshotStore
from persistence.wal import Log
from raftkv.consensus.snapshots import begins_late

AnyLog = TypeVar("AnyLog", bound=Log)


class UnsoundError(PersistenceError):
    """Something that was durable is gone. ``offset`` is None when all of ``path`` is meant."""

    definite = False

    def __init__(self, path: str, offset: int | None, reason: str) -> None:
        self.path = path
        self.offset = offset
        self.reason = reason
        super().__init__(f"{path}: {reason}" if offset is None else f"{path} is damaged at offset {offset}: {reason}")


def sound_log(directory: DataDirectory, open_log: Callable[[], AnyLog]) -> AnyLog:
    """The log, open. Raises UnsoundError when it is damaged or not there; what else ``open_log`` raises leaves as it is.

    Who goes on with it calls :meth:`DataDirectory.begin_log` first.
    """
    if lost := directory.lost_log:  # before one is made, which would pass for the lost one at the next start
        raise UnsoundError(directory.log_path, None, lost)
    try:
        return open_log()
    except UnknownVersionError:
        raise
    except CorruptLogError as error:
        raise UnsoundError(error.path, error.offset, error.reason) from error


def never_held_a_term(log: Log, newest: int) -> str:
    """Why the log is not the one that led to a snapshot up to entry ``newest`` (0: there is none); empty if it may be."""
    if log.hard_state.term or not newest:
        return ""
    return f"there is a snapshot up to entry {newest}, but this log never held a term: it was removed or not mounted"


def check_sound(log: Log, covered: int, store: SnapshotStore) -> None:
    """``covered`` is the last entry in the newest valid snapshot (0: none), which ``store`` has looked for.

    Raises UnsoundError when log and snapshot do not have everything between them; UnknownVersionError when what is
    missing is in a snapshot of another program.
    """
    if store.unknown is not None:
        raise store.unknown
    because = "".join(f"; {reason}" for reason in store.damaged.values())
    damaged = max((int(name.partition("-")[0]) for name in store.damaged), default=0)
    if lost := never_held_a_term(log, max(covered, damaged)):
        raise UnsoundError(log.directory, None, lost)
    if late := begins_late(log, covered):
        raise UnsoundError(store.directory, None, late + because)
    if damaged > max(log.last_index, covered):
        raise UnsoundError(store.directory, None, f"entries up to {damaged} are in a damaged snapshot only{because}")
