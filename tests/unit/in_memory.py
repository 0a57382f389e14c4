"""Bytes that are read as a file: what a decoder is given without a disk."""

from __future__ import annotations


class InMemory:
    path = "memory"

    def __init__(self, data):
        self.data = bytes(data)

    def size(self):
        return len(self.data)

    def pread(self, length, offset):
        return self.data[offset : offset + length]
