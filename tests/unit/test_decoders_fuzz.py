"""Whatever is read from a disk or a file: on any bytes there is an answer or the error that is documented, in bounded memory.

Valid files are mutated: bits flipped, cut, parts exchanged, numbers made huge. A checksum would stop nearly all of that at
once, so each file is also made and read with checksums that always match: what lies behind them is then met by every kind of
nonsense that a fault of ours, or of another program, could write.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pkgutil
import re
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import persistence
import raftkv.store.dump
from chaos.disk import Disk
from persistence.backup import Backup, Origin, save_backup
from persistence.directory import DataDirectory
from persistence.entries import Archived, EntriesWriter, read_entries
from persistence.errors import CorruptionError, CorruptLogError, CorruptSnapshotError, IdentityError, PersistenceError
from persistence.inspect import look, look_at_snapshot, records
from persistence.records import CLEAR, COMPACT, FLAG_VOTED, HARD_STATE, Control, encode_header
from persistence.segment import marker_of
from persistence.snapshots import SnapshotContent, SnapshotMeta, SnapshotStore
from persistence.wal import Log, LogOptions
from raftkv.consensus.configuration import Configuration, Member, unwrap, wrap
from raftkv.errors import InvariantError, RaftKVError
from raftkv.machine.batch import DIGEST, OPEN, TXN, WATCH, Group, Run, Watched, encode_group, groups, header, plain
from raftkv.machine.machine import StateMachine
from raftkv.machine.summary import StateSummary
from raftkv.offline import packed, rdb
from raftkv.offline.entries import all_lines, explain, one_line
from raftkv.offline.importing import Import
from raftkv.offline.rdb import ImportedFileError
from raftkv.offline.state import read_snapshot
from raftkv.protocol.encoder import encode_command
from raftkv.store.dump import load
from tests.differential import old_rdb
from tests.differential.test_import import old_file

EXAMPLES = int(os.environ.get("RAFTKV_FUZZ_EXAMPLES", "0"))
"""Of each test, random ones (`make fuzz`); else a few, always the same."""
FUZZ = settings(
    max_examples=EXAMPLES or 60,
    deadline=None,
    derandomize=not EXAMPLES,
    suppress_health_check=list(HealthCheck),
    database=None,
)
MEMORY_MAX = 64 << 20
"""What a decoder may take for an input of a few kilobytes; some windows and buffers are of megabytes."""
HUGE = [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x00" * 8,
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    (1 << 40).to_bytes(8, "little"),
]

Mutation = list[tuple[str, int, int, bytes]]
mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "splice", "insert"]),
        st.integers(0, 1 << 20),
        st.integers(0, 1 << 20),
        st.sampled_from(HUGE) | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, mutation: Mutation) -> bytes:
    for kind, one, other, new in mutation:
        if not data:
            break
        at, end = one % len(data), other % (len(data) + 1)
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ 1 << other % 8]) + data[at + 1 :]
        elif kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "splice":
            data = data[:at] + data[min(at, end) : end] + data[at:]
        else:
            data = data[:at] + new + data[at:]
    return data


@contextlib.contextmanager
def resident(limit: int = 4 * MEMORY_MAX) -> Iterator[None]:
    """As :func:`bounded`, at no cost: what the process grew by at its peak. For what makes many objects."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < limit


@contextlib.contextmanager
def bounded(limit: int = MEMORY_MAX) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.fixture(params=["real", "matching"])
def checksums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """``matching``: every checksum is 1, when written and when read."""
    if request.param == "matching":
        for found in pkgutil.iter_modules(persistence.__path__, "persistence."):
            module = importlib.import_module(found.name)
            if hasattr(module, "crc32c"):
                monkeypatch.setattr(module, "crc32c", lambda data, seed=0: 1)
        monkeypatch.setattr(raftkv.store.dump, "xxh3_64_intdigest", lambda data: 1)
        monkeypatch.setattr(rdb, "_CRC64", type("Same", (), {"calc": staticmethod(lambda data, seed=0: 1)}))
    return str(request.param)


# ---------------------------------------------------------------- what is mutated
STAMP_MS = 1_700_000_000_000
THREE = Configuration.of([Member("n1", "h1:1", "d1"), Member("n2", "h2:1", "d2"), Member("n3", "h3:1", voter=False)])


def command(*words: bytes) -> bytes:
    return encode_command(words)


