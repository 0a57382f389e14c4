"""Looking into a log: it finds what a start finds, says where and how much, and takes no moving log for a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from chaos.disk import Disk
from persistence.errors import CorruptLogError
from persistence.files import OsFiles
from persistence.inspect import BusyLogError, Gap, look, records
from persistence.records import ENTRY
from persistence.segment import DATA_START
from persistence.wal import Log, LogOptions

SMALL = LogOptions(segment_bytes=12288, salt=1 << 50)


def filled(path: Path, entries: int = 90, *, close: bool = True, disk: Disk | None = None) -> Log:
    log = Log.open(str(path), SMALL, disk)
    log.set_hard_state(3, "n2")
    for index in range(1, entries + 1):
        log.append(index, 3, b"entry %d " % index * 20)
        if index % 3 == 0:
            log.sync()
    log.sync()
    if close:
        log.close()
    return log


def image(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir()}


def spoil(path: Path, name: str, offset: int) -> None:
    content = bytearray((path / name).read_bytes())
    content[offset] ^= 0x10
    (path / name).write_bytes(content)


def test_a_look_says_what_a_start_goes_on_with_and_changes_nothing(tmp_path):
    log = filled(tmp_path)
    (tmp_path / "0000000009.spare").write_bytes(bytes(12288))
    before = image(tmp_path)
    view = look(str(tmp_path), OsFiles())
    assert image(tmp_path) == before
    assert view.damage is None
    assert not view.moving
    assert view.state is not None
    assert (view.state.first_index, view.state.last_index, view.state.last_term) == (1, 90, 3)
    assert view.state.hard_state == log.hard_state
    assert len(view.segments) > 2
    assert [one.number for one in view.segments] == list(range(1, len(view.segments) + 1))
    assert sum(one.entries for one in view.segments) == 90
    assert view.segments[0].first_index == 1
    assert view.segments[-1].last_index == 90
    assert [(one.name, one.kind) for one in view.others] == [("0000000009.spare", "spare")]
    found = list(records(str(tmp_path), OsFiles(), 7, 9))
    assert [(one.entry_index, body) for _, one, body in found] == [(i, b"entry %d " % i * 20) for i in (7, 8, 9)]
    assert len(list(records(str(tmp_path), OsFiles()))) == view.records


@pytest.mark.parametrize("segment", [0, 1, -1])
def test_damage_is_named_and_what_lies_behind_it_is_still_read(tmp_path, segment):
    filled(tmp_path)
    whole = look(str(tmp_path), OsFiles())
    name = whole.segments[segment].name
    places = [one for found, one, _ in records(str(tmp_path), OsFiles()) if found == name]
    spoiled = places[1]
    spoil(tmp_path, name, spoiled.offset + 50)
    view = look(str(tmp_path), OsFiles())
    assert view.damage is not None
    assert view.state is None
    assert view.damage.path.endswith(name)
    assert view.damage.offset == spoiled.offset
    (gap,) = view.segments[segment].gaps
    assert (gap.start, gap.end) == (spoiled.offset, spoiled.end)
    assert view.records == whole.records - 1
    assert view.segments[segment].records_behind == len(places) - 2
    found = [one for _, one, _ in records(str(tmp_path), OsFiles())]
    assert sum(isinstance(one, Gap) for one in found) == 1
    with pytest.raises(CorruptLogError) as start:
        Log.open(str(tmp_path), SMALL)
    assert str(start.value) == str(view.damage)


def test_a_damaged_header_and_a_missing_segment_are_named(tmp_path):
    filled(tmp_path)
    second = f"{2:020d}.wal"
    whole = look(str(tmp_path), OsFiles()).segments[1].entries
    spoil(tmp_path, second, 40)
    view = look(str(tmp_path), OsFiles())
    assert view.damage is not None
    assert (view.damage.path, view.damage.offset) == (f"{tmp_path}/{second}", 0)
    assert view.segments[1].header is None
    assert view.segments[1].entries == whole
    spoil(tmp_path, second, DATA_START)  # the marker of the first record: the next header has the salt
    view = look(str(tmp_path), OsFiles())
    assert view.segments[1].entries == whole - 1
    assert len([one for _, one, _ in records(str(tmp_path), OsFiles()) if not isinstance(one, Gap)]) == view.records
    (tmp_path / second).unlink()
    view = look(str(tmp_path), OsFiles())
    assert "is missing" in str(view.damage)


class Vanishing(OsFiles):
    """A file is gone as soon as it was opened."""

    def open_read(self, path):
        file = super().open_read(path)
        Path(path).unlink()
        return file


def test_a_segment_that_is_deleted_meanwhile_is_passed_over(tmp_path):
    filled(tmp_path)
    assert len(list(tmp_path.glob("*.wal"))) > 2
    names = {name for name, _, _ in records(str(tmp_path), Vanishing())}
    assert names == {f"{1:020d}.wal"}


def test_a_torn_tail_is_no_damage(tmp_path):
    filled(tmp_path)
    newest = max(tmp_path.glob("*.wal"))
    *_, (_, mark, _) = records(str(tmp_path), OsFiles())
    with newest.open("r+b") as file:
        file.truncate(mark.end - 3)
    view = look(str(tmp_path), OsFiles())
    assert view.damage is None
    assert view.tail_bytes > 0
    assert not view.moving
    assert view.segments[-1].gaps == ()


def test_what_a_compaction_gave_up_is_not_judged(tmp_path):
    log = filled(tmp_path, close=False)
    first = tmp_path / f"{1:020d}.wal"
    kept = first.read_bytes()
    log.compact_to(80)
    log.close()
    assert not first.exists()
    first.write_bytes(kept[:5000])
    view = look(str(tmp_path), OsFiles())
    assert view.damage is None
    assert not view.segments[0].needed
    assert view.segments[0].gaps == ()
    assert all(one.entry_index > 1 for _, one, _ in records(str(tmp_path), OsFiles()) if one.kind == ENTRY)


class WatchedFile:
    def __init__(self, file, before, rng):
        self._file, self._before, self._rng = file, before, rng

    def __getattr__(self, name):
        return getattr(self._file, name)

    def pread(self, length, offset):
        self._before()
        part = self._rng.randrange(length + 1)
        first = self._file.pread(part, offset)
        self._before()  # a read is not atomic: the second part is of later
        return first + self._file.pread(length - part, offset + part) if len(first) == part else first


class LivingFiles:
    """The log goes on being written between any two calls, and in the middle of every read."""

    def __init__(self, disk: Disk, step: Callable[[], None]) -> None:
        self._disk, self._step, self._rng = disk, step, Random(7)

    def __getattr__(self, name):
        return getattr(self._disk, name)

    def open_read(self, path):
        self._step()
        return WatchedFile(self._disk.open_read(path), self._step, self._rng)

    def listdir(self, path):
        self._step()
        return self._disk.listdir(path)


def write_on(log: Log, rng: Random) -> None:
    if rng.random() < 0.5:
        return
    if log._spares.wanted:
        log._spares.prepare()  # a whole segment of zeros to write into, as in production
    for _ in range(rng.randrange(8)):
        log.append(log.last_index + 1, log.last_term, rng.randbytes(rng.randrange(400)))
        if rng.random() < 0.3:
            log.sync()
    if rng.random() < 0.1:
        log.truncate_from(log.last_index - 1)
    if rng.random() < 0.2:
        log.compact_to(max(log.first_index, log.last_index - 30))
    log.sync()


@pytest.mark.parametrize("seed", range(30))
def test_a_log_that_is_being_written_is_never_called_damaged(seed):
    disk = Disk()
    log = filled(Path("/log"), close=False, disk=disk)
    rng = Random(seed)
    files = LivingFiles(disk, lambda: write_on(log, rng))
    moved = 0
    for _ in range(10):
        try:
            view = look("/log", files)
        except BusyLogError:
            continue
        assert view.damage is None
        moved += view.moving
    assert moved
    settled = look("/log", disk)
    assert settled.damage is None
    assert settled.state is not None
    assert settled.state.last_index == log.last_index


def test_damage_in_a_log_that_is_being_written_is_still_found():
    disk = Disk()
    log = filled(Path("/log"), close=False, disk=disk)
    *_, (name, last, _) = records("/log", disk)
    log.append(91, 3, b"one more")
    log.sync()
    disk.flip(f"/log/{name}", last.offset + 45)

    def append() -> None:
        log.append(log.last_index + 1, 3, b"x")
        log.sync()

    view = look("/log", LivingFiles(disk, append))
    assert view.damage is not None
    assert (view.damage.path, view.damage.offset) == (f"/log/{name}", last.offset)
