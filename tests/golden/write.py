"""Writes the golden files: ``python -m tests.golden.write``.

One of each format version that there ever was, with what is in it beside it as JSON (``.expected``). They are never written
again: a version that is raised gets further files, under the new number, and the old ones must stay readable
(tests/unit/test_golden.py). So this makes only what is not there.

``snapshot-1-state-1`` was written before there were alarms, by this program at commit 67d302b, without the last entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

import persistence.backup
import persistence.directory
import persistence.entries
import persistence.segment
import persistence.snapshot_file
from persistence.backup import Backup, Origin, save_backup
from persistence.directory import DataDirectory
from persistence.entries import Archived, EntriesWriter, read_entries
from persistence.files import OsFiles
from persistence.inspect import records
from persistence.records import ENTRY, KIND_NAMES
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.consensus.configuration import Configuration, Member, wrap
from raftkv.machine.batch import ALARM, DIGEST, OPEN, TICK, TXN, WATCH, Group, Run, Watched, encode_group, header, plain
from raftkv.machine.machine import StateMachine
from raftkv.machine.summary import StateSummary
from raftkv.offline.entries import explain, members
from raftkv.offline.snapshot import as_json
from raftkv.offline.state import load_snapshot
from raftkv.protocol.encoder import encode_command

HERE = Path(__file__).parent
STAMP_MS = 1_700_000_000_000
MEMBERS = Configuration.of([Member("n1", "h1:1", "d1"), Member("n2", "h2:2", "d2"), Member("n3", "h3:3", voter=False)])
FILES = OsFiles()


def entries() -> list[bytes]:
    """From entry 1 on: one of every kind."""
    stamp = header(STAMP_MS)
    words = [
        (b"SET", b"text", b"value"), (b"SET", b"binary", bytes(range(256)), b"PXAT", b"1800000000123"), (b"RPUSH", b"list", b"a", b"", b"3"),
        (b"SADD", b"set", b"1", b"x"), (b"HSET", b"hash", b"f", b"v", b"g", b"-1"), (b"ZADD", b"zset", b"-inf", b"m", b"0.1", b"n", b"3", b"o"),
    ]  # fmt: skip
    run = Run(bytes(range(16)), 1, 0)
    return [
        b"\x01",
        MEMBERS.encode(),
        stamp + b"".join(plain(0, len(words), [encode_command(one) for one in words])),
        stamp + encode_group(Group(OPEN, 0, 0, b"", numbers=(60_000,))),
        stamp + encode_group(Group(WATCH, 0, 1, encode_command([b"text", b"missing"]))),
        stamp + encode_group(Group(TXN, 15, 1, encode_command([b"SET", b"k", b"1"]), (Watched(0, b"text", 5),))),
        stamp + encode_group(Group(0, 3, 1, encode_command([b"INCR", b"n"]), run=run)),
        stamp + encode_group(Group(TICK, 0, 0, b"")) + b"".join(plain(2, 1, [encode_command([b"SET", b"a", b"b" * 300])])),
        stamp + encode_group(Group(DIGEST, 0, 0, b"", numbers=(0, 0))),
        stamp + encode_group(Group(ALARM, 0, 1, encode_command([b"RAISE", b"n2", b"NOSPACE", b"the disk is full"]))),
    ]  # fmt: skip


def state() -> bytes:
    """A dumped state after all entries that concern it."""
    machine = StateMachine()
    for index, payload in enumerate(entries(), 1):
        if index > 2 and index != 9:
            machine.apply(index, payload)
    return b"".join(machine.dump())


def state_version(dumped: bytes) -> int:
    """Of what stands before the keyspace."""
    return int(msgspec.msgpack.decode(dumped[4 : 4 + int.from_bytes(dumped[:4], "big")])[0])


# ---------------------------------------------------------------- writing
def write_log(path: Path, *, lz4: bool, salt: int = 0) -> None:
    """Three segments with every kind of record; ``lz4`` compresses what can be."""
    options = LogOptions(segment_bytes=8192, preallocate=False, compress_bytes_min=64 if lz4 else 0, salt=salt)
    large = header(STAMP_MS) + b"".join(plain(0, 1, [encode_command([b"SET", b"large", bytes(range(256)) * 12])]))
    with Log.open(str(path), options) as log:
        log.set_hard_state(1, None)
        for index, payload in enumerate([*entries(), large, large], 1):
            log.append(index, 1 + index // 4, payload)
            log.sync()
        log.truncate_from(12)
        log.set_hard_state(5, "n2")
        log.append(12, 5, b"\x01")
        log.sync()
        log.compact_to(4)
        log.append(13, 5, b"\x01")


def write_snapshot(path: Path) -> None:
    writer = SnapshotStore(str(path.parent)).begin(SnapshotMeta(10, 4, wrap(MEMBERS, b"\x01")))
    writer.write(state())
    (path.parent / writer.commit().name).rename(path)


def write_identity(path: Path, kind: str) -> None:
    folder = path.with_suffix(".d")
    disk_id = "" if kind == "1-without-disk" else "disk1"
    with DataDirectory.open(str(folder), node_id="n1", cluster_id="c-äö", new_disk_id=disk_id) as directory:
        if kind == "1-log":
            directory.begin_log(0x5A17 << 40)
        if kind == "1-moving":
            directory.begin_move("c-next", "disk2")
        if kind == "2":
            directory.set_aside("disk2", b"")
            directory.set_aside("disk3", b"")
        if kind == "2-aside":
            _set_aside_in_part(directory)
    (folder / "identity").rename(path)
    shutil.rmtree(folder)


def _set_aside_in_part(directory: DataDirectory) -> None:
    """As a crash leaves it, before log and snapshots were moved."""
    with (
        mock.patch.object(DataDirectory, "finish_setting_aside", side_effect=InterruptedError),
        contextlib.suppress(InterruptedError),
    ):
        directory.set_aside("disk2", b"")


def write_backup(path: Path) -> None:
    part = path.with_suffix(".snap")
    write_snapshot(part)
    data = part.read_bytes()
    part.unlink()
    fields: dict[str, Any] = {"cluster_id": "c", "node_id": "n1", "index": 10, "term": 4, "snapshot_bytes": len(data)}
    origin = Origin(**fields, taken_ms=STAMP_MS, program="raftkv 0.1.0")
    save_backup(FILES, str(path.parent), str(path), origin, lambda at, size: data[at : at + size], StateSummary())


def write_entries(path: Path) -> None:
    writer = EntriesWriter("c", 0, bytes(range(32)))
    for index, payload in enumerate(entries(), 1):
        writer.add(Archived(index, 1, STAMP_MS, payload))
    path.write_bytes(writer.finish()[1])


# ---------------------------------------------------------------- reading
def read_log(path: Path) -> Any:
    """Every record, with what it says; what a start goes on with is read by the test."""
    found = []
    for name, one, body in records(str(path), FILES):
        row: dict[str, Any] = {
            "segment": name,
            "kind": KIND_NAMES[one.kind],
            "term": one.term,
            "index": one.entry_index,
        }
        row |= {"flags": one.flags, "bytes": len(body), "body": hashlib.sha256(body).hexdigest()}
        found.append(row | (explain(body, one.entry_index) if one.kind == ENTRY else {}))
    return found


def read_snapshot(path: Path) -> Any:
    loaded = load_snapshot(str(path))
    machine = loaded.machine
    assert loaded.configuration is not None
    sessions = {
        one.hex(): [found.ttl_ms, found.used_ms, found.acknowledged, sorted(found.replies)]
        for one, found in machine.sessions.by_id.items()
    }
    return {
        "index": loaded.meta.index,
        "term": loaded.meta.term,
        "last_entry": loaded.last_entry.hex(),
        "members": members(loaded.configuration),
        "state": [machine.index, machine.stamp_ms, machine.digest()[0]],
        "sessions": sessions,
        "watches": [[database, key.decode()] for database, key in machine.watches.by_key],
        "alarms": [list(one) for one in machine.alarms.standing],
        "keys": list(as_json(loaded.keyspace)),
    }


def read_identity(path: Path) -> Any:
    folder = path.with_suffix(".d")
    folder.mkdir()
    (folder / "identity").write_bytes(path.read_bytes())
    with DataDirectory.open_stopped(str(folder)) as directory:
        return {name: value for name, value in directory.identity._asdict().items() if value}


def read_backup(path: Path) -> Any:
    with contextlib.closing(FILES.open_read(str(path))) as file:
        backup = Backup(file)
        summary = StateSummary()
        for piece in backup:
            summary.feed(piece)
        origin = backup.info.origin
        return {
            "origin": [origin.cluster_id, origin.node_id, origin.index, origin.term],
            "summary": list(summary.finish()),
        }


def read_archived(path: Path) -> Any:
    with contextlib.closing(FILES.open_read(str(path))) as file:
        return [
            [one.index, one.term, one.stamp_ms, hashlib.sha256(one.payload).hexdigest()] for one in read_entries(file)
        ]


READERS = {
    "log": read_log,
    "snapshot": read_snapshot,
    "identity": read_identity,
    "backup": read_backup,
    "entries": read_archived,
}
"""By the first word of a golden file's name."""


