"""Writes log lines on a thread of its own, so that whoever reads them and hangs does not stop the node.

A pipe whose reader does not read takes 64 KiB, and the next write to it waits. Here the thread waits; lines
queue up to ``QUEUED_BYTES_MAX``, what does not fit is dropped and counted, and the next line that fits is
preceded by one that says how many.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Final

QUEUED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Lines that wait to be written; one more is dropped."""
FLUSH_S: Final = 1.0
"""The end of the process waits so long for the lines before it."""


class LineWriter:
    """Lines for a file descriptor, which is never closed here."""

    def __init__(self, descriptor: int, write: Callable[[int, memoryview], int] = os.write) -> None:
        self.refused = 0
        """Lines that found the queue full."""
        self.failed = 0
        """Lines whose write failed. Only the thread counts them."""
        self.told = 0
        """How many of them a line has told of."""
        self._descriptor = descriptor
        self._write = write
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._put_bytes = 0
        self._done_bytes = 0  # by the thread alone, so that no lock is needed
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._started = False

    def put(self, line: bytes) -> bool:
        """Queue a line; False when there is no room. One thread at a time (a logging handler's lock sees to that)."""
        if self._put_bytes - self._done_bytes + len(line) > QUEUED_BYTES_MAX:
            return False
        if not self._started:
            self._started = True
            self._thread.start()
        self._put_bytes += len(line)
        self._lines.put(line)
        return True

    @property
    def dropped(self) -> int:
        """Lines since the start that were not written."""
        return self.refused + self.failed

    def flush(self, within_s: float = FLUSH_S) -> bool:
        """Wait until all is written. False when it was not in time."""
        deadline = monotonic() + within_s
        pause = threading.Event()
        while self._done_bytes < self._put_bytes:
            if monotonic() >= deadline:
                return False
            pause.wait(0.005)
        return True

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._write(self._descriptor, rest) :]
            except OSError:
                self.failed += 1  # its reader has gone, or the disk is full: there is nobody to tell
            self._done_bytes += len(line)


class QueueingHandler(logging.Handler):
    """Formats at once, because what a record refers to may change, and hands the line to a :class:`LineWriter`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            writer = self._writer
            missing = writer.dropped - writer.told
            if missing and writer.put(self._line(_notice(record, missing))):
                writer.told += missing
                missing = 0
            if missing or not writer.put(self._line(record)):  # never past a gap that was not told of
                writer.refused += 1
        except Exception:  # noqa: BLE001 -- a record that cannot be formatted is logging's to report
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return (self.format(record) + "\n").encode("utf-8", "backslashreplace")

    def flush(self) -> None:
        self._writer.flush()


def _notice(record: logging.LogRecord, dropped: int) -> logging.LogRecord:
    """Said before ``record``: so many lines are missing."""
    text = "log lines are missing: whoever reads standard error was too slow"
    notice = logging.LogRecord("raftkv.logs", logging.WARNING, "", 0, text, (), None)
    notice.created = record.created
    notice.fields = {"lines": dropped}
    return notice
