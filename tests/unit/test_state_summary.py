"""What a dumped state says of itself, against the machine that dumped it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import InvariantError
from raftkv.machine.batch import OPEN, PLAIN, Group, encode_group, header
from raftkv.machine.machine import StateMachine
from raftkv.machine.summary import StateSummary


def machine_of(index, stamp_ms, keys, sessions):
    machine = StateMachine()
    commands = b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$1\r\nv\r\n" % (len(key), key) for key in keys)
    entry = header(stamp_ms) + encode_group(Group(PLAIN, 3, len(keys), commands))
    entry += b"".join(encode_group(Group(OPEN, 0, 0, b"", numbers=(60_000,))) for _ in range(sessions))
    machine.apply(index, entry)
    return machine


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    index=st.integers(1, 2**64 - 1), stamp_ms=st.integers(0, 2**62), keys=st.sets(st.binary(min_size=1, max_size=9), max_size=20),
    sessions=st.integers(0, 20), cut=st.integers(1, 400),
)  # fmt: skip
def test_stamp_and_keys_are_found_however_the_bytes_are_cut(index, stamp_ms, keys, sessions, cut):
    data = b"".join(machine_of(index, stamp_ms, keys, sessions).dump())
    summary = StateSummary()
    for at in range(0, len(data), cut):
        summary.feed(data[at : at + cut])
    assert summary.finish() == (stamp_ms, len(keys))


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\0" * 17, b"\0\0\0\x05\x96\x01\xff\xff\xff" + b"E" + bytes(16)])
def test_other_bytes_are_refused(data):
    summary = StateSummary()
    summary.feed(data)
    with pytest.raises(InvariantError):
        summary.finish()
