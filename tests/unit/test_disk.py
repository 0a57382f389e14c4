"""The simulated disk breaks every promise that a disk does not give, and keeps those that it gives."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.disk import SURVIVALS, Call, Disk, Killed, PowerCut
from persistence.files import LockHeldError, OsFiles

OLD, NEW = b"o" * 2000, b"n" * 2000


def disk_with(durable=OLD, path="/d/a"):
    disk = Disk()
    disk.make_dir("/d")
    file = disk.open(path, create=True)
    file.append(durable)
    file.fdatasync()
    disk.fsync_dir("/d")
    return disk, file


def content(disk, path="/d/a"):
    return bytes(disk.names[path].content)


@pytest.mark.parametrize("survival", SURVIVALS)
def test_what_was_synced_survives_any_power_cut(survival):
    for seed in range(20):
        disk, _ = disk_with()
        disk.power_cut(seed, survival)
        assert content(disk) == OLD


def survivors(survival, act, seeds=60):
    """What is found after power cuts at the end of ``act``: (names, content of /d/a), each once."""
    found = set()
    for seed in range(seeds):
        disk, file = disk_with()
        act(disk, file)
        disk.power_cut(seed, survival)
        found.add((tuple(disk.listdir("/d")), content(disk) if "/d/a" in disk.names else None))
    return found


def test_an_unsynced_write_is_lost_kept_or_torn():
    def overwrite(_, file):
        file.pwrite([NEW], 0)

    assert survivors("nothing", overwrite) == survivors("names", overwrite) == {(("a",), OLD)}
    assert survivors("all", overwrite) == {(("a",), NEW)}
    torn = survivors("torn", overwrite)
    assert len(torn) > 20
    assert all(text == NEW[: text.count(b"n")] + OLD[text.count(b"n") :] for _, text in torn)
    mixed = {text for _, text in survivors("scattered", overwrite)}
    assert any(text[:512] == OLD[:512] and text[1024:] == NEW[1024:] for text in mixed), (
        "the later write without the earlier"
    )


def test_a_rename_may_survive_without_the_content_and_the_other_way_round():
    def replace(disk, _):
        file = disk.open("/d/b", create=True)
        file.append(NEW)
        disk.rename("/d/b", "/d/a")

    assert survivors("names", replace) == {(("a",), b"")}
    assert survivors("torn", replace) == {(("a",), OLD)}
    assert survivors("all", replace) == {(("a",), NEW)}
    assert {names for names, _ in survivors("random", replace)} == {("a",), ("a", "b")}


def test_a_deletion_may_be_undone_until_the_directory_is_synced():
    assert {names for names, _ in survivors("random", lambda disk, _: disk.unlink("/d/a"))} == {("a",), ()}

    def unlink_and_sync(disk, _):
        disk.unlink("/d/a")
        disk.fsync_dir("/d")

    assert {names for names, _ in survivors("random", unlink_and_sync)} == {()}


def test_directory_changes_keep_their_order_unless_scattered():
    def create(disk, _):
        disk.open("/d/b", create=True)
        disk.open("/d/c", create=True)

    orderly = {names for names, _ in survivors("random", create)}
    assert orderly == {("a",), ("a", "b"), ("a", "b", "c")}
    assert {names for names, _ in survivors("scattered", create)} == orderly | {("a", "c")}


def test_a_directory_is_renamed_with_all_that_is_in_it():
    for synced in (False, True):
        disk, _ = disk_with()
        disk.make_dir("/e")
        disk.rename("/d", "/e/d")
        assert (disk.listdir("/e"), disk.listdir("/e/d"), disk.exists("/d")) == (["d"], ["a"], False)
        if synced:
            disk.fsync_dir("/e")
        disk.power_cut(0, "nothing")
        assert content(disk, "/e/d/a" if synced else "/d/a") == OLD
        assert disk.exists("/d") is not synced


def test_after_a_failed_sync_the_cache_shows_what_the_disk_does_not_have():
    kept = set()
    for seed in range(40):
        disk, file = disk_with()
        disk.rng.seed(seed)
        file.pwrite([NEW], 0)
        disk.arm(1, errno.EIO, "sync")
        with pytest.raises(OSError, match="Input/output error"):
            file.fdatasync()
        disk.disarm()
        file.fdatasync()  # succeeds, and writes nothing
        assert content(disk) == NEW
        disk.power_cut(seed, "all")
        kept.add(content(disk))
    assert kept == {OLD, NEW}


def test_a_synced_write_that_fails_takes_no_other_write_with_it():
    disk, file = disk_with()
    file.pwrite([b"x"], 0)
    disk.arm(1, errno.EIO, "sync")
    with pytest.raises(OSError, match="Input/output error"):
        file.pwrite([b"y"], 1, sync=True)
    file.fdatasync()
    disk.power_cut(0, "nothing")
    assert content(disk)[:1] == b"x"


def test_a_kill_loses_nothing_and_frees_the_locks():
    disk, file = disk_with()
    disk.lock("/d/lock", b"42")
    with pytest.raises(LockHeldError):
        disk.lock("/d/lock", b"43")
    file.pwrite([NEW], 0)
    disk.arm(1, Killed)
    with pytest.raises(Killed):
        disk.rename("/d/a", "/d/b")
    disk.kill()
    disk.lock("/d/lock", b"43").release()
    assert content(disk) == NEW


def test_a_fault_strikes_the_chosen_call_and_lasts_if_it_is_to():
    disk, file = disk_with()
    disk.arm(2, errno.EIO, lambda call: call.operation == "write" and call.path == "/d/a")
    file.fdatasync()
    file.append(b"1")
    disk.open("/d/b", create=True).append(b"other")
    assert disk.armed
    with pytest.raises(OSError, match="Input/output error"):
        file.append(b"2")
    assert not disk.armed
    file.append(b"3")
    assert [str(call) for call in disk.journal] == [
        "sync a", "write a", "create b", "write b", "write a", "write a",
    ]  # fmt: skip
    disk.arm(1, errno.EROFS, lasting=True)
    for _ in range(2):
        with pytest.raises(OSError, match="Read-only"):
            disk.unlink("/d/b")
    assert disk.exists("/d/b")


def test_a_write_that_fails_may_be_there_in_part():
    lengths = set()
    for seed in range(50):
        disk, file = disk_with(b"")
        disk.rng.seed(seed)
        disk.arm(1, PowerCut)
        with pytest.raises(PowerCut):
            file.append(b"abc")
        lengths.add(content(disk))
    assert lengths == {b"", b"a", b"ab", b"abc"}


def test_a_full_disk_takes_what_needs_no_room_and_has_room_again_after_a_deletion():
    disk, file = disk_with()
    disk.capacity_bytes = 3000
    other = disk.open("/d/b", create=True)
    with pytest.raises(OSError, match="No space left") as caught:
        other.preallocate(1001, lambda: False)
    assert caught.value.errno == errno.ENOSPC
    file.pwrite([NEW], 0)
    file.close()
    disk.unlink("/d/a")
    other.append(NEW)
    assert disk.used_bytes == 2000


def test_read_only_and_unreadable():
    disk, file = disk_with()
    disk.read_only = True
    for change in (file.fdatasync, lambda: file.append(b"x"), lambda: disk.open("/d/b", create=True)):
        with pytest.raises(OSError, match="Read-only"):
            change()
    assert file.pread(1, 0) == b"o"
    disk.unreadable.add("/d/a")
    with pytest.raises(OSError, match="Input/output error"):
        file.pread(1, 0)


def test_a_flipped_bit_stays():
    disk, file = disk_with()
    disk.flip("/d/a", 3, 0)
    assert file.pread(5, 0) == b"ooono"
    file.pwrite([NEW], 0)
    disk.flip("/d/a", 4, 0)
    file.fdatasync()
    disk.power_cut(0, "nothing")
    assert content(disk)[:6] == b"nnnnon"


STEP = st.one_of(
    st.tuples(st.just("create"), st.sampled_from("abc")),
    st.tuples(st.just("write"), st.sampled_from("abc"), st.integers(0, 40), st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("truncate"), st.sampled_from("abc"), st.integers(0, 40)),
    st.tuples(st.just("rename"), st.sampled_from("abc"), st.sampled_from("abc")),
    st.tuples(st.just("unlink"), st.sampled_from("abc")),
)


def take(files, root, step):
    """One step, on any file system; what it raises is part of its outcome."""
    kind, name, *rest = step
    path = f"{root}/{name}"
    try:
        if kind == "rename":
            files.rename(path, f"{root}/{rest[0]}")
        elif kind == "unlink":
            files.unlink(path)
        else:
            file = files.open(path, create=kind == "create")
            if kind == "write":
                file.pwrite([rest[1]], rest[0])
            elif kind == "truncate":
                file.truncate(rest[0])
            file.close()
    except OSError as error:
        return error.errno
    return None


@given(steps=st.lists(STEP, max_size=12))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_without_faults_it_is_like_the_real_one(tmp_path_factory, steps):
    root = str(tmp_path_factory.mktemp("disk"))
    disk, real = Disk(), OsFiles()
    disk.make_dir("/d")
    for step in steps:
        assert take(disk, "/d", step) == take(real, root, step), step
    assert disk.listdir("/d") == real.listdir(root)
    for name in real.listdir(root):
        file = real.open_read(f"{root}/{name}")
        assert content(disk, f"/d/{name}") == file.pread(100, 0)
        file.close()


def test_calls_are_told_before_they_happen():
    disk, _ = disk_with()
    told = []
    disk.on_call = lambda call: told.append((call, disk.exists("/d/b")))
    disk.rename("/d/a", "/d/b")
    assert told == [(Call("rename", "/d/a", "/d/b"), False)]


def test_the_name_of_a_directory_that_was_there_already_is_made_durable_too(tmp_path, monkeypatch):
    """Whoever made it may have been killed before it could do so, and what is written into it now must not go with it."""
    synced = []
    (tmp_path / "d").mkdir()
    monkeypatch.setattr(OsFiles, "fsync_dir", lambda _, path: synced.append(path))
    OsFiles().make_dir(str(tmp_path / "d"))
    OsFiles().make_dir(str(tmp_path / "e"))
    assert synced == [str(tmp_path)] * 2

    def refused(_, path):
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(OsFiles, "fsync_dir", refused)
    OsFiles().make_dir(str(tmp_path / "d"))
    with pytest.raises(PermissionError):
        OsFiles().make_dir(str(tmp_path / "f"))


def test_a_synced_write_takes_the_place_of_an_older_one_that_is_not_synced():
    disk = Disk()
    file = disk.open("f", create=True)
    file.append(b"a" * 10)
    file.pwrite([b"bbbb"], 3, sync=True)
    file.fdatasync()
    assert bytes(disk.names["f"].durable) == file.pread(10, 0) == b"aaabbbbaaa"
