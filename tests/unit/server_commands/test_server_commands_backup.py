"""RAFT.BACKUP: what a backup covers, and what is answered when there is nothing to hand out."""

from __future__ import annotations

import errno

import pytest

from raftkv.errors import BusyError, CommandError, NoLeaderError, RaftKVError
from raftkv.replicator import OpenSnapshot
from raftkv.server.backups import HELD_MAX, PIECE_BYTES_MAX


class SnapshotFile:
    def __init__(self):
        self.data = bytes(range(100))
        self.closed = False

    def pread(self, length, offset):
        return self.data[offset : offset + length]

    def close(self):
        self.closed = True


@pytest.fixture
def replicator(server):
    """Applied entry 99, snapshot of entry 4."""
    found = server.node.replicator
    found.snapshot = OpenSnapshot(4, 2, 100, SnapshotFile())
    return found


def test_it_covers_all_that_was_acknowledged(server, replicator):
    reply = server.line("RAFT.BACKUP BEGIN")
    assert replicator.snapshots_taken == 1
    assert reply == {
        b"id": 1, b"index": 99, b"term": 2, b"size": 100, b"cluster": b"c1", b"node": b"n1", b"program": b"raftkv 0.1.0",
        b"piece": PIECE_BYTES_MAX,
    }  # fmt: skip


def test_a_snapshot_that_covers_it_already_is_not_written_again(server, replicator):
    replicator.change(snapshot_index=99)
    server.line("RAFT.BACKUP BEGIN")
    assert replicator.snapshots_taken == 0


def test_one_that_was_under_way_and_began_too_early_does_not_count(server, replicator):
    replicator.snapshots = [98]
    assert server.line("RAFT.BACKUP BEGIN")[b"index"] == 99
    assert replicator.snapshots_taken == 2


def test_without_a_snapshot_that_covers_it_there_is_no_backup(server, replicator):
    replicator.snapshots = [98, 98, 98]
    with pytest.raises(NoLeaderError, match="no snapshot of entry 99 came about"):
        server.line("RAFT.BACKUP BEGIN")
    assert len(server.node.backups) == 0


def test_without_a_leader_only_a_stale_one_is_to_be_had(server, replicator):
    replicator.barrier_error = NoLeaderError("no leader")
    with pytest.raises(NoLeaderError, match="no leader"):
        server.line("RAFT.BACKUP BEGIN")
    assert server.line("RAFT.BACKUP BEGIN stale")[b"index"] == 4


def test_a_snapshot_that_fails_says_why(server, replicator):
    replicator.snapshot_error = RaftKVError("the disk is full")
    with pytest.raises(RaftKVError, match="the disk is full"):
        server.line("RAFT.BACKUP BEGIN")


def test_no_snapshot_at_all(server):
    with pytest.raises(CommandError, match="this node has no snapshot yet"):
        server.line("RAFT.BACKUP BEGIN STALE")


def test_pieces_and_the_end(server, replicator):
    server.line("RAFT.BACKUP BEGIN")
    file = replicator.snapshot.file
    assert server.line("RAFT.BACKUP READ 1 90 20") == bytes(range(90, 100))
    assert server.line("RAFT.BACKUP READ 1 100 20") == b""
    assert server.line("RAFT.BACKUP END 1") == "OK"
    assert file.closed
    with pytest.raises(CommandError, match="no backup 1"):
        server.line("RAFT.BACKUP READ 1 0 20")


@pytest.mark.parametrize(
    "line", ["BEGIN FRESH", "BEGIN STALE STALE", "READ 1 -1 5", "READ 1 0 x", "READ x 0 5", "END 2"]
)
def test_what_makes_no_sense_is_refused(server, replicator, line):
    with pytest.raises(CommandError):
        server.line(f"RAFT.BACKUP {line}")


def test_too_many_at_once(server, replicator):
    for _ in range(HELD_MAX):
        server.line("RAFT.BACKUP BEGIN STALE")
    with pytest.raises(BusyError):
        server.line("RAFT.BACKUP BEGIN STALE")


def test_a_snapshot_that_cannot_be_opened_is_said(server, replicator, monkeypatch):
    def refused():
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(replicator, "open_snapshot", refused)
    with pytest.raises(CommandError, match="cannot be opened: Too many open files; ask another node"):
        server.line("RAFT.BACKUP BEGIN")
