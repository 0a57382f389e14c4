"""Part of the node: what it does about its disk. Full (alarm, reserve), slow (warnings), failed (the process ends)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from persistence.files import OsFiles, Space
from raftkv.machine.alarms import NOSPACE, Alarm
from raftkv.server.disk_failure import EXIT_DISK, end_soon
from raftkv.server.space import SpaceKeeper, SpaceWatch, alarm_group
from raftkv.server.state import DiskState
from raftkv.server.tickets import GroupTicket

if TYPE_CHECKING:
    from persistence.directory import DataDirectory
    from persistence.reserve import Reserve
    from raftkv.clock import Clock
    from raftkv.commands.registry import Argv
    from raftkv.config import Settings
    from raftkv.consensus.node import RaftNode
    from raftkv.errors import RaftKVError
    from raftkv.machine.machine import StateMachine
    from raftkv.replicator import Applied
    from raftkv.server.forwarding import Forwarder
    from raftkv.server.metrics import Metrics


class DiskCare:
    """All of it runs on the event loop, except for the look of :class:`SpaceWatch` at the disk."""

    settings: Settings
    clock: Clock
    raft: RaftNode
    machine: StateMachine
    forwarder: Forwarder
    reserve: Reserve
    metrics: Metrics
    log: Any
    disk: DiskState
    disk_failed: asyncio.Event
    """Set once the log cannot be written any more."""

    def leadership_changed(self) -> None:
        """Decide anew which way commands take."""
        raise NotImplementedError

    def _init_disk(self, directory: DataDirectory) -> None:
        settings = self.settings
        self.disk = DiskState()
        self.disk_failed = asyncio.Event()
        self._alarms: tuple[Alarm, ...] = ()
        self._stalled = False
        receiver = self.raft.replica.snapshots.receiver
        self._keeper = SpaceKeeper(
            settings.node_id, self.reserve, lambda: self.machine.alarms, self._order, lambda: receiver.shortage,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        self._watch = SpaceWatch(
            directory.path, self.reserve, OsFiles(), lambda: self.settings.disk_low_bytes,
            lambda space: loop.call_soon_threadsafe(self._on_space, space),
        )  # fmt: skip
        self.machine.on_alarms = self._on_alarms
        self.raft.on_log_failed = self._on_log_failed
        self.raft.on_snapshot.append(self._on_snapshot_failed)
        self._on_alarms()

    # ------------------------------------------------------------ space
    def _on_space(self, space: Space) -> None:
        settings, reserve, disk = self.settings, self.reserve, self.disk
        disk.free_bytes, disk.total_bytes = space.free, space.total
        disk.reserve_bytes = reserve.held_bytes
        now = self.clock.monotonic()
        self._keeper.look(now, space.free, settings.disk_low_bytes, settings.disk_high_bytes)
        if self.raft.is_leader and self.machine.alarms.standing:
            self._keeper.clear_of_former(now, self.raft.replica.membership.latest.ids)

    def _order(self, words: Argv) -> None:
        self.order_alarm(words, _forget)

    def order_alarm(self, words: Argv, done: Applied) -> None:
        """Have an ALARM group committed, wherever the leader is."""
        self.forwarder.submit(GroupTicket(alarm_group(words), [words], 2, done))

    def _on_alarms(self) -> None:
        """Alarms were raised or cleared: commands that take space are refused from now on, or no longer."""
        before, self._alarms = self._alarms, self.machine.alarms.standing
        if self._alarms == before:
            return
        self.leadership_changed()
        for one in set(self._alarms) - set(before):
            self.log.warning("alarm raised", node=one.node, kind=one.kind, reason=one.reason)
        for one in set(before) - set(self._alarms):
            self.log.warning("alarm cleared", node=one.node, kind=one.kind, reason=one.reason)
        own = (self.settings.node_id, NOSPACE)
        if own in {one[:2] for one in self._alarms} - {one[:2] for one in before}:
            # The log that a snapshot covers can go: it may be what fills the disk.
            asyncio.get_running_loop().call_soon(self.raft.replica.take_snapshot)

    def _on_snapshot_failed(self, _index: int, size_bytes: int, _seconds: float) -> None:
        error = self.raft.replica.snapshots.error
        if not size_bytes and error is not None and self.reserve.helps(error, "a snapshot"):
            self.log.warning("the reserve was given back for a snapshot", bytes=self.reserve.size_bytes)

    # ------------------------------------------------------------ slow, failed
    def _look_at_syncs(self, now: float) -> None:
        """Warn of slow syncs, and of one that does not end; called by the node's housekeeping."""
        stall = self.raft.replica.stall
        self.disk.waits_s = stall.waits_s
        if stall.stalled != self._stalled:
            self._stalled = stall.stalled
            if stall.stalled:
                self.log.error("the disk does not answer: the log has been waiting for longer than disk_stall_ms",
                               waits_ms=round(1000 * stall.waits_s), leads=self.raft.is_leader)  # fmt: skip
            else:
                self.log.warning("the disk answers again")
        self.disk.slow_syncs = self.metrics.slow_syncs.total
        news = self.metrics.slow_syncs.news(now)
        if news is not None:
            count, slowest_s = news
            self.log.warning("slow disk: syncs of the log took longer than disk_slow_ms", syncs=count,
                             slowest_ms=round(1000 * slowest_s), disk_slow_ms=self.settings.disk_slow_ms)  # fmt: skip

    def _on_log_failed(self, error: Exception) -> None:
        end_soon()
        self.log.error("the disk failed: this process ends, and recovers from the disk when it is started again",
                       reason=str(error), exit_code=EXIT_DISK)  # fmt: skip
        self.disk_failed.set()


def _forget(_result: object, _error: RaftKVError | None) -> None:
    return None
