"""Snapshots: written beside the running node, loaded whole or not at all: the snapshot guard.

How they get to followers: :mod:`raftkv.consensus.snapshot_sender`, :mod:`raftkv.consensus.snapshot_receiver`.

Faults of the engine that this stops (consensus.md 5a to 5c, 11):

* a part of a snapshot moves the commit index: nothing reaches the engine **before the file is complete and verified**;
* a failed load answers success: it **halts the node**, with the reason;
* an older snapshot cuts the log below acknowledged entries: **one that is not newer is refused**;
* the engine clears a log that does not start with the snapshot's entries: the two are **aligned** at start, and a log
  that holds the snapshot's last entry keeps its tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

from pysyncobj.config import SERIALIZER_STATE

from persistence.errors import SnapshotError
from persistence.snapshot_file import EXTRA_BYTES_MAX
from raftkv.consensus.configuration import unwrap, wrap
from raftkv.consensus.core import Core
from raftkv.consensus.journal import WriteAheadLog
from raftkv.consensus.membership import Membership
from raftkv.consensus.messages import Entry
from raftkv.consensus.replication import Replication
from raftkv.consensus.snapshot_receiver import (
    RETRY_S,
    RETRY_S_MAX,
    Aside,
    Incoming,
    SnapshotReceiver,
    Staged,
    at_once,
    follow,
)
from raftkv.consensus.snapshot_sender import Info, Meta, SnapshotSender
from raftkv.replicator import OpenSnapshot, SnapshotFile

NO_OP: Final = b"\x01"
"""The engine's entry that does nothing; stands for the entry before a snapshot's last one, which is never sent."""


class Store(Protocol):
    """What consensus needs of :class:`persistence.snapshots.SnapshotStore`."""

    def newest(self) -> Info | None: ...
    def read(self, info: Any) -> Iterator[bytes]: ...
    def open(self, info: Any) -> SnapshotFile: ...
    def receive(self, name: str, total_bytes: int, seal: bytes) -> Incoming: ...


class Writer(Protocol):
    """Writes a snapshot without stopping the node (a forked process; inline in a simulation)."""

    def start(self, index: int, term: int, extra: bytes, chunks: Callable[[], Iterable[bytes]]) -> None: ...
    def poll(self) -> bool | None:
        """None while it runs (or nothing runs), then once True or False."""
        ...

    @property
    def running(self) -> bool: ...
    @property
    def failure(self) -> OSError | None:
        """Why the last one failed, when the system refused it."""
        ...


class State(Protocol):
    """What a snapshot is taken of, and loaded into."""

    def dump(self) -> Iterable[bytes]: ...
    def load(self, chunks: Iterable[bytes]) -> None: ...
    def stage(self) -> Staged: ...
    def adopt(self, staging: Any) -> None: ...


class Snapshots:
    """Serializer of the engine; has the sender and the receiver."""

    def __init__(
        self,
        core: Core,
        replication: Replication,
        membership: Membership,
        store: Store,
        writer: Writer,
        state: State,
        loaded: Info | None = None,
        aside: Aside = at_once,
    ) -> None:
        """``loaded`` is the snapshot that the state machine holds already."""
        self._core = core
        self._membership = membership
        self._store = store
        self._writer = writer
        self._state = state
        self._loaded = loaded
        self._staged: Staged | None = None
        self._writing = (0, 0)
        self.started = 0.0
        self._requested = False
        self._pause_s = 0.0
        self._not_before = -1e9
        self.newest = store.newest()
        self.previous_index = 0
        """Last entry that the snapshot before the newest covers, as far as known: it may have to serve in its place."""
        self.on_written: Callable[[int, bool], None] | None = None
        self.sender = SnapshotSender(core, replication, lambda: self.newest, store.open, self._write_another)
        self.receiver = SnapshotReceiver(core, store.receive, state.stage, self._install, aside)

    @property
    def index(self) -> int:
        """Last entry that the newest snapshot covers; 0 without one."""
        return self.newest.meta.index if self.newest else 0

    @property
    def checking(self) -> bool:
        """A snapshot is being written, or was asked for."""
        return self._writer.running or self._requested

    @property
    def is_writing(self) -> bool:
        """A snapshot of this node is being written, since :attr:`started`."""
        return self._writer.running

    @property
    def rests(self) -> bool:
        """The last one could not be written: the policy waits before it asks again, longer each time."""
        return self._core.monotonic() < self._not_before

    @property
    def failed(self) -> bool:
        """The last one could not be written: it is owed, whatever it was asked for."""
        return self._pause_s > 0

    @property
    def error(self) -> OSError | None:
        """With what the system refused the last one that could not be written."""
        return self._writer.failure

    @property
    def failure(self) -> str:
        """Why it could not be written, in words."""
        error = self.error
        return error.strerror or str(error) if error is not None else "the process that wrote it ended"

    def open_newest(self) -> OpenSnapshot | None:
        """None without a snapshot, or when its file was removed by hand."""
        info = self.newest
        if info is None:
            return None
        try:
            return OpenSnapshot(info.meta.index, info.meta.term, info.size_bytes, self._store.open(info))
        except SnapshotError:
            return None

    def request(self) -> None:
        """Ask the engine to take one at its next tick. It passes what the newest covers already, unless that is gone."""
        if not self.checking:
            if self._was_removed():
                self._core.engine.forget_snapshot()
            self._requested = True
            self._core.engine.forceLogCompaction()

    def _was_removed(self) -> bool:
        """The newest file is not there any more: somebody deleted it, perhaps to have it written anew."""
        if self.newest is None:
            return False
        try:
            self._store.open(self.newest).close()
        except SnapshotError:
            return True
        except OSError:
            return False  # it cannot be opened now, and may be there
        return False

    def _write_another(self) -> None:
        """The newest file turned out to be damaged: write one even when nothing was applied since."""
        if not self.rests:
            self._core.engine.forget_snapshot()
            self.request()

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
            self._use(self._store.newest())
            self._pause_s, self._not_before = 0.0, -1e9
        else:
            self._pause_s = min(RETRY_S_MAX, 2 * self._pause_s or RETRY_S)
            self._not_before = self._core.monotonic() + self._pause_s
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
        self._writer.start(index, term, extra, self._state.dump)

    def deserialize(self) -> tuple[None, Entry, Entry, list[object]]:
        """Load the newest snapshot into the state machine; tell the engine where the log goes on."""
        core = self._core
        info = self.newest
        try:
            if info is None:
                msg = "the snapshot that the log needs is missing"
                raise FileNotFoundError(msg)
            if self._staged is not None:
                self._state.adopt(self._staged)
            elif info != self._loaded:
                self._state.load(self._store.read(info))
            self._loaded = None  # what is applied from now on is not in it
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

    def _use(self, info: Info | None) -> None:
        self.previous_index = self.index
        self.newest = info

    def setTransmissionData(self, data: Info) -> bool:  # noqa: N802 -- the engine's name
        self._use(data)
        return True

    def getTransmissionData(self, _node: object) -> None:  # noqa: N802 -- the engine's name
        return None

    def cancelTransmisstion(self, _node: object) -> None:  # noqa: N802 -- the engine's name
        return None

    def _install(self, peer: str, term: int, info: Info, staged: Staged) -> None:
        """Go over to the complete snapshot ``info`` of the leader, whose content is ``staged``."""
        core, index = self._core, info.meta.index
        self._staged = staged
        try:
            core.deliver(peer, {**follow(term, index), "serialized": info})
        finally:
            self._staged = None
        if core.applied != index and not core.halted:
            core.halt(f"snapshot {info.name} was not loaded: applied is {core.applied}, not {index}")
        if not core.halted:
            core.journal.view_first = core.log.first_index
            core.log.sync()


def continues(log: WriteAheadLog, meta: Meta) -> bool:
    """Whether the log goes on from the snapshot; otherwise it is worth nothing beside it, and
    the snapshot replaces it.
    """
    return log.term_at(meta.index) == meta.term and log.term_at(meta.index - 1) is not None


def begins_late(log: WriteAheadLog, covered: int) -> str:
    """Why the log cannot be used beside a snapshot up to entry ``covered`` (0: none); empty if it can.

    Also when an older snapshot is left: loading it would clear entries that this node has acknowledged.
    """
    if log.last_index and log.first_index > max(covered - 1, 1):
        return f"the log begins at entry {log.first_index}, and the newest valid snapshot ends at {covered}"
    return ""
