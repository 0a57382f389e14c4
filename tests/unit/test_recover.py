"""Loss of quorum: a survivor is looked at without a trace, and becomes a cluster of its own at no crash's mercy."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.disk import Disk, PowerCut
from persistence.directory import LOG_GONE, DataDirectory
from persistence.errors import IdentityError
from persistence.snapshots import SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.cli.recover import shown, warning
from raftkv.consensus.configuration import Configuration, Member, wrap
from raftkv.consensus.core import Timing
from raftkv.consensus.replica import Compaction, Replica
from raftkv.consensus.snapshots import NO_OP
from raftkv.consensus.survivor import examine
from raftkv.errors import ConfigError, RaftKVError
from raftkv.server.recover import StoppedNode

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = "c-old", "c-new"
THREE = Configuration.of(Member(f"n{one}", f"h{one}:1", f"disk{one}") for one in (1, 2, 3))
OPTIONS = LogOptions(segment_bytes=64 << 10, preallocate=False, salt=1)


def regular(number: int) -> bytes:
    """The first entry of every log is the engine's."""
    return b"\x00entry %d" % number if number > 1 else NO_OP


def build(
    files, path="/d", *, node="n1", entries=(), snapshot=None, hard=(3, "n2"), disk="disk1", cluster=OLD, close=True
):
    """A node's directory: ``entries`` are (index, term, payload), ``snapshot`` is a meta."""
    with DataDirectory.open(path, node_id=node, cluster_id=cluster, new_disk_id=disk, files=files) as directory:
        if snapshot is not None:
            writer = SnapshotStore(directory.snapshot_path, files).begin(snapshot)
            writer.write(b"state up to %d" % snapshot.index)
            writer.commit()
        log = Log.open(directory.log_path, OPTIONS, files)
        directory.begin_log(log.salt)
        log.set_hard_state(*hard)
        for index, term, payload in entries:
            log.append(index, term, payload)
        log.sync()
        if close:
            log.close()


def member_entries(first=1, last=8, term=3, configuration=THREE, at=2):
    return [
        (index, term, configuration.encode() if index == at else regular(index)) for index in range(first, last + 1)
    ]


def image(disk: Disk) -> dict[str, bytes]:
    return {name: bytes(inode.content) for name, inode in disk.names.items() if not name.endswith("/lock")}


def look(disk, path="/d"):
    with StoppedNode(path, 0, disk) as node:
        return node.report


def force(disk, path="/d", cluster="", *, outsider=False):
    with StoppedNode(path, 0, disk) as node:
        node.refuse(even_if_not_a_member=outsider)
        return node.recover(node.new_cluster_id(cluster, "random"), "newdisk")


def held(disk, cluster, path="/d"):
    """(directory's disk, log, snapshot's meta) as the node would open them."""
    with DataDirectory.open(path, node_id="n1", cluster_id=cluster, files=disk) as directory:
        log = Log.open(directory.log_path, OPTIONS, disk)
        newest = SnapshotStore(directory.snapshot_path, disk).newest()
        return directory.disk_id, log, newest and newest.meta


# --------------------------------------------------------------------- looking
def test_a_report_says_what_the_node_holds():
    disk = Disk()
    meta = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
    build(disk, entries=member_entries(), snapshot=meta)
    report = look(disk)
    assert (report.last_term, report.last_index, report.node_id, report.cluster_id, report.disk_id) == (
        3, 8, "n1", OLD, "disk1",
    )  # fmt: skip
    assert (report.log.term, report.log.voted_for, report.log.first_index) == (3, "n2", 1)
    assert (report.snapshot.index, report.snapshot.term, report.snapshot.age_s) == (5, 3, None)
    assert report.snapshot.size_bytes > 0
    assert [(one.node_id, one.address, one.disk_id, one.voter) for one in report.members] == [
        ("n1", "h1:1", "disk1", True), ("n2", "h2:1", "disk2", True), ("n3", "h3:1", "disk3", True),
    ]  # fmt: skip
    assert [one.node_id for one in report.others] == ["n2", "n3"]
    assert report.configuration_index == 2
    assert report.is_member
    assert (report.damage, report.unusable, report.next_cluster_id) == ((), "", "")


