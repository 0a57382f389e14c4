"""The group-commit thread of a log, and the thread that prepares its next segment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from persistence.spares import Spares

PREPARE_AGAIN_S = 1.0
"""Pause after a failed attempt to prepare a segment."""
EVERYSEC_S = 1.0
"""Most time between two syncs with fsync=everysec."""


class Rounds(Protocol):
    """What the committer drives: a log."""

    failed: Exception | None

    @property
    def durable_sequence(self) -> int: ...

    def run_round(self, *, sync: bool) -> None: ...

    def retire_segments(self) -> None: ...


class Committer:
    """One round at a time, as long as rounds are requested. A request during a round causes exactly one more."""

    def __init__(
        self,
        log: Rounds,
        spares: Spares,
        fsync: str,
        on_durable: Callable[[int], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._log = log
        self._fsync = fsync
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._requested = False
        self._sync_asked = False
        self._stopping = False
        self._wake = threading.Lock()  # a binary semaphore: far cheaper for the owner than a Condition
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run, name="wal-committer", daemon=True)
        self._preparer = Preparer(spares)

    def start(self) -> None:
        self._preparer.start()
        self._thread.start()

    def request(self) -> None:
        """Only the owner sets the flag and only the committer resets it, after it took the
        semaphore: no lost wakeup.
        """
        if not self._requested:
            self._requested = True
            self._wake.release()

    def request_fsync(self) -> None:
        """The round that is asked for syncs, whatever the fsync setting."""
        self._sync_asked = True
        self.request()

    def stop(self) -> None:
        """Returns when both threads have ended; a round in flight is finished first."""
        self._stopping = True
        self.request()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._preparer.stop()

    def _run(self) -> None:
        synced_at = time.monotonic()
        unsynced = False
        while not self._stopping:
            patience_s = max(0.0, synced_at + EVERYSEC_S - time.monotonic()) if unsynced else -1
            requested = self._wake.acquire(timeout=patience_s)
            self._requested = self._requested and not requested
            asked, self._sync_asked = self._sync_asked, False  # before the round takes what is buffered
            overdue = unsynced and time.monotonic() >= synced_at + EVERYSEC_S
            sync = self._fsync == "always" or asked or overdue
            self._log.run_round(sync=sync)
            if sync:
                synced_at = time.monotonic()
            unsynced = self._fsync == "everysec" and not sync
            if self._log.failed is not None:
                self._on_failed(self._log.failed)
                return
            self._on_durable(self._log.durable_sequence)
            self._log.retire_segments()
            self._preparer.request()


class Preparer:
    """Keeps a zero-filled segment ready, so that rolling to the next one costs a rename."""

    def __init__(self, spares: Spares) -> None:
        self._spares = spares
        self._stopping = False
        self._again_at = 0.0
        self._wake = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="wal-preparer", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.request()

    def request(self) -> None:
        if self._spares.wanted and time.monotonic() >= self._again_at:
            self._wake.release()

    def stop(self) -> None:
        self._stopping = True
        self._wake.release()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if self._stopping:
                return
            if self._spares.wanted and time.monotonic() >= self._again_at:
                try:
                    self._spares.prepare(lambda: self._stopping)
                except OSError as error:
                    # Only help: what the log cannot do without is the committer's to report.
                    self._spares.reserve.note(error, "preparing a segment of the log")
                    self._again_at = time.monotonic() + PREPARE_AGAIN_S
