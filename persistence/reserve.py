"""Space set aside for the moment at which the disk is full.

A file of claimed blocks, ``DIR/reserve``. When the log would fail for want of space the file is deleted, and the
log goes on in its place: enough to take deletions, a snapshot and the compaction of the log, which make room
again. Whoever owns the directory claims it anew when there is space (:meth:`Reserve.make`), and is told what met
a full disk (:attr:`Reserve.shortage`).

Caveats. Other programs may take the space that was given back. A file system that copies on write may need blocks for
what is overwritten, so that even a prepared segment can meet a full disk: that is what the reserve is for, too.
"""

from __future__ import annotations

import errno
import os
import threading

from persistence.files import Files, join

RESERVE = "reserve"
PROBE_SUFFIX = ".probe"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: BaseException) -> bool:
    """Whether ``error`` says that there is no space: on the disk, or in a quota."""
    return isinstance(error, OSError) and error.errno in FULL


class Reserve:
    """Of one data directory. Safe to use from several threads; ``size_bytes`` 0 sets nothing aside."""

    def __init__(self, directory: str, size_bytes: int, files: Files) -> None:
        self.size_bytes = size_bytes
        self.shortage = ""
        """What last met a full disk; empty when nothing did since :meth:`make` succeeded."""
        self._path = join(directory, RESERVE)
        self._directory = directory
        self._files = files
        self._lock = threading.Lock()
        self._held = files.exists(self._path)
        self._held_bytes = self._size() if self._held else 0
        self._made = False
        self._spent = False

    def _size(self) -> int:
        file = self._files.open_read(self._path)
        try:
            return file.size()
        finally:
            file.close()

    @property
    def held(self) -> bool:
        """Whether there is something to give back."""
        return self._held

    @property
    def held_bytes(self) -> int:
        """How much; what an earlier life left may be a part, or of another size."""
        return self._held_bytes if self._held else 0

    @property
    def wanting(self) -> bool:
        """Whether :meth:`make` has something to do, as far as this process knows."""
        return bool(self.shortage) or self._spent or not self._made

    @property
    def spent(self) -> bool:
        """It was given back and not made again: what is not needed at once must not take its place."""
        return self._spent

    def make(self) -> bool:
        """Claim the space, unless it is claimed. False when there is none, and then nothing is left behind.

        After a shortage as much again must be there, for a moment: what a quota leaves is not known in another way.
        May take long on a file system that cannot claim blocks without writing them. Raises OSError for anything else.
        """
        with self._lock:
            if not self.size_bytes:
                self._drop()
            elif not self._claim(self._path):
                self._held = self._made = False
                return False
            self._held, self._held_bytes = self.size_bytes > 0, self.size_bytes
            self._made, self._spent = True, False
            if self.shortage and self.size_bytes:
                probe = self._path + PROBE_SUFFIX
                if not self._claim(probe):
                    return False
                self._files.unlink(probe)
            self.shortage = ""
            return True

    def _claim(self, path: str) -> bool:
        """Make the file ``path`` as large as the reserve, or leave none."""
        try:
            file = self._files.open(path, create=not self._files.exists(path))
            try:
                if file.size() > self.size_bytes:
                    file.truncate(self.size_bytes)
                file.claim(self.size_bytes)
            finally:
                file.close()
        except OSError as error:
            if self._files.exists(path):
                self._files.unlink(path)
            if not is_full(error):
                raise
            self.shortage = f"the reserve file: {os.strerror(error.errno or 0)}"
            return False
        return True

    def _drop(self) -> None:
        if self._held:
            self._files.unlink(self._path)
            self._held = False

    def helps(self, error: OSError, what: str) -> bool:
        """``what`` met ``error``. If that was a full disk give the space back, and say whether to try again."""
        if not is_full(error):
            return False
        with self._lock:
            self.shortage = f"{what}: {os.strerror(error.errno or 0)}"
            self._spent = True
            helps = self._held
            self._drop()
            return helps

    def note(self, error: OSError, what: str) -> None:
        """``what`` can wait, and met ``error``."""
        if is_full(error):
            self.shortage = f"{what}: {os.strerror(error.errno or 0)}"
