"""A snapshot that cannot be written: what the child leaves, what the parent learns, and when it is tried again."""

from __future__ import annotations

import errno
import os
import signal
import time
from types import SimpleNamespace

import pytest

from persistence.snapshots import SnapshotMeta, SnapshotStore
from raftkv.consensus.fork import ForkedWriter
from raftkv.consensus.snapshots import Snapshots
from tests.unit.fake_core import FakeCore

META = SnapshotMeta(7, 2, b"extra")


def finished(writer):
    """What became of it."""
    deadline = time.monotonic() + 20
    while (outcome := writer.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return outcome


@pytest.fixture
def store(tmp_path):
    return SnapshotStore(str(tmp_path / "snapshots"))


@pytest.fixture
def writer(store):
    return ForkedWriter(
        lambda *meta: store.begin(SnapshotMeta(*meta)),
        lambda *meta: store.adopt(SnapshotMeta(*meta)),
        lambda *meta: store.discard(SnapshotMeta(*meta)),
    )


def failing(error):
    def chunks():
        yield b"x" * 100
        raise error

    return chunks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_the_parent_learns_why_and_nothing_is_left(store, writer, capfd, number):
    writer.start(7, 2, b"extra", failing(OSError(number, "no")))
    assert finished(writer) is False
    assert writer.failure.errno == number
    assert store.files.listdir(store.directory) == []
    assert capfd.readouterr().err == "", "it is the parent's to tell"


def test_of_another_error_the_parent_knows_only_that_there_was_one(store, writer):
    writer.start(7, 2, b"extra", failing(ValueError("a bug")))
    assert finished(writer) is False
    assert writer.failure is None
    assert store.files.listdir(store.directory) == []


def test_a_child_that_is_killed_leaves_nothing(store, writer):
    def chunks():
        yield b"x" * 100
        os.kill(os.getpid(), signal.SIGKILL)

    writer.start(7, 2, b"extra", chunks)
    assert finished(writer) is False
    assert writer.failure is None
    assert store.files.listdir(store.directory) == []


def test_after_a_failure_the_next_one_may_succeed(store, writer):
    writer.start(7, 2, b"extra", failing(OSError(errno.ENOSPC, "no")))
    assert finished(writer) is False
    writer.start(7, 2, b"extra", lambda: [b"state"])
    assert finished(writer) is True
    assert writer.failure is None
    assert store.newest().meta == META


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_machine_that_cannot_fork_fails_the_snapshot_and_not_the_node(store, writer, monkeypatch, number):
    def refused():
        raise OSError(number, "no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", refused)
        writer.start(7, 2, b"extra", lambda: [b"state"])
    assert writer.running, "the engine asks what became of it"
    assert writer.poll() is False
    assert not writer.running
    assert writer.failure.errno == number
    writer.start(7, 2, b"extra", lambda: [b"state"])
    assert finished(writer) is True
    assert writer.failure is None


def test_a_complete_file_that_cannot_be_taken_over_is_a_failed_snapshot(store):
    answers = [OSError(errno.EMFILE, "no"), None]

    def adopt(*meta):
        if (error := answers.pop(0)) is not None:
            raise error
        store.adopt(SnapshotMeta(*meta))

    writer = ForkedWriter(lambda *meta: store.begin(SnapshotMeta(*meta)), adopt, lambda *_: None)
    writer.start(7, 2, b"extra", lambda: [b"state"])
    assert finished(writer) is False
    assert writer.failure.errno == errno.EMFILE
    writer.start(7, 2, b"extra", lambda: [b"state"])
    assert finished(writer) is True
    assert store.newest().meta == META


def test_what_cannot_be_deleted_behind_a_failed_child_is_left(store):
    def discard(*_):
        raise OSError(errno.EROFS, "no")

    writer = ForkedWriter(lambda *meta: store.begin(SnapshotMeta(*meta)), lambda *_: None, discard)
    writer.start(7, 2, b"extra", failing(OSError(errno.EIO, "no")))
    assert finished(writer) is False
    assert writer.failure.errno == errno.EIO, "what the child met, not what came of it"


def test_a_snapshot_whose_file_was_removed_is_forgotten_when_another_is_asked_for(store):
    """The engine passes a request for what it has a snapshot of: COMPACT would cut the log, and nothing would have it."""
    fake, calls = FakeCore(), []
    fake.core.engine = SimpleNamespace(
        forget_snapshot=lambda: calls.append("forget"), forceLogCompaction=lambda: calls.append("write")
    )
    file = store.begin(META)
    file.write(b"state")
    info = file.commit()
    idle = SimpleNamespace(running=False)
    snapshots = Snapshots(fake.core, SimpleNamespace(progress={}), None, store, idle, SimpleNamespace(stage=None))
    snapshots.request()
    snapshots.settle()
    assert calls == ["write"]
    store.files.unlink(f"{store.directory}/{info.name}")
    snapshots.request()
    assert calls == ["write", "forget", "write"]


class Scripted:
    """A writer whose snapshots end as they are told to."""

    running = True
    failure = None

    def __init__(self):
        self.outcome = False

    def poll(self):
        return self.outcome


def test_the_pause_grows_to_a_bound_and_ends_with_a_success(store):
    fake, writer = FakeCore(), Scripted()
    snapshots = Snapshots(
        fake.core, SimpleNamespace(progress={}), None, store, writer, SimpleNamespace(stage=None)
    )  # fmt: skip
    pauses = []
    assert not snapshots.rests
    for _ in range(9):
        snapshots.checkSerializing()
        began = fake.now
        while snapshots.rests:
            fake.now += 0.5
        pauses.append(fake.now - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    snapshots.checkSerializing()
    assert snapshots.rests
    writer.outcome = True
    snapshots.checkSerializing()
    assert not snapshots.rests
    writer.outcome = False
    snapshots.checkSerializing()
    fake.now += 1.0
    assert not snapshots.rests, "it begins anew"
