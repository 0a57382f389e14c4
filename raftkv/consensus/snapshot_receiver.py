"""Takes a leader's snapshot, and loads it beside the state that serves: the follower's side.

Nothing of what this node has changes until the whole file is here, verified, loaded and durable. A piece is written to
its file and acknowledged at once. Ticks verify what has arrived, decompress it and build a second state of it, a few
milliseconds at a time; the file is the queue between. At the end the file gets its name, and engine, log and state
machine go over to it in one step.

A part of a file is kept when the link breaks, when the leader changes and when this process ends. It goes on only with
the very same file: each piece and each acknowledgement says which (size and seal), and the checksums of the chunks,
each of which covers all before it, prove it again. A part that is useless now is deleted.

A disk that does not take the file ends the transfer, not the node: what it has stays as it is. The next one begins
after a pause, which grows with each that was begun in vain; a file for which there is no room is not begun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from persistence.errors import CorruptSnapshotError
from persistence.reserve import is_full
from persistence.snapshot_file import snapshot_name
from raftkv.consensus.core import Core
from raftkv.consensus.messages import SnapshotAck, SnapshotChunk
from raftkv.consensus.snapshot_sender import Info
from raftkv.errors import InvariantError

SLICE_BYTES: Final = 64 * 1024
"""Content that is loaded in one tick: some milliseconds for the smallest keys."""
RELEASE_SLOTS: Final = 64
"""Slots of the state that was replaced which are freed in one tick."""
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
"""Pause after a snapshot that could not be written: from, doubling, and to."""

Aside = Callable[[Callable[[], None]], Callable[[], bool]]
"""Runs work that may take long beside the loop. What it returns says whether the work is done, or raises what it
raised."""


def at_once(work: Callable[[], None]) -> Callable[[], bool]:
    """An :data:`Aside` that does not wait."""
    work()
    return lambda: True


class Incoming(Protocol):
    """A file on its way in (:class:`persistence.incoming.IncomingSnapshot`)."""

    @property
    def offset(self) -> int: ...
    @property
    def resumed_bytes(self) -> int: ...
    @property
    def is_whole(self) -> bool: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def advance(self, sink: Callable[[bytes], object], limit: int) -> bool: ...
    def sync(self) -> None: ...
    def publish(self) -> Info: ...
    def abort(self) -> None: ...


class Staged(Protocol):
    """A state that is being loaded beside the one that serves (:class:`raftkv.machine.image.Staging`)."""

    def feed(self, chunk: bytes) -> None: ...
    def finish(self) -> None: ...
    def release(self, slots: int) -> bool: ...


class _Transfer:
    """One file, the state that is made of it, and the leadership that it comes from."""

    def __init__(self, message: SnapshotChunk, incoming: Incoming, staged: Staged) -> None:
        self.index, self.last_term = message.index, message.last_term
        self.total_bytes, self.seal = message.total_bytes, message.seal
        self.incoming = incoming
        self.staged = staged
        self.peer, self.term = "", 0
        self.syncing: Callable[[], bool] | None = None
        """Set while the complete file is being made durable."""
        self.is_durable = False

    def is_of(self, message: SnapshotChunk) -> bool:
        """Whether the message belongs to the very same file."""
        return (self.index, self.last_term, self.total_bytes, self.seal) == (
            message.index, message.last_term, message.total_bytes, message.seal,
        )  # fmt: skip


class SnapshotReceiver:
    """At most one transfer at a time: from the leader."""

    def __init__(
        self,
        core: Core,
        receive: Callable[[str, int, bytes], Incoming],
        stage: Callable[[], Staged],
        install: Callable[[str, int, Info, Staged], None],
        aside: Aside,
    ) -> None:
        """``install(peer, term, info, staged)`` makes the node go over to the snapshot, or halts it."""
        self._core = core
        self._receive = receive
        self._stage = stage
        self._install = install
        self._aside = aside
        self._transfer: _Transfer | None = None
        self._released: Staged | None = None
        self._stages = False
        self._pause_s = 0.0
        self._not_before = -1e9
        self._refused: tuple[int, int, int] | None = None
        """Index, term and bytes of the snapshot that the disk refused."""
        self.failure: OSError | None = None
        """With what the disk refused a snapshot that this node still needs; None when nothing stands in its way."""
        self.on_end: Callable[[str, int, OSError | None], None] | None = None
        """Called with (file name, bytes, error): it was installed, or failed in a way that is news."""
        self.installed_total = 0

    @property
    def is_receiving(self) -> bool:
        """A part of a leader's snapshot is here."""
        return self._transfer is not None

    @property
    def shortage(self) -> str:
        """What finds no room; empty unless the disk, or a quota, is too full for a snapshot that this node needs."""
        if self.failure is None or self._refused is None or not is_full(self.failure):
            return ""
        return f"a snapshot of {self._refused[2]} bytes from the leader: {self.failure.strerror}"

    @property
    def has_more_to_do(self) -> bool:
        """The next tick need not wait for anything."""
        return self._stages or self._released is not None

    # ------------------------------------------------------------ pieces
    def on_chunk(self, peer: str, message: SnapshotChunk) -> None:
        """Keep the piece, and say what is here. The caller has checked that ``peer`` leads this term."""
        if not self._is_needed(message.index, message.last_term):
            self._not_needed(peer, message)
            return
        transfer = self._transfer_of(message)
        if transfer is None:
            return
        transfer.peer, transfer.term = peer, message.term
        incoming = transfer.incoming
        if message.offset == incoming.offset:
            try:
                incoming.write(message.offset, message.data)
            except OSError as error:
                self._give_up(message, error)
                return
            self._stages = True
        self._acknowledge(transfer)
        self._core.wants_tick = True

    def _is_needed(self, index: int, last_term: int) -> bool:
        """A snapshot that is not newer than what is known to be committed here would take the
        place of newer entries.
        """
        return index > self._core.committed and self._core.log.term_at(index) != last_term

    def _not_needed(self, peer: str, message: SnapshotChunk) -> None:
        core = self._core
        core.count("snapshots_not_needed")
        if message.index > core.committed:
            core.deliver(peer, follow(message.term, message.index))
        core.wire.send(peer, _installed(message.term, message.index, message.seal, message.total_bytes))

    def _transfer_of(self, message: SnapshotChunk) -> _Transfer | None:
        """The transfer of this file, begun if need be; None when that cannot be now: the leader tries again."""
        transfer = self._transfer
        if transfer is not None:
            if transfer.is_of(message):
                return transfer
            if transfer.syncing is not None:
                return None  # its file is in use
            self._drop()
        if self._core.monotonic() < self._not_before:
            return None
        name = snapshot_name(message.index, message.last_term)
        try:
            incoming = self._receive(name, message.total_bytes, message.seal)
        except OSError as error:
            self._give_up(message, error)
            return None
        if incoming.resumed_bytes:
            self._core.count("snapshots_resumed")
            self._stages = True
        self._transfer = _Transfer(message, incoming, self._stage())
        return self._transfer

    def _acknowledge(self, transfer: _Transfer, *, damaged: bool = False) -> None:
        offset = transfer.incoming.offset
        ack = SnapshotAck(transfer.term, transfer.index, transfer.seal, offset, installed=False, damaged=damaged)
        self._core.wire.send(transfer.peer, ack)

    def _give_up(self, one: SnapshotChunk | _Transfer, error: OSError) -> None:
        """The disk does not take it: what this node has stays as it is, and the leader will try again."""
        core, known = self._core, self.failure
        core.count("snapshots_not_written")
        core.counters["last_snapshot_errno"] = error.errno or 0
        # What was not begun cost nothing, and is looked at again soon.
        self._pause_s = min(RETRY_S_MAX, 2 * self._pause_s or RETRY_S) if self._transfer is not None else RETRY_S
        self._not_before = core.monotonic() + self._pause_s
        self._drop()
        self._refused = (one.index, one.last_term, one.total_bytes)
        if known is None or known.errno != error.errno:  # the first of a kind says it for those that follow
            self.failure = error
            self._tell(one, error)

    def _tell(self, one: SnapshotChunk | _Transfer, error: OSError | None) -> None:
        if self.on_end is not None:
            self.on_end(snapshot_name(one.index, one.last_term), one.total_bytes, error)

    def _cured(self) -> None:
        self.failure = self._refused = None
        self._pause_s, self._not_before = 0.0, -1e9

    def _drop(self) -> None:
        transfer, self._transfer = self._transfer, None
        self._stages = False
        try:
            if transfer is not None:
                transfer.incoming.abort()
        except OSError:
            self._core.count("snapshot_parts_left")  # the next transfer, or the next start, deletes it

    # ------------------------------------------------------------ slices
    def tick(self) -> None:
        """A slice of what there is to do."""
        if self._released is not None and not self._released.release(RELEASE_SLOTS):
            self._released = None
        refused, transfer = self._refused, self._transfer
        if refused is not None and not self._is_needed(refused[0], refused[1]):
            self._cured()
        if transfer is None:
            return
        try:
            if transfer.syncing is not None and transfer.syncing():
                transfer.syncing, transfer.is_durable = None, True
            if transfer.syncing is None:
                self._go_on(transfer)
        except OSError as error:
            self._give_up(transfer, error)

    def _go_on(self, transfer: _Transfer) -> None:
        core = self._core
        if not self._is_needed(transfer.index, transfer.last_term):
            self._drop()
        elif not transfer.is_durable:
            if self._stages:
                self._load_slice(transfer)
        elif (core.term, core.engine.leader_id) == (transfer.term, transfer.peer):
            self._end(transfer)
        # Else the next leader's first piece says whether it has the same file.

    def _load_slice(self, transfer: _Transfer) -> None:
        incoming, core = transfer.incoming, self._core
        try:
            self._stages = incoming.advance(transfer.staged.feed, SLICE_BYTES)
            if incoming.is_whole:
                transfer.staged.finish()
                transfer.syncing = self._aside(incoming.sync)
        except CorruptSnapshotError:
            core.count("snapshots_damaged")
            transfer.staged = self._stage()
            self._stages = True
            self._acknowledge(transfer, damaged=True)
        except InvariantError as error:
            self._stages = False
            core.halt(f"snapshot {snapshot_name(transfer.index, transfer.last_term)} cannot be loaded: {error.message}")

    def _end(self, transfer: _Transfer) -> None:
        core = self._core
        info = transfer.incoming.publish()
        self._transfer = None
        self._install(transfer.peer, transfer.term, info, transfer.staged)
        self._released = transfer.staged
        if not core.halted:
            self.installed_total += 1
            self._cured()
            self._tell(transfer, None)
            message = _installed(transfer.term, transfer.index, transfer.seal, transfer.total_bytes)
            core.wire.send(transfer.peer, message)


def _installed(term: int, index: int, seal: bytes, offset: int) -> SnapshotAck:
    return SnapshotAck(term, index, seal, offset, installed=True, damaged=False)


def follow(term: int, commit: int) -> dict[str, Any]:
    """Term and commit index for the engine, without entries."""
    return {"type": "append_entries", "term": term, "commit_index": commit}
