"""A state machine that was given its snapshot before the engine asked for it is not given it twice."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace

from persistence.snapshots import SnapshotInfo, SnapshotMeta
from raftkv.consensus.snapshots import Snapshots
from tests.unit.fake_core import FakeCore

INFO = SnapshotInfo("name", SnapshotMeta(5, 1, b"\x00payload"), 100, 200, bytes(20))


def guard(loaded):
    store = SimpleNamespace(
        newest=lambda: INFO, read=lambda _info: iter([b"content"]), open=lambda _info: BytesIO(), receive=None
    )
    seen = []
    state = SimpleNamespace(load=lambda pieces: seen.append(b"".join(pieces)), stage=None)
    return Snapshots(FakeCore().core, None, None, store, None, state, loaded), seen


def test_what_is_loaded_already_is_taken_up_as_it_is_once():
    snapshots, seen = guard(INFO)
    _, last, before, _ = snapshots.deserialize()
    assert (last, before[1], seen) == ((b"\x00payload", 5, 1), 4, [])
    snapshots.deserialize()  # a leader's snapshot of the same place, later: the state has moved on meanwhile
    assert seen == [b"content"]


def test_another_one_is_loaded():
    snapshots, seen = guard(SnapshotInfo("older", SnapshotMeta(4, 1), 100, 200, bytes(20)))
    snapshots.deserialize()
    assert seen == [b"content"]
    snapshots, seen = guard(None)
    snapshots.deserialize()
    assert seen == [b"content"]


def test_a_damaged_file_is_written_anew_but_not_while_writing_fails():
    snapshots, _ = guard(None)
    asked = []
    engine = snapshots._core.engine
    engine.forget_snapshot = lambda: asked.append("forget")
    engine.forceLogCompaction = lambda: asked.append("write")
    snapshots._writer = SimpleNamespace(running=False)
    snapshots._not_before = snapshots._core.monotonic() + 1
    snapshots._write_another()
    assert asked == []
    snapshots._not_before = snapshots._core.monotonic()
    snapshots._write_another()
    assert asked == ["forget", "write"]
