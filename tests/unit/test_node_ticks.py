"""When a member judges time: not before it has read what arrived while its event loop stood still. And what it reports how loudly."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from raftkv.consensus.core import Timing
from raftkv.consensus.node import READ_FIRST_S, STOOD_STILL_HEARTBEATS, RaftNode

TIMING = Timing(heartbeat_s=1 / 16)
LATE_S = STOOD_STILL_HEARTBEATS * TIMING.heartbeat_s


class Node(RaftNode):
    """Only its clock, its loop, and a replica that counts ticks."""

    def __init__(self):
        self.now, self.ticks, self.timers = 128.0, 0, []
        self._clock = SimpleNamespace(monotonic=lambda: self.now)
        self._timing, self._loop = TIMING, SimpleNamespace(call_later=lambda *one: self.timers.append(one))
        self._stopped, self._tick_scheduled, self._ticked = False, False, self.now
        self.reports, self._reported_halt, self._snapshot_waiters, self._snapshot_trouble = [], "", [], ""
        levels = ("info", "warning", "error")
        self._report = SimpleNamespace(**{one: partial(self._reported, one) for one in levels})
        core = SimpleNamespace(halted="", committed=0, applied=0, is_leader=False, log=SimpleNamespace(failed=None))
        self.replica = SimpleNamespace(tick=self._count, core=core, has_more_to_do=False)

    def _reported(self, level, event, **_fields):
        self.reports.append((level, event))

    def _count(self):
        self.ticks += 1

    def tick_after(self, seconds):
        self.now += seconds
        self._tick()
        return self.ticks


def test_a_tick_in_time_is_taken_at_once():
    node = Node()
    assert [node.tick_after(seconds) for seconds in (0.0, 0.01, LATE_S)] == [1, 2, 3]
    assert node.timers == []


@pytest.mark.parametrize("seconds", [LATE_S + 1 / 64, 10.0])
def test_a_late_tick_waits_until_the_loop_has_read_what_arrived(seconds):
    node = Node()
    assert node.tick_after(seconds) == 0
    ((delay, again),) = node.timers
    assert delay == READ_FIRST_S
    node._schedule_tick()  # something that arrived asks for a tick: one is on its way
    again()
    assert node.ticks == 1
    assert len(node.timers) == 1


def test_a_node_that_was_stopped_meanwhile_ticks_no_more():
    node = Node()
    node._stopped = True
    assert node.tick_after(10.0) == 0
    assert node.timers == []


def test_a_halted_node_lets_nobody_wait_for_a_snapshot():
    node, told = Node(), []
    node._snapshot_waiters = [lambda index, error: told.append((index, str(error)))]
    node.replica.core.halted = "entry 7 is damaged"
    node.tick_after(0.0)
    node.take_snapshot(lambda index, error: told.append((index, str(error))))
    assert told == 2 * [(0, "MISCONF entry 7 is damaged")]


def test_what_somebody_has_to_look_at_is_reported_as_a_warning_or_an_error():
    node = Node()
    node.replica.core.halted = "entry 7 is damaged"
    node.tick_after(0.0)
    node.tick_after(0.0)
    node._on_hindrance("no quorum")
    node._told_attempt, node.on_snapshot = 0.0, []
    node.replica.snapshots = SimpleNamespace(failure="No space left on device", newest=None, started=0.0)
    node._on_snapshot(9, False)
    assert node.reports == [
        ("error", "node stopped serving"),
        ("warning", "a damaged member cannot be taken back"),
        ("warning", "snapshot failed, and will be tried again"),
    ]
