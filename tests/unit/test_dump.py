from __future__ import annotations

import gc
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from random import Random

import pytest
from xxhash import xxh3_64_intdigest

from raftkv.errors import InvariantError
from raftkv.store import dump as dump_module
from raftkv.store.digest import digest_of
from raftkv.store.dump import CHUNK_BYTES, VERSION, dump, load
from raftkv.store.keyspace import Keyspace
from raftkv.store.sets import IndexedSet
from raftkv.store.zset import ZSet


def busy(seed: int = 1, keys: int = 300) -> Keyspace:
    """All types, three databases, expiries, binary and empty names."""
    rng = Random(seed)
    keyspace = Keyspace()
    keyspace.now_ms = 1_700_000_000_000
    for number in range(keys):
        database = keyspace[rng.choice((0, 1, 15))]
        members = [rng.randbytes(rng.randrange(20)) for _ in range(rng.randrange(1, 30))]
        value = [
            rng.randbytes(rng.randrange(200)), deque(members), dict.fromkeys(members, b"x"), IndexedSet.from_members(members),
            ZSet([(member, rng.choice((0.5, -1.0, float("inf"), rng.random()))) for member in dict.fromkeys(members)]),
        ][number % 5]  # fmt: skip
        key = rng.randbytes(rng.randrange(30))
        database.set(key, value)
        if rng.random() < 0.3:
            database.set_expiry(key, keyspace.now_ms + rng.randrange(1, 10**9))
    return keyspace


def cut(stream: bytes, rng: Random) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        step = rng.choice((1, 7, 100, 5000))
        yield stream[at : at + step]
        at += step


def frame(body: bytes) -> bytes:
    return struct.pack("<QQ", len(body), xxh3_64_intdigest(body)) + body


def same_state(one: Keyspace, other: Keyspace) -> None:
    assert one.now_ms == other.now_ms
    assert digest_of(one) == digest_of(other)
    for mine, theirs in zip(one.databases, other.databases, strict=True):
        assert (mine.size, mine.expiries) == (theirs.size, theirs.expiries)
        assert [(key, type(value)) for key, value in mine.items()] == [
            (key, type(value)) for key, value in theirs.items()
        ]
        for (_, left), (_, right) in zip(mine.items(), theirs.items(), strict=True):
            assert list(left) == list(right)


@pytest.mark.parametrize("seed", range(5))
def test_a_loaded_state_is_the_state_wherever_the_stream_is_cut(seed: int) -> None:
    keyspace = busy(seed)
    same_state(keyspace, load(dump(keyspace)))
    same_state(keyspace, load(cut(b"".join(dump(keyspace)), Random(seed))))


def test_an_empty_keyspace_keeps_its_time() -> None:
    keyspace = Keyspace()
    keyspace.now_ms = 42
    same_state(keyspace, load(dump(keyspace)))


def test_an_empty_key_with_an_empty_value_is_a_key() -> None:
    keyspace = Keyspace()
    keyspace[0].set(b"", b"")
    assert load(dump(keyspace))[0].get(b"") == b""


def test_the_order_of_sets_survives_removals() -> None:
    members = IndexedSet.from_members([b"%d" % number for number in range(10)])
    members.discard(b"3")
    keyspace = Keyspace()
    keyspace[0].set(b"s", members)
    assert list(load(dump(keyspace))[0].get(b"s")) == list(members)


def test_expiry_goes_on_after_loading() -> None:
    keyspace = Keyspace()
    keyspace[2].set(b"k", b"v")
    keyspace[2].set_expiry(b"k", 100)
    loaded = load(dump(keyspace))
    assert loaded[2].next_expiry_ms == 100
    loaded.now_ms = 100
    assert loaded[2].expire_due(5) == 1


def test_expired_keys_are_state() -> None:
    keyspace = Keyspace()
    keyspace[0].set(b"k", b"v")
    keyspace[0].set_expiry(b"k", 100)
    keyspace.now_ms = 200
    same_state(keyspace, load(dump(keyspace)))


