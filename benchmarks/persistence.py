"""What a node does with its disk: group commit, recovery, snapshots, compression. A part of the
comparison (``--only persistence``).

Everything stands beside the same work by Redis or by the bare system call, in the same run and on the same directory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lz4.block  # type: ignore[import-untyped]  # lz4 ships no types
import zstandard

from benchmarks import pause
from benchmarks.single import OneRaftKV, OneRedis, OneRedisWithFile, batches, fill
from persistence.files import OsFiles
from persistence.snapshots import SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.machine.batch import header, plain
from raftkv.server.timing import TimedFiles

WRITERS: Final = (1, 8, 64)
ENTRY_BYTES: Final = 256
"""Of one writer's entry."""
BLOCK: Final = 4096
ZSTD_LEVELS: Final = (1, 3, 6, 9)
LOG_ENTRY_COMMANDS: Final = 100
COMPRESSED_ENTRIES: Final = 1000
MIB: Final = float(1 << 20)

Remember = Callable[[str, float], None]
"""Keeps and shows a figure: ``system/what unit`` and its value."""


# ------------------------------------------------------------------ group commit
def plain_syncs(directory: Path, seconds: float) -> float:
    """Writes of one block in a zero-filled file, each with fdatasync, in a second: what the disk does without a log."""
    path = str(directory / "plain")
    files = OsFiles()
    file = files.open(path, create=True)
    file.pwrite([bytes(4 << 20)], 0, sync=True)
    fd = os.open(path, os.O_RDWR)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        os.pwrite(fd, bytes(BLOCK), BLOCK * (count % 1000))
        os.fdatasync(fd)
        count += 1
    rate = count / (time.monotonic() - began)
    os.close(fd)
    file.close()
    files.unlink(path)
    return rate


def log_syncs(directory: Path, writers: int, seconds: float) -> tuple[float, float]:
    """(syncs, entries) in a second of a log whose writers each append an entry, wait until it is durable, and go on."""
    syncs: list[float] = []
    woken = threading.Event()
    files = TimedFiles(OsFiles(), time.monotonic, syncs.append)
    options = LogOptions(segment_bytes=16 << 20)
    with Log.open(str(directory / f"log-{writers}"), options, files) as log:
        log.start_committer(lambda _sequence: woken.set(), lambda _error: woken.set())
        time.sleep(1.0)  # the next segment is being zero-filled
        syncs.clear()
        began = time.monotonic()
        first = log.last_index
        while time.monotonic() - began < seconds:
            for _ in range(writers - (log.last_index - log.durable_index)):
                log.append(log.last_index + 1, 1, bytes(ENTRY_BYTES))
            woken.clear()
            log.request_sync()
            woken.wait()
            if log.failed is not None:
                raise log.failed
        elapsed_s = time.monotonic() - began
        return len(syncs) / elapsed_s, (log.durable_index - first) / elapsed_s


def group_commit(directory: Path, seconds: float, remember: Remember) -> None:
    """The log beside the disk."""
    remember("disk/plain fdatasync /s", plain_syncs(directory, seconds))
    for writers in WRITERS:
        syncs, entries = log_syncs(directory, writers, seconds)
        remember(f"raftkv/log fsync batches /s, {writers} writers", syncs)
        remember(f"raftkv/log durable entries /s, {writers} writers", entries)


# ------------------------------------------------------------------ recovery and snapshots
def recovery(directory: Path, keys: int, remember: Remember) -> None:
    """Log and snapshot of raftkv, AOF and RDB of Redis, of the same writes: how long they take to come back."""
    with OneRaftKV(directory) as node:
        fill(node.port, keys)
        log_s, _, replay_s = node.recover()
        remember("raftkv/log replay commands /s", keys / (log_s + replay_s))
        began = time.monotonic()
        node.call("SAVE")
        remember("raftkv/snapshot write s", time.monotonic() - began)
        newest = SnapshotStore(str(node.directory / "data" / "snapshots")).newest()
        assert newest is not None  # it was just written
        remember("raftkv/snapshot MiB", newest.size_bytes / MIB)
        _, snapshot_s, _ = node.recover()
        remember("raftkv/snapshot load s", snapshot_s)
    with OneRedisWithFile(directory) as redis:
        fill(redis.port, keys)
        remember("redis/AOF load commands /s", keys / redis.recover())
    with OneRedis(directory) as redis:
        fill(redis.port, keys)
        began = time.monotonic()
        redis.call("SAVE")
        remember("redis/RDB write s", time.monotonic() - began)
        remember("redis/RDB MiB", (redis.directory / "data0" / "dump.rdb").stat().st_size / MIB)
        remember("redis/RDB load s", redis.recover())


def snapshot_pause(directory: Path, keys: int, remember: Remember) -> None:
    """The latency of a client while a snapshot is taken, without and with other load."""
    for kind, name in ((OneRaftKV, "raftkv"), (OneRedis, "redis")):
        with kind(directory) as system:
            fill(system.port, keys)
            for pipeline in (0, 50):
                found = pause.measure(system, keys, pipeline)
                load = f"load {pipeline}"
                remember(f"{name}/calm p99 ms, {load}", found.calm.p99)
                remember(f"{name}/calm max ms, {load}", found.calm.worst)
                remember(f"{name}/snapshot p99 ms, {load}", found.during.p99)
                remember(f"{name}/snapshot max ms, {load}", found.during.worst)
                remember(f"{name}/snapshot memory MiB, {load}", found.copied_mib)


# ------------------------------------------------------------------ compression
def compression(directory: Path, keys: int, remember: Remember) -> None:
    """Size and speed of the levels, on what a snapshot holds and on entries of the log."""
    with OneRaftKV(directory) as node:
        fill(node.port, keys)
        node.call("SAVE")
        store = SnapshotStore(str(node.directory / "data" / "snapshots"))
        newest = store.newest()
        assert newest is not None  # it was just written
        pieces = list(store.read(newest))
    _compress("snapshot", pieces, remember)
    _compress("log entries", _log_entries(), remember)


def _log_entries() -> list[bytes]:
    """As the load of the other parts makes them."""
    entries = []
    for commands, data in batches(LOG_ENTRY_COMMANDS * COMPRESSED_ENTRIES):
        size = len(data) // commands
        for start in range(0, commands, LOG_ENTRY_COMMANDS):
            part = data[start * size : (start + LOG_ENTRY_COMMANDS) * size]
            entries.append(header(1) + b"".join(plain(0, LOG_ENTRY_COMMANDS, [part])))
    return entries


def _compress(what: str, pieces: list[bytes], remember: Remember) -> None:
    total = sum(map(len, pieces))
    ways: dict[str, Callable[[bytes], bytes]] = {
        f"zstd {level}": zstandard.ZstdCompressor(level=level).compress for level in ZSTD_LEVELS
    }
    ways["lz4"] = lz4.block.compress
    for name, compress in ways.items():
        began = time.process_time()
        small = sum(len(compress(piece)) for piece in pieces)
        seconds = time.process_time() - began
        remember(f"{name}/{what}: share of the size", small / total)
        remember(f"{name}/{what}: MiB /s", total / MIB / seconds)