def test_the_newest_configuration_may_be_in_the_snapshot_only():
    disk = Disk()
    meta = SnapshotMeta(50, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(50)))
    build(disk, entries=member_entries(49, 60), snapshot=meta)
    assert [one.node_id for one in look(disk).members] == ["n1", "n2", "n3"]
    force(disk, cluster=NEW)
    _, log, meta = held(disk, NEW)
    assert examine(log, meta).configuration.ids == ("n1",)
    assert examine(log, meta).configuration.removed == ("disk2", "disk3")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_looking_changes_nothing_and_sees_what_a_start_would_find(seed, cut_at, closed):
    disk = Disk()
    meta = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
    disk.arm(cut_at)
    try:
        build(disk, entries=member_entries(last=5), snapshot=meta, close=closed)
        with DataDirectory.open("/d", node_id="n1", cluster_id=OLD, files=disk) as directory:
            log = Log.open(directory.log_path, OPTIONS, disk)
            for index in range(6, 30):
                log.append(index, 3, regular(index))
                log.begin_sync()
                log.finish_sync()
            SnapshotStore(directory.snapshot_path, disk).begin(SnapshotMeta(20, 3)).write(b"unfinished")
    except PowerCut:
        pass
    disk.power_cut(seed)
    before = image(disk)
    try:
        report = look(disk)
    except RaftKVError:
        assert "/d/identity" not in disk.names
        return
    assert image(disk) == before
    _, log, meta = held(disk, OLD)
    holding = examine(log, meta)
    assert (report.last_index, report.last_term) == (holding.last_index, holding.last_term)
    assert (report.log.first_index, report.log.last_index) == (log.first_index, log.last_index)
    assert bool(report.unusable) == (holding.last_index == 0)


def test_a_node_that_runs_is_left_alone():
    disk = Disk()
    build(disk, entries=member_entries())
    with (
        DataDirectory.open("/d", node_id="n1", cluster_id=OLD, files=disk),
        pytest.raises(RaftKVError, match=f"in use by process {os.getpid()}"),
    ):
        look(disk)


def test_a_directory_that_is_no_nodes_is_not_touched(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RaftKVError, match="no identity file"):
            StoppedNode(str(path), 0)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- refusals
def test_a_directory_without_data_is_refused():
    disk = Disk()
    build(disk, hard=(0, None))
    assert look(disk).unusable.startswith("the directory holds no entry and no snapshot")
    before = image(disk)
    with pytest.raises(RaftKVError, match="nothing to go on with"):
        force(disk)
    assert image(disk) == before


def test_a_damaged_log_is_refused_with_file_offset_and_remedy():
    disk = Disk()
    meta = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
    build(disk, entries=member_entries(), snapshot=meta)
    segment = next(name for name in disk.names if name.endswith(".wal"))
    disk.flip(segment, 4096 + 60, 1)
    report = look(disk)
    assert (report.last_term, report.last_index, report.log) == (None, None, None)
    assert report.snapshot.index == 5
    assert len(report.damage) == 1
    assert f"{segment} is damaged at offset 4138" in report.damage[0]
    before = image(disk)
    with pytest.raises(RaftKVError) as caught:
        force(disk)
    for part in (segment, "offset 4138", "another survivor", "move /d/log away", "up to entry 5 (term 3)"):
        assert part in caught.value.message
    assert image(disk) == before


