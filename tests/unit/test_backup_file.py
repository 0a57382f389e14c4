"""Backups: what verifies is what was taken; anything else is refused, in constant memory and with a place."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persistence.backup import Backup, Origin, save_backup, stream_backup
from persistence.errors import CorruptBackupError, CorruptionError, CorruptSnapshotError, SnapshotError
from persistence.files import OsFiles
from persistence.snapshots import SnapshotMeta, SnapshotStore
from tests.unit.in_memory import InMemory, damaged

FUZZ = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
CONTENT = random.Random(3).randbytes(700_000) + b"again and again " * 40_000


class Counting:
    """An observer that finds the facts in the number of bytes."""

    def __init__(self):
        self.size = 0

    def feed(self, piece):
        self.size += len(piece)

    def finish(self):
        return self.size, self.size + 1


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The bytes of a snapshot file of entry 9, term 4."""
    store = SnapshotStore(str(tmp_path_factory.mktemp("s")))
    writer = store.begin(SnapshotMeta(9, 4, b"extra"))
    writer.write(CONTENT)
    return store.raw(info := writer.commit(), 0, info.size_bytes)


def origin_of(raw, **other):
    return replace(Origin("c1", "n2", 9, 4, len(raw), 1_700_000_000_000, "test 1"), **other)


def reader_of(data):
    return lambda offset, length: data[offset : offset + length]


def made(raw):
    out = bytearray()
    info = stream_backup(out.extend, origin_of(raw), reader_of(raw), Counting())
    return info, bytes(out)


def test_a_backup_says_what_it_is_and_holds_what_was_taken(raw):
    info, data = made(raw)
    backup = Backup(InMemory(data))
    assert backup.info == info
    assert (info.size_bytes, info.facts.stamp_ms, info.facts.keys) == (len(data), len(CONTENT), len(CONTENT) + 1)
    assert info.facts.content_bytes == len(CONTENT)
    assert backup.meta == SnapshotMeta(9, 4, b"extra")
    assert b"".join(backup) == CONTENT
    assert b"".join(backup) == CONTENT, "it can be read again"


def test_a_size_that_no_file_has_is_damage(raw, tmp_path):
    """Valid in every checksum; a system call cannot even be asked for that offset."""
    head = bytearray()
    with pytest.raises(CorruptSnapshotError):
        stream_backup(head.extend, origin_of(raw, snapshot_bytes=10**40), reader_of(raw), Counting())
    (tmp_path / "b").write_bytes(head)
    file = OsFiles().open_read(str(tmp_path / "b"))
    with pytest.raises(CorruptBackupError, match="the file ends after"):
        Backup(file)
    file.close()


def test_pieces_may_be_of_any_size(raw):
    rng = random.Random(1)
    out = bytearray()
    stream_backup(out.extend, origin_of(raw), lambda at, n: raw[at : at + rng.randint(1, n)], Counting())
    assert bytes(out) == made(raw)[1]


def test_a_source_that_ends_early_is_refused(raw):
    with pytest.raises(SnapshotError, match="ended after 5000 of"):
        stream_backup(lambda _: None, origin_of(raw), lambda at, n: raw[at : min(at + n, 5000)], Counting())


@pytest.mark.parametrize("other", [{"index": 10}, {"term": 3}])
def test_another_snapshot_than_was_announced_is_refused(raw, other):
    with pytest.raises(CorruptSnapshotError, match="it is of entry 9, term 4"):
        stream_backup(lambda _: None, origin_of(raw, **other), reader_of(raw), Counting())


def test_a_damaged_source_is_noticed_while_it_is_taken_and_leaves_no_file(raw, tmp_path):
    bad = bytearray(raw)
    bad[len(bad) // 2] ^= 1
    path = tmp_path / "b.backup"
    with pytest.raises(CorruptSnapshotError):
        save_backup(OsFiles(), str(tmp_path), str(path), origin_of(raw), reader_of(bytes(bad)), Counting())
    assert list(tmp_path.iterdir()) == []
    save_backup(OsFiles(), str(tmp_path), str(path), origin_of(raw), reader_of(raw), Counting())
    assert path.read_bytes() == made(raw)[1]


def read_all(data):
    backup = Backup(InMemory(data))
    return backup.info, b"".join(backup)


def test_two_processes_that_write_the_same_backup_leave_none_that_passes_for_one(raw, tmp_path):
    """Two jobs with one name: the second begins its part anew while the first is at it."""
    path = str(tmp_path / "a.backup")

    def read(offset, length):
        if offset > 300_000 and not read.met:
            read.met = True
            other = OsFiles().open(path + ".part", create=True)
            other.append(b"of the other")
            other.close()
        return raw[offset : offset + length]

    read.met = False
    with pytest.raises(SnapshotError, match=r"a\.backup\.part: another process writes it, too"):
        save_backup(OsFiles(), str(tmp_path), path, origin_of(raw), read, Counting())
    assert not (tmp_path / "a.backup").exists()


def test_two_backups_cannot_be_cut_together(raw):
    """Header and trailer of one around the snapshot of another: each part verifies, the whole must not."""
    out = bytearray()
    stream_backup(out.extend, origin_of(raw, cluster_id="c2"), reader_of(raw), Counting())
    one, other = made(raw)[1], bytes(out)
    start = one.index(b"RAFTSNAP")
    assert one[start:][: len(raw)] == other[start:][: len(raw)]
    with pytest.raises(CorruptBackupError, match="over the whole file"):
        read_all(other[:start] + one[start:])


@FUZZ
@given(data=st.data())
def test_no_damage_passes(raw, data):
    good = made(raw)[1]
    end = len(good) - 1
    bad = damaged(data, good, st.integers(0, 400) | st.integers(0, end) | st.integers(end - 199, end))
    if bad == good:
        return
    with pytest.raises(CorruptionError):
        read_all(bad)


def test_a_version_that_is_not_known_is_refused_by_number(raw):
    from crc32c import crc32c

    data = bytearray(made(raw)[1])
    data[12:16] = (2).to_bytes(4, "little")
    length = int.from_bytes(data[16:20], "little")
    data[8:12] = crc32c(bytes(data[12 : 20 + length])).to_bytes(4, "little")
    with pytest.raises(CorruptBackupError, match="format version 2 is unknown, this program reads 1"):
        Backup(InMemory(data))
