"""Any point of a history comes back as it was, out of base and archive; and a restored directory is whole or refused."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from chaos.disk import SURVIVALS, Disk, Killed, PowerCut, ProcessEnd
from persistence.archive import ArchiveWriter
from persistence.backup import Origin, show_time
from persistence.directory import DataDirectory
from persistence.entries import Archived
from persistence.errors import IdentityError
from persistence.files import join
from persistence.snapshots import SnapshotMeta, SnapshotStore
from raftkv.cli.main import app
from raftkv.consensus.configuration import CONFIGURATION, Configuration, wrap
from raftkv.consensus.snapshots import NO_OP
from raftkv.errors import RaftKVError
from raftkv.machine.batch import ALARM, OPEN, PLAIN, TICK, WATCH, Group, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.machine.summary import StateSummary
from raftkv.offline import archive as archives
from raftkv.offline import backup as backups
from raftkv.offline.points import (
    NEWEST,
    Target,
    load_point,
    of_archive,
    of_backup,
    of_backup_and_archive,
    parse_point,
    parse_time,
)
from raftkv.offline.restore import new_cluster_id, restore

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
KEYS = [b"a", b"b", b"c", b"{a}d"]


def resp(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


COMMANDS = st.one_of(
    st.tuples(st.just(b"SET"), st.sampled_from(KEYS), st.binary(max_size=20)),
    st.tuples(st.just(b"SET"), st.sampled_from(KEYS), st.just(b"7"), st.just(b"PX"), st.sampled_from([b"5", b"500"])),
    st.tuples(st.sampled_from([b"DEL", b"INCR", b"SPOP", b"PERSIST"]), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from([b"RPUSH", b"SADD", b"APPEND"]), st.sampled_from(KEYS), st.binary(max_size=5)),
    st.tuples(st.just(b"ZADD"), st.sampled_from(KEYS), st.just(b"3"), st.binary(max_size=5)),
    st.tuples(st.just(b"SWAPDB"), st.just(b"0"), st.just(b"1")),
)
GROUPS = st.one_of(
    st.tuples(st.integers(0, 2), st.lists(COMMANDS, min_size=1, max_size=4)).map(
        lambda one: encode_group(Group(PLAIN, one[0], len(one[1]), b"".join(resp(*words) for words in one[1])))
    ),
    st.just(encode_group(Group(OPEN, 0, 0, b"", numbers=(50,)))),
    st.just(encode_group(Group(WATCH, 0, 1, resp(b"a", b"b")))),
    st.just(encode_group(Group(TICK, 0, 0, b""))),
)
PAYLOADS = st.one_of(
    st.tuples(st.integers(0, 300), st.lists(GROUPS, min_size=1, max_size=3)),
    st.just(NO_OP),
    st.just(Configuration.of(["n1", "n2"]).encode()),
)


def history(drawn):
    """Entries 1, 2, ... out of (ms that passed, groups) and of payloads that are nothing to the state."""
    entries, now, stamp = [], 1_700_000_000_000, 0
    for index, one in enumerate(drawn, 1):
        if isinstance(one, bytes):
            payload = one
        else:
            now += one[0]
            stamp = now
            payload = header(now) + b"".join(one[1])
        entries.append(Archived(index, 1 + index // 10, stamp, payload))
    return entries


def replayed(entries):
    machine = StateMachine(digest_interval=0)
    for one in entries:
        if one.payload[:1] == b"\0":
            machine.apply(one.index, one.payload)
    return machine


def everything(machine):
    return b"".join(machine.dump())


def raw_snapshot(entries, scratch):
    """The snapshot file of the state after the last of ``entries``."""
    last = entries[-1]
    store = SnapshotStore(f"/scratch{last.index}", scratch)
    writer = store.begin(SnapshotMeta(last.index, last.term, wrap(Configuration.of(["n1"]), last.payload)))
    for chunk in replayed(entries).dump():
        writer.write(chunk)
    info = writer.commit()
    raw = store.raw(info, 0, info.size_bytes)
    origin = Origin("c-old", "n1", last.index, last.term, len(raw), 0, "test")
    return origin, lambda at, length: raw[at : at + length]


def archived(disk, entries, cuts, bases):
    """An archive with files that end at ``cuts`` and bases at ``bases``."""
    with ArchiveWriter.open("/archive", cluster_id="c-old", files=disk) as writer:
        writer.begin_run(None, lambda *_: b"", StateSummary())
        for one in entries:
            writer.add([one])
            if one.index in bases:
                writer.add_base(*raw_snapshot(entries[: one.index], disk), StateSummary())
            if one.index in cuts:
                writer.flush()
        writer.flush()


@PROPERTY
@given(data=st.data())
def test_every_point_of_an_archive_is_what_the_log_made_of_it(data):
    entries = history(data.draw(st.lists(PAYLOADS, min_size=2, max_size=25)))
    places = st.sets(st.integers(1, len(entries)), max_size=4)
    disk = Disk()
    archived(disk, entries, data.draw(places), data.draw(places))
    backup_at = data.draw(st.integers(1, len(entries)))
    backups.save("/b.backup", *raw_snapshot(entries[:backup_at], disk), files=disk)
    for index in range(1, len(entries) + 1):
        wanted = everything(replayed(entries[:index]))
        found = of_archive("/archive", Target(index), disk)
        assert (found.index, found.term, found.cluster_id) == (index, entries[index - 1].term, "c-old")
        assert everything(found.machine) == wanted
        if index >= backup_at:
            assert everything(of_backup_and_archive("/b.backup", "/archive", Target(index), disk).machine) == wanted
        else:
            with pytest.raises(RaftKVError, match=r"is before /b\.backup"):
                of_backup_and_archive("/b.backup", "/archive", Target(index), disk)
    assert everything(of_archive("/archive", NEWEST, disk).machine) == everything(replayed(entries))
    for stamp in {one.stamp_ms for one in entries if one.stamp_ms} - {entries[-1].stamp_ms}:
        within = [one for one in entries if one.stamp_ms <= stamp]
        found = of_archive("/archive", Target(stamp_ms=stamp), disk)
        assert found.index == within[-1].index
        assert everything(found.machine) == everything(replayed(within))


def small():
    """Thirty entries, one each 10 ms; an archive of them, a backup after the tenth."""
    groups = [[encode_group(Group(PLAIN, 0, 1, resp(b"SET", b"k%d" % at, b"v")))] for at in range(30)]
    entries = history([(10, one) for one in groups])
    disk = Disk()
    archived(disk, entries, {8, 20}, {15})
    backups.save("/b.backup", *raw_snapshot(entries[:10], disk), files=disk)
    return disk, entries


def test_what_is_not_there_is_refused_with_what_there_is():
    disk, entries = small()
    with pytest.raises(RaftKVError, match=r"entry 31 is not in /archive, which holds entries 1 to 30"):
        of_archive("/archive", Target(31), disk)
    with pytest.raises(RaftKVError, match=r"does not lead from entry 10 to entry 31; it holds entries 1 to 30"):
        of_backup_and_archive("/b.backup", "/archive", Target(31), disk)
    with pytest.raises(RaftKVError, match=r"is before /b.backup, which is of entry 10"):
        of_backup_and_archive("/b.backup", "/archive", Target(stamp_ms=entries[8].stamp_ms), disk)
    with pytest.raises(RaftKVError, match="does not lead"):
        of_backup_and_archive("/b.backup", "/archive", Target(stamp_ms=entries[-1].stamp_ms + 1), disk)
    disk.unlink("/archive/00000001/00000000000000000009-00000000000000000020.entries")
    with pytest.raises(RaftKVError, match="entries 11 to 20 are missing"):
        of_backup_and_archive("/b.backup", "/archive", Target(25), disk)
    with pytest.raises(RaftKVError, match="entries 16 to 20 are missing"):
        of_archive("/archive", Target(25), disk)


def test_the_newest_point_behind_a_backup_is_not_the_end_before_a_gap():
    disk, entries = small()
    with ArchiveWriter.open("/archive", cluster_id="c-old", files=disk) as writer:
        writer.unusable = "a gap"
        more = history([(10, [encode_group(Group(TICK, 0, 0, b""))])] * 40)[35:]
        writer.begin_run(*raw_snapshot(more[:1], disk), StateSummary())
        writer.add(more[1:])
        writer.flush()
    with pytest.raises(RaftKVError, match=r"gap after entry 30.*holds .*entries 36 to 40.*--to-index 30.*without"):
        of_backup_and_archive("/b.backup", "/archive", NEWEST, disk)
    assert of_backup_and_archive("/b.backup", "/archive", Target(30), disk).index == 30
    assert of_backup_and_archive("/b.backup", "/archive", Target(stamp_ms=entries[-1].stamp_ms), disk).index == 30
    assert of_archive("/archive", NEWEST, disk).index == 40


@pytest.mark.parametrize("keep_from", ["31", "20261121", "1763733600"])
def test_an_index_that_the_archive_does_not_have_prunes_nothing(keep_from):
    disk, _ = small()
    names = set(disk.names)
    with pytest.raises(RaftKVError, match=r"ends with entry 30.*is an index after it\. Nothing was deleted"):
        archives.pruned("/archive", keep_from, disk)
    assert set(disk.names) == names
    assert archives.pruned("/archive", "20", disk)


def test_a_time_beyond_a_run_whose_base_is_gone_is_refused_as_well():
    disk, entries = small()
    with ArchiveWriter.open("/other", cluster_id="c-old", files=disk) as writer:
        writer.begin_run(*raw_snapshot(entries[:5], disk), StateSummary())
        writer.add(entries[5:20])
        writer.flush()
    (base,) = [name for name in disk.names if name.startswith("/other") and name.endswith(".backup")]
    disk.unlink(base)
    assert of_backup_and_archive("/b.backup", "/other", Target(stamp_ms=entries[19].stamp_ms), disk).index == 20
    with pytest.raises(RaftKVError, match="does not lead"):
        of_backup_and_archive("/b.backup", "/other", Target(stamp_ms=entries[19].stamp_ms + 1), disk)


def test_a_backup_that_is_as_new_as_the_archive_needs_none():
    disk, entries = small()
    backups.save("/new.backup", *raw_snapshot(entries, disk), files=disk)
    with pytest.raises(
        RaftKVError, match=r"entry 30 to the newest point; .* is as new as all of it: .* without --archive"
    ):
        of_backup_and_archive("/new.backup", "/archive", NEWEST, disk)


@pytest.mark.parametrize("offset", [5, -150, -2])
def test_a_damaged_base_can_be_done_without(offset):
    disk, entries = small()
    (base,) = [name for name in disk.names if name.startswith("/archive") and name.endswith(".backup")]
    disk.flip(base, offset % len(disk.names[base].content))
    with pytest.raises(RaftKVError, match=rf"{base} is damaged at offset .*; move it out of the archive"):
        of_archive("/archive", NEWEST, disk)
    disk.rename(base, "/elsewhere")
    assert everything(of_archive("/archive", NEWEST, disk).machine) == everything(replayed(entries))


def test_a_time_before_the_first_entry_that_has_one_is_refused():
    """The entry that begins a cluster has none: a mistyped year must not give the empty state before everything."""
    entries = history([NO_OP, NO_OP, NO_OP, (10, [encode_group(Group(TICK, 0, 0, b""))])])
    disk = Disk()
    archived(disk, entries, {4}, set())
    with pytest.raises(RaftKVError, match=r"2023-11-14T22:13:20\.009Z is before .*/archive.*2023-11-14T22:13:20\.010Z"):
        of_archive("/archive", Target(stamp_ms=entries[-1].stamp_ms - 1), disk)
    assert of_archive("/archive", Target(stamp_ms=entries[-1].stamp_ms), disk).index == 4
    assert of_archive("/archive", Target(3), disk).index == 3


def test_a_backup_and_another_clusters_archive_are_not_mixed():
    disk, entries = small()
    origin, read = raw_snapshot(entries[:10], disk)
    from dataclasses import replace

    backups.save("/other.backup", replace(origin, cluster_id="c-other"), read, files=disk)
    with pytest.raises(RaftKVError, match="is of cluster 'c-other', /archive of 'c-old': they do not go together"):
        of_backup_and_archive("/other.backup", "/archive", NEWEST, disk)


def test_a_backup_of_another_history_is_refused():
    disk, entries = small()
    origin, read = raw_snapshot([*entries[:9], Archived(10, 9, entries[9].stamp_ms, entries[9].payload)], disk)
    backups.save("/other.backup", origin, read, files=disk)
    with pytest.raises(RaftKVError, match="another history"):
        of_backup_and_archive("/other.backup", "/archive", NEWEST, disk)


# ------------------------------------------------------------------ texts
@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:01Z", 1000), ("1970-01-01T01:00:01.5+01:00", 1500), ("1.25", 1250),
        ("1763733600", 1_763_733_600_000), ("2025-11-21 14:00:00Z", 1_763_733_600_000),
    ],
)  # fmt: skip
def test_times(text, ms):
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", ["1970-01-01T00:00:01.2859Z", "1970-01-01T00:00:01.285999Z", "1.2859", "1.285"])
def test_a_time_within_a_millisecond_is_before_the_next_one(text):
    """Rounded up it would take in an entry stamped after it: the very write, perhaps, that is to be undone."""
    assert parse_time(text) == 1285


@given(st.integers(1, 4_000_000_000_000))
def test_a_time_that_was_shown_is_read_as_it_was(ms):
    assert parse_time(show_time(ms)) == parse_time(f"{ms // 1000}.{ms % 1000:03d}") == ms


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("noon", "is no time"),
        ("1" * 400, "of which zone"),
        ("2026-11-21T14:03:07", "of which zone; write 2026-11-21T14:03:07Z"),
        ("2026-11-21", "of which zone; write 2026-11-21T00:00:00Z"),
        ("", "is no time"),
    ],
)
def test_what_is_no_time(text, why):
    with pytest.raises(RaftKVError, match=why):
        parse_time(text)


def test_points():
    assert parse_point("/a/b") == ("/a/b", NEWEST)
    assert parse_point("/a/b@12345678901") == ("/a/b", Target(12_345_678_901))
    assert parse_point("/a/b@1970-01-01T00:00:01Z") == ("/a/b", Target(stamp_ms=1000))
    with pytest.raises(RaftKVError, match="give one of them"):
        Target(3, 4)
    with pytest.raises(RaftKVError, match="no such entry"):
        parse_point("/a/b@" + "9" * 5000)
    with pytest.raises(RaftKVError, match="'²' is no time"):
        parse_point("/a/b@²")


def test_a_path_that_is_there_is_a_path_whatever_its_name(tmp_path):
    disk, entries = small()
    (tmp_path / "nightly@nas").mkdir()
    path = str(tmp_path / "nightly@nas" / "b.backup")
    backups.save(path, *raw_snapshot(entries[:5], disk))
    assert load_point(path).index == 5
    assert load_point("/archive@7", disk).index == 7


# ------------------------------------------------------------------ restoring
def make(disk, *, members=None, cluster_id="c-new", path="/data"):
    return restore(
        of_backup("/b.backup", disk), path, node_id="n1", members=members or {"n1": ""}, cluster_id=cluster_id,
        disk_id="d1", files=disk,
    )  # fmt: skip


def found_by_node(disk):
    """What a start of the new node finds; None when there is nothing; IdentityError when it refuses."""
    there = disk.exists("/data") and disk.exists(join("/data", "identity"))
    with DataDirectory.open("/data", node_id="n1", cluster_id="c-new", files=disk) as directory:
        if not there:
            assert directory.created
            return None
        assert directory.disk_id == "d1"
    return everything(load_point("/data", disk).machine)


def wanted_state():
    disk, entries = small()
    make(disk)
    state = found_by_node(disk)
    assert state == everything(replayed(entries[:10])), "nobody had a session or a watch"
    return state


@pytest.mark.parametrize("end", [Killed, *SURVIVALS], ids=str)
def test_a_crash_at_every_call_of_a_restore(end):
    wanted = wanted_state()
    disk, _ = small()
    disk.arm(0)
    make(disk)
    total, refused = disk.steps, 0
    for at in range(1, total + 1):
        disk, _ = small()
        disk.power_cut(0, "all")
        disk.rng = random.Random(at)
        disk.arm(at, Killed if end is Killed else PowerCut)
        with pytest.raises(ProcessEnd):
            make(disk)
        if end is Killed:
            disk.kill()
        else:
            disk.power_cut(at, end)
        try:
            state = found_by_node(disk)
        except IdentityError as error:
            refused += 1
            assert "restore again" in str(error)  # noqa: PT017 -- either is fine
            with pytest.raises(RaftKVError, match="choose a new directory"):
                make(disk)
        else:
            assert state in (None, wanted)
    assert refused > total // 2
    disk, _ = small()
    disk.power_cut(0, "all")
    make(disk)
    disk.power_cut(1, "nothing")
    assert found_by_node(disk) == wanted, "what was reported as done is durable"


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_failure_at_every_call_of_a_restore_is_refused(fault):
    wanted, at, told = wanted_state(), 0, []
    while True:
        at += 1
        disk, _ = small()
        disk.arm(at, fault)
        try:
            make(disk)
        except RaftKVError as error:
            told.append(error.message)
            disk.disarm()
            disk.locks.clear()
            try:
                assert found_by_node(disk) in (None, wanted)
            except IdentityError as error:
                assert "restore again" in str(error)  # noqa: PT017 -- either is fine
        else:
            break
    assert at > 20
    assert sum("mend the cause, empty it, and restore again" in one for one in told) > 10


def test_sessions_and_watches_are_forgotten_and_time_goes_on():
    groups = [encode_group(Group(OPEN, 0, 0, b"", numbers=(50_000,))), encode_group(Group(WATCH, 0, 1, resp(b"a")))]
    entries = history([(5, groups), (9, groups)])
    disk = Disk()
    backups.save("/b.backup", *raw_snapshot(entries, disk), files=disk)
    before = of_backup("/b.backup", disk).machine
    assert before.sessions.by_id
    assert before.watches.by_key
    make(disk)
    after = load_point("/data", disk).machine
    assert not after.sessions.by_id
    assert not after.watches.by_key
    assert after.stamp_ms == before.stamp_ms == entries[-1].stamp_ms
    after.apply(99, header(5) + encode_group(Group(TICK, 0, 0, b"")))
    assert after.stamp_ms == entries[-1].stamp_ms, "a slow clock does not take it back"


def test_the_alarms_of_the_old_nodes_do_not_stop_the_new_cluster():
    groups = [encode_group(Group(ALARM, 0, 1, resp(b"RAISE", b"n2", b"NOSPACE", b"full")))]
    disk = Disk()
    backups.save("/b.backup", *raw_snapshot(history([(5, groups), (9, groups)]), disk), files=disk)
    assert of_backup("/b.backup", disk).machine.refusal is not None
    make(disk)
    after = load_point("/data", disk).machine
    assert (after.refusal, after.alarms.standing) == (None, ())


def test_the_id_of_the_new_cluster():
    disk, _ = small()
    point = of_backup("/b.backup", disk)
    alone, three = {"n1": ""}, {"n1": "h:1", "n2": "h:2", "n3": "h:3"}
    assert new_cluster_id("", "abc", point, alone) == "c-abc"
    assert new_cluster_id("mine", "abc", point, alone) == "mine"
    for members in (alone, three):
        with pytest.raises(RaftKVError, match="the id that the data comes from"):
            new_cluster_id("c-old", "abc", point, members)
    with pytest.raises(RaftKVError, match="--cluster-id is needed"):
        new_cluster_id("", "abc", point, three)
    proof = new_cluster_id("mine", "abc", point, three)
    assert proof.startswith("mine.")
    assert proof == new_cluster_id("mine", "xyz", of_archive("/archive", Target(10), disk), three), (
        "the same point, another way"
    )
    assert proof != new_cluster_id("mine", "abc", of_archive("/archive", Target(11), disk), three)
    assert proof != new_cluster_id("mine", "abc", point, three | {"n3": "h:4"})


def test_where_nothing_can_be_made_is_known_before_anything_is_read(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for name, why in (
        ("used", "used holds file; choose a new directory"),
        ("none/n1", f"there is no directory {tmp_path / 'none'}; create it"),
    ):
        done = CliRunner().invoke(app, ["restore", str(tmp_path / "no.backup"), "--data", str(tmp_path / name)])
        assert (done.exit_code, why in done.stderr) == (2, True)


def test_what_cannot_be_restored_is_refused_before_anything_is_made():
    disk, _ = small()
    for index, members, why in (
        (1, {"n1": ""}, "2 is the first"),
        (5, {"n2": "h:1"}, "n1 is not among the members: n2"),
    ):
        point = of_archive("/archive", Target(index), disk)
        with pytest.raises(RaftKVError, match=why):
            restore(point, "/data", node_id="n1", members=members, cluster_id="c-new", disk_id="d1", files=disk)
    assert not disk.exists("/data")


def test_the_old_configuration_is_not_in_it():
    disk, _ = small()
    make(disk, members={"n1": "h:1", "n2": "h:2"})
    store = SnapshotStore("/data/snapshots", disk)
    from raftkv.consensus.configuration import unwrap

    configuration, payload = unwrap(store.newest().meta.extra)
    assert [(one.node_id, one.address, one.disk) for one in configuration.members] == [
        ("n1", "h:1", ""),
        ("n2", "h:2", ""),
    ]
    assert (configuration.index, payload[:1] == bytes([CONFIGURATION])) == (10, False)