def test_what_the_message_says_of_a_damaged_log_works():
    disk = Disk()
    meta = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
    build(disk, entries=member_entries(), snapshot=meta)
    for name in [name for name in disk.names if name.startswith("/d/log/")]:
        disk.unlink(name)
    disk.dirs.discard("/d/log")
    with DataDirectory.open_stopped("/d", disk) as directory:
        directory.begin_log(0)
    assert (look(disk).last_term, look(disk).last_index) == (3, 5)
    (damage,) = look(disk).damage  # of a program that did not note that there was a log
    assert damage.startswith("/d/log: there is a snapshot up to entry 5, but this log never held a term")
    assert force(disk, cluster=NEW) == 6
    assert applied_by_a_start(disk, NEW) == ("state up to 5", [])


def test_a_log_that_is_gone_is_damage_and_the_snapshot_can_be_gone_on_with():
    disk = Disk()
    meta = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
    build(disk, entries=member_entries(), snapshot=meta)
    assert look(disk).damage == ()
    disk.lose("/d/log")
    report = look(disk)
    assert report.damage == (f"/d/log: {LOG_GONE}",)
    assert report.damage[0] in "\n".join([*shown(report)])
    assert report.damage[0] in "\n".join([*warning(report, NEW)])
    assert force(disk, cluster=NEW) == 6
    assert applied_by_a_start(disk, NEW) == ("state up to 5", [])


def test_a_lost_log_is_still_missed_when_the_recovery_is_interrupted():
    """It makes a log for the new cluster, which must not pass for the lost one in the old cluster."""
    meta = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
    outcomes = set()
    for step in range(1, 60):
        disk = Disk()
        build(disk, entries=member_entries(), snapshot=meta)
        disk.lose("/d/log")
        disk.arm(step)
        with suppress(PowerCut):
            force(disk, cluster=NEW)
        disk.power_cut(step, "all")
        with DataDirectory.open_stopped("/d", disk) as directory:
            moving = directory.identity.next_cluster_id != ""
            outcomes.add((directory.identity.cluster_id, moving))
            if not moving:  # else no node starts on it
                assert bool(directory.lost_log) == (directory.identity.cluster_id == OLD)
    assert outcomes == {(OLD, False), (OLD, True), (NEW, False)}


def test_a_log_that_begins_behind_its_snapshot_is_refused():
    disk = Disk()
    meta = SnapshotMeta(20, 3, wrap(THREE, regular(20)))
    build(disk, entries=member_entries(19, 30), snapshot=meta)
    name = next(name for name in disk.names if name.endswith(".snap"))
    disk.flip(name, len(disk.names[name].content) - 3, 0)
    report = look(disk)
    assert name in report.damage[0]
    assert "the log begins at entry 19, and the newest valid snapshot ends at 0" in report.unusable
    with pytest.raises(RaftKVError, match="recover another survivor"):
        force(disk)


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration.of([Member("n2", "h2:1", "disk2")]),
        Configuration((Member("n2", "h2:1", "disk2"),), removed=("disk1",)),
        Configuration.of([Member("n1", "h9:1", "another"), Member("n2", "h2:1", "disk2")]),
    ],
)
def test_one_that_is_no_member_is_refused_unless_nobody_else_is_left(configuration):
    disk = Disk()
    build(disk, entries=member_entries(configuration=configuration, at=6))
    assert not look(disk).is_member
    before = image(disk)
    with pytest.raises(RaftKVError, match=r"n1 .disk disk1. is no member by the newest configuration.*entry 6"):
        force(disk)
    assert image(disk) == before
    force(disk, cluster=NEW, outsider=True)
    found, log, meta = held(disk, NEW)
    assert found == "newdisk"  # the old one is among the removed, and entry 6 would stop the node
    newest = examine(log, meta).configuration
    assert newest.members == (Member("n1", "", "newdisk"),)
    assert "disk2" in newest.removed
    assert len(applied_by_a_start(disk, NEW)[1]) == 6


