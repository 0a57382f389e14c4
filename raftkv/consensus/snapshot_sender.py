"""Gives followers that need older entries than the log has a snapshot, piece by piece: the leader's side.

Each follower has a transfer of its own: a slow one holds nobody up. Of a transfer a bounded window is in flight, and
the file is read in small pieces, a few at a time. The file stays open, and so whole, when newer snapshots take its
place: else a follower that needs longer for it than they are apart would begin anew for ever. The log keeps what
follows it (:mod:`raftkv.consensus.compaction`). A transfer that gets nowhere for PATIENCE_S is given up, and its file
with it.

A message may be lost, repeated or late. The follower says what it holds of which file, and that is where sending goes
on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from persistence.errors import SnapshotError
from raftkv.consensus.core import Core
from raftkv.consensus.messages import SnapshotAck, SnapshotChunk
from raftkv.consensus.replication import Replication
from raftkv.replicator import SnapshotFile

CHUNK_BYTES: Final = 256 * 1024
WINDOW_CHUNKS: Final = 8
"""Chunks in flight to one follower."""
CHUNKS_AT_ONCE: Final = 2
"""Chunks read and sent in one go: each acknowledgement makes room for another two, until the window is full."""
PATIENCE_S: Final = 60.0
"""For so long a file is kept for a follower that does not take more of it."""
DOUBTS_MAX: Final = 3
"""A file that does not verify at a follower so often is taken for damaged, and a new one is written."""


class Meta(Protocol):
    """Where a snapshot ends; ``extra`` is its configuration and the payload of its last entry."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def extra(self) -> bytes: ...


class Info(Protocol):
    """A complete snapshot on disk. No other file has the same size and seal."""

    @property
    def meta(self) -> Meta: ...
    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def seal(self) -> bytes: ...


@dataclass(slots=True)
class _Sending:
    info: Info
    file: SnapshotFile
    acked: int = 0
    sent: int = 0
    doubts: int = 0
    last_ack: float = 0.0
    last_progress: float = 0.0


class SnapshotSender:
    """One transfer a follower that needs one."""

    def __init__(
        self,
        core: Core,
        replication: Replication,
        newest: Callable[[], Info | None],
        open_file: Callable[[Info], SnapshotFile],
        write_another: Callable[[], None],
    ) -> None:
        """``open_file`` raises SnapshotError or OSError; ``write_another`` asks for a new snapshot."""
        self._core = core
        self._replication = replication
        self._newest = newest
        self._open = open_file
        self._write_another = write_another
        self._sending: dict[str, _Sending] = {}

    @property
    def peers(self) -> tuple[str, ...]:
        """Who is being given one."""
        return tuple(self._sending)

    def index(self, peer: str) -> int:
        """Last entry that the snapshot covers which ``peer`` gets, or would get; 0 without one."""
        sending = self._sending.get(peer)
        info = self._newest() if sending is None else sending.info
        return 0 if info is None else info.meta.index

    def send(self) -> None:
        """Give each follower that needs a snapshot the next chunks."""
        needed: tuple[str, ...] = ()
        if self._core.is_leader:
            needed = tuple(peer for peer, one in self._replication.progress.items() if one.needs_snapshot)
        for peer in [one for one in self._sending if one not in needed]:
            self._end(peer)
        for peer in needed:
            self._send_to(peer)

    def _send_to(self, peer: str) -> None:
        sending = self._sending.get(peer) or self._begin(peer)
        if sending is None:
            return
        core, info = self._core, sending.info
        now = core.monotonic()
        if now - sending.last_progress > PATIENCE_S:
            core.count("snapshots_given_up")
            self._end(peer)
            return
        total = info.size_bytes
        if now - sending.last_ack > self._replication.patience_s(sending.sent - sending.acked):
            # Lost, or the word that it was installed: the last byte makes the follower say where it stands.
            sending.sent, sending.last_ack = min(sending.acked, total - 1), now
        for _ in range(CHUNKS_AT_ONCE):
            if sending.sent >= total or sending.sent - sending.acked >= WINDOW_CHUNKS * CHUNK_BYTES:
                return
            try:
                data = sending.file.pread(min(CHUNK_BYTES, total - sending.sent), sending.sent)
            except OSError:
                data = b""
            if not data:
                core.count("snapshots_unreadable")
                self._distrust(peer, info)
                return
            meta = info.meta
            chunk = SnapshotChunk(core.term, meta.index, meta.term, total, info.seal, sending.sent, data)
            if not core.wire.send(peer, chunk):
                return
            sending.sent += len(data)

    def _begin(self, peer: str) -> _Sending | None:
        core, info = self._core, self._newest()
        if info is None:
            return None
        try:
            file = self._open(info)
        except (SnapshotError, OSError):
            core.count("snapshots_unreadable")
            self._write_another()
            return None
        now = core.monotonic()
        sending = self._sending[peer] = _Sending(info, file, last_ack=now, last_progress=now)
        core.count("snapshots_started")
        return sending

    def _end(self, peer: str) -> None:
        self._sending.pop(peer).file.close()

    def _distrust(self, peer: str, info: Info) -> None:
        """Send this file no more; have another one written unless there is one."""
        self._end(peer)
        newest = self._newest()
        if newest is not None and newest.seal == info.seal:
            self._write_another()

    def on_ack(self, peer: str, message: SnapshotAck) -> None:
        """The follower got further; at the end entries go on after the snapshot."""
        core = self._core
        sending = self._sending.get(peer)
        progress = self._replication.progress.get(peer)
        if message.term != core.term or not core.is_leader or sending is None or progress is None:
            return
        info, offset = sending.info, message.offset
        if (message.index, message.seal) != (info.meta.index, info.seal) or offset > info.size_bytes:
            return
        sending.last_ack = core.monotonic()
        if message.installed:
            self._end(peer)
            progress.needs_snapshot = False
            progress.restart(message.index + 1)
            if progress.next_index <= core.log.first_index:
                progress.needs_snapshot = True  # the log was compacted meanwhile: the next snapshot follows
            return
        sending.doubts += message.damaged
        if sending.doubts >= DOUBTS_MAX:
            core.count("snapshots_doubted")
            self._distrust(peer, info)
            return
        if offset > sending.acked or offset == info.size_bytes:  # it loads what it has, which may take long
            sending.last_progress = sending.last_ack
        # Less than before: it lost a part of it, or found it damaged.
        sending.sent = offset if offset < sending.acked else max(sending.sent, offset)
        sending.acked = offset
        self._send_to(peer)
