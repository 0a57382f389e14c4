"""What the log keeps: each reason within its bound, and no follower holds it for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.disk import Disk
from persistence.wal import Log, LogOptions
from raftkv.consensus.compaction import LIVE_S, Compaction, Retention
from raftkv.consensus.journal import NOTHING_KEPT
from tests.unit.fake_core import FakeCore

RECORD = 40 + 100
"""Bytes on disk of an entry of 100 bytes."""


def retention(policy, *, entries=100, leads=True, previous=0, newest=0, failed=False, rests=False):
    fake = FakeCore(("n2", "n3"), leads=leads)
    fake.write(*[1] * entries, size=100)
    fake.commit(entries)
    asked = []
    snapshots = SimpleNamespace(
        index=newest, previous_index=previous, checking=False, rests=rests, failed=failed, request=lambda: asked.append(1),
        sender=SimpleNamespace(index=lambda _peer: newest),
    )  # fmt: skip
    progress = {
        peer: SimpleNamespace(match_index=entries, next_index=entries + 1, needs_snapshot=False)
        for peer in ("n2", "n3")
    }
    replication = SimpleNamespace(progress=progress, contact=dict.fromkeys(progress, fake.now))
    return fake, replication, Retention(fake.core, policy, snapshots, replication), asked


def policy(**fields):
    return Compaction(**({"log_bytes": 0, "entries": 1 << 40, "retain_bytes": 0, "hold_bytes": 0} | fields))


def test_without_a_reason_nothing_is_kept():
    *_, kept, _ = retention(policy())
    assert kept.first_kept() == 101


@pytest.mark.parametrize(
    ("size", "first"), [(0, 101), (RECORD - 1, 101), (RECORD, 100), (10 * RECORD, 91), (1 << 40, 1)]
)
def test_a_tail_is_kept_by_bytes(size, first):
    for leads in (True, False):
        *_, kept, _ = retention(policy(retain_bytes=size), leads=leads)
        assert kept.first_kept() == first


def test_the_snapshot_before_the_newest_can_serve_in_its_place():
    *_, kept, _ = retention(policy(log_bytes=1 << 30), previous=60, newest=90)
    assert kept.first_kept() == 59, "the engine wants the entry before the snapshot's last, too"


def test_what_the_slowest_live_follower_lacks_is_kept_within_the_bound():
    fake, replication, kept, _ = retention(policy(hold_bytes=50 * RECORD))
    replication.progress["n2"].match_index = 70
    assert kept.first_kept() == 70, "its last entry is compared with the next append"
    replication.progress["n3"].match_index = 20
    assert kept.first_kept() == 51, "so far and no further"
    replication.progress["n3"].match_index = 0  # unknown in this term: it is being asked
    replication.progress["n3"].next_index = 61
    assert kept.first_kept() == 60
    fake.now += LIVE_S + 1
    assert kept.first_kept() == 101, "a dead follower does not hold the log"
    replication.contact["n2"] = fake.now
    assert kept.first_kept() == 70
    fake.change_term(2, leads=False)
    assert kept.first_kept() == 101, "only a leader knows what followers have"


def test_what_follows_a_snapshot_on_its_way_is_kept():
    _, replication, kept, _ = retention(policy(hold_bytes=1 << 30), newest=80)
    replication.progress["n2"].needs_snapshot = True
    assert kept.first_kept() == 80


def test_reasons_are_added_replaced_and_taken_away():
    *_, kept, _ = retention(policy())
    kept.hold("archive", lambda: 40, 1 << 30)
    assert kept.first_kept() == 40
    assert kept.reasons()["archive"] == 40
    kept.hold("archive", lambda: 30, 10 * RECORD)
    assert kept.first_kept() == 91
    kept.hold("archive", lambda: NOTHING_KEPT, 1 << 30)
    assert kept.first_kept() == 101
    kept.release("archive")
    kept.release("archive")
    assert "archive" not in kept.reasons()


@pytest.mark.parametrize(("fields", "due"), [
    ({"log_bytes": 30 * RECORD}, True), ({"log_bytes": 31 * RECORD}, False),
    ({"log_bytes": 1 << 40, "entries": 30}, True), ({"log_bytes": 1 << 40, "entries": 31}, False),
])  # fmt: skip
def test_a_snapshot_is_due_by_bytes_or_entries(fields, due):
    *_, kept, asked = retention(policy(**fields), newest=70)
    kept.tick()
    assert bool(asked) == due


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 30_000), st.integers(0, 40), st.sampled_from([8192, 12_000, 1 << 20]),
)  # fmt: skip
def test_bytes_and_positions_agree_over_segments_truncation_and_compaction(sizes, limit, cut, segment_bytes):
    disk = Disk()
    disk.make_dir("data")
    log = Log.open("data/log", LogOptions(segment_bytes=segment_bytes, preallocate=False), disk)
    for size, synced in sizes:
        log.append(log.last_index + 1, 1, bytes(range(256)) * 2 if size > 256 else bytes(size))
        if synced:
            log.sync()
    log.truncate_from(max(2, log.last_index - cut // 4))
    log.compact_to(min(log.last_index, max(1, cut)))
    log.sync()
    indices = range(log.first_index, log.last_index + 1)
    taken = [log.bytes_from(index) for index in indices]
    assert taken == sorted(taken, reverse=True)
    assert len(set(taken)) == len(taken)
    assert log.bytes_from(log.last_index + 1) == 0
    assert log.bytes_from(0) == log.bytes_from(log.first_index)
    fitting = [index for index, size in zip(indices, taken, strict=True) if size <= limit]
    assert log.first_within(limit) == min(fitting, default=log.last_index + 1)


@pytest.mark.parametrize(("failed", "rests", "asks"), [(False, False, 0), (True, True, 0), (True, False, 1)])
def test_a_snapshot_that_failed_is_asked_for_again_however_short_the_log_is(failed, rests, asks):
    """A full disk asked for it, say: nothing grows there any more, and only a snapshot makes room."""
    _, _, keeper, asked = retention(policy(log_bytes=1 << 30), failed=failed, rests=rests)
    keeper.tick()
    assert len(asked) == asks