def current() -> Iterator[tuple[str, Any]]:
    """(name, how it is written) of what the program writes today."""
    # A log without a salt is one of format 1 today, too.
    yield "log-1", lambda path: write_log(path, lz4=False)
    yield "log-1-lz4", lambda path: write_log(path, lz4=True)
    log = persistence.segment.FORMAT_VERSION
    yield f"log-{log}", lambda path: write_log(path, lz4=False, salt=0x5A17 << 40)
    yield f"log-{log}-lz4", lambda path: write_log(path, lz4=True, salt=0x5A17 << 40)
    yield f"snapshot-{persistence.snapshot_file.FORMAT_VERSION}-state-{state_version(state())}", write_snapshot
    # Format 2 is written only where it says something that format 1 cannot.
    kinds = ("1", "1-log", "1-moving", "1-without-disk", str(persistence.directory.FORMAT_VERSION), "2-aside")
    for kind in kinds:
        yield f"identity-{kind}", lambda path, one=kind: write_identity(path, one)
    yield f"backup-{persistence.backup.FORMAT_VERSION}", write_backup
    yield f"entries-{persistence.entries.FORMAT_VERSION}", write_entries


if __name__ == "__main__":
    import tempfile

    for name, write in current():
        if not (HERE / name).exists():
            write(HERE / name)
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / name
                copy.write_bytes((HERE / name).read_bytes()) if (HERE / name).is_file() else copy.symlink_to(
                    HERE / name
                )
                text = json.dumps(READERS[name.partition("-")[0]](copy), indent=1, ensure_ascii=False)
            (HERE / f"{name}.expected").write_text(text + "\n", encoding="utf-8")
            print(f"wrote {name}")
