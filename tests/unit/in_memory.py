"""Bytes that are read as a file: what a decoder is given without a disk, whole or damaged."""

from __future__ import annotations

from hypothesis import strategies as st


def damaged(data, good, at):
    """``good`` with one bit turned, cut, overwritten or grown at a place that ``at`` draws; by chance it is what it was."""
    bad, place = bytearray(good), data.draw(at)
    how = data.draw(st.sampled_from(["flip", "cut", "splice", "grow"]))
    if how == "flip":
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del bad[place:]
    elif how == "splice":
        bad[place : place + data.draw(st.integers(1, 64))] = data.draw(st.binary(max_size=64))
    else:
        bad += data.draw(st.binary(min_size=1, max_size=64))
    return bytes(bad)


class InMemory:
    path = "memory"

    def __init__(self, data):
        self.data = bytes(data)

    def size(self):
        return len(self.data)

    def pread(self, length, offset):
        return self.data[offset : offset + length]
