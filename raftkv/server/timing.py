"""Times how long the disk takes to make log records durable, for the fsync histogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from persistence.files import Buffer, File, Files

WARN_EVERY_S: Final = 10.0
"""Slow syncs are reported together, at most this often."""


class SlowSyncs:
    """Counts the syncs that took too long. The log's thread observes, the event loop's asks."""

    def __init__(self, bound_s: float = 0.0) -> None:
        self.bound_s = bound_s
        self.total = 0
        self._told = 0
        self._told_at = -WARN_EVERY_S
        self._slowest_s = 0.0

    def observe(self, seconds: float) -> None:
        """One sync took so long."""
        if seconds > self.bound_s > 0:
            self._slowest_s = max(self._slowest_s, seconds)
            self.total += 1

    def news(self, now: float) -> tuple[int, float] | None:
        """(how many, the slowest) since this was last answered, if it is time to tell of them again."""
        if self.total == self._told or now - self._told_at < WARN_EVERY_S:
            return None
        count, slowest = self.total - self._told, self._slowest_s
        self._told, self._told_at, self._slowest_s = self.total, now, 0.0
        return count, slowest


class TimedFiles:
    """Files whose synchronous writes are timed; everything else passes through."""

    def __init__(self, files: Files, monotonic: Callable[[], float], observe: Callable[[float], None]) -> None:
        self._files = files
        self._monotonic = monotonic
        self._observe = observe

    def open(self, path: str, *, create: bool = False) -> File:
        return _TimedFile(self._files.open(path, create=create), self._monotonic, self._observe)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


class _TimedFile:
    def __init__(self, file: File, monotonic: Callable[[], float], observe: Callable[[float], None]) -> None:
        self._file = file
        self._monotonic = monotonic
        self._observe = observe

    def pwrite(self, buffers: Sequence[Buffer], offset: int, *, sync: bool = False) -> None:
        started = self._monotonic()
        self._file.pwrite(buffers, offset, sync=sync)
        if sync:
            self._observe(self._monotonic() - started)

    def fdatasync(self) -> None:
        started = self._monotonic()
        self._file.fdatasync()
        self._observe(self._monotonic() - started)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
