"""Archives, looked at: what :mod:`persistence.points` knows, as plain values and with this package's errors."""

from __future__ import annotations

from typing import Any

from persistence.archive import runs
from persistence.files import Files, OsFiles
from persistence.points import prune, ranges, verify
from raftkv.errors import RaftKVError
from raftkv.offline.backup import told
from raftkv.offline.points import parse_index, parse_time


def listing(path: str, files: Files | None = None) -> list[dict[str, Any]]:
    """A row for each run that holds a point, oldest first. Raises RaftKVError."""
    files = files or OsFiles()
    rows = []
    with told(path):
        for one in ranges(path, files):
            names = [*(base.path for base in one.run.bases), *(file.path for file in one.run.entries)]
            rows.append({
                "run": one.run.number, "cluster_id": one.cluster_id, "first": one.first, "last": one.last,
                "first_stamp_ms": one.first_stamp_ms, "last_stamp_ms": one.last_stamp_ms,
                "bases": [base.index for base in one.run.bases], "files": len(names),
                "bytes": sum(_size(files, name) for name in names),
            })  # fmt: skip
    return rows


def _size(files: Files, path: str) -> int:
    file = files.open_read(path)
    try:
        return file.size()
    finally:
        file.close()


def verified(path: str, files: Files | None = None) -> list[dict[str, str]]:
    """Everything that is wrong; empty when all verifies. Raises RaftKVError when it cannot be read."""
    files = files or OsFiles()
    with told(path):
        if not runs(path, files):
            raise RaftKVError(f"{path} holds no run: it is no archive, or nothing was archived yet")
        return [{"path": name, "reason": reason} for name, reason in verify(path, files)]


def pruned(path: str, keep_from: str, files: Files | None = None) -> list[str]:
    """Delete what no point from ``keep_from`` (a time, or digits: an index) on needs; the paths. Raises RaftKVError."""
    files = files or OsFiles()
    with told(path):
        index = parse_index(keep_from)
        if index is not None:
            last = max((one.last for one in ranges(path, files)), default=0)
            if index > last:  # a date without dashes, seconds since the epoch: nearly everything would go
                raise RaftKVError(
                    f"{path} ends with entry {last}, and --keep-from {keep_from} is an index after it. Nothing was deleted; write a time "
                    "as 2026-11-21T14:03:07Z"
                )
            return prune(path, files, from_index=index)
        return prune(path, files, from_ms=parse_time(keep_from))
