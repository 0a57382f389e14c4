"""What a directory has lost is found and told, and set aside only where others can give it back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import rmtree

import pytest
from crc32c import crc32c

from persistence.directory import DataDirectory
from persistence.errors import UnknownVersionError
from persistence.segment import marker_of, segment_number, walk
from persistence.snapshots import SnapshotMeta, SnapshotStore, snapshot_name
from persistence.wal import Log, LogOptions
from raftkv.consensus.configuration import Configuration, Member, wrap
from raftkv.consensus.snapshots import NO_OP
from raftkv.errors import RaftKVError
from raftkv.server.recover import StoppedNode as Survivor
from raftkv.server.repair import KEPT, StoppedNode, examine, known_members, refuse_alone

ROOT = Path(__file__).resolve().parents[2]
THREE = Configuration.of(Member(f"n{one}", f"h{one}:1", f"disk{one}") for one in (1, 2, 3))
OPTIONS = LogOptions(segment_bytes=64 << 10, preallocate=False, salt=1)


def build(path: Path, *, snapshots=(), first=1, last=20, configuration=THREE) -> Path:
    """The directory of n1: entry 2 is the configuration; snapshots end at the given entries."""
    with DataDirectory.open(str(path), node_id="n1", cluster_id="c", new_disk_id="disk1") as directory:
        for index in snapshots:
            file = SnapshotStore(directory.snapshot_path).begin(SnapshotMeta(index, 1, wrap(configuration, NO_OP)))
            file.write(b"state")
            file.commit()
        log = Log.open(directory.log_path, OPTIONS)
        log.set_hard_state(1, "n1")
        for index in range(first, last + 1):
            log.append(index, 1, configuration.encode() if index == 2 else b"\x00entry %d" % index)
            log.sync()
        log.close()
    return path


def damage_entry(path: Path, index: int) -> tuple[str, int]:
    """The file, and where the record of that entry begins."""
    segment = min(path.glob("log/*.wal"))
    content = bytearray(segment.read_bytes())
    records = list(walk(memoryview(bytes(content)), marker_of(segment_number(segment.name), 1)))
    record = next(one for one in records if one.entry_index == index)
    content[record.offset + 42] ^= 1
    segment.write_bytes(content)
    return str(segment), record.offset


def damage_snapshot(path: Path, index: int) -> None:
    file = path / "snapshots" / snapshot_name(index, 1)
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)


def found(path: Path):
    with DataDirectory.open_stopped(str(path)) as directory:
        return examine(directory)


def test_a_sound_directory_is_left_alone(tmp_path):
    finding = found(build(tmp_path / "d", snapshots=(4,)))
    assert (finding.unsound, finding.damage) == ("", ())
    assert (finding.entries, finding.first_index, finding.last_index, finding.snapshot_index) == (20, 1, 20, 4)


def test_every_damaged_place_is_told_and_the_members_are_read(tmp_path):
    path = build(tmp_path / "d")
    second, first = damage_entry(path, 12), damage_entry(path, 7)
    finding = found(path)
    assert f"{first[0]} is damaged at offset {first[1]}" in finding.unsound
    assert [(one.file, one.offset) for one in finding.damage] == [first, second]
    assert finding.entries == 18
    assert finding.helpers == ("n2", "n3")
    assert finding.addresses == {"n2": "h2:1", "n3": "h3:1"}
    refuse_alone(finding, {})


def test_members_are_read_behind_the_damage_and_out_of_snapshots(tmp_path):
    path = build(tmp_path / "d")
    damage_entry(path, 1)
    assert found(path).helpers == ("n2", "n3")
    path = build(tmp_path / "e", snapshots=(4,), first=4)
    damage_entry(path, 6)
    assert found(path).helpers == ("n2", "n3")
    path = build(tmp_path / "f")
    damage_entry(path, 2)
    finding = found(path)
    assert finding.members == ()
    refuse_alone(finding, {"n1": "h1:1", "n2": "h2:1"})
    with pytest.raises(RaftKVError, match="Restore a backup"):
        refuse_alone(finding, {"n1": "h1:1"})


def test_the_only_voter_is_not_set_aside(tmp_path):
    alone = Configuration((Member("n1", "h1:1", "disk1"), Member("n2", "h2:1", "disk2", voter=False)))
    path = build(tmp_path / "d", configuration=alone)
    damage_entry(path, 7)
    with pytest.raises(RaftKVError, match="n1 is the only voter by all that can be read"):
        refuse_alone(found(path), {"n1": "", "n2": "", "n3": ""})


@pytest.mark.parametrize(
    ("snapshots", "first", "damaged", "unsound"),
    [
        ((10,), 10, 10, "the log begins at entry 10, and the newest valid snapshot ends at 0"),
        ((10, 15), 12, 15, "the log begins at entry 12, and the newest valid snapshot ends at 10"),
        ((10, 15), 9, 15, ""),
        ((10, 30), 9, 30, "entries up to 30 are in a damaged snapshot only"),
    ],
)
def test_a_damaged_snapshot_matters_when_nothing_else_has_what_it_held(tmp_path, snapshots, first, damaged, unsound):
    path = build(tmp_path / "d", snapshots=snapshots, first=first)
    damage_snapshot(path, damaged)
    finding = found(path)
    assert unsound in finding.unsound
    assert bool(unsound) == bool(finding.unsound)
    assert str(path / "snapshots" / snapshot_name(damaged, 1)) in [one.file for one in finding.damage]


def test_a_log_that_is_gone_beside_a_snapshot_is_damage_at_every_start(tmp_path):
    """Its file system is not mounted, say. What was promised behind the snapshot, and whom it voted for, is not known."""
    path = build(tmp_path / "d", snapshots=(10,))
    rmtree(path / "log")
    finding = found(path)
    assert finding.unsound == (
        f"{path}/log: there is a snapshot up to entry 10, but this log never held a term: it was removed or not mounted"
    )
    assert (finding.last_index, finding.snapshot_index, finding.helpers) == (0, 10, ("n2", "n3"))
    Log.open(str(path / "log"), OPTIONS).close()  # what a start does before it refuses
    assert found(path).unsound == finding.unsound
    damage_snapshot(path, 10)
    assert found(path).unsound == finding.unsound


def test_a_log_that_is_gone_is_damage_without_a_snapshot_too(tmp_path):
    path = build(tmp_path / "d")
    assert not found(path).unsound
    with DataDirectory.open_stopped(str(path)) as directory:
        directory.begin_log(1)
    before = (path / "identity").read_bytes()
    rmtree(path / "snapshots", ignore_errors=True)
    for gone in (lambda: [one.unlink() for one in (path / "log").glob("*.wal")], lambda: rmtree(path / "log")):
        gone()
        finding = found(path)
        assert finding.unsound == (
            f"{path}/log: this node has had a log, and there is none: it was removed or its file system is not mounted"
        )
        assert [one.file for one in finding.damage] == [f"{path}/log"]
        assert (finding.members, finding.addresses) == ((), {})
    with StoppedNode(str(path)) as node:
        node.set_aside("new")
        assert node.aside == f"{path}/damaged-1"
    assert (path / "damaged-1" / "identity").read_bytes() == before
    assert not found(path).unsound  # begun anew, as another disk


def test_a_link_to_a_log_that_is_not_mounted_is_damage(tmp_path):
    path = build(tmp_path / "d")
    with DataDirectory.open_stopped(str(path)) as directory:
        directory.begin_log(1)
    mounted = tmp_path / "mounted"
    (path / "log").rename(mounted)
    (path / "log").symlink_to(mounted)
    assert not found(path).unsound
    mounted.rename(tmp_path / "elsewhere")
    assert "this node has had a log, and there is none" in found(path).unsound
    with pytest.raises(RaftKVError, match=f"{path}/log is a link to what is not there; mount that, or mend the link"):
        Survivor(str(path), 0.0)
    with StoppedNode(str(path)) as node:
        node.set_aside("new")
    assert (path / "damaged-1" / "log").is_symlink()
    assert not found(path).unsound


def test_a_log_that_is_a_mount_point_is_not_begun_to_be_set_aside(tmp_path, monkeypatch):
    path = build(tmp_path / "d")
    damage_entry(path, 7)
    before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file() and one.name != "lock"}
    monkeypatch.setattr(Path, "is_mount", lambda self: self == path / "log")
    with (
        StoppedNode(str(path)) as node,
        pytest.raises(RaftKVError, match=f"{path}/log is a mount point, and cannot be set aside: unmount it"),
    ):
        node.set_aside("new")
    assert {one: one.read_bytes() for one in path.rglob("*") if one.is_file() and one.name != "lock"} == before


def test_another_programs_files_are_no_damage(tmp_path):
    path = build(tmp_path / "d", snapshots=(10,), first=9)
    file = path / "snapshots" / snapshot_name(10, 1)
    content = bytearray(file.read_bytes())
    content[12:16] = (77).to_bytes(4, "little")
    length = int.from_bytes(content[16:20], "little")
    content[8:12] = crc32c(bytes(content[12 : 20 + length])).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(UnknownVersionError, match="format version 77"):
        found(path)
    path = build(tmp_path / "e")
    segment = min(path.glob("log/*.wal"))
    content = bytearray(segment.read_bytes())
    content[12:16] = (77).to_bytes(4, "little")
    length = int.from_bytes(content[16:20], "little")
    content[8:12] = crc32c(bytes(content[12 : 20 + length])).to_bytes(4, "little")
    segment.write_bytes(content)
    with pytest.raises(UnknownVersionError, match="format version 77"):
        found(path)
    assert not list(tmp_path.glob("*/damaged-*"))


def test_it_is_set_aside_and_the_newest_are_kept(tmp_path):
    path = build(tmp_path / "d")
    damage_entry(path, 7)
    for number in range(KEPT + 2):
        with StoppedNode(str(path)) as node:
            node.set_aside(f"new{number}")
        (path / "log").mkdir()
    assert sorted(one.name for one in path.glob("damaged-*")) == ["damaged-3", "damaged-4"]


def test_the_next_start_knows_where_the_others_were(tmp_path):
    path = build(tmp_path / "d")
    damage_entry(path, 7)
    with StoppedNode(str(path)) as node:
        node.set_aside("new")
        aside = Path(node.aside)
    with DataDirectory.open(str(path), node_id="n1", cluster_id="c", new_disk_id="unused") as directory:
        assert directory.repairs == ("disk1",)
        assert known_members(directory) == {"n2": "h2:1", "n3": "h3:1"}
        for text in ("", "[]", '{"addresses": 1}', '{"addresses": {"n2": "nonsense"}}', "\xff"):
            (aside / "report.json").write_text(text)
            assert known_members(directory) == {}
    with Survivor(str(aside), 0.0) as survivor:  # `raftkv recover` looks into it like into any other
        assert survivor.report.disk_id == "disk1"
        assert "is damaged at offset" in survivor.report.unusable


# ------------------------------------------------------------------ raftkv repair
def repair(path: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raftkv", "repair", str(path), *words],
        cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_tells_and_does_as_it_is_told(tmp_path):
    path = build(tmp_path / "d")
    before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file() and one.name != "lock"}
    sound = repair(path, "--yes")
    assert (sound.returncode, "nothing that n1 needs is damaged" in sound.stderr) == (2, True)
    assert {one: one.read_bytes() for one in before} == before
    file, offset = damage_entry(path, 7)
    looked = repair(path, "--json", stdin="")
    assert looked.returncode == 1
    told = json.loads(looked.stdout)
    assert (told["done"], told["damage"][0]["file"], told["damage"][0]["offset"]) == (False, file, offset)
    assert "--yes confirms. Nothing was changed" in looked.stderr
    assert not list(path.glob("damaged-*"))
    done = repair(path, "--yes")
    assert done.returncode == 0, done.stderr
    assert f"{offset:,}" in done.stdout
    assert "n3 at h3:1" in done.stdout
    assert str(path / "damaged-1") in done.stdout
    assert (path / "damaged-1" / "log").is_dir()
    assert not (path / "log").exists()


def test_the_command_refuses_what_is_in_use_or_no_nodes_data(tmp_path):
    path = build(tmp_path / "d")
    with DataDirectory.open_stopped(str(path)):
        used = repair(path, "--yes")
    assert (used.returncode, "in use by process" in used.stderr) == (2, True)
    none = repair(tmp_path, "--yes")
    assert (none.returncode, "no identity file" in none.stderr) == (2, True)
