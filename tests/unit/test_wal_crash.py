"""Whatever is done to a log and wherever the power goes: what was acknowledged is there, in order, and nothing else.

The property is exact. Every change of the log has a number; after a crash the log must be in the state that
some number left it in, and that number is at least the highest that was acknowledged.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import zlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chaos.disk import Disk, PowerCut
from persistence.errors import LogFailedError
from persistence.wal import Log, LogOptions

DIRECTORY = "/log"
OPTIONS = LogOptions(segment_bytes=8192, cache_bytes=3000, preallocate=True, compress_bytes_min=256)


def payload_of(index: int, term: int, size: int) -> bytes:
    """Different for every entry; compressible when it is large."""
    return (
        (b"%d.%d." % (index, term)) * (size // 4 + 1)
        if size % 2
        else zlib.crc32(b"%d.%d" % (index, term)).to_bytes(4, "big")
        + bytes((index * 31 + at * at * 7 + term) & 0xFF for at in range(size))
    )


def state_of(log: Log):
    """Everything an owner can see, read through every path that it can be read by."""
    assert 0 <= log.durable_index <= log.last_index
    entries = log.entries(log.first_index, log.entry_count) if log.last_index else []
    assert len(entries) == log.entry_count
    for payload, index, term in entries:
        assert log.entry(index) == (payload, index, term)
        assert log.term_at(index) == term
    assert log.last_term == (entries[-1][2] if entries else 0)
    return tuple(entries), log.hard_state


class LogMachine(RuleBasedStateMachine):
    """The log beside a list of states, one for each change."""

    @initialize(preallocate=st.booleans(), fsync=st.sampled_from(["always", "everysec", "no"]))
    def open_new(self, preallocate, fsync):
        self.disk = Disk()
        self.options = LogOptions(8192, 3000, preallocate, fsync, compress_bytes_min=256)
        self.log = Log.open(DIRECTORY, self.options, self.disk)
        self.begun = False
        self.on_disk = 0
        self.states = [((), self.log.hard_state)]

    def note(self, entries, hard_state):
        if self.log.sequence >= len(self.states):
            assert self.log.sequence == len(self.states)
            self.states.append((entries, hard_state))
        assert state_of(self.log) == self.states[-1] == (entries, hard_state)

    @rule(size=st.integers(0, 700), count=st.integers(1, 6), step=st.integers(0, 2), base=st.integers(1, 50))
    def append(self, size, count, step, base):
        for _ in range(count):
            entries, hard = self.states[-1]
            index = entries[-1][1] + 1 if entries else base
            term = (entries[-1][2] if entries else 1) + step
            payload = payload_of(index, term, size)
            self.log.append(index, term, payload)
            assert self.log.entry(index)[0] is payload
            self.states.append(((*entries, (payload, index, term)), hard))
        assert state_of(self.log) == self.states[-1]

    @rule()
    def append_larger_than_a_segment(self):
        entries, hard = self.states[-1]
        index = entries[-1][1] + 1 if entries else 1
        payload = payload_of(index, 9, 9000)
        self.log.append(index, 9, payload)
        self.note(((*entries, (payload, index, 9))), hard)

    @rule(share=st.floats(0, 1.1))
    def truncate(self, share):
        entries, hard = self.states[-1]
        kept = int(len(entries) * share)
        if entries:
            self.log.truncate_from(entries[0][1] + kept)
            self.note(entries[:kept], hard)

    @rule(share=st.floats(0, 1))
    def compact(self, share):
        entries, hard = self.states[-1]
        dropped = int(len(entries) * share)
        if entries:
            self.log.compact_to(entries[0][1] + dropped)
            self.note(entries[dropped:], hard)

    @rule()
    def clear(self):
        self.log.clear()
        self.note((), self.states[-1][1])

    @rule(term=st.integers(0, 2**63), vote=st.sampled_from([None, "", "n1", "n\u00fc2"]))
    def set_hard_state(self, term, vote):
        self.log.set_hard_state(term, vote)
        self.note(self.states[-1][0], (term, vote))

    @rule()
    def sync(self):
        self.log.sync()
        self.begun = False
        self.on_disk = self.log.sequence
        assert self.log.durable_sequence == self.log.sequence
        assert self.log.durable_index == self.log.last_index

    @precondition(lambda self: not self.begun)
    @rule()
    def begin_sync(self):
        self.begun = self.log.begin_sync()
        self.begun_to = self.log.sequence

    @precondition(lambda self: self.begun)
    @rule()
    def finish_sync(self):
        self.log.finish_sync()
        self.begun = False
        self.on_disk = self.begun_to

    @precondition(lambda self: self.options.fsync != "always")
    @rule()
    def round_without_sync(self):
        """What the committer does between two syncs: it counts as durable, but only a kill may not lose it."""
        self.log.run_round(sync=False)
        self.log.retire_segments()
        self.begun = False
        assert self.log.durable_sequence == self.log.sequence

    @rule(seed=st.integers(0, 2**32))
    def power_cut(self, seed):
        for other_seed in range(seed, seed + 4):  # what else could have survived
            disk = copy.deepcopy(self.disk)
            disk.power_cut(other_seed)
            assert state_of(Log.open(DIRECTORY, self.options, disk)) in self.states[self.on_disk :]
        self.disk.power_cut(seed)
        self.reopen(self.states[self.on_disk :])

    @rule()
    def kill(self):
        """The process dies, the page cache lives."""
        self.reopen(self.states[self.log.durable_sequence :])

    @rule()
    def close_and_open(self):
        self.log.close()
        self.reopen(self.states[-1:])
        assert self.log.torn_bytes == 0

    @rule(at=st.integers(1, 12), seed=st.integers(0, 2**32), fault=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def fail(self, at, seed, fault):
        """A call of the next sync fails; the log stays failed; what was acknowledged before survives even a power cut."""
        durable = self.on_disk
        self.disk.arm(at, fault)
        with contextlib.suppress(LogFailedError):
            self.log.sync()
        self.disk.disarm()
        if self.log.failed is None:
            self.begun = False
            self.on_disk = self.log.sequence
            return
        for call in (self.log.sync, self.log.clear, self.log.begin_sync, lambda: self.log.append(1, 1, b"")):
            with pytest.raises(LogFailedError):
                call()
        self.log.close()
        self.reopen(self.states[durable:])
        self.disk.power_cut(seed)  # what the reopened log shows must be on the disk, not only in the cache
        self.reopen(self.states[-1:])

    @invariant()
    def durable_index_vouches_only_for_what_no_crash_can_lose(self):
        vouched = [entry for entry in self.states[-1][0] if entry[1] <= self.log.durable_index]
        for entries, _ in self.states[self.log.durable_sequence :]:
            assert set(vouched) <= set(entries)

    def reopen(self, allowed):
        self.log = Log.open(DIRECTORY, self.options, self.disk)
        self.begun = False
        found = state_of(self.log)
        assert found in allowed, f"{found} is not one of the last {len(allowed)} states"
        assert self.log.durable_index == self.log.last_index
        self.states = [found]
        self.on_disk = 0


LogMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestLogMachine = LogMachine.TestCase


def test_a_sync_covers_what_an_unfinished_round_wrote():
    for seed in range(20):
        disk = Disk()
        log = Log.open(DIRECTORY, OPTIONS, disk)
        log.append(1, 1, b"written, not synced")
        log.begin_sync()
        log.append(2, 1, b"written and synced with it")
        log.sync()
        disk.power_cut(seed)
        assert Log.open(DIRECTORY, OPTIONS, disk).last_index == 2


def workload(log: Log, states: list) -> None:
    """Rolls, compacts, recycles, truncates over a segment's border, clears, votes; syncs in between."""

    def note():
        states.append(state_of(log))

    def append(count, term):
        for _ in range(count):
            index = log.last_index + 1
            log.append(index, term, payload_of(index, term, 600))
            note()

    append(9, 1)
    log.sync()
    log.set_hard_state(2, "n2")
    note()
    append(9, 2)
    log.sync()
    log.truncate_from(6)
    note()
    append(4, 3)
    log.sync()
    log.compact_to(8)
    note()
    log.sync()
    append(14, 3)
    log.compact_to(20)
    note()
    log.sync()
    append(3, 4)
    log.clear()
    note()
    log.append(100, 5, payload_of(100, 5, 300))
    note()
    log.sync()