def payloads() -> list[bytes]:
    stamp = header(STAMP_MS)
    return [
        b"\x01",
        THREE.encode(),
        stamp + b"".join(plain(0, 2, [command(b"SET", b"a", b"1"), command(b"RPUSH", b"l", b"x", b"y")])),
        stamp + encode_group(Group(OPEN, 0, 0, b"", numbers=(5000,))),
        stamp + encode_group(Group(TXN, 2, 1, command(b"SET", b"b", b"1"), (Watched(0, b"a", 3),))),
        stamp + encode_group(Group(0, 1, 1, command(b"ZADD", b"z", b"1", b"m"), run=Run(bytes(16), 4, 3))),
        stamp + encode_group(Group(WATCH, 0, 1, command(b"k1", b"k2"))),
        stamp + encode_group(Group(DIGEST, 0, 0, b"", numbers=(4, 255))),
    ]


@functools.cache
def machine() -> StateMachine:
    made = StateMachine()
    for index, payload in enumerate(payloads()[2:5], 3):
        made.apply(index, payload)
    more = [command(b"HSET", b"h", b"f", b"v"), command(b"SADD", b"s", b"1", b"2"), command(b"PEXPIRE", b"h", b"9999")]
    more += [command(b"ZADD", b"z", b"1", b"m", b"2", b"n"), command(b"SET", b"large", b"x" * 3000)]
    made.apply(7, header(STAMP_MS) + b"".join(plain(3, len(more), more)))
    made.apply(8, payloads()[6])
    return made


@functools.cache
def dumped(checksums: str) -> bytes:  # what it is called with tells the results apart
    return b"".join(machine().dump())


def write_log(disk: Disk) -> None:
    with Log.open("/log", LogOptions(segment_bytes=8192, preallocate=False, compress_bytes_min=64), disk) as log:
        log.set_hard_state(2, "n2")
        for index, payload in enumerate([*payloads(), b"\x00" * 900, *payloads() * 3], 1):
            log.append(index, 2, payload)
            if index % 5 == 0:
                log.sync()
        log.truncate_from(20)
        log.compact_to(3)


def write_snapshot(disk: Disk, checksums: str) -> str:
    writer = SnapshotStore("/snapshots", disk).begin(SnapshotMeta(8, 2, wrap(THREE, payloads()[6])))
    writer.write(dumped(checksums))
    return f"/snapshots/{writer.commit().name}"


def replaced(disk: Disk, path: str, mutation: Mutation) -> None:
    inode = disk.names[path]
    inode.content[:] = mutated(bytes(inode.content), mutation)


# ---------------------------------------------------------------- the log
@FUZZ
@given(mutation=mutations, which=st.integers(0, 5))
def test_log(checksums, mutation, which):
    disk = Disk()
    write_log(disk)
    names = [name for name in disk.names if name.endswith(".wal")]
    replaced(disk, names[which % len(names)], mutation)
    with resident():
        view = look("/log", disk)
        for _, _, body in records("/log", disk):
            shown = explain(body, 1, whole=True)
            assert one_line(shown)
            assert all_lines(shown)
            json.dumps(shown)
        if view.damage is not None:
            with pytest.raises(CorruptLogError, match=re.escape(str(view.damage))):
                Log.open("/log", LogOptions(segment_bytes=8192, preallocate=False), disk)
            return
        log = Log.open("/log", LogOptions(segment_bytes=8192, preallocate=False), disk)
        with contextlib.suppress(CorruptLogError):
            log.entries(log.first_index, 100)


# ---------------------------------------------------------------- snapshots
@FUZZ
@given(mutation=mutations)
def test_snapshot_file(checksums, mutation):
    disk = Disk()
    path = write_snapshot(disk, checksums)
    replaced(disk, path, mutation)
    with resident():
        look_at_snapshot(path, disk, everything=True)
        with contextlib.suppress(RaftKVError):
            read_snapshot(disk.open_read(path))
        store = SnapshotStore("/snapshots", disk)
        info = store.newest()
        with contextlib.suppress(CorruptSnapshotError):
            for _ in store.read(info) if info else ():
                pass


@FUZZ
@given(mutation=mutations)
def test_state_in_a_snapshot(checksums, mutation):
    data = mutated(dumped(checksums), mutation)
    with resident():
        fresh = StateMachine()
        with contextlib.suppress(InvariantError):
            fresh.load([data])
            b"".join(fresh.dump())