def test_chunks_are_bounded_with_big_values_and_crowded_slots() -> None:
    keyspace = Keyspace()
    for number in range(40_000):
        keyspace[0].set(b"{one}%d" % number, b"x" * 20)
    for number in range(30):
        keyspace[0].set(b"{two}%d" % number, b"y" * 50_000)
    keyspace[0].set(b"huge", bytes(3 * 1024 * 1024))
    chunks = list(dump(keyspace))
    assert max(map(len, chunks)) <= 2 * CHUNK_BYTES
    same_state(keyspace, load(chunks))


def test_loading_leaves_the_garbage_collector_as_it_was() -> None:
    assert gc.isenabled()
    with pytest.raises(InvariantError):
        load([b"short"])
    assert gc.isenabled()


def test_every_flipped_bit_is_found() -> None:
    stream = b"".join(dump(busy(keys=20)))
    rng = Random(3)
    for _ in range(300):
        at = rng.randrange(len(stream))
        damaged = bytearray(stream)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(InvariantError):
            load([bytes(damaged)])


def test_every_truncation_is_found() -> None:
    stream = b"".join(dump(busy(keys=20)))
    for at in range(0, len(stream), 37):
        with pytest.raises(InvariantError):
            load([stream[:at]])


def test_an_unknown_version_is_named() -> None:
    header = struct.pack("<c6sHq", b"H", b"raftkv", VERSION + 1, 0)
    with pytest.raises(InvariantError, match=f"version {VERSION + 1} is unknown"):
        load([frame(header)])


def _header() -> bytes:
    return frame(struct.pack("<c6sHq", b"H", b"raftkv", VERSION, 0))


def _end(keys: int) -> bytes:
    return frame(struct.pack("<cQQ", b"E", keys, 0))


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"", "before the end frame"),
        (_end(0), "out of order"),
        (_header() + _header(), "out of order"),
        (_header() + _end(0) + _end(0), "out of order"),
        (_header() + _end(1), "number of keys"),
        (_header() + frame(b"?what"), "unknown kind"),
        (_header() + frame(b"K\x00"), "does not parse"),
        (_header() + frame(struct.pack("<cBIIB", b"K", 99, 0, 0, 0)), "does not parse"),
        (_header() + frame(struct.pack("<cBIIBHIIQ", b"K", 0, 1, 1, 0, 5, 1, 100, 100)), "over the end"),
        (frame(b"H"), "short"),
        (frame(struct.pack("<c6sHq", b"H", b"notkv!", VERSION, 0)), "header"),
        (struct.pack("<QQ", 1 << 50, 0), "a frame of"),
    ],
)  # fmt: skip
def test_damage_is_named(stream: bytes, text: str) -> None:
    with pytest.raises(InvariantError, match=text):
        load([stream])


FORKED = """
import gc, os, pathlib
from raftkv.store.dump import dump
from raftkv.store.keyspace import Keyspace

def private_dirty_kib():
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

keyspace = Keyspace()
for number in range(150_000):
    keyspace[0].set(b"key:%012d" % number, b"%064d" % number)
gc.collect()
gc.freeze()
if not os.fork():
    before = private_dirty_kib()
    size = sum(map(len, dump(keyspace)))
    print(private_dirty_kib() - before, size, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_dump_in_a_forked_child_copies_hardly_a_page():
    """Each reference taken to a key or value would write to its page, and so copy the memory once more.

    In a process of its own: the holes in the memory of one that has run a thousand tests are filled, and so copied, too.
    """
    said = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=60).stdout
    dirty_kib, size = map(int, said.split())
    assert size > 12 << 20
    assert dirty_kib < 8 << 10, f"{dirty_kib} KiB were copied to dump {size >> 10} KiB"


def test_slots_that_cannot_be_copied_are_dumped_as_they_are(monkeypatch):
    keyspace = Keyspace()
    for number in range(200):
        keyspace[0].set(b"{tag}string%d" % number, b"x" * number)
    keyspace[0].store(b"{tag}list", deque([b"a", b"b"]))
    keyspace[0].store(b"{tag}hash", {b"f": b"v", b"a": b""})
    keyspace[0].store(b"{other}hash", {b"f": b"v"})
    whole = b"".join(dump(keyspace))
    monkeypatch.setattr(dump_module, "_COPY_BYTES_MAX", 0)
    assert b"".join(dump(keyspace)) == whole
    loaded = load([whole])
    assert list(loaded[0].items()) == list(keyspace[0].items())
