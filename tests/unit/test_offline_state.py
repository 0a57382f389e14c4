"""A snapshot file becomes the state that was written into it, or an error that names the file."""

from __future__ import annotations

import pytest

from persistence.snapshots import SnapshotMeta, SnapshotStore
from raftkv.consensus.configuration import Configuration, wrap
from raftkv.errors import RaftKVError
from raftkv.machine.batch import header, plain
from raftkv.machine.machine import StateMachine
from raftkv.offline.state import load_snapshot
from raftkv.protocol.encoder import encode

STAMP_MS = 1_700_000_000_000


def machine_after(*commands: list[bytes]) -> StateMachine:
    machine = StateMachine()
    machine.apply(7, header(STAMP_MS) + b"".join(plain(3, len(commands), [encode(one, 2) for one in commands])))
    return machine


@pytest.fixture
def snapshot(tmp_path):
    machine = machine_after([b"SET", b"a", b"1"], [b"RPUSH", b"l", b"x", b"y"], [b"PEXPIRE", b"l", b"5000"])
    writer = SnapshotStore(str(tmp_path)).begin(SnapshotMeta(7, 2, wrap(Configuration.of(["n1", "n2"]), b"\x01")))
    for chunk in machine.dump():
        writer.write(chunk)
    copy = tmp_path / "a copy"
    (tmp_path / writer.commit().name).rename(copy)
    return copy


def test_a_copy_of_a_snapshot_is_loaded_with_its_members(snapshot):
    state = load_snapshot(str(snapshot))
    assert (state.meta.index, state.meta.term, state.last_entry) == (7, 2, b"\x01")
    assert state.configuration is not None
    assert state.configuration.voters == ("n1", "n2")
    database = state.keyspace.databases[3]
    assert database.get(b"a") == b"1"
    assert list(database.get(b"l")) == [b"x", b"y"]
    assert database.expire_at(b"l") == STAMP_MS + 5000
    assert (state.machine.index, state.machine.stamp_ms) == (7, STAMP_MS)


def test_what_cannot_be_loaded_is_named(snapshot):
    content = bytearray(snapshot.read_bytes())
    content[-30] ^= 4
    snapshot.write_bytes(content)
    with pytest.raises(RaftKVError, match=r"a copy is damaged at offset \d+: the checksum"):
        load_snapshot(str(snapshot))
    with pytest.raises(RaftKVError, match=r"cannot read .*missing: No such file"):
        load_snapshot(str(snapshot.with_name("missing")))


def test_a_snapshot_of_another_program_is_named(tmp_path):
    writer = SnapshotStore(str(tmp_path)).begin(SnapshotMeta(7, 2))
    writer.write(b"\x00\x00\x00\x01x")
    with pytest.raises(RaftKVError, match=r"-0+2\.snap: snapshot header is damaged"):
        load_snapshot(str(tmp_path / writer.commit().name))