@FUZZ
@given(mutation=mutations)
def test_keyspace_in_a_snapshot(checksums, mutation):
    state = dumped(checksums)
    data = mutated(state[4 + int.from_bytes(state[:4], "big") :], mutation)
    with resident(), contextlib.suppress(InvariantError):
        load([data])


@FUZZ
@given(mutation=mutations)
def test_extra_of_a_snapshot(mutation):
    data = mutated(wrap(THREE, payloads()[6]), mutation)
    with bounded(), contextlib.suppress(InvariantError):
        unwrap(data)


def test_a_count_that_is_only_declared_takes_no_memory():
    # MessagePack: an array of 2**32 - 1 sessions.
    head = msgspec.msgpack.encode([1, 1, 1]).replace(b"\x93", b"\x96") + b"\xdd\xff\xff\xff\xff"
    for data in (head, head + bytes(100)):
        with bounded(), pytest.raises(InvariantError):
            StateMachine().load([len(data).to_bytes(4, "big") + data])
    # A frame of a terabyte, a table of four billion keys.
    frame = struct.pack("<QQ", 1 << 40, 0)
    with bounded(), pytest.raises(InvariantError):
        load([frame + bytes(1000)])


def test_a_snapshot_that_expands_to_gigabytes_is_read_in_constant_memory():
    disk = Disk()
    writer = SnapshotStore("/snapshots", disk).begin(SnapshotMeta(8, 2))
    for _ in range(300):
        writer.write(bytes(1 << 20))
    path = f"/snapshots/{writer.commit().name}"
    assert disk.names[path].content.__len__() < 1 << 20
    with bounded():
        assert sum(map(len, SnapshotContent(disk.open_read(path)))) == 300 << 20
        with pytest.raises(RaftKVError):
            read_snapshot(disk.open_read(path))


def understated(disk: Disk) -> str:
    """The path of a snapshot whose end declares 1000 bytes of content, in checksums that match; 300 MiB come out of it."""
    writer = SnapshotStore("/snapshots", disk).begin(SnapshotMeta(8, 2, b"x"))
    writer.write(struct.pack("<QQ", 1 << 39, 0))  # a frame that waits for half a terabyte
    for _ in range(300):
        writer.write(bytes(1 << 20))
    writer._content_bytes = 1000
    return f"/snapshots/{writer.commit().name}"


def test_more_content_than_a_snapshot_declares_is_refused_before_it_takes_memory():
    disk = Disk()
    path = understated(disk)
    store = SnapshotStore("/snapshots", disk)
    info = store.newest()
    with bounded():
        with pytest.raises(RaftKVError, match="more comes out of it than the 1000 bytes of content that it declares"):
            read_snapshot(disk.open_read(path))
        with pytest.raises(CorruptSnapshotError, match="more comes out of it than the 1000 bytes"):
            StateMachine().load(store.read(info))
        assert store.load_newest(StateMachine().load) is None
        assert "more comes out of it" in store.damaged[info.name]
    raw = store.raw(info, 0, info.size_bytes)
    incoming = SnapshotStore("/there", disk).receive(info.name, info.size_bytes, info.seal)
    incoming.write(0, raw)
    given = []
    with (
        bounded(),
        pytest.raises(CorruptSnapshotError, match="more comes out of it than the file that was announced has"),
    ):
        while incoming.advance(given.append, 1 << 20):
            pass
    assert sum(map(len, given)) <= 1000
    disk.open(path).truncate(len(raw) - 1)
    with bounded(), pytest.raises(RaftKVError, match=f"the file ends after {len(raw) - 1} bytes"):
        read_snapshot(disk.open_read(path))


# ---------------------------------------------------------------- entries
@FUZZ
@given(mutation=mutations, which=st.integers(0, 7))
def test_entry(mutation, which):
    payload = mutated(payloads()[which], mutation)
    with resident():
        shown = explain(payload, 7)
        assert one_line(shown)
        json.dumps(shown)
        with contextlib.suppress(InvariantError):
            state = StateMachine()
            for group in groups(payload):
                state.examine(group)  # what it lets into the log stops a replica for no other reason
            state.apply(7, payload)


