"""``raftkv wal``: what a log holds and whether it verifies, as values that JSON can hold.

Read only, also while a node runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from persistence.errors import CorruptLogError, PersistenceError
from persistence.files import OsFiles
from persistence.inspect import Gap, LogView, SegmentView, look, records
from persistence.records import ENTRY, FLAG_LZ4, FLAG_VOTED, HARD_STATE, KIND_NAMES, Record
from persistence.segment import SUFFIX
from raftkv.errors import RaftKVError
from raftkv.offline.entries import explain

_LOG: Final = "log"
_LOCK: Final = "lock"
_LOCKS: Final = Path("/proc/locks")


def log_directory(path: Path) -> Path:
    """The log of a data directory, or ``path`` itself when it is a log. Raises RaftKVError when it is neither."""
    try:
        for one in (path / _LOG, path):
            if one.is_dir() and any(one.glob("*" + SUFFIX)):
                return one
        what = "no segments of a log" if path.is_dir() else "no such directory"
    except OSError as error:
        raise RaftKVError(f"cannot read {path}: {error.strerror or error}") from error
    raise RaftKVError(f"{path}: {what}; give a node's data directory, or the directory log in it")


def holder(data: Path) -> int | None:
    """The process that uses a data directory, as the kernel knows it; None when none does, or it does not say."""
    try:
        at = (data / _LOCK).stat()
        lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if "FLOCK" in words and words[-3].endswith(f":{at.st_ino}"):
            return int(words[-4]) if words[-4].isdigit() else None
    return None


def listing(path: Path) -> dict[str, Any]:
    """The log's files, its state and what is wrong with it. Raises RaftKVError."""
    directory = log_directory(path)
    try:
        view = look(str(directory), OsFiles())
    except (OSError, PersistenceError) as error:
        raise RaftKVError(f"cannot read {directory}: {error}") from error
    state = view.state
    return {
        "directory": str(directory),
        "in_use_by": holder(directory.parent),
        "moving": view.moving,
        "first_index": state.first_index if state else None,
        "last_index": state.last_index if state else None,
        "last_term": state.last_term if state else None,
        "term": state.hard_state.term if state else None,
        "voted_for": state.hard_state.voted_for if state else None,
        "oldest_needed": state.first_segment if state else None,
        "tail_bytes": view.tail_bytes,
        "records": view.records,
        "damage": _damage(view),
        "segments": [_segment(one) for one in view.segments],
        "others": [{"name": one.name, "kind": one.kind, "bytes": one.size_bytes} for one in view.others],
    }


def _segment(one: SegmentView) -> dict[str, Any]:
    header = one.header
    return {
        "name": one.name,
        "bytes": one.size_bytes,
        "used": one.end,
        "records": one.records,
        "entries": one.entries,
        "first_index": one.first_index,
        "last_index": one.last_index,
        "term": header.hard_state.term if header else None,
        "needed": one.needed,
        "gaps": [{"start": gap.start, "end": gap.end, "reason": gap.reason} for gap in one.gaps],
        "records_behind": one.records_behind,
    }


def _damage(view: LogView) -> list[dict[str, Any]]:
    """Each place once: what a start would say first, then the gaps that it never gets to."""
    found: dict[tuple[str, int], str] = {}
    verdict: CorruptLogError | None = view.damage
    if verdict is not None:
        found[verdict.path, verdict.offset] = verdict.reason
    for segment in view.segments:
        for gap in segment.gaps:
            found.setdefault((f"{view.directory}/{segment.name}", gap.start), f"{gap.reason}, up to {gap.end}")
    return [{"file": path, "offset": offset, "reason": reason} for (path, offset), reason in found.items()]


def dumped(path: Path, low: int, high: int | None, *, whole: bool) -> Iterator[dict[str, Any]]:
    """The records one by one, oldest first, each explained; a gap in its place. Raises RaftKVError."""
    directory = log_directory(path)
    try:
        for name, found, body in records(str(directory), OsFiles(), low, high):
            if isinstance(found, Gap):
                yield {
                    "segment": name,
                    "offset": found.start,
                    "kind": "DAMAGED",
                    "end": found.end,
                    "reason": found.reason,
                }
            else:
                yield _record(name, found, body, whole=whole)
    except (OSError, PersistenceError) as error:
        raise RaftKVError(f"cannot read {directory}: {error}") from error


def _record(name: str, found: Record, body: bytes, *, whole: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "segment": name,
        "offset": found.offset,
        "kind": KIND_NAMES[found.kind],
        "term": found.term,
        "index": found.entry_index,
        "bytes": found.raw_bytes,
        "stored": found.stored_bytes,
        "lz4": bool(found.flags & FLAG_LZ4),
        "round": found.round_start,
    }
    if found.kind == ENTRY:
        shown |= explain(body, found.entry_index, whole=whole)
    elif found.kind == HARD_STATE:
        shown["voted_for"] = body.decode(errors="replace") if found.flags & FLAG_VOTED else None
    return shown
