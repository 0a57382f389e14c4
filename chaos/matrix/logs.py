"""The log by itself, beside a list of all the states that it was in."""

from __future__ import annotations

import copy
import zlib
from contextlib import suppress
from functools import cache
from typing import Final

from chaos.matrix.cells import Judgement, LostError
from chaos.matrix.faults import CellDisk
from persistence.errors import CorruptLogError
from persistence.reserve import Reserve
from persistence.wal import Log, LogOptions

DIRECTORY: Final = "data/log"
OPTIONS: Final = LogOptions(
    segment_bytes=8192, cache_bytes=2000, preallocate=True, compress_bytes_min=512, salt=1 << 60
)
RESERVE_BYTES: Final = 40_000
TORN_SEEDS: Final = 200

State = tuple[tuple[tuple[bytes, int, int], ...], tuple[int, str | None]]


@cache
def payload(index: int, term: int, size: int = 600) -> bytes:
    """Different for every entry; every other one compressible."""
    if index % 2:
        return (b"%d.%d." % (index, term)) * (size // 4)
    seed = zlib.crc32(b"%d.%d" % (index, term))
    return bytes((seed >> (at % 24)) + at * at * 7 & 0xFF for at in range(size))


def state_of(log: Log) -> State:
    """Everything an owner can see."""
    entries = log.entries(log.first_index, log.entry_count) if log.last_index else []
    return tuple(entries), (log.hard_state.term, log.hard_state.voted_for)


class PreparingLog(Log):
    """Prepares the next segment when it is told to, not on a thread."""

    def prepare_segment(self, *, give_up: bool = False) -> None:
        """What the preparing thread does. Raises OSError."""
        if self._spares.wanted or give_up:
            self._spares.prepare(lambda: give_up)


class LogLife:
    """Save: group commit, votes, truncation, rolling, compaction, recycling, clearing, stop and start."""

    def __init__(self) -> None:
        self.states: list[State] = [((), (0, None))]
        self.acknowledged = 0
        """Number of the newest state that is certain."""
        self.before_last_round = 0
        """What was acknowledged when the last round began: damage in that one may look like a torn write."""
        self._log: PreparingLog | None = None
        self._opened_at = 0
        """Number of the state at which the log was opened, from which it counts."""

    def prepare(self, disk: CellDisk) -> None:
        """An earlier life: a torn tail, a file in preparation, a spare of another size."""
        log = self._open(disk)
        self._append(4, 1)
        self._sync()
        self._append(5, 1)
        log.begin_sync()
        for name, size in (("0000000007.prep", 100), ("0000000008.spare", 100)):
            disk.open(f"{DIRECTORY}/{name}", create=True).preallocate(size, lambda: False)
        disk.fsync_dir(DIRECTORY)
        for seed in range(TORN_SEEDS):
            torn = copy.deepcopy(disk)
            torn.power_cut(seed, "scattered")
            if Log.open(DIRECTORY, OPTIONS, torn).torn_bytes > 0:
                disk.power_cut(seed, "scattered")
                return
        raise AssertionError("no power cut leaves a torn tail")

    def live(self, disk: CellDisk) -> None:
        log = self._open(disk)
        self._workload(log)
        self._sync()
        self.acknowledged = len(self.states) - 1
        log.close()
        self.before_last_round = self.acknowledged  # the mark vouches for all rounds
        log = self._open(disk)
        log.set_hard_state(9, None)
        self._note()
        self._append(3, 9)
        self._sync()
        self._append(2, 9)
        if self._opened_at + log.sequence != len(self.states) - 1:
            raise AssertionError("the log counts its changes in another way than this scenario")

    def _workload(self, log: PreparingLog) -> None:
        self._append(6, 1)
        self._sync()
        log.prepare_segment(give_up=True)
        log.prepare_segment()
        log.set_hard_state(2, "n2")
        self._note()
        self._sync()
        self._append(7, 2)
        self._group_commit()
        self._append(8, 2)
        log.truncate_from(log.last_index - 9)
        self._note()
        self._append(3, 3)
        self._sync()
        for _ in range(3):
            self._append(12, 3)
            log.compact_to(log.last_index - 4)
            self._note()
            self._sync()
        log.prepare_segment()
        self._append(3, 4)
        log.clear()
        self._note()
        self._sync()
        log.append(100, 5, payload(100, 5))
        self._note()
        self._append(14, 5)
        self._sync()

    def _group_commit(self) -> None:
        """Written, and while the disk is at it, more is appended; with the sync the first of it counts."""
        log = self._current()
        log.begin_sync()
        written = len(self.states) - 1
        self._append(2, 2)
        self.before_last_round = self.acknowledged
        log.finish_sync()
        self.acknowledged = written
        self._sync()

    def _current(self) -> PreparingLog:
        assert self._log is not None
        return self._log

    def _open(self, disk: CellDisk, reserve: Reserve | None = None) -> PreparingLog:
        log = PreparingLog.open(DIRECTORY, OPTIONS, disk, reserve)
        assert isinstance(log, PreparingLog)
        self._log = log
        found = state_of(log)
        if found not in self.states[self.acknowledged :]:
            raise LostError(f"the log came back in a state that was not among the last {len(self.states)}")
        self.states.append(found)
        self._opened_at = self.acknowledged = len(self.states) - 1  # what a recovery shows it has made durable
        return log

    def _append(self, count: int, term: int) -> None:
        log = self._current()
        for _ in range(count):
            index = log.last_index + 1
            log.append(index, term, payload(index, term))
            self._note()

    def _note(self) -> None:
        self.states.append(state_of(self._current()))

    def _sync(self) -> None:
        self.before_last_round = self.acknowledged
        self._current().sync()
        self.acknowledged = len(self.states) - 1

    def open(self, disk: CellDisk) -> None:
        Log.open(DIRECTORY, OPTIONS, disk)

    def judge(self, disk: CellDisk, *, damaged: bool) -> Judgement:
        certain = self.before_last_round if damaged else max(self.acknowledged, self._told())
        try:
            found = state_of(Log.open(DIRECTORY, OPTIONS, copy.deepcopy(disk)))
        except CorruptLogError as error:
            if not damaged:
                raise LostError(str(error)) from error
            return "refused"
        if found not in self.states[certain:]:
            where = [number for number, one in enumerate(self.states) if one == found]
            raise LostError(f"state {certain} or later was acknowledged, what is there is {where or 'no state at all'}")
        self._go_on(disk, found)
        return "survived"

    def _told(self) -> int:
        """Number of the state that the log itself said was durable."""
        return self._opened_at + (self._log.durable_sequence if self._log else 0)

    @staticmethod
    def _go_on(disk: CellDisk, found: State) -> None:
        """What it shows is on the disk, and it can be used."""
        hasty = copy.deepcopy(disk)
        Log.open(DIRECTORY, OPTIONS, hasty)
        hasty.power_cut(0, "nothing")
        if state_of(Log.open(DIRECTORY, OPTIONS, hasty)) != found:
            raise LostError("what the recovered log showed was not on the disk")
        log = Log.open(DIRECTORY, OPTIONS, disk)
        for _ in range(16):
            log.append(log.last_index + 1, 1 << 20, payload(log.last_index + 1, 1 << 20))
        log.sync()
        expected = state_of(log)
        disk.power_cut(0, "nothing")
        if state_of(Log.open(DIRECTORY, OPTIONS, disk)) != expected:
            raise LostError("what was written and synced after the recovery is not there")


class FullDiskLife(LogLife):
    """The disk fills up: in a write, at a new segment, while one is prepared; the reserve is
    given back and made again.
    """

    def prepare(self, disk: CellDisk) -> None:
        self._open(disk)

    def live(self, disk: CellDisk) -> None:
        reserve = self._reserve(disk, RESERVE_BYTES)
        log = self._open(disk, reserve)
        self._append(2, 1)
        self._sync()
        disk.capacity_bytes = disk.used_bytes + 100
        with suppress(OSError):  # the thread that prepares lets it pass
            log.prepare_segment()
        self._append(2, 1)
        self._sync()
        with suppress(OSError):
            reserve.make()
            disk.capacity_bytes = None
            reserve.make()  # after a shortage it sees whether there is more
        log = self._again(disk, RESERVE_BYTES // 2)
        disk.capacity_bytes = disk.used_bytes
        log.append(log.last_index + 1, 2, payload(log.last_index + 1, 2, 9000))
        self._note()
        self._sync()
        self._again(disk, RESERVE_BYTES // 4)
        self._append(2, 3)
        self._sync()
        self._reserve(disk, 0)

    def _again(self, disk: CellDisk, reserve_bytes: int) -> PreparingLog:
        """There is space again; the node starts anew, with a smaller reserve."""
        disk.capacity_bytes = None
        self._reserve(disk, RESERVE_BYTES)
        self._current().close()
        return self._open(disk, self._reserve(disk, reserve_bytes))

    @staticmethod
    def _reserve(disk: CellDisk, size: int) -> Reserve:
        reserve = Reserve("data", size, disk)
        reserve.make()
        return reserve