def test_a_log_whose_records_say_nonsense_is_refused():
    for control in (Control(HARD_STATE, 3, 0, b"\xff", FLAG_VOTED), Control(CLEAR, 99, 0), Control(COMPACT, 99, 3)):
        disk = Disk()
        write_log(disk)
        name = max(one for one in disk.names if one.endswith(".wal"))
        number = int(name.rpartition("/")[2].removesuffix(".wal"))
        *_, (_, last, _) = records("/log", disk)
        fields = (control.kind, control.flags, control.term, control.entry_index, control.body, len(control.body))
        record = encode_header(marker_of(number, 0), 0, *fields) + control.body
        disk.open(name).pwrite([record], last.end)
        with pytest.raises(CorruptLogError, match=rf"{name} is damaged at offset"):
            Log.open("/log", LogOptions(segment_bytes=8192, preallocate=False), disk)


@FUZZ
@given(members=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["node_id", "address", "disk", "voter", "promote", "replaces", "members", "removed"]), inner, max_size=6), max_leaves=12))  # fmt: skip
def test_configuration_of_any_json(members):
    for body in (members, {"members": members, "removed": []}, {"members": [members], "removed": members}):
        shown = explain(b"\x02" + json.dumps(body).encode(), 7)
        assert one_line(shown)


# ---------------------------------------------------------------- identity, backup, archive
@FUZZ
@given(mutation=mutations)
def test_identity(checksums, mutation):
    disk = Disk()
    DataDirectory.open("/d", node_id="n1", cluster_id="c", new_disk_id="disk", files=disk).close()
    replaced(disk, "/d/identity", mutation)
    with bounded(), contextlib.suppress(IdentityError):
        DataDirectory.open_stopped("/d", disk).close()


@FUZZ
@given(mutation=mutations)
def test_backup(checksums, mutation):
    disk = Disk()
    content = bytes(disk.names[write_snapshot(disk, checksums)].content)
    disk.make_dir("/b")
    fields: dict[str, Any] = {"cluster_id": "c", "node_id": "n1", "index": 8, "term": 2, "snapshot_bytes": len(content)}
    origin = Origin(**fields, taken_ms=1, program="raftkv")
    save_backup(disk, "/b", "/b/one", origin, lambda at, size: content[at : at + size], StateSummary())
    replaced(disk, "/b/one", mutation)
    with resident(), contextlib.suppress(PersistenceError):
        for _ in Backup(disk.open_read("/b/one")):
            pass


@FUZZ
@given(mutation=mutations)
def test_archived_entries(checksums, mutation):
    disk = Disk()
    writer = EntriesWriter("c", 1, b"\0" * 32)
    for index, payload in enumerate(payloads(), 1):
        writer.add(Archived(index, 2, STAMP_MS, payload))
    disk.open("/e", create=True).append(writer.finish()[1])
    replaced(disk, "/e", mutation)
    with bounded(), contextlib.suppress(CorruptionError):
        for _ in read_entries(disk.open_read("/e")):
            pass


# ---------------------------------------------------------------- Redis' files
class Stream:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int) -> bytes:
        found, self.data = self.data[:size], self.data[size:]
        return found


def drain(data: bytes) -> None:
    with bounded(), contextlib.suppress(ImportedFileError):
        for _ in Import(stream=Stream(data), skip_unsupported=True):
            pass


AOF = (
    b"#TS:1700000000\r\n"
    + command(b"SELECT", b"3")
    + command(b"SET", b"a", b"1")
    + command(b"MULTI")
    + command(b"SELECT", b"4")
    + command(b"RPUSH", b"l", b"x")
    + command(b"XADD", b"s", b"*", b"f", b"v")
    + command(b"EXEC")
    + command(b"DEL", b"a")
)
SMALL_RDB = {
    "containers": old_rdb.rdb(
        10,
        b"\xfa" + old_rdb.string(b"redis-ver") + old_rdb.string(b"7.0") + b"\xfe\x00\xfb\x02\x00",
        old_rdb.key(b"hash", 16, old_rdb.string(old_rdb.listpack([b"f", b"-5000", b"g", b"x" * 70])), expire_ms=9),
        old_rdb.key(b"list", 18, old_rdb.many(b"\x01" + old_rdb.string(b"w"), b"\x02" + old_rdb.string(old_rdb.listpack([b"1"])))),
        old_rdb.key(b"ints", 11, old_rdb.string(old_rdb.intset([1, 2, 1 << 40]))),
        old_rdb.key(b"zset", 12, old_rdb.string(old_rdb.ziplist([b"m", b"1.5", b"n", b"x" * 100, b"o", b"300"][:2]))),
        old_rdb.key(b"map", 9, old_rdb.string(old_rdb.zipmap([(b"f", b"v"), (b"g", b"w" * 260)]))),
        old_rdb.key(b"lzf", 0, b"\xc3\x05\x0c" + b"\x00a\xe0\x02\x00"),
    ),
    "stream": b"REDIS0011\xfe\x00"
    + bytes([21]) + old_rdb.string(b"s") + old_rdb.many(old_rdb.string(bytes(16)) + old_rdb.string(b"lp")) + bytes(8)
    + old_rdb.many(old_rdb.string(b"group") + bytes(3) + old_rdb.many(bytes(24) + b"\x01")
                   + old_rdb.many(old_rdb.string(b"consumer") + bytes(16) + old_rdb.many(bytes(16))))
    + b"\xf7\x01\x02\x02\x05" + old_rdb.string(b"aux") + b"\x00"
    + bytes([7]) + old_rdb.string(b"mod") + b"\x81" + bytes(8) + b"\x03" + bytes(4) + b"\x04" + bytes(8) + b"\x02\x07\x00"
    + b"\xf5" + old_rdb.string(b"#!lua name=x") + b"\xff" + bytes(8),
}  # fmt: skip