def test_the_new_cluster_needs_an_id_of_its_own():
    disk = Disk()
    build(disk, entries=member_entries())
    with StoppedNode("/d", 0, disk) as node:
        assert node.new_cluster_id("", "abc") == "c-abc"
        assert node.new_cluster_id("mine", "abc") == "mine"
        for wrong in (OLD, "no blanks", "x" * 65):
            with pytest.raises(ConfigError, match="--cluster-id is"):
                node.new_cluster_id(wrong, "abc")


# ----------------------------------------------------------------- recovering
class Applied:
    """A state machine that notes what it is given."""

    def __init__(self):
        self.loaded, self.entries = "", []

    def apply(self, index, entry):
        self.entries.append((index, entry))

    def dump(self):
        return []

    def load(self, chunks):
        self.loaded = b"".join(chunks).decode()

    stage = None


class SyncedLog(Log):
    def request_sync(self):
        self.sync()


class NoWire:
    def send(self, peer, message):
        raise AssertionError((peer, message))


def applied_by_a_start(disk, cluster):
    """(snapshot loaded, regular entries applied) when the node starts on it; it must lead, alone."""
    with DataDirectory.open("/d", node_id="n1", cluster_id=cluster, files=disk) as directory:
        log = SyncedLog.open(directory.log_path, OPTIONS, disk)
        store = SnapshotStore(directory.snapshot_path, disk)
        machine, now = Applied(), [100.0]
        replica = Replica(
            "n1", Configuration.of(["n1", "n2", "n3"]), disk=directory.disk_id, address="h1:1", log=log, store=store,
            writer=None, machine=machine, wire=NoWire(), monotonic=lambda: now[0], wall_ms=lambda: 0, rng=Random(1),
            timing=Timing(), compaction=Compaction(), snapshot_file=__file__,
        )  # fmt: skip
        replica.snapshots._writer = type("Idle", (), {"running": False})()
        for _ in range(200):
            now[0] += 0.02
            replica.tick()
        core = replica.core
        assert not core.halted
        assert core.is_leader
        assert core.committed == core.applied == log.last_index
        assert replica.membership.applied.ids == ("n1",)
        log.close()
    return machine.loaded, machine.entries


def test_the_only_member_elects_itself_and_applies_all_it_has():
    disk = Disk()
    entries = member_entries()
    build(disk, entries=entries)
    assert force(disk, cluster=NEW) == 9
    found, log, _ = held(disk, NEW)
    assert found == "disk1"
    assert log.entry(9)[2] == 4
    assert (log.hard_state.term, log.hard_state.voted_for) == (4, None)
    newest = Configuration.decode(log.entry(9)[0], 9)
    assert newest == Configuration((Member("n1", "h1:1", "disk1"),), 9, ("disk2", "disk3"))
    expected = [(index, payload) for index, _, payload in entries if index > 2]
    assert applied_by_a_start(disk, NEW) == ("", expected)


def test_a_snapshot_and_the_log_behind_it_are_both_there():
    disk = Disk()
    meta = SnapshotMeta(20, 3, wrap(THREE, regular(20)))
    build(disk, entries=member_entries(15, 30), snapshot=meta)
    assert force(disk, cluster=NEW) == 31
    assert applied_by_a_start(disk, NEW) == ("state up to 20", [(index, regular(index)) for index in range(21, 31)])


@pytest.mark.parametrize(
    "entries",
    [[], member_entries(1, 8), [(index, 2, regular(index)) for index in range(1, 31)]],
    ids=["no log", "behind", "of another leader"],
)
def test_a_log_that_does_not_lead_up_to_the_snapshot_gives_way_to_it(entries):
    """As a start would do: a snapshot was received, and the power went before the log was replaced."""
    disk = Disk()
    build(disk, entries=entries, snapshot=SnapshotMeta(20, 3, wrap(THREE, regular(20))))
    assert (look(disk).last_term, look(disk).last_index) == (3, 20)
    assert force(disk, cluster=NEW) == 21
    assert applied_by_a_start(disk, NEW) == ("state up to 20", [])


