"""The log on a real file system, its threads, and damage to what it wrote."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.disk import Disk
from persistence.errors import LogClosedError, LogFailedError, OutOfRangeError, PersistenceError
from persistence.files import OsFiles
from persistence.wal import Log, LogOptions
from tests.unit.small_log import SMALL, contents, fill

WAIT_S = 20


class Committed:
    """Collects what the committer reports, and lets a test wait for it."""

    def __init__(self):
        self.condition = threading.Condition()
        self.sequence = 0
        self.threads = set()
        self.error = None

    def on_durable(self, sequence):
        with self.condition:
            self.sequence = sequence
            self.threads.add(threading.get_ident())
            self.condition.notify_all()

    def on_failed(self, error):
        with self.condition:
            self.error = error
            self.condition.notify_all()

    def wait(self, predicate):
        with self.condition:
            assert self.condition.wait_for(predicate, WAIT_S)


def test_entries_are_bounded_in_bytes_wherever_they_are(tmp_path):
    """The one that goes over is the last; two come at least; from disk, from memory and across."""
    for cache_bytes in (0, 3_000, 1 << 20):
        options = LogOptions(16 << 10, cache_bytes=cache_bytes, compress_bytes_min=100)
        with Log.open(str(tmp_path / f"log{cache_bytes}"), options) as log:
            for index in range(1, 31):
                log.append(index, 1, b"%03d" % index * 100)
            log.sync()
            log.append(31, 1, b"x" * 5_000)
            log.sync()
            for bytes_max, wanted in ((0, 2), (299, 2), (600, 3), (899, 3), (900, 4), (10**6, 20)):
                found = log.entries(5, 20, bytes_max)
                assert [index for _, index, _ in found] == list(range(5, 5 + wanted)), (cache_bytes, bytes_max)
            assert [index for _, index, _ in log.entries(29, 9, 500)] == [29, 30]
            assert [index for _, index, _ in log.entries(31, 9, 500)] == [31]


@pytest.mark.parametrize("bytes_max", [0, 299, 300])
def test_two_entries_come_though_only_the_second_is_in_memory(tmp_path, bytes_max):
    with Log.open(str(tmp_path / "log"), LogOptions(16 << 10, cache_bytes=3_000)) as log:
        for index in range(1, 31):
            log.append(index, 1, b"%03d" % index * 100)
            log.sync()
        last_on_disk = log._cache_first - 1
        assert 1 < last_on_disk < 29
        found = log.entries(last_on_disk, 9, bytes_max)
        assert [index for _, index, _ in found] == [last_on_disk, last_on_disk + 1]


def test_a_new_log_is_empty(tmp_path):
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        assert (log.first_index, log.last_index, log.last_term, log.entry_count) == (0, 0, 0, 0)
        assert (log.sequence, log.durable_sequence, log.durable_index) == (0, 0, 0)
        assert log.hard_state == (0, None)
        assert log.term_at(0) is None
        assert log.term_at(1) is None
        assert log.entries(1, 10) == []
        for index in (-1, 0, 1):
            with pytest.raises(OutOfRangeError):
                log.entry(index)


def test_everything_comes_back_from_real_files(tmp_path):
    path = str(tmp_path / "log")
    with Log.open(path, SMALL) as log:
        fill(log, 60)
        log.append(61, 1, b"compressible " * 1000)
        log.set_hard_state(7, "node-2")
        log.sync()
        expected = contents(log)
        assert log.bytes_on_disk > 60_000
    with Log.open(path, SMALL) as log:
        assert contents(log) == expected
        assert (log.hard_state.term, log.hard_state.voted_for) == (7, "node-2")
        assert log.torn_bytes == 0


def test_a_cached_payload_is_the_object_that_was_appended_and_an_old_one_is_read_back(tmp_path):
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        payloads = [os.urandom(1000) for _ in range(50)]
        for index, payload in enumerate(payloads, 1):
            log.append(index, 1, payload)
            log.sync()
        assert log.entry(50)[0] is payloads[-1]
        assert log.entry(1)[0] == payloads[0]
        assert log.entry(1)[0] is not payloads[0]
        assert [payload for payload, _, _ in log.entries(1, 50)] == payloads


def test_a_hole_is_refused(tmp_path):
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        log.append(10, 1, b"anything may be first")
        for index in (1, 10, 12):
            with pytest.raises(OutOfRangeError):
                log.append(index, 1, b"")
        with pytest.raises(OutOfRangeError):
            log.compact_to(12)
        with pytest.raises(OutOfRangeError):
            log.entries(9, 1)
        assert log.entry_count == 1


def test_durable_index_does_not_vouch_for_what_replaced_a_durable_entry(tmp_path):
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        fill(log, 5)
        log.sync()
        assert log.durable_index == 5
        log.truncate_from(3)
        assert log.durable_index == 2
        fill(log, 5, term=2)
        assert log.durable_index == 2
        log.begin_sync()
        log.append(8, 2, b"in the next round")
        log.finish_sync()
        assert log.durable_index == 7
        log.clear()
        log.append(3, 3, b"")
        assert log.durable_index == 0


def test_begin_sync_twice_is_refused(tmp_path):
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        fill(log, 1)
        assert log.begin_sync()
        with pytest.raises(PersistenceError, match="finish_sync"):
            log.begin_sync()
        log.finish_sync()
        assert not log.begin_sync()


def test_compaction_recycles_segments_and_the_hard_state_survives_it(tmp_path):
    path = tmp_path / "log"
    with Log.open(str(path), SMALL) as log:
        log.set_hard_state(4, "voted")
        log.sync()
        log._spares.prepare()  # as the preparing thread does; only segments of the full size are recycled
        fill(log, 200)
        log.sync()
        before = log.bytes_on_disk
        segments_before = len(list(path.glob("*.wal")))
        log.compact_to(190)
        log.sync()
        assert log.bytes_on_disk < before / 5
        assert len(list(path.glob("*.wal"))) < segments_before / 5
        assert 1 <= len(list(path.glob("*.spare"))) <= 2
        fill(log, 30)
        log.sync()
        expected = contents(log)
    with Log.open(str(path), SMALL) as log:
        assert log.first_index == 190
        assert contents(log) == expected
        assert (log.hard_state.term, log.hard_state.voted_for) == (4, "voted")


def test_group_commit_reports_from_its_own_thread(tmp_path):
    committed = Committed()
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        log.start_committer(committed.on_durable, committed.on_failed)
        for _ in range(300):
            fill(log, 1)
            log.request_sync()
        committed.wait(lambda: committed.sequence == 300)
        assert log.durable_index == 300
        assert threading.get_ident() not in committed.threads
        assert len(committed.threads) == 1
        expected = contents(log)
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        assert contents(log) == expected


def test_the_owner_may_sync_while_the_committer_runs(tmp_path):
    committed = Committed()
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        log.start_committer(committed.on_durable, committed.on_failed)
        for number in range(100):
            fill(log, 2, size=100)
            log.request_sync()
            if number % 3 == 0:
                log.sync()
                assert log.durable_index == log.last_index
            if number % 10 == 9:
                log.compact_to(log.last_index - 5)
        log.request_sync()
        committed.wait(lambda: committed.sequence == log.sequence)
        expected = contents(log)
    with Log.open(str(tmp_path / "log"), SMALL) as log:
        assert contents(log) == expected


@pytest.mark.parametrize("fsync", ["everysec", "no"])
def test_without_fsync_a_record_counts_when_it_is_written_but_a_vote_is_synced(fsync):
    disk = Disk()
    committed = Committed()
    log = Log.open("/log", LogOptions(16 << 10, fsync=fsync), disk)
    log.start_committer(committed.on_durable, committed.on_failed)
    log.append(1, 1, b"acknowledged early")
    log.request_sync()
    committed.wait(lambda: committed.sequence == 1)
    log.set_hard_state(5, "me")
    log.request_sync()
    committed.wait(lambda: committed.sequence == 2)
    disk.power_cut(3)
    assert Log.open("/log", LogOptions(16 << 10), disk).hard_state == (5, "me")


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_a_sync_that_is_asked_for_is_one_whatever_the_setting(monkeypatch, fsync):
    monkeypatch.setattr("persistence.committer.EVERYSEC_S", 3600.0)
    disk = Disk()
    committed = Committed()
    options = LogOptions(16 << 10, fsync=fsync)
    log = Log.open("/log", options, disk)
    log.start_committer(committed.on_durable, committed.on_failed)
    fill(log, 10)
    log.request_sync()
    committed.wait(lambda: committed.sequence == 10)
    assert log.synced_index == (10 if fsync == "always" else 0)
    fill(log, 1)
    log.request_fsync()
    committed.wait(lambda: log.synced_sequence == 11)
    assert log.synced_index == 11
    fill(log, 1)
    log.request_sync()
    committed.wait(lambda: committed.sequence == 12)
    assert log.synced_index == (12 if fsync == "always" else 11)
    disk.power_cut(3)
    assert Log.open("/log", options, disk).last_index >= 11


def test_what_is_synced_is_not_claimed_of_entries_that_took_the_place_of_others():
    """Two truncations between two syncs: the second one must not make the first one forgotten."""
    disk = Disk()
    committed = Committed()
    log = Log.open("/log", LogOptions(64 << 10, fsync="no"), disk)
    log.start_committer(committed.on_durable, committed.on_failed)

    def write_down():
        log.request_sync()
        committed.wait(lambda: committed.sequence == log.sequence)

    fill(log, 12)
    log.request_fsync()
    committed.wait(lambda: log.synced_index == 12)
    log.truncate_from(6)
    fill(log, 15, term=2)
    write_down()
    log.truncate_from(16)
    fill(log, 1, term=3)
    write_down()
    assert log.durable_index == log.last_index == 16
    assert log.synced_index == 5
    log.request_fsync()
    committed.wait(lambda: log.synced_index == 16)


def test_everysec_syncs_without_being_asked(monkeypatch):
    monkeypatch.setattr("persistence.committer.EVERYSEC_S", 0.05)
    disk = Disk()
    synced = threading.Event()

    def noticing(call):
        if call.operation == "sync":
            synced.set()

    log = Log.open("/log", LogOptions(16 << 10, fsync="everysec"), disk)
    disk.on_call = noticing
    log.start_committer(lambda _: None, lambda _: None)
    log.append(1, 1, b"x")
    log.request_sync()
    assert synced.wait(WAIT_S)
    log.close()


def test_a_failed_sync_is_reported_once_and_for_good():
    disk = Disk()
    committed = Committed()
    log = Log.open("/log", SMALL, disk)
    log.start_committer(committed.on_durable, committed.on_failed)
    log.append(1, 1, b"fine")
    log.request_sync()
    committed.wait(lambda: committed.sequence == 1)
    disk.arm(1, 5, where="sync")
    log.append(2, 1, b"lost")
    log.request_sync()
    committed.wait(lambda: committed.error is not None)
    assert isinstance(committed.error, LogFailedError)
    assert not committed.error.definite
    assert log.failed is committed.error
    assert log.durable_index == 1
    with pytest.raises(LogFailedError):
        log.append(3, 1, b"")
    with pytest.raises(LogFailedError):
        log.set_hard_state(1, None)
    log.request_sync()  # harmless: the owner may not have heard yet
    log.close()


def test_a_closed_log_is_closed(tmp_path):
    log = Log.open(str(tmp_path / "log"), SMALL)
    log.close()
    log.close()
    with pytest.raises(LogClosedError):
        log.append(1, 1, b"")
    with pytest.raises(LogClosedError):
        log.sync()


@pytest.mark.parametrize(
    "options", [{"segment_bytes": 1000}, {"segment_bytes": 2 << 30}, {"fsync": "sometimes"}, {"salt": 1 << 64}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LogOptions(**options)


@settings(deadline=None)
@given(
    payloads=st.lists(st.tuples(st.sampled_from(["", "m", "mm", "x", "xm"]), st.integers(0, 3000)), max_size=40),
    cache_bytes=st.sampled_from([0, 8 << 10, 1 << 20]),
    unsynced=st.integers(0, 10),
    low=st.integers(0, 45),
    is_new=st.booleans(),
)
def test_entries_are_found_by_how_they_begin_wherever_they_are(payloads, cache_bytes, unsynced, low, is_new):
    """On disk, as they are or compressed, over several segments, and in memory."""
    options = LogOptions(16 << 10, cache_bytes=cache_bytes, compress_bytes_min=200)
    disk = Disk()
    log = Log.open("/log", options, disk)
    entries = [
        (start.encode() + bytes(more if start else 0), index, 1) for index, (start, more) in enumerate(payloads, 3)
    ]
    for at, (payload, index, term) in enumerate(entries):
        if at == len(entries) - unsynced:
            log.sync()
        log.append(index, term, payload)
    if not is_new:
        log.close()
        log = Log.open("/log", options, disk)
    wanted = [entry for entry in entries if entry[1] >= low and entry[0].startswith(b"m")]
    assert list(log.beginning_with(ord("m"), low)) == wanted


def test_os_files_write_more_buffers_than_one_call_takes(tmp_path):
    files = OsFiles()
    file = files.open(str(tmp_path / "f"), create=True)
    buffers = [bytes([number % 251]) * (number % 7) for number in range(3000)]
    file.pwrite(buffers, 5, sync=True)
    assert file.pread(1 << 20, 5) == b"".join(buffers)
    file.truncate(3)
    file.append(b"end")
    assert file.pread(100, 0) == bytes(3) + b"end"
    file.close()
    file.close()
