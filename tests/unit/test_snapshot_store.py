"""Snapshots: complete and verified, or not there; and what was there stays until something better is."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chaos.disk import Disk, PowerCut
from persistence.errors import CorruptSnapshotError, SnapshotError
from persistence.files import OsFiles
from persistence.snapshot_file import FOOTER
from persistence.snapshots import CHUNK_BYTES, SnapshotInfo, SnapshotMeta, SnapshotStore, snapshot_name

DIRECTORY = "/snapshots"
FUZZ = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def save(store, index, content=b"content", term=1, extra=b"extra", level=3):
    writer = store.begin(SnapshotMeta(index, term, extra), level)
    writer.write(content)
    return writer.commit()


def content_of(store, info):
    return b"".join(store.read(info))


def names_in(path):
    return sorted(entry.name for entry in pathlib.Path(path).iterdir())


@pytest.mark.parametrize("level", [1, 3, 9])
@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b""],
        [b"x"],
        [noise(3 * CHUNK_BYTES)],
        [b"repeated " * 400_000],
        [noise(1000, seed) for seed in range(50)],
    ],
    ids=["none", "empty", "byte", "noise", "compressible", "many"],
)
def test_what_goes_in_comes_out(tmp_path, level, pieces):
    store = SnapshotStore(str(tmp_path / "s"))
    writer = store.begin(SnapshotMeta(7, 3, b"\x00extra"), level)
    for piece in pieces:
        writer.write(piece)
    info = writer.commit()
    content = b"".join(pieces)
    assert content_of(store, info) == content
    file = (tmp_path / "s" / info.name).read_bytes()
    meta = SnapshotMeta(7, 3, b"\x00extra")
    assert info == SnapshotInfo(snapshot_name(7, 3), meta, len(file), len(content), file[-20:])
    assert (info.index, info.term) == (7, 3)
    assert SnapshotStore(str(tmp_path / "s")).newest() == info
    assert max(map(len, store.read(info)), default=0) <= CHUNK_BYTES


class Loaded:
    """Takes effect when the content has ended, as load_newest() asks."""

    def __init__(self):
        self.content = None
        self.begun = 0

    def __call__(self, pieces):
        self.begun += 1
        self.content = b"".join(pieces)


def damage(path, offset=5000):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_the_newest_is_loaded_with_each_byte_read_once(tmp_path):
    save(SnapshotStore(str(tmp_path / "s")), 7, noise(3 * CHUNK_BYTES))
    store, loaded, told = SnapshotStore(str(tmp_path / "s")), Loaded(), []
    read = []

    class Counted(OsFiles):
        def open_read(self, path):
            file = super().open_read(path)
            pread = file.pread
            counted = types.SimpleNamespace(path=path, size=file.size, close=file.close)
            counted.pread = lambda length, offset: read.append(length) or pread(length, offset)
            return counted

    store.files = Counted()
    info = store.load_newest(loaded, lambda *at: told.append(at))
    assert loaded.content == noise(3 * CHUNK_BYTES)
    assert sum(read) == info.size_bytes + FOOTER.size, "its end, which declares how much comes, is read first and last"
    assert store.newest() == info == SnapshotStore(str(tmp_path / "s")).newest()
    assert sum(read) == info.size_bytes + FOOTER.size
    assert told == sorted(told)
    assert {total for _, total in told} == {info.size_bytes}


def test_a_damaged_one_is_not_loaded_but_the_one_before_it(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"))
    save(store, 1, b"older")
    save(store, 2, noise(1 << 20))
    damage(tmp_path / "s" / snapshot_name(2, 1), (1 << 20) - 10)
    again, loaded = SnapshotStore(str(tmp_path / "s")), Loaded()
    assert again.load_newest(loaded).index == 1
    assert (loaded.content, loaded.begun) == (b"older", 2)
    assert list(again.damaged) == [snapshot_name(2, 1)]
    assert again.newest().index == 1


def test_a_load_that_stops_early_does_not_hide_damage(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"))
    save(store, 2, noise(1 << 20))
    damage(tmp_path / "s" / snapshot_name(2, 1), (1 << 20) - 10)
    again = SnapshotStore(str(tmp_path / "s"))
    assert again.load_newest(lambda pieces: next(iter(pieces))) is None
    assert list(again.damaged) == [snapshot_name(2, 1)]


def test_one_under_another_name_is_not_loaded(tmp_path):
    save(SnapshotStore(str(tmp_path / "s")), 2)
    (tmp_path / "s" / snapshot_name(2, 1)).rename(tmp_path / "s" / snapshot_name(3, 1))
    loaded = Loaded()
    assert SnapshotStore(str(tmp_path / "s")).load_newest(loaded) is None
    assert not loaded.begun


def test_what_the_load_or_the_progress_raises_leaves(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"))
    save(store, 2, noise(1 << 20))

    def refuse(*_):
        raise KeyError

    for load, progress in ((refuse, lambda *_: None), (Loaded(), refuse)):
        with pytest.raises(KeyError):
            store.load_newest(load, progress)
    assert store.damaged == {}


def test_the_newest_are_kept(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"), keep=2)
    assert store.newest() is None
    for index in (5, 9, 100, 30):
        save(store, index)
    assert names_in(tmp_path / "s") == [snapshot_name(30, 1), snapshot_name(100, 1)]
    assert store.newest().index == 100


def test_what_a_crash_right_after_the_rename_left_goes_when_a_newer_one_was_loaded():
    disk = Disk()
    store = SnapshotStore(DIRECTORY, disk, keep=2)
    for index in (1, 2):
        save(store, index)
    disk.arm(1, PowerCut, "unlink")
    with pytest.raises(PowerCut):
        save(store, 3)
    disk.power_cut(0, "all")
    again = SnapshotStore(DIRECTORY, disk, keep=2)
    assert len(disk.listdir(DIRECTORY)) == 3
    assert again.load_newest(Loaded()).index == 3
    assert disk.listdir(DIRECTORY) == [snapshot_name(2, 1), snapshot_name(3, 1)]


def test_the_only_valid_one_survives_its_damaged_successors():
    disk = Disk()
    store = SnapshotStore(DIRECTORY, disk, keep=3)
    for index in (1, 2, 3):
        save(store, index)
    for index in (2, 3):
        disk.flip(f"{DIRECTORY}/{snapshot_name(index, 1)}", 30)
    assert SnapshotStore(DIRECTORY, disk, keep=1).load_newest(Loaded()).index == 1


def test_an_aborted_one_leaves_no_trace_and_a_leftover_is_removed(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"))
    writer = store.begin(SnapshotMeta(1, 1))
    writer.write(noise(1 << 20))
    writer.abort()
    writer.abort()
    assert names_in(tmp_path / "s") == []
    with pytest.raises(SnapshotError):
        writer.write(b"late")
        writer.commit()
    store.begin(SnapshotMeta(2, 1)).write(b"the process dies here")
    assert names_in(tmp_path / "s") == [snapshot_name(2, 1) + ".part"]
    assert SnapshotStore(str(tmp_path / "s")).newest() is None
    assert names_in(tmp_path / "s") == []


def test_a_forked_child_writes_and_the_parent_sees_it(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"))
    first = save(store, 1)
    assert store.newest() == first
    pid = os.fork()
    if not pid:
        try:
            save(store, 2, noise(1 << 20))
        except BaseException:  # noqa: BLE001 -- a child must not return into the test runner
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.newest().index == 2
    assert content_of(store, store.newest()) == noise(1 << 20)
    again = SnapshotStore(str(tmp_path / "s"))
    assert save(again, 2, b"the same index, written anew elsewhere") == store.newest()


def test_a_damaged_one_is_skipped_with_its_reason_and_survives_no_prune(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"), keep=2)
    save(store, 1)
    save(store, 2, noise(10_000))
    path = tmp_path / "s" / snapshot_name(2, 1)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    again = SnapshotStore(str(tmp_path / "s"), keep=2)
    assert again.newest().index == 1
    assert "checksum" in again.damaged[path.name]
    assert str(path) in again.damaged[path.name]
    with pytest.raises(CorruptSnapshotError):
        content_of(again, SnapshotInfo(path.name, SnapshotMeta(2, 1), path.stat().st_size, 10_000, bytes(20)))
    save(again, 3)
    assert snapshot_name(1, 1) in names_in(tmp_path / "s")  # the damaged one is not counted among those kept
    save(again, 4)
    assert names_in(tmp_path / "s") == [snapshot_name(3, 1), snapshot_name(4, 1)]
    assert again.damaged == {}


def send(source, info, target, piece=70_000):
    incoming = target.receive(info.name, info.size_bytes, info.seal)
    while incoming.offset < incoming.total_bytes:
        incoming.write(incoming.offset, source.raw(info, incoming.offset, piece))
    return incoming


def test_it_travels_to_a_follower(tmp_path):
    source, target = SnapshotStore(str(tmp_path / "a")), SnapshotStore(str(tmp_path / "b"))
    info = save(source, 10, noise(500_000))
    assert send(source, info, target).finish() == info
    assert content_of(target, target.newest()) == noise(500_000)


def test_a_broken_transfer_leaves_the_old_one(tmp_path):
    source, target = SnapshotStore(str(tmp_path / "a")), SnapshotStore(str(tmp_path / "b"))
    old = save(target, 3)
    info = save(source, 10, noise(500_000))
    incoming = target.receive(info.name, info.size_bytes, info.seal)
    incoming.write(0, source.raw(info, 0, 1000))
    for offset, data in ((0, b"again"), (2000, b"hole"), (1000, bytes(info.size_bytes))):
        with pytest.raises(SnapshotError):
            incoming.write(offset, data)
    assert incoming.offset == 1000
    with pytest.raises(SnapshotError, match="incomplete"):
        incoming.finish()
    incoming.write(1000, bytes(info.size_bytes - 1000))
    with pytest.raises(CorruptSnapshotError):
        incoming.finish()
    assert target.newest() == old
    assert incoming.offset < 1000, "what is damaged is cut off"
    incoming.write(incoming.offset, source.raw(info, incoming.offset, 70_000))
    incoming.abort()
    assert names_in(tmp_path / "b") == [old.name]
    incoming = send(source, info, target)
    incoming.abort()
    assert names_in(tmp_path / "b") == [old.name]


def test_one_sent_under_another_name_is_refused(tmp_path):
    source, target = SnapshotStore(str(tmp_path / "a")), SnapshotStore(str(tmp_path / "b"))
    info = save(source, 10)
    incoming = target.receive(snapshot_name(11, 1), info.size_bytes, info.seal)
    incoming.write(0, source.raw(info, 0, info.size_bytes))
    with pytest.raises(CorruptSnapshotError, match="index 10"):
        incoming.finish()


@pytest.mark.parametrize("name", ["", "../x", "a/b.snap", snapshot_name(1, 1) + "\n", "x" + snapshot_name(1, 1)])
def test_a_name_from_the_network_cannot_leave_the_directory(tmp_path, name):
    with pytest.raises(SnapshotError, match="no name"):
        SnapshotStore(str(tmp_path / "s")).receive(name, 10, bytes(20))


def test_sending_one_that_was_replaced_is_an_error_of_its_own(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"), keep=1)
    info = save(store, 1)
    save(store, 2)
    with pytest.raises(SnapshotError, match="newer"):
        store.raw(info, 0, 10)


# -- crashes and damage -----------------------------------------------------------------------------------------


def scenario(disk, done):
    store = SnapshotStore(DIRECTORY, disk, keep=2)
    for index in range(1, 5):
        done.append(save(store, index, noise(2000, index)).index)
    other = SnapshotStore("/other", Disk())
    send(other, save(other, 9, noise(2000, 9)), store, piece=500).finish()
    done.append(9)


def count_steps():
    disk = Disk()
    scenario(disk, [])
    return disk.steps


STEPS = count_steps()


def check_after(disk, done, seeds):
    store = SnapshotStore(DIRECTORY, disk, keep=2)
    newest = store.newest()
    following = [index for index in (1, 2, 3, 4, 9) if not done or index > done[-1]]
    allowed = [done[-1] if done else None, *following[:1]]
    assert (newest.index if newest else None) in allowed
    assert not store.damaged  # the name is given only to a complete file
    if newest:
        assert content_of(store, newest) == noise(2000, newest.index)
    for seed in seeds:
        save(store, 100 + seed, b"goes on")
        disk.power_cut(seed)
        store = SnapshotStore(DIRECTORY, disk, keep=2)
        assert store.newest().index == 100 + seed


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_power_cut_at_every_file_operation(step):
    for seed in range(5):
        disk = Disk()
        disk.arm(step)
        done = []
        with pytest.raises(PowerCut):
            scenario(disk, done)
        disk.power_cut(seed)
        check_after(disk, done, [seed])


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_an_error_at_every_file_operation(step, fault):
    disk = Disk()
    disk.arm(step, fault)
    done = []
    with pytest.raises(OSError):
        scenario(disk, done)
    disk.disarm()
    check_after(disk, done, [])


def one_file():
    disk = Disk()
    store = SnapshotStore(DIRECTORY, disk)
    info = save(store, 3, noise(800) + b"compressible" * 100, extra=b"e" * 40)
    return info, bytes(next(inode.content for name, inode in disk.names.items() if name.endswith(".snap")))


INFO, FILE = one_file()


def opened_with(content):
    disk = Disk()
    store = SnapshotStore(DIRECTORY, disk)
    file = disk.open(f"{DIRECTORY}/{INFO.name}", create=True)
    file.append(content)
    return store


@pytest.mark.parametrize("offset", range(0, len(FILE), 7))
def test_any_flipped_bit_is_found(offset):
    content = bytearray(FILE)
    content[offset] ^= 1 << (offset % 8)
    store = opened_with(content)
    assert store.newest() is None
    assert list(store.damaged) == [INFO.name]
    with pytest.raises(CorruptSnapshotError):
        content_of(store, INFO)


@FUZZ
@given(cut=st.integers(0, len(FILE) - 1), junk=st.binary(max_size=64))
def test_any_other_end_is_found(cut, junk):
    content = FILE[:cut] + junk
    store = opened_with(content)
    if content != FILE:
        assert store.newest() is None
        with pytest.raises(CorruptSnapshotError):
            content_of(store, INFO)


def test_files_of_the_system_keep_what_was_committed(tmp_path):
    store = SnapshotStore(str(tmp_path / "s"), OsFiles(), keep=1)
    assert content_of(store, save(store, 1, b"a" * 10)) == b"a" * 10
    with pytest.raises(ValueError, match="keep"):
        SnapshotStore(str(tmp_path / "s"), keep=0)
