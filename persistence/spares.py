"""Files that wait to become segments: zero-filled beforehand, or segments that are no longer needed.

A file in preparation is named ``.prep`` and is worth nothing after a restart; a ready one is named ``.spare``.
Turning it into a segment is: header, sync, rename, sync of the directory. A segment under its live name has
therefore always a durable header.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from persistence.files import File, Files, join
from persistence.reserve import Reserve
from persistence.segment import Segment, SegmentHeader, encode_segment_header, segment_name

READY_SUFFIX = ".spare"
PREPARATION_SUFFIX = ".prep"
SPARES_MAX = 2
"""Ready files kept; a segment that is dropped when there are as many is deleted."""


class Spares:
    """The ready files of one log directory. Safe to use from the writing and the preparing thread at once."""

    def __init__(
        self, directory: str, files: Files, segment_bytes: int, preallocate: bool, reserve: Reserve | None = None
    ) -> None:
        self.reserve = reserve or Reserve(directory, 0, files)
        self._directory = directory
        self._files = files
        self._segment_bytes = segment_bytes
        self._preallocate = preallocate
        self._lock = threading.Lock()
        self._ready: list[str] = []
        self._counter = 0

    def adopt(self, names: list[str], *, keep: bool) -> None:
        """Take over what an earlier run left: if ``keep``, ready files of the right size; the rest is deleted."""
        for name in names:
            path = join(self._directory, name)
            if name.endswith(PREPARATION_SUFFIX):
                self._files.unlink(path)
            elif name.endswith(READY_SUFFIX):
                self._counter = max(self._counter, _spare_number(name))
                self._adopt_ready(path, keep=keep)

    def _adopt_ready(self, path: str, *, keep: bool) -> None:
        file = self._files.open_read(path)
        size = file.size()
        file.close()
        if keep and size == self._segment_bytes and len(self._ready) < SPARES_MAX:
            self._ready.append(path)
        else:
            self._files.unlink(path)

    @property
    def wanted(self) -> bool:
        """Whether preparing one now saves work later."""
        return self._preallocate and not self._ready and not self.reserve.spent

    @property
    def ready(self) -> bool:
        """Whether a prepared file waits."""
        return bool(self._ready)

    def prepare(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Make a ready file, zero-filled. Slow (a segment is written); raises OSError on a full disk.

        When ``give_up`` says so it stops, and leaves nothing.
        """
        path = self._new_path(PREPARATION_SUFFIX)
        file = self._files.open(path, create=True)
        try:
            complete = file.preallocate(self._segment_bytes, give_up)
        except OSError:
            self._files.unlink(path)  # on a full disk its part of the space is missing elsewhere
            raise
        finally:
            file.close()
        if not complete:
            self._files.unlink(path)
            return
        ready = path.removesuffix(PREPARATION_SUFFIX) + READY_SUFFIX
        self._files.rename(path, ready)
        with self._lock:
            self._ready.append(ready)

    def become_segment(self, header: SegmentHeader) -> Segment:
        """A new live segment, durable under its name. Takes a ready file, or an empty one if there is none.

        On a full disk the reserve is given for it: what was begun before held nothing that counts.
        """
        try:
            return self._become_segment(header)
        except OSError as error:
            if not self.reserve.helps(error, "a new segment of the log"):
                raise
            return self._become_segment(header)

    def _become_segment(self, header: SegmentHeader) -> Segment:
        with self._lock:
            path = self._ready.pop() if self._ready else None
        file: File
        if path is None:
            path = self._new_path(PREPARATION_SUFFIX)
            file = self._files.open(path, create=True)
        else:
            file = self._files.open(path)
        live = join(self._directory, segment_name(header.number))
        try:
            file.pwrite([encode_segment_header(header)], 0)
            file.fdatasync()
        finally:
            file.close()
        self._files.rename(path, live)
        self._files.fsync_dir(self._directory)
        return Segment(header.number, self._files.open(live), header.marker)

    def retire(self, file: File) -> None:
        """Recycle or delete a segment's file that the log, durably, does not need any more."""
        path = file.path
        size = file.size()
        file.close()
        with self._lock:
            full = len(self._ready) >= SPARES_MAX
        if full or self.reserve.spent or size != self._segment_bytes:
            self._files.unlink(path)
            return
        spare = self._new_path(READY_SUFFIX)
        self._files.rename(path, spare)
        with self._lock:
            self._ready.append(spare)

    def _new_path(self, suffix: str) -> str:
        with self._lock:
            self._counter += 1
            return join(self._directory, f"{self._counter:010d}{suffix}")


def _spare_number(name: str) -> int:
    stem = name.removesuffix(READY_SUFFIX)
    return int(stem) if stem.isascii() and stem.isdigit() else 0
