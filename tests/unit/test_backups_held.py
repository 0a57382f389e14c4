"""Snapshots held for backups: whole while they are read, gone when nobody does."""

from __future__ import annotations

import asyncio
import threading

import pytest

from raftkv.errors import BusyError, CommandError
from raftkv.replicator import OpenSnapshot
from raftkv.server.backups import HELD_MAX, HELD_S, PIECE_BYTES_MAX, Backups


class SnapshotFile:
    def __init__(self, data=b"0123456789"):
        self.data = data
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()

    def pread(self, length, offset):
        self.reading.set()
        assert self.gate.wait(10)
        assert not self.closed
        return self.data[offset : offset + length]

    def close(self):
        self.closed = True


class Time:
    now = 5.0

    def __call__(self):
        return self.now


def held(file=None):
    file, now = file or SnapshotFile(), Time()
    backups = Backups(now)
    return backups, backups.hold(OpenSnapshot(7, 2, len(file.data), file)), file, now


def test_pieces_are_those_of_the_file():
    backups, number, file, _ = held(SnapshotFile(bytes(PIECE_BYTES_MAX + 5)))
    assert asyncio.run(backups.read(number, 3, 4)) == file.data[3:7]
    assert len(asyncio.run(backups.read(number, 0, 10 * PIECE_BYTES_MAX))) == PIECE_BYTES_MAX
    assert asyncio.run(backups.read(number, len(file.data), 9)) == b""


def test_ending_closes_the_file_and_an_unknown_one_is_refused():
    backups, number, file, _ = held()
    backups.end(number)
    assert file.closed
    for use in (lambda: backups.end(number), lambda: asyncio.run(backups.read(number, 0, 1))):
        with pytest.raises(CommandError, match=f"no backup {number} is being read"):
            use()


def test_one_that_nobody_reads_is_let_go_and_reading_keeps_it():
    backups, number, file, now = held()
    now.now += HELD_S - 1
    asyncio.run(backups.read(number, 0, 1))
    now.now += HELD_S
    backups.sweep()
    assert not file.closed
    now.now += 0.1
    backups.sweep()
    assert file.closed
    assert len(backups) == 0


def test_the_file_is_not_closed_under_a_thread_that_reads_it():
    backups, number, file, now = held()

    async def scene():
        file.gate.clear()
        reading = asyncio.create_task(backups.read(number, 0, 4))
        await asyncio.to_thread(file.reading.wait, 10)
        now.now += 10 * HELD_S
        backups.sweep()
        assert len(backups) == 1, "a slow disk is no abandoned backup"
        backups.end(number)
        assert not file.closed
        file.gate.set()
        assert await reading == b"0123"
        assert file.closed

    asyncio.run(scene())


def test_too_many_are_refused_and_leave_no_open_file():
    backups, _, _, _ = held()
    for _ in range(HELD_MAX - 1):
        backups.hold(OpenSnapshot(7, 2, 1, SnapshotFile()))
    late = SnapshotFile()
    with pytest.raises(BusyError):
        backups.hold(OpenSnapshot(7, 2, 1, late))
    assert late.closed
