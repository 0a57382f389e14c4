"""An archive gives back exactly the entries that were put in, in a row, or says what is missing."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.disk import SURVIVALS, Disk, Killed, PowerCut, ProcessEnd
from persistence.archive import ArchiveWriter, Place, base_info, entries_after, runs
from persistence.backup import Origin
from persistence.entries import Archived, EntriesWriter, read_entries, read_header
from persistence.errors import (
    ArchiveError,
    CorruptArchiveError,
    CorruptionError,
    DirectoryLockedError,
    PersistenceError,
)
from persistence.points import prune, ranges, route, verify
from persistence.snapshots import SnapshotMeta, SnapshotStore
from tests.unit.in_memory import InMemory, damaged

ARCHIVE = "/a"
FUZZ = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def entry(index, term=1, payload=None):
    """The only entry of that index and term in these tests; one is stamped each 10 ms."""
    text = random.Random(f"{index} {term}").randbytes(40) + b"more of the same " * (index % 50)
    return Archived(index, term, 1_000_000 + 10 * index, text if payload is None else payload)


def row(first, last, term=1):
    return [entry(index, term) for index in range(first, last + 1)]


class Facts:
    """Stamps a base as the entry that it covers."""

    def __init__(self, index):
        self.index = index

    def feed(self, piece):
        pass

    def finish(self):
        return entry(self.index).stamp_ms, 7


def snapshot_of(index, term=1):
    disk = Disk()
    store = SnapshotStore("/s", disk)
    writer = store.begin(SnapshotMeta(index, term))
    writer.write(b"state after %d" % index)
    return store.raw(info := writer.commit(), 0, info.size_bytes)


def base_args(index, term=1, cluster="c1"):
    raw = snapshot_of(index, term)
    origin = Origin(cluster, "n1", index, term, len(raw), 55, "test 1")
    return origin, lambda at, length: raw[at : at + length], Facts(index)


def opened(disk, cluster="c1"):
    return ArchiveWriter.open(ARCHIVE, cluster_id=cluster, files=disk)


def begun(disk, base=None):
    writer = opened(disk)
    writer.begin_run(*(base_args(base) if base else (None, lambda *_: b"", Facts(0))))
    return writer


def put(writer, entries):
    writer.add(entries)
    writer.flush()


START = Place(0, 0)


def got(disk, start=START, cluster="c1"):
    return list(entries_after(disk, runs(ARCHIVE, disk)[-1], start, cluster))


def problems(disk):
    return list(verify(ARCHIVE, disk))


# ------------------------------------------------------------------ what goes in comes out
def test_entries_come_back_from_any_place_on():
    disk = Disk()
    with begun(disk) as writer:
        for first, last in ((1, 1), (2, 40), (41, 100)):
            put(writer, row(first, last))
        assert (writer.archived, writer.added) == (Place(100, 1), Place(100, 1))
    for start in (0, 1, 39, 40, 41, 99, 100):
        assert got(disk, Place(start, min(start, 1))) == row(start + 1, 100)
    assert problems(disk) == []
    assert [str(one) for one in ranges(ARCHIVE, disk)] == [
        "entries 1 to 100 (1970-01-01T00:16:40.010Z to 1970-01-01T00:16:41.000Z)"
    ]


def test_a_writer_goes_on_where_the_last_one_was():
    disk = Disk()
    with begun(disk, base=50) as writer:
        put(writer, row(51, 60))
        writer.add(row(61, 70))
    with opened(disk) as writer:
        assert (writer.run, writer.archived, writer.base_index, writer.base_taken_ms) == (1, Place(60, 1), 50, 55)
        assert writer.stamp_ms == entry(60).stamp_ms
        put(writer, row(61, 65))
    assert got(disk, Place(50, 1)) == row(51, 65)
    assert problems(disk) == []


@pytest.mark.parametrize("wrong", [entry(12), entry(10), entry(11, term=0), Archived(11, 1, 5, b"")])
def test_what_does_not_follow_is_refused_and_changes_nothing(wrong):
    writer = begun(Disk())
    put(writer, row(1, 10))
    with pytest.raises(ArchiveError, match="does not follow"):
        writer.add([wrong])
    assert writer.added == Place(10, 1)


def test_one_writer_at_a_time_and_one_cluster():
    disk = Disk()
    writer = begun(disk)
    with pytest.raises(DirectoryLockedError, match=r"^archive .* is in use"):
        opened(disk)
    put(writer, row(1, 2))
    writer.close()
    with pytest.raises(ArchiveError, match="is of cluster 'c1', this is cluster 'c2'"):
        opened(disk, "c2")
    opened(disk)  # the refused one has let go of the lock


def test_a_base_alone_tells_the_cluster_too():
    disk = Disk()
    begun(disk, base=9).close()
    with pytest.raises(ArchiveError, match="is of cluster 'c1'"):
        opened(disk, "c2")


# ------------------------------------------------------------------ gaps, other histories, other clusters
def three_files(disk):
    with begun(disk) as writer:
        for first in (1, 11, 21):
            put(writer, row(first, first + 9))
    return [one.path for one in runs(ARCHIVE, disk)[0].entries]


def test_a_missing_file_is_a_gap():
    disk = Disk()
    disk.unlink(three_files(disk)[1])
    with pytest.raises(ArchiveError, match="entries 11 to 20 are missing"):
        got(disk)
    assert len(problems(disk)) == 1


def test_a_file_of_another_history_is_refused():
    disk, other = Disk(), Disk()
    paths = three_files(disk)
    with begun(other) as writer:
        put(writer, row(1, 10, term=2))
        put(writer, row(11, 20, term=2))
    disk.names[paths[1]] = other.names[paths[1]]
    with pytest.raises(ArchiveError, match="follows an entry 10 of term 2, this one is of term 1: another history"):
        got(disk)
    with pytest.raises(ArchiveError, match="is of term 1, it should be 2: another history"):
        got(disk, Place(5, 2))
    assert problems(disk)


def test_an_exchanged_file_is_recognised_even_if_terms_fit():
    disk, other = Disk(), Disk()
    paths = three_files(disk)
    with begun(other) as writer:
        put(writer, [*row(1, 9), entry(10, payload=b"other")])
        put(writer, row(11, 20))
    disk.names[paths[0]] = other.names[paths[0]]
    with pytest.raises(ArchiveError, match="a file was exchanged"):
        got(disk)
    assert problems(disk)


def test_a_file_of_another_cluster_is_refused():
    disk = Disk()
    three_files(disk)
    with pytest.raises(ArchiveError, match="is of cluster 'c1', not of 'c9'"):
        got(disk, cluster="c9")


def test_a_base_of_another_history_is_found():
    disk = Disk()
    with begun(disk) as writer:
        put(writer, row(1, 20))
        writer.add_base(*base_args(10, term=1))
        assert problems(disk) == []
        writer.add_base(*base_args(15, term=3))
    assert any("base of entry 15 is of another history" in reason for _, reason in problems(disk))


def two_clusters(base=None):
    """Run 1 of one cluster, and beside it, by hand, a run of another."""
    disk = Disk()
    with begun(disk) as writer:
        put(writer, row(1, 20))
    with ArchiveWriter.open("/b", cluster_id="c2", files=disk) as writer:
        writer.begin_run(*(base_args(base, cluster="c2") if base else (None, lambda *_: b"", Facts(0))))
        put(writer, row((base or 0) + 1, 30))
    disk.rename("/b/00000001", f"{ARCHIVE}/00000002")
    return disk


@pytest.mark.parametrize("base", [None, 10])
def test_runs_of_two_clusters_are_not_one_archive(base):
    disk = two_clusters(base)
    assert any("of cluster 'c2', not of 'c1'" in reason for _, reason in problems(disk))
    for wanted in ({}, {"to_index": 5}, {"to_index": 25}):
        with pytest.raises(ArchiveError, match="run 1 is of cluster 'c1', run 2 of 'c2': keep them apart"):
            route(ARCHIVE, disk, **wanted)
    with pytest.raises(ArchiveError, match="keep them apart"):
        prune(ARCHIVE, disk, from_index=25)


def test_a_base_of_another_cluster_is_found():
    disk = Disk()
    with begun(disk) as writer:
        put(writer, row(1, 20))
        writer.add_base(*base_args(10))
        writer.add_base(*base_args(15, cluster="c2"))
    assert any("of cluster 'c2', not of 'c1'" in reason for _, reason in problems(disk))


def test_the_newest_point_is_not_looked_for_before_a_run_whose_base_is_gone():
    disk = several_runs()
    disk.unlink(runs(ARCHIVE, disk)[-1].bases[0].path)
    with pytest.raises(ArchiveError, match=r"run 3 .*entries 41 to 45 .*no base.* entries 50 to 60"):
        route(ARCHIVE, disk)
    assert route(ARCHIVE, disk, to_index=60).run.number == 2


# ------------------------------------------------------------------ points
def several_runs():
    """Run 1: entries 1 to 30, bases 10 and 20. Run 2: base 50, entries 51 to 60. Run 3, another history: base 40."""
    disk = Disk()
    with begun(disk) as writer:
        for first in (1, 11, 21):
            put(writer, row(first, first + 9))
        writer.add_base(*base_args(10))
        writer.add_base(*base_args(20))
        writer.begin_run(*base_args(50))
        put(writer, row(51, 60))
        writer.begin_run(*base_args(40, term=2))
        put(writer, row(41, 45, term=2))
    return disk


@pytest.mark.parametrize(
    ("index", "run", "base"),
    [
        (1, 1, None),
        (9, 1, None),
        (10, 1, 10),
        (19, 1, 10),
        (30, 1, 20),
        (50, 2, 50),
        (60, 2, 50),
        (40, 3, 40),
        (45, 3, 40),
    ],
)
def test_a_point_is_reached_from_the_newest_base_before_it(index, run, base):
    disk = several_runs()
    for wanted in ({"to_index": index}, {"to_ms": entry(index).stamp_ms}, {"to_ms": entry(index).stamp_ms + 9}):
        if "to_ms" in wanted and wanted["to_ms"] > entry(index).stamp_ms and index in (30, 45, 60):
            continue  # behind the end of its run
        found = route(ARCHIVE, disk, **wanted)
        assert (found.run.number, found.base.index if found.base else None) == (run, base)


@pytest.mark.parametrize("wanted", [{"to_index": 31}, {"to_index": 61}, {"to_ms": entry(31).stamp_ms}, {"to_ms": 5}])
def test_a_point_that_is_not_there_is_refused_with_what_there_is(wanted):
    with pytest.raises(
        ArchiveError, match=r"is not in /a, which holds entries 1 to 30 .*; entries 50 to 60 .*; entries 40"
    ):
        route(ARCHIVE, several_runs(), **wanted)


def test_without_a_wish_it_is_the_newest_run():
    found = route(ARCHIVE, several_runs())
    assert (found.run.number, found.base.index) == (3, 40)


def test_an_empty_archive_holds_no_point():
    disk = Disk()
    begun(disk).close()
    with pytest.raises(ArchiveError, match="holds no point"):
        route(ARCHIVE, disk)
    with pytest.raises(ArchiveError, match="there is no archive /b"):
        route("/b", disk)


# ------------------------------------------------------------------ pruning
@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (0, {1: range(1, 31), 2: range(50, 61), 3: range(40, 46)}),
        (9, {1: range(1, 31), 2: range(50, 61), 3: range(40, 46)}),
        (10, {1: range(10, 31), 2: range(50, 61), 3: range(40, 46)}),
        (29, {1: range(20, 31), 2: range(50, 61), 3: range(40, 46)}),
        (31, {2: range(50, 61), 3: range(40, 46)}),
        (55, {2: range(50, 61), 3: range(40, 46)}),
        (61, {3: range(40, 46)}),
    ],
)
def test_pruning_keeps_every_point_from_the_wanted_one_on(wanted, left):
    for by_time in (False, True):
        disk = several_runs()
        names = set(disk.names)
        limit = {"from_ms": entry(wanted).stamp_ms} if by_time else {"from_index": wanted}
        gone = prune(ARCHIVE, disk, **limit)
        assert names - set(disk.names) == set(gone)
        assert problems(disk) == []
        assert {one.run.number: range(one.first, one.last + 1) for one in ranges(ARCHIVE, disk)} == left
        assert prune(ARCHIVE, disk, **limit) == []


def test_pruning_keeps_the_file_in_whose_middle_the_base_lies():
    disk = Disk()
    with begun(disk) as writer:
        put(writer, row(1, 10))
        put(writer, row(11, 20))
        writer.add_base(*base_args(15))
    prune(ARCHIVE, disk, from_index=17)
    assert got(disk, Place(15, 1)) == row(16, 20)


def test_pruning_to_a_base_that_is_damaged_deletes_nothing():
    disk = several_runs()
    path = runs(ARCHIVE, disk)[0].bases[1].path
    disk.flip(path, len(disk.names[path].content) - 2)
    names = set(disk.names)
    with pytest.raises(CorruptionError):
        prune(ARCHIVE, disk, from_index=20)
    assert set(disk.names) == names


# ------------------------------------------------------------------ crashes
def life(disk, done):
    """All that a writer does; ``done`` gets each entry and base that it was told to be durable."""
    writer = opened(disk)
    if not writer.run or writer.unusable:
        writer.begin_run(*base_args(3))
        done.add(("base", 3))
    for upper in (10, 20):
        at = writer.archived.index
        if at < upper:
            writer.add(row(at + 1, upper))
            writer.flush()
            done.update(range(at + 1, upper + 1))
        if upper == 10 and writer.base_index < 8:
            writer.add_base(*base_args(8))
            done.add(("base", 8))
    writer.close()


def check(disk, done):
    """What was reported is there, and all that is there is right."""
    assert problems(disk) == []
    found = {one.index: one for run in runs(ARCHIVE, disk) for one in entries_after(disk, run, Place(3, 1), "c1")}
    assert all(found[index] == entry(index) for index in done if isinstance(index, int))
    assert all(one == entry(index) for index, one in found.items())
    bases = {base.index for run in runs(ARCHIVE, disk) for base in run.bases if base_info(disk, base.path)}
    assert {index for kind, index in (one for one in done if isinstance(one, tuple))} <= bases


def survey():
    disk = Disk()
    disk.arm(0)
    life(disk, set())
    return disk.steps


@pytest.mark.parametrize("end", [Killed, *SURVIVALS], ids=str)
def test_a_crash_at_every_call(end):
    total = survey()
    assert total > 20
    for at in range(1, total + 1):
        disk, done = Disk(random.Random(at)), set()
        disk.arm(at, Killed if end is Killed else PowerCut)
        with pytest.raises(ProcessEnd):
            life(disk, done)
        if end is Killed:
            disk.kill()
        else:
            disk.power_cut(at, end)
        if disk.exists(ARCHIVE):
            check(disk, done)
        life(disk, done)
        check(disk, done)
        assert len(runs(ARCHIVE, disk)) == 1, "a crash makes no gap"
        assert not [name for name in disk.names if name.endswith(".part")]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_failure_at_every_call(fault):
    for at in range(1, survey() + 1):
        disk, done = Disk(random.Random(at)), set()
        disk.arm(at, fault)
        with pytest.raises((OSError, PersistenceError)):
            life(disk, done)
        disk.disarm()
        disk.locks.clear()
        life(disk, done)
        check(disk, done)
        disk.power_cut(at, "nothing")
        check(disk, done)


def test_what_was_never_finished_goes_when_the_archive_is_opened_again():
    disk = Disk()
    begun(disk, base=4).close()
    disk.open("/a/00000001/7.entries.part", create=True)
    opened(disk)
    assert not [name for name in disk.names if name.endswith(".part")]


def test_a_damaged_newest_file_begins_a_new_run():
    disk = Disk()
    path = three_files(disk)[-1]
    disk.flip(path, 30)
    with opened(disk) as writer:
        assert "checksum of the header" in writer.unusable
        with pytest.raises(ArchiveError, match="a run has to be begun"):
            writer.add(row(31, 31))
        writer.begin_run(*base_args(35))
        put(writer, row(36, 40))
    assert [one.number for one in runs(ARCHIVE, disk)] == [1, 2]
    assert got(disk, Place(35, 1)) == row(36, 40)


# ------------------------------------------------------------------ damage
def entries_file(entries):
    writer = EntriesWriter("c1", 1, bytes(16))
    for one in entries:
        writer.add(one)
    return writer.finish()[1]


@FUZZ
@given(data=st.data())
def test_no_damage_passes(data):
    good = entries_file(row(1, 30))
    bad = damaged(data, good, st.integers(0, len(good) - 1))
    if bad != good:
        with pytest.raises(CorruptArchiveError):
            list(read_entries(InMemory(bad)))


@FUZZ
@given(payloads=st.lists(st.binary(max_size=5000), min_size=1, max_size=20), raw_more=st.integers(-50, 50))
def test_what_the_header_declares_is_checked_against_the_entries(payloads, raw_more):
    """The checksums fit, the numbers do not: a writer with a bug, or somebody who means harm."""
    from dataclasses import replace

    entries = [Archived(5 + at, 1, 9, payload) for at, payload in enumerate(payloads)]
    data = entries_file(entries)
    assert list(read_entries(InMemory(data))) == entries
    header = read_header(InMemory(data))
    body = data[-header.body_bytes :]
    for wrong in (
        replace(header, raw_bytes=max(0, header.raw_bytes + (raw_more or 1))),
        replace(header, last=header.last + 1),
        replace(header, last=header.last - 1, raw_bytes=header.raw_bytes - 28 - len(payloads[-1])),
        replace(header, first=header.first + 1, last=header.last + 1),
    ):
        with pytest.raises(CorruptArchiveError):
            list(read_entries(InMemory(wrong.encode() + body)))


def test_a_bomb_is_not_unpacked():
    """A body that grows to gigabytes stands behind a header that declares little: only so much is ever read."""
    from dataclasses import replace

    import zstandard
    from crc32c import crc32c

    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    header = read_header(InMemory(entries_file(row(1, 3))))
    header = replace(header, body_bytes=len(bomb), body_crc=crc32c(bomb))
    with pytest.raises(CorruptArchiveError):
        list(read_entries(InMemory(header.encode() + bomb)))


def test_a_version_that_is_not_known_is_refused_by_number():
    from crc32c import crc32c

    data = bytearray(entries_file(row(1, 3)))
    data[12:16] = (2).to_bytes(4, "little")
    length = int.from_bytes(data[16:20], "little")
    data[8:12] = crc32c(bytes(data[12 : 20 + length])).to_bytes(4, "little")
    with pytest.raises(CorruptArchiveError, match="format version 2 is unknown, this program reads 1"):
        read_header(InMemory(data))