def count_steps() -> int:
    disk = Disk()
    log = Log.open(DIRECTORY, OPTIONS, disk)
    workload(log, [state_of(log)])
    return disk.steps


STEPS = count_steps()


def run_until_fault(disk, states):
    """Returns (highest acknowledged number); ``states`` is filled."""
    log = None
    try:
        log = Log.open(DIRECTORY, OPTIONS, disk)
        states.append(state_of(log))
        workload(log, states)
    except (PowerCut, LogFailedError, OSError):
        pass
    return log.durable_sequence if log is not None else 0


def go_on(disk, found) -> None:
    """A recovered log can be used, and what it takes from now on is as safe as before."""
    log = Log.open(DIRECTORY, OPTIONS, disk)
    assert state_of(log) == found
    for _ in range(8):
        log.append(log.last_index + 1, 9, payload_of(log.last_index + 1, 9, 600))
    log.sync()
    expected = state_of(log)
    disk.power_cut(7)
    assert state_of(Log.open(DIRECTORY, OPTIONS, disk)) == expected


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_power_cut_at_every_file_operation(step):
    for seed in range(4):
        disk = Disk()
        disk.arm(step)
        states = []
        acknowledged = run_until_fault(disk, states)
        disk.power_cut(seed)
        found = state_of(Log.open(DIRECTORY, OPTIONS, disk))
        assert found in (states[acknowledged:] or [((), (0, None))])
        go_on(disk, found)


@pytest.mark.parametrize("step", range(3, STEPS + 1, 5))
def test_power_cut_during_the_recovery_from_a_power_cut(step):
    for second in range(1, 12):
        disk = Disk()
        disk.arm(step)
        states = []
        acknowledged = run_until_fault(disk, states)
        disk.power_cut(step)
        disk.arm(second)
        try:
            Log.open(DIRECTORY, OPTIONS, disk)
        except PowerCut:
            disk.power_cut(second)
        else:
            break
        found = state_of(Log.open(DIRECTORY, OPTIONS, disk))
        assert found in (states[acknowledged:] or [((), (0, None))])
        go_on(disk, found)


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("step", range(1, STEPS + 1, 2))
def test_an_error_at_every_file_operation(step, fault):
    disk = Disk()
    disk.arm(step, fault)
    states = []
    acknowledged = run_until_fault(disk, states)
    disk.disarm()
    found = state_of(Log.open(DIRECTORY, OPTIONS, disk))
    assert found in (states[acknowledged:] or [((), (0, None))])
    disk.power_cut(step)
    go_on(disk, found)
