"""A data directory has one owner at a time and one identity for ever."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import sys
from shutil import rmtree

import pytest
from crc32c import crc32c

from chaos.disk import Disk, PowerCut
from persistence.directory import LOG_GONE, LOG_OF_OTHERS, DataDirectory
from persistence.errors import DirectoryError, DirectoryLockedError, IdentityError
from persistence.wal import Log, LogOptions


def open_it(path, node="n1", cluster="c1", files=None):
    return DataDirectory.open(str(path), node_id=node, cluster_id=cluster, files=files)


def test_it_is_created_once(tmp_path):
    with open_it(tmp_path / "d") as directory:
        assert directory.created
        assert directory.log_path == str(tmp_path / "d" / "log")
        assert directory.snapshot_path == str(tmp_path / "d" / "snapshots")
    with open_it(tmp_path / "d") as directory:
        assert not directory.created


def test_a_second_opener_is_told_who_holds_it(tmp_path):
    with open_it(tmp_path / "d"):
        with pytest.raises(DirectoryLockedError, match=f"process {os.getpid()}") as caught:
            open_it(tmp_path / "d")
        assert caught.value.holder_pid == os.getpid()
    open_it(tmp_path / "d").close()


def test_another_process_holds_it_until_it_is_killed(tmp_path):
    script = (
        "import sys, time; from persistence.directory import LOG_GONE, LOG_OF_OTHERS, DataDirectory\n"
        "held = DataDirectory.open(sys.argv[1], node_id='n1', cluster_id='c1')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    root = pathlib.Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "d")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryLockedError) as caught:
            open_it(tmp_path / "d")
        assert caught.value.holder_pid == holder.pid
        holder.kill()
        holder.wait()
    open_it(tmp_path / "d").close()


def test_a_forked_child_can_let_go_without_freeing_the_parent(tmp_path):
    with open_it(tmp_path / "d") as directory:
        pid = os.fork()
        if not pid:
            directory.forget_in_child()
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(DirectoryLockedError):
            open_it(tmp_path / "d")


@pytest.mark.parametrize(("node", "cluster", "text"), [("n2", "c1", "node 'n1'"), ("n1", "c2", "cluster 'c1'")])
def test_another_identity_is_refused_by_name_and_remedy(tmp_path, node, cluster, text):
    open_it(tmp_path / "d").close()
    with pytest.raises(IdentityError, match=text) as caught:
        open_it(tmp_path / "d", node, cluster)
    assert "choose another directory" in str(caught.value)
    open_it(tmp_path / "d").close()  # the refusal let go of the lock


def test_a_newer_format_is_refused(tmp_path):
    open_it(tmp_path / "d").close()
    fields = {"format": 3, "node_id": "n1", "cluster_id": "c1"}
    checksum = crc32c(json.dumps(fields, sort_keys=True).encode())
    (tmp_path / "d" / "identity").write_text(json.dumps({**fields, "crc32c": checksum}))
    with pytest.raises(IdentityError, match="format 3, this program knows up to 2"):
        open_it(tmp_path / "d")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"format": 1}', "\xff", "[" * 50_000])
def test_a_damaged_identity_is_refused(tmp_path, text):
    open_it(tmp_path / "d").close()
    (tmp_path / "d" / "identity").write_bytes(text.encode("latin-1"))
    with pytest.raises(IdentityError, match="damaged"):
        open_it(tmp_path / "d")


def test_an_edited_identity_is_damaged(tmp_path):
    open_it(tmp_path / "d").close()
    identity = tmp_path / "d" / "identity"
    identity.write_text(identity.read_text().replace("n1", "n2"))
    with pytest.raises(IdentityError, match="damaged"):
        open_it(tmp_path / "d", "n2")


@pytest.mark.parametrize("log_id", ["5a17", "x" * 16, 7, None])
def test_an_identity_with_an_impossible_log_id_is_damaged(tmp_path, log_id):
    open_it(tmp_path / "d").close()
    fields = json.loads((tmp_path / "d" / "identity").read_text())
    del fields["crc32c"]
    fields["log_id"] = log_id
    checksum = crc32c(json.dumps(fields, sort_keys=True).encode())
    (tmp_path / "d" / "identity").write_text(json.dumps({**fields, "crc32c": checksum}))
    with pytest.raises(IdentityError, match="is damaged"):
        open_it(tmp_path / "d")


def test_data_without_an_identity_is_not_adopted(tmp_path):
    open_it(tmp_path / "d").close()
    (tmp_path / "d" / "log").mkdir()
    (tmp_path / "d" / "identity").unlink()
    with pytest.raises(IdentityError, match="holds log but no identity"):
        open_it(tmp_path / "d")


def test_what_the_system_refuses_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryError, match="a file is in the way"):
        open_it(tmp_path / "file")
    with pytest.raises(DirectoryError, match="parent directory does not exist"):
        open_it(tmp_path / "missing" / "d")


@pytest.mark.parametrize(
    ("fault", "text"), [(errno.EROFS, "read-only"), (errno.ENOSPC, "disk is full"), (errno.EIO, "input/output error")]
)
@pytest.mark.parametrize("step", range(1, 7))
def test_every_file_operation_may_fail(step, fault, text):
    disk = Disk()
    disk.arm(step, fault)
    with pytest.raises(DirectoryError, match=text):
        open_it("/d", files=disk)
    disk.disarm()
    open_it("/d", files=disk).close()


@pytest.mark.parametrize("disk_id", ["", "d1"])
def test_what_a_crash_left_of_an_identity_is_deleted(tmp_path, disk_id):
    for _ in range(2):
        DataDirectory.open(str(tmp_path / "d"), node_id="n1", cluster_id="c1", new_disk_id=disk_id).close()
        (tmp_path / "d" / "identity.part").write_bytes(b"half of")
    open_it(tmp_path / "d").close()
    assert sorted(one.name for one in (tmp_path / "d").iterdir()) == ["identity", "lock"]


@pytest.mark.parametrize("step", range(1, 7))
def test_power_cut_at_every_file_operation_of_the_creation(step):
    for seed in range(5):
        disk = Disk()
        disk.arm(step)
        with pytest.raises(PowerCut):
            open_it("/d", files=disk)
        disk.power_cut(seed)
        open_it("/d", files=disk).close()
        disk.power_cut(seed)
        assert not open_it("/d", files=disk).created


# ------------------------------------------------------------------ moving to another cluster
def test_a_log_that_was_begun_is_missed(tmp_path):
    path = tmp_path / "d"
    with DataDirectory.open(str(path), node_id="n1", cluster_id="c1", new_disk_id="d1") as directory:
        assert not directory.lost_log
        begun(directory, 1)
        written = (path / "identity").stat()
        directory.begin_log(1)
        assert (path / "identity").stat() == written  # once in its life
    with DataDirectory.open_stopped(str(path)) as directory:
        assert directory.log_salt == 1
        assert not directory.lost_log
        rmtree(directory.log_path)
        assert directory.lost_log == LOG_GONE
        directory.set_aside("d2", b"")
        assert not directory.lost_log


def test_the_log_of_a_former_disk_is_not_that_of_this_one(tmp_path):
    """Its file system was not mounted, and the node repaired; now it is mounted again."""
    path = tmp_path / "d"
    with DataDirectory.open(str(path), node_id="n1", cluster_id="c1", new_disk_id="d1") as directory:
        begun(directory, 1)
        (path / "log").rename(path / "elsewhere")
        assert directory.lost_log == LOG_GONE
        directory.set_aside("d2", b"")
        begun(directory, 2)
        assert not directory.lost_log
        (path / "log").rename(path / "second")
        (path / "elsewhere").rename(path / "log")
        assert directory.lost_log == LOG_OF_OTHERS
        (segment,) = (path / "log").glob("*.wal")
        segment.write_bytes(b"damaged" + segment.read_bytes()[7:])
        assert not directory.lost_log  # a look at the log says what is wrong


def begun(directory, salt):
    with Log.open(directory.log_path, LogOptions(salt=salt, preallocate=False)) as log:
        directory.begin_log(log.salt)


def test_a_stopped_nodes_directory_is_opened_whoevers_it_is(tmp_path):
    DataDirectory.open(str(tmp_path / "d"), node_id="n1", cluster_id="c1", new_disk_id="d1").close()
    before = (tmp_path / "d" / "identity").read_bytes()
    with DataDirectory.open_stopped(str(tmp_path / "d")) as directory:
        assert directory.identity[:4] == ("n1", "c1", "d1", "")
        with pytest.raises(DirectoryLockedError):
            open_it(tmp_path / "d")
    assert (tmp_path / "d" / "identity").read_bytes() == before


def test_what_is_no_data_directory_is_not_made_one(tmp_path):
    with pytest.raises(IdentityError, match="no identity file"):
        DataDirectory.open_stopped(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_nobody_can_use_a_directory_on_its_way_to_another_cluster(tmp_path):
    open_it(tmp_path / "d").close()
    with DataDirectory.open_stopped(str(tmp_path / "d")) as directory:
        directory.begin_move("c2", "d2")
    for cluster in ("c1", "c2"):
        with pytest.raises(IdentityError, match="on its way from cluster 'c1' to 'c2'"):
            open_it(tmp_path / "d", cluster=cluster)
    with DataDirectory.open_stopped(str(tmp_path / "d")) as directory:
        assert directory.identity[:4] == ("n1", "c1", "d2", "c2")
        directory.begin_move("c3", "d3")  # begun again
        directory.finish_move()
        assert directory.identity[:4] == ("n1", "c3", "d3", "")
    with pytest.raises(IdentityError, match="cluster_id = c3"):
        open_it(tmp_path / "d")
    assert open_it(tmp_path / "d", cluster="c3").disk_id == "d3"
