"""Log lines into a pipe that nobody reads, for a while."""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
from collections.abc import Iterator

import pytest

from raftkv.server import log_writer as log_writer_module
from raftkv.server.log_writer import LineWriter, QueueingHandler
from raftkv.server.logs import TextFormatter, _mask_for

LINE = "x" * 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def logger_to(writer: LineWriter) -> logging.Logger:
    handler = QueueingHandler(writer)
    handler.setFormatter(TextFormatter(_mask_for(())))
    logger = logging.getLogger("raftkv.test")
    logger.handlers, logger.propagate = [handler], False
    return logger


def read_all(end: int, found: list[bytes], enough: threading.Event, last: bytes) -> None:
    tail = b""
    while last not in tail:
        data = os.read(end, 1 << 16)
        found.append(data)
        tail = tail[-100:] + data
    enough.set()


def test_a_reader_that_hangs_stops_nobody_and_is_told_what_it_missed(pipe, monkeypatch):
    monkeypatch.setattr(log_writer_module, "QUEUED_BYTES_MAX", 200_000)
    reading, writing = pipe
    writer = LineWriter(writing)
    logger = logger_to(writer)
    for number in range(1000):  # far more than pipe and queue take: with a write on this thread the test would end here
        logger.warning("%s", f"{number} {LINE}")
    assert writer.dropped > 500
    assert not writer.flush(0.01)
    found, enough = [], threading.Event()
    reader = threading.Thread(target=read_all, args=(reading, found, enough, b"the end"), daemon=True)
    reader.start()
    assert writer.flush(30)
    logger.warning("the end")
    assert enough.wait(30)
    lines = b"".join(found).decode().splitlines()
    due = 0
    for line in lines[:-1]:  # each number is written, or in the place where it would be a line tells of it
        missing = re.search(r"log lines are missing.* lines=(\d+)$", line)
        if missing is None:
            assert line.endswith(f"raftkv.test {due} {LINE}")
        due += int(missing[1]) if missing else 1
    assert due == 1000
    assert lines[-1].endswith("raftkv.test the end")


def test_what_is_written_in_parts_is_written_whole():
    got: list[bytes] = []

    def bit_by_bit(_descriptor: int, data: memoryview) -> int:
        got.append(bytes(data[:3]))
        return min(3, len(data))

    writer = LineWriter(2, bit_by_bit)
    assert writer.put(b"some words\n")
    assert writer.flush(30)
    assert b"".join(got) == b"some words\n"


def test_a_reader_that_has_gone_costs_lines_and_nothing_else():
    def broken(_descriptor: int, _data: memoryview) -> int:
        raise OSError(errno.EPIPE, "broken pipe")

    writer = LineWriter(2, broken)
    assert writer.put(b"a\n")
    assert writer.put(b"b\n")
    assert writer.flush(30)
    assert writer.dropped == 2
