"""Snapshots: written beside the running node, loaded whole or not at all, sent in pieces: the snapshot guard.

Faults of the engine that this stops (consensus.md 5a to 5c, 11):

* a part of a snapshot moves the commit index: nothing reaches the engine **before the file is complete and verified**;
* a failed load answers success: it **halts the node**, with the reason;
* an older snapshot cuts the log below acknowledged entries: **one that is not newer is refused**;
* the engine clears a log that does not start with the snapshot's entries: the two are **aligned** at start, and a log
  that holds the snapshot's last entry keeps its tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pysyncobj.config import SERIALIZER_STATE

from persistence.errors import SnapshotError
from persistence.snapshots import EXTRA_BYTES_MAX, snapshot_name
from raftkv.consensus.configuration import unwrap, wrap
from raftkv.consensus.core import Core
from raftkv.consensus.journal import WriteAheadLog
from raftkv.consensus.membership import Membership
from raftkv.consensus.messages import Entry, SnapshotAck, SnapshotChunk
from raftkv.consensus.replication import Replication

CHUNK_BYTES: Final = 512 * 1024
WINDOW_CHUNKS: Final = 4
"""Chunks in flight to one follower."""
NO_OP: Final = b"\x01"
"""The engine's entry that does nothing; stands for the entry before a snapshot's last one, which is never sent."""


class Meta(Protocol):
    """Where a snapshot ends; ``extra`` is its configuration and the payload of its last entry."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def extra(self) -> bytes: ...


