"""``raftkv snapshot``: what snapshots there are and what is in them, as values that JSON can hold. Read only."""

from __future__ import annotations

import base64
import heapq
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from persistence.files import OsFiles
from persistence.inspect import SnapshotView, look_at_snapshot, look_at_snapshots
from persistence.snapshot_file import SUFFIX
from raftkv.errors import RaftKVError
from raftkv.offline.entries import explain, members, time_text, word_text
from raftkv.offline.rebuild import commands, element_bytes, elements_of, live, pieces
from raftkv.offline.state import SnapshotState, load_snapshot
from raftkv.protocol.encoder import encode_commands
from raftkv.store.keyspace import Keyspace, type_name

_SNAPSHOTS: Final = "snapshots"
LARGEST_SHOWN: Final = 10
PREFIXES_SHOWN: Final = 10
PREFIXES_MAX: Final = 100_000
"""Keys whose prefixes are all different are no groups: what comes later is counted together."""
SEPARATOR: Final = b":"
OTHERS: Final = b"(others)"


def snapshot_directory(path: Path) -> Path:
    """The snapshots of a data directory, or ``path`` itself. Raises RaftKVError when there is no such directory."""
    if (path / _SNAPSHOTS).is_dir():
        return path / _SNAPSHOTS
    if path.is_dir():
        return path
    raise RaftKVError(f"{path}: no such directory; give a node's data directory, or the directory snapshots in it")


def listing(path: Path) -> list[dict[str, Any]]:
    """The snapshots by their headers, oldest first. A file stands for itself. Raises RaftKVError."""
    with _read(path):
        if path.is_file():
            return [_shown(look_at_snapshot(str(path), OsFiles(), everything=False))]
        return [_shown(one) for one in look_at_snapshots(str(snapshot_directory(path)), OsFiles())]


def verified(path: Path) -> list[dict[str, Any]]:
    """The same, each read to its end: all checksums, and decompressed. Raises RaftKVError."""
    files = [Path(one["file"]) for one in listing(path)]
    if not files:
        raise RaftKVError(f"{path}: there is no snapshot")
    with _read(path):
        return [_shown(look_at_snapshot(str(one), OsFiles(), everything=True)) for one in files]