def test_a_log_of_before_there_were_configurations():
    disk = Disk()
    build(disk, entries=[(index, 1, regular(index)) for index in range(1, 6)])
    assert look(disk).members == ()
    assert look(disk).is_member
    force(disk, cluster=NEW)
    assert len(applied_by_a_start(disk, NEW)[1]) == 4


def test_a_learner_becomes_the_voter():
    disk = Disk()
    group = Configuration.of([Member("n1", "h1:1", "disk1", voter=False, promote=True), Member("n2", "h2:1", "disk2")])
    build(disk, entries=member_entries(configuration=group))
    force(disk, cluster=NEW)
    assert len(applied_by_a_start(disk, NEW)[1]) == 6


def test_a_recovered_node_can_be_recovered_again():
    disk = Disk()
    build(disk, entries=member_entries())
    force(disk, cluster=NEW)
    assert force(disk, cluster="c-third") == 10
    assert len(applied_by_a_start(disk, "c-third")[1]) == 6


def test_a_recovery_that_is_done_is_not_begun_again_into_the_same_cluster():
    disk = Disk()
    build(disk, entries=member_entries())
    force(disk, cluster=NEW)
    before = image(disk)
    with StoppedNode("/d", 0, disk) as node, pytest.raises(ConfigError, match="the old one"):
        node.recover(NEW, "newdisk")
    assert image(disk) == before


def test_the_next_start_with_the_old_settings_is_told_what_to_set():
    disk = Disk()
    build(disk, entries=member_entries())
    force(disk, cluster=NEW)
    with pytest.raises(IdentityError, match=f"belongs to cluster '{NEW}'.*cluster_id = {NEW}.*peers"):
        held(disk, OLD)


# --------------------------------------------------------------- crash points
META = SnapshotMeta(5, 3, wrap(Configuration.decode(THREE.encode(), 2), regular(5)))
SHAPES = {
    "log": {"entries": member_entries()},
    "log and snapshot": {"entries": member_entries(), "snapshot": META},
    "snapshot alone": {"snapshot": META},
    "torn tail": {"entries": member_entries(), "close": False},
}


def steps_of(shape) -> list[str]:
    disk = Disk()
    build(disk, **shape)
    disk.arm(0)
    force(disk, cluster=NEW)
    return [str(call) for call in disk.journal]


def judge_interrupted(disk, expected):
    """The old cluster's, untouched; or nobody's, and the command finishes it; or the new one's."""
    state = identity_of(disk)
    if "next_cluster_id" in state:
        assert state["next_cluster_id"] == NEW
        for cluster in (OLD, NEW):
            with pytest.raises(IdentityError, match="interrupted; run the same recovery again"):
                held(disk, cluster)
        assert look(disk).next_cluster_id == NEW
        assert [one.node_id for one in look(disk).others] == ["n2", "n3"]
    elif state["cluster_id"] == OLD:
        _, log, meta = held(disk, OLD)
        assert examine(log, meta).configuration.ids == ("n1", "n2", "n3")
    else:
        assert applied_by_a_start(disk, NEW) == expected
        return
    force(disk)  # without an id: an interrupted one goes on with what it began with
    cluster = identity_of(disk)["cluster_id"]
    assert cluster in {NEW, "c-random"}
    assert applied_by_a_start(disk, cluster) == expected


def identity_of(disk):
    return json.loads(bytes(disk.names["/d/identity"].content))


def expected_of(shape):
    disk = Disk()
    build(disk, **shape)
    force(disk, cluster=NEW)
    return applied_by_a_start(disk, NEW)


