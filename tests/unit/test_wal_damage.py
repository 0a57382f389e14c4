"""Damage to a log: what is proven to have been durable and does not verify is refused, and nothing else is."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.disk import SURVIVALS, Disk, PowerCut
from persistence.errors import CorruptLogError
from persistence.records import ENTRY, FLAG_LZ4, HEADER_BYTES, body_of, decode_at, encode_header
from persistence.recovery import Content
from persistence.segment import DATA_START, decode_segment_header, marker_of, segment_name, segment_number, walk
from persistence.wal import Log, LogOptions
from tests.unit.small_log import SMALL, contents, fill


def written_log():
    """A closed log of three segments on a disk in memory, and what it holds."""
    disk = Disk()
    log = Log.open("/log", SMALL, disk)
    for index in range(1, 41):
        log.append(index, 1, (b"%04d" % index) * 200 if index % 4 else os.urandom(700))
        if index % 5 == 0:
            log.sync()
    log.set_hard_state(3, "n3")
    log.sync()
    expected = (contents(log), log.hard_state)
    log.close()
    return disk, expected


def segments_of(disk):
    return sorted(name for name in disk.names if name.endswith(".wal"))


def test_a_damaged_record_is_refused_with_file_and_offset():
    disk, _ = written_log()
    path = segments_of(disk)[0]
    disk.flip(path, DATA_START + HEADER_BYTES + 5, 3)
    with pytest.raises(CorruptLogError) as caught:
        Log.open("/log", SMALL, disk)
    assert caught.value.path == path
    assert caught.value.offset == DATA_START  # the first record of the file
    assert path in str(caught.value)


def torn_record(salt):
    """A log whose last round, torn by a crash, held a value with a record in it: one of this segment, by a client who
    knows how records look, but no salt.
    """
    disk = Disk()
    options = LogOptions(16 << 10, preallocate=False, compress_bytes_min=0, salt=salt)
    log = Log.open("/log", options, disk)
    fill(log, 3)
    log.sync()
    log.append(4, 1, encode_header(marker_of(1, 0), 0, ENTRY, 0, 1, 9, b"forged", 6) + b"forged" + bytes(500))
    log.sync()
    disk.kill()
    name = f"/log/{segment_name(1)}"
    *_, last = walk(memoryview(bytes(disk.names[name].content)), marker_of(1, salt))
    assert last.entry_index == 4
    torn = disk.open(name)
    torn.pwrite([bytes(len(bytes(500)))], last.end - 500 + 1)
    torn.pwrite([b"\x01"], last.end - 1)
    return disk, options


def test_a_record_in_a_value_that_was_torn_proves_nothing():
    disk, options = torn_record(salt=0)
    with pytest.raises(CorruptLogError, match="was written after this one was durable"):
        Log.open("/log", options, disk)  # as before there were salts
    disk, options = torn_record(salt=77)
    with Log.open("/log", options, disk) as log:
        assert (log.last_index, log.torn_bytes > 0) == (3, True)


def test_a_log_of_format_1_goes_on_in_segments_of_format_2(tmp_path):
    path = str(tmp_path / "log")
    with Log.open(path, LogOptions(16 << 10)) as log:
        fill(log, 20)
        written = contents(log)
    for salt in (5, 6):
        with Log.open(path, LogOptions(16 << 10, cache_bytes=0, salt=salt)) as log:
            assert log.salt == 5  # at once, and for good
            assert contents(log)[: len(written)] == written
            fill(log, 40)
            log.sync()
            written = contents(log)
    with Log.open(path) as log:
        assert contents(log) == written
    salts = []
    for one in sorted((tmp_path / "log").glob("*.wal")):
        block = one.read_bytes()[:DATA_START]
        header = decode_segment_header(block, one.name, segment_number(one.name))
        assert int.from_bytes(block[12:16], "little") == (2 if header.salt else 1)
        salts.append(header.salt)
    assert sorted(salts) == salts
    assert set(salts) == {0, 5}


@pytest.mark.parametrize("survival", SURVIVALS)
def test_a_power_cut_while_a_log_gets_its_salt_loses_nothing(survival):
    options = replace(SMALL, salt=5)
    steps = 0
    for step in range(1, 100):
        disk, expected = written_log()
        disk.arm(step)
        with contextlib.suppress(PowerCut):
            log = Log.open("/log", options, disk)
            steps = disk.steps
            break
        disk.power_cut(step, survival)
        for salt in (0, 5):
            with Log.open("/log", replace(SMALL, salt=salt), disk) as log:
                assert (contents(log), log.hard_state) == expected
    assert steps > 5
    assert (contents(log), log.hard_state, log.salt) == (*expected, 5)


def test_a_missing_segment_is_refused():
    disk, _ = written_log()
    disk.unlink(segments_of(disk)[1])
    with pytest.raises(CorruptLogError, match="missing"):
        Log.open("/log", SMALL, disk)


def test_a_segment_under_another_name_is_refused():
    disk, _ = written_log()
    newest = segments_of(disk)[-1]
    disk.rename(newest, f"/log/{segment_name(99)}")
    with pytest.raises(CorruptLogError, match="holds segment"):
        Log.open("/log", SMALL, disk)


def test_spares_of_a_log_that_was_deleted_are_not_reused():
    """They may hold records under the very number that the new log begins with."""
    disk, _ = written_log()
    log = Log.open("/log", SMALL, disk)
    log._spares.prepare()
    log.close()
    assert any(name.endswith(".spare") for name in disk.names), sorted(disk.names)
    for name in segments_of(disk):
        disk.unlink(name)
    with Log.open("/log", LogOptions(16 << 10, preallocate=False), disk) as log:
        assert log.entry_count == 0
        assert not any(name.endswith(".spare") for name in disk.names)


def test_a_damaged_record_that_gave_segments_up_is_named_when_they_are_gone():
    """It is in the last round, and no torn write: what it allowed was done."""
    disk = Disk()
    log = Log.open("/log", SMALL, disk)
    fill(log, 20)
    log.sync()
    end = log._writer.segments[-1].end
    log.compact_to(18)
    log.sync()
    newest = f"/log/{disk.listdir('/log')[-1]}"
    assert disk.listdir("/log") == [newest.removeprefix("/log/")] != [segment_name(1)]
    disk.kill()
    disk.flip(newest, end + 20)
    with pytest.raises(CorruptLogError, match="segment 1 is missing") as caught:
        Log.open("/log", SMALL, disk)
    assert (caught.value.path, caught.value.offset) == (newest, end)


def test_each_segment_that_is_needed_is_read_once_and_what_was_given_up_not_at_all(monkeypatch):
    """Also when the newest takes entries back that lie in older ones."""
    disk = Disk()
    log = Log.open("/log", SMALL, disk)
    fill(log, 60)
    log.sync()
    first = f"/log/{segment_name(1)}"
    given_up = bytes(disk.names[first].content)
    log.compact_to(30)
    log.sync()
    log.truncate_from(40)
    fill(log, 3, term=2)
    log.sync()
    before = contents(log)
    log.close()
    needed = [segment_number(path.removeprefix("/log/")) for path in segments_of(disk)]
    assert first not in disk.names
    assert len(needed) > 2
    back = disk.open(first, create=True)
    back.append(given_up)
    back.fdatasync()
    read = []

    def note(self, directory, files, number, init=Content.__init__):
        read.append(number)
        init(self, directory, files, number)

    monkeypatch.setattr(Content, "__init__", note)
    again = Log.open("/log", SMALL, disk)
    assert sorted(read) == needed
    assert contents(again) == before
    assert (again.first_index, again.last_index, again.last_term) == (30, 42, 2)


def test_damage_that_appears_while_the_log_is_open_is_found_by_the_read():
    disk, _ = written_log()
    log = Log.open("/log", LogOptions(16 << 10, cache_bytes=0), disk)
    disk.flip(segments_of(disk)[0], DATA_START + HEADER_BYTES, 0)
    with pytest.raises(CorruptLogError):
        log.entry(1)


@functools.cache
def pristine():
    disk, expected = written_log()
    return {path: bytes(inode.content) for path, inode in disk.names.items()}, expected


def disk_with(files):
    disk = Disk()
    disk.dirs.add("/log")
    for path, content in files.items():
        file = disk.open(path, create=True)
        file.append(content)
        file.fdatasync()
    return disk


FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FUZZ
@given(which=st.integers(0, 10), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused_or_harmless(which, where, bit):
    files, expected = pristine()
    disk = disk_with(files)
    path = sorted(files)[which % len(files)]
    disk.flip(path, int(where * len(files[path])), bit)
    try:
        log = Log.open("/log", SMALL, disk)
    except CorruptLogError:
        return
    assert (contents(log), log.hard_state) == expected


@FUZZ
@given(
    which=st.integers(0, 10),
    start=st.floats(0, 1, exclude_max=True),
    junk=st.binary(max_size=200),
    cut=st.booleans(),
)
def test_junk_over_a_segment_is_never_taken_for_entries(which, start, junk, cut):
    files, (entries, hard_state) = pristine()
    path = sorted(files)[which % len(files)]
    offset = int(start * len(files[path]))
    content = files[path][:offset] + junk + (b"" if cut else files[path][offset + len(junk) :])
    disk = disk_with({**files, path: content})
    try:
        log = Log.open("/log", SMALL, disk)
    except CorruptLogError:
        return
    found = contents(log)
    assert found == entries[: len(found)]
    assert log.hard_state in (hard_state, (0, None))
    if not cut:
        assert len(found) == len(entries)


@FUZZ
@given(junk=st.binary(max_size=300), number=st.integers(0, 2**64 - 1))
def test_decoders_take_any_bytes(junk, number):
    view = memoryview(junk)
    assert decode_at(view, 0, marker_of(number, 0)) is None
    with pytest.raises(CorruptLogError):
        decode_segment_header(view, "file", number)
    with pytest.raises(CorruptLogError):
        decode_segment_header(junk.ljust(DATA_START, b"\0"), "file", number)


@FUZZ
@given(stored=st.binary(max_size=100), raw=st.integers(0, 2**32 - 1))
def test_a_compressed_body_is_never_expanded_beyond_what_it_can_hold(stored, raw):
    record_bytes = encode_header(5, 0, ENTRY, FLAG_LZ4, 1, 1, stored, raw) + stored
    record = decode_at(memoryview(record_bytes), 0, 5)
    assert record is not None
    assert record.end == HEADER_BYTES + len(stored)
    with contextlib.suppress(ValueError):
        assert len(body_of(memoryview(record_bytes), record)) == raw
