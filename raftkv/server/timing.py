"""Times how long the disk takes to make log records durable, for the fsync histogram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from persistence.files import Buffer, File, Files


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