class Info(Protocol):
    """A complete snapshot on disk."""

    @property
    def meta(self) -> Meta: ...
    @property
    def name(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...


class Incoming(Protocol):
    """A snapshot on its way in."""

    @property
    def offset(self) -> int: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def finish(self) -> Info: ...
    def abort(self) -> None: ...


class Store(Protocol):
    """What consensus needs of :class:`persistence.snapshots.SnapshotStore`."""

    def newest(self) -> Info | None: ...
    def read(self, info: Any) -> Iterator[bytes]: ...
    def raw(self, info: Any, offset: int, length: int) -> bytes: ...
    def receive(self, name: str, total_bytes: int) -> Incoming: ...


class Writer(Protocol):
    """Writes a snapshot without stopping the node (a forked process; inline in a simulation)."""

    def start(self, index: int, term: int, extra: bytes, chunks: Callable[[], Iterable[bytes]]) -> None: ...
    def poll(self) -> bool | None:
        """None while it runs (or nothing runs), then once True or False."""
        ...

    @property
    def running(self) -> bool: ...


@dataclass(slots=True)
class _Sending:
    info: Info
    acked: int = 0
    sent: int = 0
    last_ack: float = 0.0


class Snapshots:
    """Serializer of the engine, sender and receiver of snapshots."""

    def __init__(
        self,
        core: Core,
        replication: Replication,
        membership: Membership,
        store: Store,
        writer: Writer,
        dump: Callable[[], Iterable[bytes]],
        load: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._core = core
        self._replication = replication
        self._membership = membership
        self._store = store
        self._writer = writer
        self._dump = dump
        self._load = load
        self._writing = (0, 0)
        self.started = 0.0
        self._requested = False
        self._sending: dict[str, _Sending] = {}
        self._incoming: Incoming | None = None
        self._incoming_key = (0, 0, 0)
        self.newest = store.newest()
        self.on_written: Callable[[int, bool], None] | None = None
        self.sent_total = 0
        self.installed_total = 0

    @property
    def index(self) -> int:
        """Last entry that the newest snapshot covers; 0 without one."""
        return self.newest.meta.index if self.newest else 0

    @property
    def checking(self) -> bool:
        """A snapshot is being written, or was asked for."""
        return self._writer.running or self._requested

    @property
    def is_sending(self) -> bool:
        """A follower is being given a snapshot."""
        return bool(self._sending)

    @property
    def is_receiving(self) -> bool:
        """A part of a leader's snapshot is here."""
        return self._incoming is not None

    def request(self) -> None:
        """Ask the engine to take one at its next tick."""
        if not self.checking:
            self._requested = True
            self._core.engine.forceLogCompaction()

    def settle(self) -> None:
        """After the engine's tick: a request that it did not take up had nothing new to write."""
        if self._requested:
            self._requested = False
            if self.on_written is not None:
                self.on_written(self.index, True)

    # ------------------------------------------------------------ the engine's serializer
    def checkSerializing(self) -> tuple[int, int | None]:  # noqa: N802 -- the engine's name
        if not self._writer.running:
            return SERIALIZER_STATE.NOT_SERIALIZING, None
        finished = self._writer.poll()
        if finished is None:
            return SERIALIZER_STATE.SERIALIZING, None
        index, compact_to = self._writing
        if finished:
            self.newest = self._store.newest()
        if self.on_written is not None:
            self.on_written(index, finished)
        return (SERIALIZER_STATE.SUCCESS if finished else SERIALIZER_STATE.FAILED), compact_to

    def serialize(self, data: tuple[None, Entry, Entry, object], compact_to: int) -> None:
        """The engine wants a snapshot that ends with the entry ``data[1]``."""
        payload, index, term = data[1]
        extra = wrap(self._membership.for_snapshot, payload)
        if len(extra) > EXTRA_BYTES_MAX:
            self._core.count("snapshots_postponed")  # the entry itself must fit into the snapshot's header
            return
        self._requested = False
        self._writing = (index, compact_to)
        self.started = self._core.monotonic()
        self._writer.start(index, term, extra, self._dump)

    def deserialize(self) -> tuple[None, Entry, Entry, list[object]]:
        """Load the newest snapshot into the state machine; tell the engine where the log goes on."""
        core = self._core
        info = self.newest
        try:
            if info is None:
                msg = "the snapshot that the log needs is missing"
                raise FileNotFoundError(msg)
            self._load(self._store.read(info))
        except Exception as error:
            core.halt(f"snapshot cannot be loaded: {error!r}")
            raise
        meta = info.meta
        configuration, payload = unwrap(meta.extra)
        if configuration is not None:
            self._membership.reset(configuration)
        last: Entry = (payload, meta.index, meta.term)
        before: Entry = (NO_OP, meta.index - 1, meta.term)
        log = core.log
        if continues(log, meta):
            core.journal.view_first = meta.index - 1
            last, before = log.entry(meta.index), log.entry(meta.index - 1)
        return None, last, before, []

    def setTransmissionData(self, data: Info) -> bool:  # noqa: N802 -- the engine's name
        self.newest = data
        return True

    def getTransmissionData(self, _node: object) -> None:  # noqa: N802 -- the engine's name
        return None

    def cancelTransmisstion(self, _node: object) -> None:  # noqa: N802 -- the engine's name
        return None

    # ------------------------------------------------------------ leader
    def send(self) -> None:
        """Give each follower that is behind the log the next chunks."""
        core = self._core
        if not core.is_leader or self.newest is None:
            self._sending.clear()
            return
        for peer, progress in self._replication.progress.items():
            if progress.needs_snapshot:
                self._send_to(peer)
            else:
                self._sending.pop(peer, None)

    def _send_to(self, peer: str) -> None:
        core, newest = self._core, self.newest
        now = core.monotonic()
        sending = self._sending.get(peer)
        if sending is None:
            if newest is None:
                return
            sending = self._sending[peer] = _Sending(newest, last_ack=now)
            core.count("snapshots_started")
        if now - sending.last_ack > self._replication.patience_s(sending.sent - sending.acked):
            sending.sent, sending.last_ack = sending.acked, now
        meta, total = sending.info.meta, sending.info.size_bytes
        while sending.sent < total and sending.sent - sending.acked < WINDOW_CHUNKS * CHUNK_BYTES:
            try:
                data = self._store.raw(sending.info, sending.sent, CHUNK_BYTES)
            except SnapshotError:
                # Newer ones took its place while a slow follower was being served: it gets the newest next time.
                core.count("snapshots_replaced")
                del self._sending[peer]
                return
            chunk = SnapshotChunk(core.term, meta.index, meta.term, total, sending.sent, data)
            if not core.wire.send(peer, chunk):
                return
            sending.sent += len(data)

    def on_ack(self, peer: str, message: SnapshotAck) -> None:
        """The follower got further; at the end entries go on behind the snapshot."""
        core = self._core
        sending = self._sending.get(peer)
        progress = self._replication.progress.get(peer)
        if message.term != core.term or not core.is_leader or sending is None or progress is None:
            return
        if message.index != sending.info.meta.index:
            return
        sending.last_ack = core.monotonic()
        # Less than before: it has lost its part of the file (it started anew, or the file was damaged).
        sending.sent = message.offset if message.offset < sending.acked else max(sending.sent, message.offset)
        sending.acked = message.offset
        if message.offset >= sending.info.size_bytes:
            del self._sending[peer]
            self.sent_total += 1
            progress.needs_snapshot = False
            progress.restart(message.index + 1)
            if progress.next_index <= core.log.first_index:
                progress.needs_snapshot = True  # the log was compacted meanwhile: the next snapshot follows
        else:
            self._send_to(peer)

    # ------------------------------------------------------------ follower
    def on_chunk(self, peer: str, message: SnapshotChunk) -> None:
        """Collect; install when complete. The caller has checked that ``peer`` leads this term."""
        core = self._core
        if message.index <= core.committed or core.log.term_at(message.index) == message.last_term:
            core.count("snapshots_not_needed")
            if message.index > core.committed:
                core.deliver(peer, _follow(message.term, message.index))
            core.wire.send(peer, SnapshotAck(message.term, message.index, message.total_bytes))
            return
        incoming = self._receiving(message)
        if message.offset == incoming.offset:
            incoming.write(message.offset, message.data)
        if incoming.offset < message.total_bytes:
            core.wire.send(peer, SnapshotAck(message.term, message.index, incoming.offset))
            return
        self._incoming = None
        try:
            info = incoming.finish()
        except Exception as error:  # noqa: BLE001 -- a damaged transfer is started again, whatever broke it
            core.count("snapshots_damaged")
            core.counters["last_damage:" + type(error).__name__] = 1
            core.wire.send(peer, SnapshotAck(message.term, message.index, 0))
            return
        self._install(peer, message, info)

    def _receiving(self, message: SnapshotChunk) -> Incoming:
        key = (message.index, message.last_term, message.total_bytes)
        if self._incoming is None or self._incoming_key != key:
            if self._incoming is not None:
                self._incoming.abort()
            self._incoming = self._store.receive(snapshot_name(message.index, message.last_term), message.total_bytes)
            self._incoming_key = key
        return self._incoming

    def _install(self, peer: str, message: SnapshotChunk, info: Info) -> None:
        core = self._core
        core.deliver(peer, {**_follow(message.term, message.index), "serialized": info})
        if core.applied != message.index and not core.halted:
            core.halt(f"snapshot {info.name} was not loaded: applied is {core.applied}, not {message.index}")
        if core.halted:
            return
        core.journal.view_first = core.log.first_index
        core.log.sync()
        self.installed_total += 1
        core.wire.send(peer, SnapshotAck(message.term, message.index, message.total_bytes))


def continues(log: WriteAheadLog, meta: Meta) -> bool:
    """Whether the log goes on from the snapshot; otherwise it is worth nothing beside it, and the snapshot replaces it."""
    return log.term_at(meta.index) == meta.term and log.term_at(meta.index - 1) is not None


def begins_late(log: WriteAheadLog, covered: int) -> str:
    """Why the log cannot be used beside a snapshot up to entry ``covered`` (0: none); empty if it can.

    Also when an older snapshot is left: loading it would clear entries that this node has acknowledged.
    """
    if log.last_index and log.first_index > max(covered - 1, 1):
        return f"the log begins at entry {log.first_index}, and the newest valid snapshot ends at {covered}"
    return ""


def _follow(term: int, commit: int) -> dict[str, Any]:
    return {"type": "append_entries", "term": term, "commit_index": commit}
