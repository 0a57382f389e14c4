"""Sender and receiver of snapshots, joined by hand: windows, identities, slow and broken followers, full disks."""

from __future__ import annotations

import errno
import random
from types import SimpleNamespace

import pytest

from chaos.disk import Disk
from persistence import snapshots as snapshots_module
from persistence.reserve import Reserve
from persistence.snapshots import SnapshotMeta, SnapshotStore, snapshot_name
from raftkv.consensus import snapshot_receiver, snapshot_sender
from raftkv.consensus.messages import SnapshotAck, SnapshotChunk
from raftkv.consensus.snapshot_receiver import RETRY_S, RETRY_S_MAX, SnapshotReceiver
from raftkv.consensus.snapshot_sender import CHUNKS_AT_ONCE, DOUBTS_MAX, PATIENCE_S, WINDOW_CHUNKS, SnapshotSender
from raftkv.errors import InvariantError
from tests.unit.fake_core import FakeCore

CHUNK = 100


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(snapshot_sender, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(snapshots_module, "CHUNK_BYTES", 64)
    monkeypatch.setattr(snapshot_receiver, "SLICE_BYTES", 200)


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def save(store, index, content, term=1):
    writer = store.begin(SnapshotMeta(index, term, b"extra"))
    writer.write(content)
    return writer.commit()


class Leader:
    """n1; ``wants`` are the followers behind its log."""

    def __init__(self, *peers, keep=2):
        self.fake = FakeCore(peers)
        self.disk = Disk()
        self.store = SnapshotStore("/leader", self.disk, keep=keep)
        self.progress = {
            peer: SimpleNamespace(needs_snapshot=True, next_index=2, restart=self.restart) for peer in peers
        }
        replication = SimpleNamespace(progress=self.progress, patience_s=lambda size: 1.0 + size / 1e6)
        self.asked = 0
        self.restarted = []
        self.sender = SnapshotSender(
            self.fake.core, replication, self.store.newest, self.store.open, self.write_another
        )

    def restart(self, index):
        self.restarted.append(index)

    def write_another(self):
        self.asked += 1

    def sent(self, peer="n2"):
        return self.fake.take(peer)

    def ack(self, message, offset, *, peer="n2", installed=False, damaged=False):
        ack = SnapshotAck(message.term, message.index, message.seal, offset, installed=installed, damaged=damaged)
        self.sender.on_ack(peer, ack)


class Staged:
    def __init__(self):
        self.content = b""

    def feed(self, chunk):
        if chunk.startswith(b"unknown version"):
            raise InvariantError("unknown version")
        self.content += chunk

    def finish(self):
        self.content += b"."

    def release(self, _slots):
        return False


class Follower:
    """n2, following n1."""

    def __init__(self, disk=None, aside=snapshot_receiver.at_once):
        self.fake = FakeCore(("n1", "n3"), leads=False)
        self.fake.core.engine.leader_id = "n1"
        self.disk = disk or Disk()
        self.store = SnapshotStore("/follower", self.disk)
        self.installed = []
        self.receiver = SnapshotReceiver(self.fake.core, self.store.receive, Staged, self.install, aside)

    def install(self, peer, term, info, staged):
        self.installed.append((peer, term, info.meta.index, staged.content))
        self.fake.commit(info.meta.index)

    def get(self, *messages, peer="n1"):
        for message in messages:
            self.receiver.on_chunk(peer, message)

    def work(self):
        idle = 0
        while idle < 3:  # the timer ticks on
            self.receiver.tick()
            idle = 0 if self.receiver.has_more_to_do else idle + 1

    def acks(self):
        return [(one.offset, one.installed, one.damaged) for one in self.fake.take("n1")]


def pieces(store, info, term=1, size=CHUNK):
    return [
        SnapshotChunk(term, info.meta.index, info.meta.term, info.size_bytes, info.seal, at, store.raw(info, at, size))
        for at in range(0, info.size_bytes, size)
    ]


# ------------------------------------------------------------------ sender
def test_the_window_opens_with_acknowledgements_and_is_bounded():
    leader = Leader("n2")
    info = save(leader.store, 10, noise(5000))
    leader.sender.send()
    first = leader.sent()
    assert [one.offset for one in first] == [0, CHUNK][:CHUNKS_AT_ONCE]
    assert {one.seal for one in first} == {info.seal}
    for _ in range(20):
        leader.sender.send()
    assert len(first) + len(leader.sent()) == WINDOW_CHUNKS
    leader.ack(first[0], CHUNK)
    assert [one.offset for one in leader.sent()] == [WINDOW_CHUNKS * CHUNK]


def test_a_slow_follower_slows_nobody():
    leader = Leader("n2", "n3")
    save(leader.store, 10, noise(3000))
    got = 0
    for _ in range(100):
        leader.sender.send()
        for message in leader.sent("n3"):
            got = message.offset + len(message.data)
            leader.ack(message, got, peer="n3")
    assert got == message.total_bytes
    assert len(leader.sent("n2")) == WINDOW_CHUNKS


def test_the_file_is_whole_although_newer_ones_take_its_place():
    leader = Leader("n2", keep=1)
    follower = Follower()
    save(leader.store, 10, noise(3000))
    newer = 10
    for _ in range(100):
        leader.sender.send()
        for message in leader.sent():
            follower.get(message)
        follower.work()
        newer += 1
        save(leader.store, newer, noise(300, newer))
        for ack in follower.fake.take("n1"):
            leader.sender.on_ack("n2", ack)
        if leader.restarted:
            break
    assert follower.installed == [("n1", 1, 10, noise(3000) + b".")]
    assert leader.restarted == [11]
    assert leader.sender.peers == ()


def test_it_is_kept_for_a_follower_for_so_long_and_no_longer():
    leader = Leader("n2", keep=1)
    save(leader.store, 10, noise(3000))
    leader.sender.send()
    leader.ack(leader.sent()[0], CHUNK)
    save(leader.store, 20, noise(3000))
    leader.fake.now += PATIENCE_S - 1
    leader.sender.send()
    assert leader.sender.index("n2") == 10
    leader.fake.now += 2
    leader.sender.send()
    leader.sent()
    leader.sender.send()
    assert {one.index for one in leader.sent()} == {20}


def test_a_follower_that_loads_for_long_is_not_given_up():
    leader = Leader("n2", keep=1)
    info = save(leader.store, 10, noise(150))
    leader.sender.send()
    message = leader.sent()[0]
    save(leader.store, 20, noise(10))
    for _ in range(4):
        leader.ack(message, info.size_bytes)
        leader.fake.now += PATIENCE_S / 2
        leader.sender.send()
        (poke,) = leader.sent()
        assert (poke.index, poke.offset) == (10, info.size_bytes - 1), "the last byte asks how far it is"


@pytest.mark.parametrize("changed", [{"index": 9}, {"seal": bytes(20)}, {"term": 0}, {"offset": 1 << 40}])
def test_what_is_said_of_another_file_counts_for_nothing(changed):
    leader = Leader("n2")
    info = save(leader.store, 10, noise(300))
    leader.sender.send()
    leader.sent()
    fields = {"term": 1, "index": 10, "seal": info.seal, "offset": info.size_bytes} | changed
    leader.sender.on_ack("n2", SnapshotAck(**fields, installed=True, damaged=False))
    assert leader.restarted == []
    assert leader.sender.peers == ("n2",)


def test_a_file_that_verifies_nowhere_is_replaced():
    leader = Leader("n2")
    save(leader.store, 10, noise(3000))
    for doubt in range(DOUBTS_MAX):
        assert leader.asked == 0, doubt
        leader.sender.send()
        leader.ack(leader.sent()[0], 0, damaged=True)
    assert leader.asked == 1
    assert leader.sender.peers == ()


@pytest.mark.parametrize("fault", ["gone", "unreadable"])
def test_a_file_that_cannot_be_read_neither_halts_nor_spins(fault, monkeypatch):
    leader = Leader("n2")
    info = save(leader.store, 10, noise(3000))
    if fault == "gone":
        leader.disk.unlink(f"/leader/{info.name}")
        monkeypatch.setattr(leader.store, "newest", lambda: info)
        leader.sender._newest = lambda: info
    else:
        leader.sender.send()
        leader.sender._sending["n2"].file = SimpleNamespace(pread=_eio, close=lambda: None)
        leader.sent()
    leader.sender.send()
    assert leader.asked == 1
    assert leader.fake.core.halted == ""


def _eio(*_):
    raise OSError(errno.EIO, "Input/output error")


# ------------------------------------------------------------------ receiver
def test_pieces_are_acknowledged_at_once_and_installed_at_the_end():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    info = save(source, 10, noise(1000))
    for message in pieces(source, info):
        follower.get(message)
        assert follower.acks() == [(message.offset + len(message.data), False, False)]
        assert follower.installed == []
    follower.work()
    assert follower.installed == [("n1", 1, 10, noise(1000) + b".")]
    assert follower.acks() == [(info.size_bytes, True, False)]
    assert follower.store.newest() == info


def test_content_is_loaded_in_slices():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    follower.get(*pieces(source, save(source, 10, noise(4000))))
    ticks = 0
    while not follower.installed:
        follower.receiver.tick()
        ticks += 1
    assert 15 < ticks < 40


def test_of_the_same_snapshot_another_file_begins_anew():
    """Index, term and size are the same: only the seal is not."""
    source, follower = SnapshotStore("/source", Disk()), Follower()
    one = pieces(source, save(source, 10, noise(1000)))
    other_store = SnapshotStore("/other", Disk())
    other = pieces(other_store, save(other_store, 10, noise(1000, 2)))
    assert one[0].total_bytes == other[0].total_bytes
    follower.get(*one[:3])
    follower.work()
    follower.acks()
    follower.get(other[3])
    assert follower.acks() == [(0, False, False)]
    follower.get(*other)
    follower.work()
    assert [content for *_, content in follower.installed] == [noise(1000, 2) + b"."]


def test_a_restart_goes_on_and_says_so():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    info = save(source, 10, noise(1000))
    messages = pieces(source, info)
    follower.get(*messages[:6])
    follower.work()
    follower.disk.kill()
    again = Follower(follower.disk)
    again.get(messages[0])
    assert again.acks() == [(6 * CHUNK, False, False)]
    again.get(*messages[6:])
    again.work()
    assert again.installed == [("n1", 1, 10, noise(1000) + b".")]
    assert again.fake.core.counters["snapshots_resumed"] == 1


def test_a_whole_part_waits_for_a_leader_that_has_the_same_file():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    messages = pieces(source, save(source, 10, noise(300)))
    follower.get(*messages)
    follower.fake.change_term(2, leads=False, leader="n3")
    follower.work()
    assert follower.installed == []
    last = messages[-1]
    follower.get(SnapshotChunk(2, 10, 1, last.total_bytes, last.seal, last.total_bytes - 1, b"x"), peer="n3")
    follower.work()
    assert follower.installed == [("n3", 2, 10, noise(300) + b".")]


def test_nothing_is_installed_while_the_file_is_not_durable():
    done = []
    follower = Follower(aside=lambda work: lambda: bool(done) and (work() or True))
    source = SnapshotStore("/source", Disk())
    messages = pieces(source, save(source, 10, noise(300)))
    follower.get(*messages)
    follower.work()
    assert follower.installed == []
    other = SnapshotStore("/other", Disk())
    follower.get(pieces(other, save(other, 11, noise(300)))[0])
    assert follower.receiver.is_receiving, "its file is in use: the leader tries again"
    done.append(1)
    follower.work()
    assert len(follower.installed) == 1


def test_a_part_that_the_log_has_overtaken_is_dropped():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    messages = pieces(source, save(source, 10, noise(1000)))
    follower.get(*messages[:4])
    follower.fake.commit(12)
    follower.receiver.tick()
    assert not follower.receiver.is_receiving
    assert [name for name in follower.disk.listdir("/follower") if name.endswith(".part")] == []
    follower.acks()
    follower.get(messages[4])
    assert follower.acks() == [(messages[4].total_bytes, True, False)]


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_ends_the_transfer_and_nothing_else(fault):
    source = SnapshotStore("/source", Disk())
    messages = pieces(source, save(source, 10, noise(1000)))
    steps = 0
    while True:
        steps += 1
        follower = Follower()
        before = save(follower.store, 3, b"what it had")
        follower.disk.arm(steps, fault)
        follower.get(*messages)
        follower.work()
        reached = follower.fake.core.counters.get("snapshots_not_written", 0)
        follower.disk.arm(0)
        assert follower.fake.core.halted == ""
        if not reached:
            break
        assert follower.installed == []
        assert follower.store.newest().index in {3, 10}, "the last sync of the directory may come after the name"
        assert b"".join(follower.store.read(before)) == b"what it had"
        for _ in range(3):  # the leader tries again
            follower.fake.now += RETRY_S_MAX
            follower.get(*messages)
            follower.work()
        assert len(follower.installed) == 1
        assert follower.receiver.failure is None
    assert steps > 10


def test_a_disk_that_keeps_failing_is_tried_after_pauses_that_grow():
    """A leader sends as fast as it is answered: without them a full follower is sent the whole file without end."""
    source, follower = SnapshotStore("/source", Disk()), Follower()
    messages = pieces(source, save(source, 10, noise(1000)))
    told = []
    follower.receiver.on_end = lambda *event: told.append(event)
    tried = []
    while follower.fake.now < 128.0 + 200:
        follower.disk.arm(4, errno.EDQUOT)
        before = follower.fake.core.counters.get("snapshots_not_written", 0)
        follower.get(*messages)
        follower.disk.arm(0)
        if follower.fake.core.counters.get("snapshots_not_written", 0) > before:
            tried.append(follower.fake.now - 128.0)
        follower.fake.now += RETRY_S / 2
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert [error.errno for _, _, error in told] == [errno.EDQUOT], "told of once"
    assert "from the leader: Disk quota exceeded" in follower.receiver.shortage
    follower.fake.now += RETRY_S_MAX
    follower.get(*messages)
    follower.work()
    assert len(follower.installed) == 1
    assert told[1:] == [(snapshot_name(10, 1), messages[0].total_bytes, None)]
    assert follower.receiver.shortage == ""


def test_a_shortage_ends_when_the_snapshot_is_not_needed_any_more():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    messages = pieces(source, save(source, 10, noise(1000)))
    follower.disk.full = True
    follower.get(*messages)
    assert follower.receiver.shortage
    follower.fake.commit(10)
    follower.receiver.tick()
    assert follower.receiver.shortage == ""


def test_a_snapshot_for_which_there_is_no_room_is_not_begun():
    source = SnapshotStore("/source", Disk())
    messages = pieces(source, save(source, 10, noise(1000)))
    follower = Follower()
    save(follower.store, 3, b"what it had")
    follower.get(*messages[:4])
    follower = Follower(follower.disk)  # it was restarted
    used, total = follower.disk.used_bytes, messages[0].total_bytes
    follower.disk.capacity_bytes = used + total - 4 * CHUNK - 1
    follower.get(*messages[4:])
    assert follower.disk.used_bytes == used, "the part that is here stays, and nothing was added"
    assert follower.receiver.shortage == (
        f"a snapshot of {total} bytes from the leader: No space left on device: {total - 4 * CHUNK} bytes are needed, "
        f"{total - 4 * CHUNK - 1} are left"
    )
    follower.disk.capacity_bytes += 1
    follower.fake.now += RETRY_S
    follower.get(*messages[4:])
    assert follower.receiver.is_receiving


def test_the_reserve_is_given_for_a_snapshot_that_does_not_fit_otherwise():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    messages = pieces(source, save(source, 10, noise(1000)))
    follower.store.reserve = Reserve("/follower", 600, follower.disk)
    assert follower.store.reserve.make()
    follower.disk.capacity_bytes = follower.disk.used_bytes + messages[0].total_bytes - 600
    follower.get(*messages)
    follower.work()
    assert len(follower.installed) == 1
    assert follower.store.reserve.spent
    assert follower.store.reserve.shortage == "a snapshot from the leader: No space left on device"


def test_what_cannot_be_loaded_halts_the_node_with_the_reason():
    source, follower = SnapshotStore("/source", Disk()), Follower()
    follower.get(*pieces(source, save(source, 10, b"unknown version")))
    follower.work()
    assert "cannot be loaded: unknown version" in follower.fake.core.halted
    assert follower.installed == []