@contextmanager
def _read(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RaftKVError(f"cannot read {error.filename or path}: {error.strerror or error}") from error


def _shown(one: SnapshotView) -> dict[str, Any]:
    return {
        "file": one.path,
        "index": one.meta.index if one.meta else None,
        "term": one.meta.term if one.meta else None,
        "bytes": one.size_bytes,
        "content_bytes": one.content_bytes,
        "complete": one.complete,
        "damage": one.damage,
    }


def newest(path: Path) -> Path:
    """The snapshot that is meant: ``path`` itself, or the newest in that directory. Raises RaftKVError."""
    with _read(path):
        if path.is_file():
            return path
        names = sorted(one.name for one in snapshot_directory(path).iterdir() if one.name.endswith(SUFFIX))
        if not names:
            raise RaftKVError(f"{path}: there is no snapshot")
        return snapshot_directory(path) / names[-1]


# ---------------------------------------------------------------- info
@dataclass(slots=True)
class _Sums:
    """Keys that are counted together."""

    keys: int = 0
    elements: int = 0
    bytes: int = 0
    expiring: int = 0

    def add(self, elements: int, size: int, *, expires: bool) -> None:
        self.keys += 1
        self.elements += elements
        self.bytes += size
        self.expiring += expires

    def shown(self) -> dict[str, int]:
        return {"keys": self.keys, "elements": self.elements, "bytes": self.bytes, "expiring": self.expiring}


@dataclass(slots=True)
class _Analysis:
    """What the keys of a keyspace add up to. Sizes are bytes of keys and values, without what memory costs beside."""

    kinds: dict[tuple[int, str], _Sums] = field(default_factory=dict)
    prefixes: dict[bytes, _Sums] = field(default_factory=dict)
    largest: list[tuple[int, int, bytes, str, int]] = field(default_factory=list)
    expired: int = 0

    def take(self, keyspace: Keyspace) -> None:
        for number, database in enumerate(keyspace.databases):
            for key, value, expire_at_ms in live(database):
                self._add(number, key, type_name(value), elements_of(value), expires=expire_at_ms is not None)
            self.expired += database.size - sum(one.keys for (of, _), one in self.kinds.items() if of == number)

    def _add(self, number: int, key: bytes, kind: str, elements: list[Any], *, expires: bool) -> None:
        size = len(key) + sum(map(element_bytes, elements))
        self.kinds.setdefault((number, kind), _Sums()).add(len(elements), size, expires=expires)
        prefix = key.partition(SEPARATOR)[0] + SEPARATOR if SEPARATOR in key else b""
        if prefix not in self.prefixes and len(self.prefixes) >= PREFIXES_MAX:
            prefix = OTHERS
        self.prefixes.setdefault(prefix, _Sums()).add(len(elements), size, expires=expires)
        row = (size, number, key, kind, len(elements))
        if len(self.largest) < LARGEST_SHOWN:
            heapq.heappush(self.largest, row)
        else:
            heapq.heappushpop(self.largest, row)


def info(path: Path) -> dict[str, Any]:
    """The file, the members and the keys in it; everything is verified and loaded. Raises RaftKVError."""
    file = newest(path)
    view = verified(file)[0]
    if view["damage"]:
        raise RaftKVError(view["damage"])
    state = load_snapshot(str(file))
    found = _Analysis()
    found.take(state.keyspace)
    prefixes = sorted(found.prefixes.items(), key=lambda one: (-one[1].bytes, one[0]))[:PREFIXES_SHOWN]
    configuration = state.configuration
    return {
        **view,
        "stamp_ms": state.machine.stamp_ms,
        "time": time_text(state.machine.stamp_ms),
        "last_entry": explain(state.last_entry, state.meta.index)["entry"],
        "configuration_index": configuration.index if configuration else None,
        "members": members(configuration) if configuration else None,
        "sessions": len(state.machine.sessions.by_id),
        "watches": len(state.machine.watches.by_key),
        "alarms": [{"node": one.node, "kind": one.kind, "reason": one.reason} for one in state.machine.alarms.standing],
        "expired": found.expired,
        "types": [{"db": db, "type": kind, **sums.shown()} for (db, kind), sums in sorted(found.kinds.items())],
        "largest": [
            {"db": db, "key": word_text(key), "type": kind, "elements": count, "bytes": size}
            for size, db, key, kind, count in sorted(found.largest, reverse=True)
        ],
        "prefixes": [{"prefix": word_text(prefix), **sums.shown()} for prefix, sums in prefixes],
    }


# ---------------------------------------------------------------- dump
def state_of(path: Path) -> SnapshotState:
    """The snapshot that is meant (:func:`newest`), loaded. Raises RaftKVError."""
    return load_snapshot(str(newest(path)))


def as_resp(keyspace: Keyspace) -> Iterator[bytes]:
    """Commands that make all live keys again, for ``redis-cli --pipe``."""
    for number, database in enumerate(keyspace.databases):
        if database.size:
            yield encode_commands([[b"SELECT", b"%d" % number]])
        for piece in pieces(number, database):
            yield encode_commands(commands(piece))


def as_json(keyspace: Keyspace) -> Iterator[dict[str, Any]]:
    """One object a live key. Bytes that are no UTF-8 become ``{"base64": ...}``; hashes and sorted sets are pairs."""
    for number, database in enumerate(keyspace.databases):
        for key, value, expire_at_ms in live(database):
            kind = type_name(value)
            elements = [_json(one) for one in elements_of(value)]
            yield {
                "db": number,
                "key": _json(key),
                "type": kind,
                "expire_at_ms": expire_at_ms,
                "value": elements[0] if kind == "string" else elements,
            }


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
