"""The form of a log entry: what goes in comes out, and damage has one name."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import InvariantError
from raftkv.machine.batch import (
    ALARM,
    DIGEST,
    OPEN,
    PLAIN,
    RUN,
    TICK,
    TXN,
    VERSION,
    WATCH,
    Group,
    Run,
    Watched,
    encode_group,
    groups,
    header,
    large_commands,
    plain,
    stamp_of,
)
from raftkv.machine.machine import StateMachine
from raftkv.protocol.encoder import encode_commands

BYTES_MAX = 1 << 20

databases = st.integers(0, 15)
u64 = st.integers(0, 2**64 - 1)
words = st.binary(max_size=20)
bodies = st.lists(st.lists(words, min_size=1, max_size=4), max_size=4).map(
    lambda them: (len(them), encode_commands(them))
)
runs = st.builds(Run, st.binary(min_size=16, max_size=16), u64, u64)
watches = st.lists(st.builds(Watched, databases, words, u64), max_size=4).map(tuple)


none, empty = st.none(), st.just(())


def group(kind, *, body=bodies, watched=empty, run=none, numbers=empty):
    parts = st.tuples(databases, body, watched, run, numbers)
    return parts.map(lambda one: Group(kind, one[0], *one[1], *one[2:]))


nothing = st.just((0, b""))
any_group = st.one_of(
    group(PLAIN),
    group(TXN, watched=watches),
    group(PLAIN, run=runs),
    group(TXN, watched=watches, run=runs),
    group(OPEN, body=nothing, numbers=st.tuples(u64)),
    group(WATCH),
    group(TICK, body=nothing),
    group(ALARM),
    group(DIGEST, body=nothing, numbers=st.tuples(u64, u64)),
)
entries = st.tuples(u64, st.lists(any_group, max_size=5))


def encode(stamp_ms, made):
    return header(stamp_ms) + b"".join(map(encode_group, made))


def raw_group(kind, body, commands=0):
    return header(1) + struct.pack("!BBII", kind, 0, commands, len(body)) + body


@settings(deadline=None)
@given(entries)
def test_what_goes_in_comes_out(made):
    entry = encode(*made)
    assert stamp_of(entry) == made[0]
    assert list(groups(entry)) == made[1]


@settings(deadline=None)
@given(databases, st.lists(st.binary(max_size=30), max_size=4))
def test_chunks_of_many_senders_are_one_group(database, chunks):
    chunks = [encode_commands([[b"ECHO", one]]) for one in chunks]
    entry = header(7) + b"".join(plain(database, len(chunks), chunks))
    assert list(groups(entry)) == [Group(PLAIN, database, len(chunks), b"".join(chunks))]


@settings(deadline=None)
@given(entries, st.data())
def test_a_truncated_entry_is_refused_or_ends_between_two_groups(made, data):
    whole = encode(*made)
    cut = data.draw(st.integers(0, len(whole) - 1))
    ends = [len(encode(made[0], made[1][:count])) for count in range(len(made[1]))]
    if cut in ends:
        assert list(groups(whole[:cut])) == made[1][: ends.index(cut)]
    else:
        with pytest.raises(InvariantError):
            stamp_of(whole[:cut]), list(groups(whole[:cut]))


@settings(deadline=None)
@given(entries, st.data())
def test_damage_raises_nothing_else(made, data):
    entry = bytearray(encode(*made))
    for at, mask in data.draw(st.lists(st.tuples(st.integers(0, len(entry) - 1), st.integers(1, 255)), max_size=4)):
        entry[at] ^= mask
    try:
        stamp_of(bytes(entry))
        found = list(groups(bytes(entry)))
    except InvariantError:
        return
    assert sum(len(one.data) for one in found) <= len(entry)
    assert sum(one.commands for one in found) <= len(entry)


def test_a_declared_count_costs_no_memory():
    machine = StateMachine()
    huge = raw_group(PLAIN, encode_commands([[b"PING"]]), commands=2**32 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(InvariantError, match="declares 4294967295 commands"):
            machine.apply(1, huge)
        assert tracemalloc.get_traced_memory()[1] < BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [0, VERSION + 1, 255])
def test_another_version_is_refused_by_name(version):
    entry = bytearray(header(5))
    entry[1] = version
    with pytest.raises(InvariantError, match=f"version {version}, this node reads {VERSION}: upgrade it"):
        stamp_of(bytes(entry))


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (b"", "of 0 bytes ends inside its header"),
        (header(1)[:-1], "ends inside its header"),
        (header(1) + b"\0", "inside the head of a group"),
        (raw_group(PLAIN, b"x" * 10)[:-1], "ends inside a group: 30 bytes declared, 29 there"),
        (raw_group(ALARM + 1, b""), "unknown kind 8: upgrade this node"),
        (raw_group(RUN, b"\0" * 32 + b"\x09"), "unknown kind 9"),
        (raw_group(RUN, b"\0" * 32 + bytes([RUN])), "which no session makes"),
        (raw_group(RUN, b"\0" * 32), "kind 3 that ends inside its head"),
        (raw_group(OPEN, b"\0" * 7), "kind 2 that ends inside its head"),
        (raw_group(DIGEST, b"\0" * 15), "kind 6 that ends inside its head"),
        (raw_group(TXN, b"\0"), "kind 1 that ends inside its head"),
        (raw_group(TXN, b"\0\2" + struct.pack("!BQI", 0, 1, 1) + b"k"), "kind 1 that ends inside its head"),
        (raw_group(TXN, b"\0\1" + struct.pack("!BQI", 0, 1, 2) + b"k"), "watched key that ends 1 bytes after"),
    ],
)  # fmt: skip
def test_damage_is_named(entry, text):
    with pytest.raises(InvariantError, match=text):
        stamp_of(entry), list(groups(entry))


@pytest.mark.parametrize(
    ("body", "commands"),
    [
        (b"*1\r\n$4\r\nPING\r\n", 0),
        (b"*1\r\n$4\r\nPING\r\n" * 2, 1),
        (b"*1\r\n$4\r\nPING\r\n" + b"*1\r\n$10\r\nPI", 2),
        (b"this is no RESP at all\r\n", 1),
        (b"*1\r\n$-7\r\nabcdefg\r\n", 1),
    ],
)
def test_bytes_that_are_not_the_commands_declared_are_refused(body, commands):
    with pytest.raises(InvariantError, match="log entry 1"):
        StateMachine().apply(1, raw_group(PLAIN, body, commands))


# ------------------------------------------------------------------ large groups
words = st.lists(st.binary(max_size=40), min_size=1, max_size=4)


@given(st.lists(words, max_size=5))
def test_large_commands_come_out_as_they_went_in(commands):
    data = memoryview(encode_commands(commands))
    found = large_commands(data, len(commands))
    assert found == commands
    assert all(type(word) is bytes for command in found for word in command)


@given(st.lists(words, min_size=1, max_size=3), st.data())
def test_damaged_large_commands_are_refused_or_are_others(commands, data):
    damaged = bytearray(encode_commands(commands))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = large_commands(memoryview(damaged), len(commands))
    except InvariantError:
        return
    assert len(encode_commands(found)) <= len(damaged)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"*1\r\n$1\r\nk\r\n", 2),
        (b"*1\r\n$1\r\nk\r\n", 0),
        (b"*1\r\n$1\r\nk\r\n*", 1),
        (b"*1\r\n$2\r\nk\r\n", 1),
        (b"*1\r\n$-1\r\n", 1),
        (b"*1\r\n:1\r\n", 1),
        (b"*1\r\n$9999\r\nk\r\n", 1),
        (b"*2\r\n$1\r\nk\r\n", 1),
        (b"$1\r\nk\r\n", 1),
        (b"*" + b"1" * 40, 1),
    ],
)
def test_large_commands_that_are_not_the_ones_declared_are_refused(data, count):
    with pytest.raises(InvariantError):
        large_commands(memoryview(data), count)
