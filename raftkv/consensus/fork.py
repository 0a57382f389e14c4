"""Writes a snapshot in a forked child: the state as it was at the fork, while the parent goes on serving.

The price is the page table at the fork (about 10 ms for 220 MiB) and a copy of each page that the parent changes
while the child writes. (Not of those that the child reads: :mod:`raftkv.store.dump` takes no references.) The
child shares nothing else: it drops every inherited descriptor, because a socket or lock that it kept would
outlive a killed parent, and it dies with its parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

PR_SET_PDEATHSIG: Final = 1
FIRST_INHERITED_FD: Final = 3
CHILD_NICENESS: Final = 10
STATUS_OTHER: Final = 255
"""Exit status of a child that failed for another reason than an error of the system, whose number is below."""


class _File(Protocol):
    def write(self, chunk: bytes) -> None: ...
    def commit(self) -> Any: ...


class ForkedWriter:
    """One snapshot at a time. ``begin(index, term, extra)`` opens the file, in the child; ``adopt`` of the same tells
    the parent's store of the file when it is complete.
    """

    def __init__(
        self,
        begin: Callable[[int, int, bytes], _File],
        adopt: Callable[[int, int, bytes], object],
        discard: Callable[[int, int, bytes], object],
    ) -> None:
        """``discard`` deletes what a child that failed left."""
        self._begin = begin
        self._adopt = adopt
        self._discard = discard
        self._child = 0
        self._refused: OSError | None = None
        self._writing = (0, 0, b"")
        self.failure: OSError | None = None
        """Why the last one failed, when the system refused it."""
        self._libc = ctypes.CDLL(None, use_errno=True)

    @property
    def running(self) -> bool:
        """A child is writing, or has finished and was not polled yet."""
        return self._child != 0 or self._refused is not None

    def start(self, index: int, term: int, extra: bytes, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Fork.

        Where the machine cannot (memory, a limit on processes) the snapshot has failed: :meth:`poll` says so.
        """
        parent = os.getpid()
        self._writing = (index, term, extra)
        try:
            self._child = os.fork()
        except OSError as error:
            self._refused = OSError(error.errno, f"no process can be started for it: {error.strerror}")
            return
        if self._child == 0:
            self._write_and_exit(parent, index, term, extra, chunks)

    def _write_and_exit(
        self, parent: int, index: int, term: int, extra: bytes, chunks: Callable[[], Iterable[bytes]]
    ) -> None:
        status = STATUS_OTHER
        try:
            gc.disable()  # a collection would touch, and so copy, every page
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            os.closerange(FIRST_INHERITED_FD, os.sysconf("SC_OPEN_MAX"))
            os.nice(CHILD_NICENESS)
            file = self._begin(index, term, extra)
            for chunk in chunks():
                file.write(chunk)
            file.commit()
            status = 0
        except OSError as error:  # the parent says it, once
            status = error.errno or STATUS_OTHER
        except BaseException as error:  # noqa: BLE001 -- the child must not return into the event loop
            if select.select([], [sys.stderr], [], 0)[1]:  # a reader that hangs must not keep the child for ever
                os.write(sys.stderr.fileno(), f"snapshot at {index} failed: {error!r}\n".encode())
        finally:
            os._exit(status)

    def poll(self) -> bool | None:
        """None while the child runs, then once whether it succeeded.

        Raises nothing: a snapshot may fail, its node not.
        """
        if self._refused is not None:
            self.failure, self._refused = self._refused, None
            return False
        if not self._child:
            return None
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid == 0:
            return None
        self._child = 0
        written, self._writing = self._writing, (0, 0, b"")
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            known = 0 < code < STATUS_OTHER
            self.failure = OSError(code, os.strerror(code)) if known else None
            with suppress(OSError):  # the next one writes over it, and a start deletes it
                self._discard(*written)
            return False
        try:
            self._adopt(*written)
        except OSError as error:  # too many open files, say
            self.failure = error
            return False
        self.failure = None
        return True