def test_what_is_mutated_is_valid():
    assert [type(one).__name__ for one in Import(stream=Stream(SMALL_RDB["containers"]))] == ["Piece"] * 6
    kinds = [one.kind for one in Import(stream=Stream(SMALL_RDB["stream"]), skip_unsupported=True)]
    assert kinds == ["stream", "module data", "module", "function"]
    assert len(list(Import(stream=Stream(AOF), skip_unsupported=True))) == 4


@FUZZ
@given(mutation=mutations)
@pytest.mark.parametrize("file", [*SMALL_RDB, "old", "both"])
def test_rdb(file, mutation, monkeypatch_module):
    whole = {**SMALL_RDB, "old": old_file(6)[:20_000], "both": SMALL_RDB["containers"] + AOF}[file]
    drain(mutated(whole, mutation))


@pytest.fixture
def monkeypatch_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdb, "_CRC64", type("Zero", (), {"calc": staticmethod(lambda data, seed=0: 0)}))


@FUZZ
@given(mutation=mutations)
def test_aof(mutation):
    drain(mutated(AOF, mutation))


@pytest.mark.parametrize("decode", [packed.ziplist, packed.listpack, packed.intset, packed.zipmap])
def test_packed(decode: Callable[[bytes], list[bytes]]):
    words = [b"f", b"-5000", b"12", b"x" * 70, b"70000000000", b"y" * 300]
    valid = {
        packed.ziplist: old_rdb.ziplist(words),
        packed.listpack: old_rdb.listpack(words),
        packed.intset: old_rdb.intset([1, 2, 3]),
        packed.zipmap: old_rdb.zipmap([(b"f", b"v"), (b"g", b"w" * 300)]),
    }[decode]

    @FUZZ
    @given(mutation=mutations, junk=st.binary(max_size=60))
    def fuzz(mutation, junk):
        for data in (mutated(valid, mutation), junk, struct.pack("<I", len(junk) + 4) + junk):
            with bounded(), contextlib.suppress(packed.PackedError):
                decode(data)

    fuzz()


@FUZZ
@given(data=st.binary(max_size=80), size=st.integers(0, 1 << 32))
def test_lzf(data, size):
    with bounded(), contextlib.suppress(packed.PackedError):
        assert len(packed.lzf(data, size)) == size


@pytest.mark.parametrize(
    "data",
    [
        b"REDIS0010\x00\x01k\x81" + b"\x7f" * 8,
        b"REDIS0010\x00\x01k\x80\x1f\xff\xff\xff",
        b"REDIS0010\x00\x01k\xc3\x05\x80\x1f\xff\xff\xff" + bytes(5),
        b"REDIS0010\x01\x01k\x81" + b"\xff" * 8,
        b"REDIS0010\x0b\x01k\x08\x08\x00\x00\x00\xff\xff\xff\xff",
        b"*1048576\r\n",
        b"*2\r\n$3\r\nGET\r\n$536870912\r\nab",
        b"*" + b"9" * 60 + b"\r\n",
        b"*1\r\n$" + b"9" * 5000,
        b"#" * 100_000,
    ],
)
def test_what_is_declared_is_not_believed(data):
    drain(data)


def test_lzf_refers_to_nothing_before_its_start():
    assert packed.lzf(b"\x00a\x20\x00", 4) == b"aaaa"
    with pytest.raises(packed.PackedError, match="before its start"):
        packed.lzf(b"\x00a\x20\x01", 4)