@pytest.mark.parametrize("name", SHAPES)
def test_power_cut_at_every_file_operation(name):
    shape = SHAPES[name]
    expected = expected_of(shape)
    steps = steps_of(shape)
    assert steps.count("rename identity.part identity") == 2
    seen = set()
    for step in range(1, len(steps) + 1):
        for seed in range(8):
            disk = Disk()
            build(disk, **shape)
            disk.arm(step)
            with pytest.raises(PowerCut):
                force(disk, cluster=NEW)
            disk.power_cut(seed)
            state = identity_of(disk)
            seen.add(state.get("next_cluster_id", "") + "/" + state["cluster_id"])
            judge_interrupted(disk, expected)
    assert seen == {f"/{OLD}", f"{NEW}/{OLD}", f"/{NEW}"}


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", SHAPES)
def test_every_file_operation_may_fail(name, fault):
    shape = SHAPES[name]
    expected = expected_of(shape)
    for step in range(1, len(steps_of(shape)) + 1):
        disk = Disk()
        build(disk, **shape)
        disk.arm(step, fault)
        with pytest.raises(RaftKVError):
            force(disk, cluster=NEW)
        disk.disarm()
        judge_interrupted(disk, expected)


# ------------------------------------------------------------- command line
def raftkv(*words, stdin=subprocess.DEVNULL):
    return subprocess.run(
        [sys.executable, "-m", "raftkv", "recover", *words], cwd=ROOT, stdin=stdin, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    build(None, str(tmp_path / "d"), entries=member_entries())
    return str(tmp_path / "d")


def test_looking_shows_first_what_survivors_are_compared_by(data):
    done = raftkv("--data", data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "last term 3, last index 8"
    for part in ("n2 at h2:1", "this node", "voted for n2", "highest last term wins", "--force-new-cluster --data"):
        assert part in done.stdout
    found = json.loads(raftkv("--data", data, "--json").stdout)
    assert list(found)[:2] == ["last_term", "last_index"]
    assert (found["last_term"], found["last_index"], found["log"]["term"]) == (3, 8, 3)
    assert [one["node_id"] for one in found["members"]] == ["n1", "n2", "n3"]


def test_without_a_confirmation_nothing_is_done(data):
    done = raftkv("--data", data, "--force-new-cluster")
    assert done.returncode == 2
    assert "--yes-i-accept-data-loss" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert json.loads(raftkv("--data", data, "--json").stdout)["last_index"] == 8


@pytest.mark.parametrize(("typed", "code"), [(OLD, 0), ("yes", 1), ("", 1)])
def test_on_a_terminal_the_old_cluster_id_is_typed(data, typed, code):
    ours, theirs = os.openpty()
    os.write(ours, f"{typed}\n".encode())
    done = raftkv("--data", data, "--force-new-cluster", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert OLD in done.stderr
    assert ("DONE" in done.stdout) == (code == 0)
    assert json.loads(raftkv("--data", data, "--json").stdout)["last_index"] == (9 if code == 0 else 8)


def test_the_closing_text_names_what_to_set_and_whom_never_to_start(data):
    done = raftkv("--data", data, "--force-new-cluster", "--cluster-id", NEW, "--yes-i-accept-data-loss")
    assert done.returncode == 0, done.stderr
    for part in (
        "WHAT MAY BE LOST", "WHAT MAY APPEAR", "NEVER", "n2 at h2:1, disk disk2", f"cluster_id = {NEW}",
        f"raftkv server --id n1 --cluster-id {NEW}", "raftkv cluster add", "--join",
    ):  # fmt: skip
        assert part in done.stdout
    again = raftkv("--data", data, "--force-new-cluster", "--yes-i-accept-data-loss", "--json")
    assert again.returncode == 0, again.stderr
    outcome = json.loads(again.stdout)
    assert outcome["configuration_index"] == 10
    assert outcome["before"]["cluster_id"] == NEW
    assert outcome["cluster_id"].startswith("c-")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "no/such/place"], "no identity file"),
        (["--data", ".", "--yes-i-accept-data-loss"], "belong to --force-new-cluster"),
        (["--data", ".", "--cluster-id", "x"], "belong to --force-new-cluster"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(words, told):
    done = raftkv(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
