"""A snapshot on its way in: it goes on where it was, with the very same file, and nothing damaged is ever believed."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.disk import Disk, PowerCut
from persistence import snapshots as snapshots_module
from persistence.errors import CorruptSnapshotError, SnapshotError
from persistence.snapshot_file import SEAL_BYTES
from persistence.snapshots import SnapshotMeta, SnapshotStore, snapshot_name

HERE, THERE = "/here", "/there"
CHUNK = 64
FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(snapshots_module, "CHUNK_BYTES", CHUNK)


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def a_file(index=10, content=None, term=1, extra=b"extra", level=3):
    """(what describes it, its bytes)."""
    disk = Disk()
    writer = SnapshotStore(THERE, disk).begin(SnapshotMeta(index, term, extra), level)
    writer.write(noise(1000) if content is None else content)
    info = writer.commit()
    return info, disk.open_read(f"{THERE}/{info.name}").pread(info.size_bytes, 0)


def begin(disk, info):
    return SnapshotStore(HERE, disk).receive(info.name, info.size_bytes, info.seal)


def pour(incoming, data, *, until=None, piece=37):
    """Write pieces from where it stands, verifying after each; what came out."""
    out = []
    end = len(data) if until is None else until
    while True:
        while incoming.advance(out.append, 1):
            pass
        if incoming.offset >= end:
            return b"".join(out)
        incoming.write(incoming.offset, data[incoming.offset : min(end, incoming.offset + piece)])


def pour_again(incoming, data, *, until=None):
    """As a receiver does it: what is damaged is cut off, and sent again."""
    try:
        pour(incoming, data, until=until)
    except CorruptSnapshotError:
        pour(incoming, data, until=until)


def parts(disk):
    return [name for name in disk.listdir(HERE) if name.endswith(".part")]


def test_content_comes_out_as_pieces_arrive():
    info, data = a_file()
    incoming = begin(Disk(), info)
    early = pour(incoming, data, until=len(data) // 2)
    assert 300 < len(early) < 600, "what is verified is given away before the rest has come"
    assert not incoming.is_whole
    with pytest.raises(SnapshotError, match="incomplete"):
        incoming.publish()
    late = pour(incoming, data)
    assert incoming.is_whole
    assert early + late == noise(1000)
    incoming.sync()
    assert incoming.publish() == info


@pytest.mark.parametrize("until", [0, 5, 19, 20, 41, 120, 500, 1100])
def test_a_restart_goes_on_with_the_same_file(until):
    info, data = a_file()
    disk = Disk()
    until = min(until, len(data) - 1)
    pour(begin(disk, info), data, until=until)
    disk.kill()
    again = begin(disk, info)
    assert again.offset == again.resumed_bytes == until
    assert not again.is_whole, "it is not believed for being there"
    assert pour(again, data) == noise(1000), "its content begins anew"
    again.sync()
    assert again.publish() == info
    assert b"".join(SnapshotStore(HERE, disk).read(info)) == noise(1000)


def other_files(info):
    """The same name, but other bytes: of the same size, and of another."""
    same_size, data = a_file(content=noise(1000, seed=2))
    longer, _ = a_file(content=noise(1001))
    assert (same_size.name, same_size.size_bytes) == (info.name, info.size_bytes)
    assert len({info.seal, same_size.seal, longer.seal}) == 3
    return (same_size, data), (longer, a_file(content=noise(1001))[1])


def test_another_file_of_the_same_snapshot_begins_anew():
    info, data = a_file()
    for other, other_data in other_files(info):
        disk = Disk()
        pour(begin(disk, info), data, until=500)
        incoming = begin(disk, other)
        assert incoming.offset == 0
        assert len(parts(disk)) == 1, "never more than one is kept"
        pour(incoming, other_data)
        incoming.sync()
        assert incoming.publish() == other


def test_two_halves_of_two_files_are_never_one():
    """Whoever sends names one file and goes on with another: the running checksum finds it at the first chunk."""
    info, data = a_file()
    (_, other_data), _ = other_files(info)
    incoming = begin(Disk(), info)
    pour(incoming, data, until=500)
    with pytest.raises(CorruptSnapshotError):
        pour(incoming, other_data)
    assert incoming.offset <= 500
    assert pour(incoming, data) == noise(1000)


def test_a_whole_file_that_is_not_the_announced_one_is_refused():
    info, data = a_file()
    (other, other_data), _ = other_files(info)
    incoming = begin(Disk(), info)
    with pytest.raises(CorruptSnapshotError, match="announced"):
        pour(incoming, other_data)
    assert incoming.offset == 0
    assert pour(incoming, data) == noise(1000)
    assert other.seal != info.seal


@FUZZ
@given(st.data())
def test_damage_on_disk_is_cut_off_and_sent_again(data):
    info, file = a_file()
    disk = Disk()
    until = data.draw(st.integers(1, len(file)))
    pour(begin(disk, info), file, until=until)
    disk.kill()
    place = data.draw(st.integers(0, until - 1))
    disk.flip(f"{HERE}/{parts(disk)[0]}", place, data.draw(st.integers(0, 7)))
    again = begin(disk, info)
    refused = 0
    out = []
    while not again.is_whole:
        try:
            while again.advance(out.append, 64):
                pass
            if not again.is_whole:
                again.write(again.offset, file[again.offset : again.offset + 50])
        except CorruptSnapshotError:
            refused += 1
            assert again.offset <= place, "all from the damage on is sent again"
            assert refused == 1
            out.clear()
    assert b"".join(out) == noise(1000)
    assert refused == 1
    assert again.finish() == info


@FUZZ
@given(st.binary(max_size=300), st.integers(1, 400), st.booleans())
def test_garbage_is_refused_without_taking_memory(junk, total, like_a_header):
    """Any bytes under any announcement: an error that names the file, or not enough yet."""
    if like_a_header:
        junk = a_file()[1][:41] + junk
    incoming = SnapshotStore(HERE, Disk()).receive(snapshot_name(10, 1), total, bytes(SEAL_BYTES))
    incoming.write(0, junk[:total])
    try:
        while incoming.advance(lambda piece: None, 1024):
            pass
    except CorruptSnapshotError as error:
        message = str(error)
    else:
        message = "incoming-"
    assert "incoming-" in message
    assert incoming.offset <= len(junk)
    assert not incoming.is_whole


def test_a_chunk_that_unfolds_to_much_is_given_away_in_bounded_pieces():
    info, data = a_file(content=bytes(64 << 20))
    incoming = begin(Disk(), info)
    incoming.write(0, data)
    largest = 0

    def sink(piece):
        nonlocal largest
        largest = max(largest, len(piece))

    while incoming.advance(sink, 1 << 20):
        pass
    assert incoming.is_whole
    assert 0 < largest <= 32 << 20


def test_a_part_that_is_of_no_use_is_deleted():
    info, data = a_file(index=10)
    disk = Disk()
    pour(begin(disk, info), data, until=500)
    store = SnapshotStore(HERE, disk)
    assert len(parts(disk)) == 1
    store.begin(SnapshotMeta(9, 1)).commit()
    assert len(parts(disk)) == 1, "it is newer than what is here"
    store.begin(SnapshotMeta(10, 1)).commit()
    assert parts(disk) == []
    pour(begin(disk, a_file(index=11)[0]), a_file(index=11)[1], until=500)
    disk.rename(f"{HERE}/{snapshot_name(10, 1)}", f"{HERE}/{snapshot_name(12, 1)}")
    SnapshotStore(HERE, disk)
    assert parts(disk) == [], "a start finds a newer one beside it"


def test_of_several_parts_a_start_keeps_the_newest():
    disk = Disk()
    SnapshotStore(HERE, disk).begin(SnapshotMeta(99, 1)).write(b"the process dies here")
    for index in (11, 12):
        info, data = a_file(index=index)
        pour(begin(disk, info), data, until=300)
        name = parts(disk)[0]
        disk.rename(f"{HERE}/{name}", f"{HERE}/kept{index}")
        if index == 12:
            for old, new in (("kept11", parts_name(11)), ("kept12", name)):
                disk.rename(f"{HERE}/{old}", f"{HERE}/{new}")
    assert len(parts(disk)) >= 2
    SnapshotStore(HERE, disk)
    assert parts(disk) == [parts_name(12)]


def parts_name(index):
    info, _ = a_file(index=index)
    return f"incoming-{info.name.removesuffix('.snap')}-{info.size_bytes}-{info.seal.hex()}.part"


def test_a_part_that_is_longer_than_the_file_is_not_used():
    info, data = a_file()
    disk = Disk()
    pour(begin(disk, info), data, until=500)
    disk.open(f"{HERE}/{parts(disk)[0]}").append(bytes(info.size_bytes))
    incoming = begin(disk, info)
    assert incoming.offset == 0
    assert pour(incoming, data) == noise(1000)


def test_its_file_may_be_gone_at_the_end():
    """A forked child has just written a newer one, and so deleted it."""
    info, data = a_file()
    disk = Disk()
    incoming = begin(disk, info)
    pour(incoming, data)
    incoming.sync()
    disk.unlink(f"{HERE}/{parts(disk)[0]}")
    with pytest.raises((OSError, KeyError)):
        incoming.publish()
    incoming.abort()
    incoming.abort()


def test_what_an_earlier_life_failed_to_sync_is_written_again():
    """After a failed sync the page cache shows what the disk does not have, and the next sync writes nothing of it."""
    info, data = a_file()
    disk = Disk()
    incoming = begin(disk, info)
    pour(incoming, data)
    disk.arm(1, errno.EIO, "sync")
    with pytest.raises(OSError):
        incoming.sync()
    disk.kill()  # before it could delete the part
    disk.disarm()
    again = begin(disk, info)
    assert again.resumed_bytes == len(data)
    pour(again, data)
    again.sync()
    again.publish()
    disk.power_cut(1, "nothing")
    store = SnapshotStore(HERE, disk)
    assert store.newest() == info
    assert not store.damaged


# -- crashes ----------------------------------------------------------------------------------------------------
OLD_CONTENT = noise(300, seed=7)


def receive_over(disk, done):
    """A node that has a snapshot receives a newer one, restarts in the middle, and goes on."""
    store = SnapshotStore(HERE, disk)
    if store.newest() is None:
        writer = store.begin(SnapshotMeta(3, 1))
        writer.write(OLD_CONTENT)
        writer.commit()
    done.append(3)
    info, data = a_file()
    incoming = begin(disk, info)
    pour_again(incoming, data, until=600)
    incoming.close()
    incoming = begin(disk, info)
    pour_again(incoming, data)
    incoming.sync()
    incoming.publish()
    done.append(10)


def count_steps():
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots_module, "CHUNK_BYTES", CHUNK)
        receive_over(disk, [])
    return disk.steps


STEPS = count_steps()


def check(disk, done):
    store = SnapshotStore(HERE, disk)
    newest = store.newest()
    following = {None: 3, 3: 10, 10: None}
    last = done[-1] if done else None
    assert (newest.index if newest else None) in {last, following[last]}
    assert not store.damaged
    if newest is not None:
        assert b"".join(store.read(newest)) == (OLD_CONTENT if newest.index == 3 else noise(1000))
    again = []
    receive_over(disk, again)  # whatever is left of the part, it ends well
    assert SnapshotStore(HERE, disk).newest().index == 10
    assert again == [3, 10]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
@pytest.mark.parametrize("power", [False, True], ids=["killed", "power"])
def test_a_crash_at_every_file_operation(step, power):
    for seed in range(4 if power else 1):
        disk = Disk()
        disk.arm(step)
        done = []
        with pytest.raises(PowerCut):
            receive_over(disk, done)
        if power:
            disk.power_cut(seed)
        else:
            disk.arm(0)
            disk.kill()
        check(disk, done)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_an_error_at_every_file_operation(step, fault):
    disk = Disk()
    disk.arm(step, fault)
    done = []
    with pytest.raises(OSError):
        receive_over(disk, done)
    disk.arm(0)
    check(disk, done)
