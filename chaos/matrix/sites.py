"""Where the product changes files: every such call in its source, and the name of one that was made.

The list comes from the source (a call of one of the mutating methods of :mod:`persistence.files`), so that a new call
is on it without anybody's help. What implements the port itself is not: it stands below the simulated disk.
"""

from __future__ import annotations

import ast
import os
import sys
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from chaos.disk import Call

ROOT: Final = Path(__file__).resolve().parents[2]
PRODUCT: Final = ("persistence", "raftkv")
BELOW: Final = frozenset({"persistence/files.py", "persistence/overlay.py", "raftkv/server/timing.py"})
"""Implementations of the port."""
METHODS: Final = {
    "pwrite": "write",
    "truncate": "truncate",
    "fdatasync": "sync",
    "preallocate": "preallocate",
    "rename": "rename",
    "unlink": "unlink",
    "fsync_dir": "syncdir",
    "make_dir": "mkdir",
    "lock": "lock",
}
"""Method of the port and the operation that it is; ``open`` with ``create`` is the tenth."""

PHASES: Final = {
    "Spares.prepare": "prepare",
    "Spares.retire": "retire",
    "Spares.adopt": "open log",
    "Spares._adopt_ready": "open log",
    "Reserve.make": "make reserve",
    "Reserve.helps": "give reserve back",
    "LogWriter.seal": "close",
    "LogWriter._roll": "roll",
    "LogWriter.write": "append",
    "LogWriter.sync": "append",
    "Log.open": "open log",
    "recover": "open log",
    "Tail.settle": "settle tail",
    "Tail._wipe": "wipe torn tail",
    "SnapshotStore.__init__": "open store",
    "SnapshotStore._prune": "prune",
    "SnapshotStore.publish": "publish",
    "SnapshotStore.remove_part": "remove part",
    "SnapshotWriter.__init__": "snapshot",
    "SnapshotWriter.write": "snapshot",
    "SnapshotWriter.commit": "snapshot",
    "SnapshotWriter.abort": "abort snapshot",
    "IncomingSnapshot.__init__": "receive",
    "IncomingSnapshot.write": "receive",
    "IncomingSnapshot._write_again": "write received part again",
    "IncomingSnapshot._cut": "cut received part",
    "IncomingSnapshot.sync": "finish receiving",
    "SnapshotStore.discard": "discard snapshot",
    "save_backup": "backup",
    "ArchiveWriter.open": "open archive",
    "ArchiveWriter.begin_run": "begin run of archive",
    "ArchiveWriter.flush": "archive",
    "prune": "prune archive",
    "DataDirectory.set_aside": "set aside",
    "DataDirectory.finish_setting_aside": "set aside",
    "DataDirectory.begin_log": "begin log",
    "DataDirectory.begin_move": "begin move",
    "DataDirectory.finish_move": "finish move",
    "DataDirectory.open": "open directory",
    "DataDirectory.create": "create directory",
    "DataDirectory.open_stopped": "open stopped directory",
}
"""What a function is about, in words. One that is not here is called by its own name."""

KINDS: Final = (
    (".wal", "segment"),
    (".spare", "spare"),
    (".prep", "prep"),
    (".snap.part", "part"),
    (".part", "part"),
    (".snap", "snapshot"),
    (".entries", "entries"),
    (".backup", "base"),
)


class Site(NamedTuple):
    """A call in the source. ``lines`` is (first, last)."""

    path: str
    lines: tuple[int, int]
    operation: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]} ({self.operation})"


class Place(NamedTuple):
    """Where a call was made: file and line, what the code was about, and the function."""

    path: str
    line: int
    phase: str


def sites() -> list[Site]:
    """All calls in the product that change files."""
    found = []
    for folder in PRODUCT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in BELOW:
                found += [Site(name, *one) for one in _calls(path)]
    return found


def _calls(path: Path) -> list[tuple[tuple[int, int], str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        operation = METHODS.get(name, "")
        if name == "open" and any(one.arg == "create" for one in node.keywords):
            operation = "create"
        elif _is_of_something_else(node.func, operation):
            operation = ""
        if operation:
            found.append(((node.lineno, node.end_lineno or node.lineno), operation))
    return found


def _is_of_something_else(function: ast.Attribute, operation: str) -> bool:
    """``os.rename`` and ``path.unlink()`` go past the port: command line tools do that, outside of a node's data."""
    value = ast.unparse(function.value).rpartition(".")[2]
    return operation in ("rename", "unlink", "truncate", "lock") and value not in ("files", "_files", "file", "_file")


def reached(site: Site, places: set[tuple[str, int, str]]) -> bool:
    """Whether one of the ``places`` (file, line, operation) is it."""
    return any((site.path, line, site.operation) in places for line in range(site.lines[0], site.lines[1] + 1))


def place_of(frame: FrameType | None) -> Place:
    """The innermost line of the product that led here, and the phase of the innermost function that has one."""
    where: tuple[str, int] | None = None
    phase = own = ""
    while frame is not None:
        name = _in_product(frame.f_code.co_filename)
        if name and name not in BELOW:
            function = frame.f_code.co_qualname
            where = where or (name, frame.f_lineno)
            own = own or function
            phase = PHASES.get(function, "")
            if phase:
                break
        frame = frame.f_back
    return Place(*(where or ("", 0)), phase or own)


@cache
def _in_product(filename: str) -> str:
    """The path within the repository of a source of the product; empty for others."""
    if not filename.startswith(f"{ROOT}{os.sep}"):
        return ""
    name = os.path.relpath(filename, ROOT).replace(os.sep, "/")
    return name if name.startswith(tuple(f"{one}/" for one in PRODUCT)) else ""


def called_from() -> Place:
    """For a hook of the disk: who made the call."""
    return place_of(sys._getframe(1))


def kind_of(path: str) -> str:
    """A file by its role."""
    name = os.path.basename(path)  # noqa: PTH119 -- paths of the disk are strings
    return next((kind for suffix, kind in KINDS if name.endswith(suffix)), name)


def name_of(place: Place, call: Call) -> str:
    """The failpoint's name, such as ``roll: rename spare -> segment``."""
    target = f" -> {kind_of(call.target)}" if call.target else ""
    return f"{place.phase}: {call.operation} {kind_of(call.path)}{target}"
