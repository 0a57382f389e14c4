"""A small log, and what is in it: for tests of several files."""

from __future__ import annotations

import os

from persistence.wal import LogOptions

SMALL = LogOptions(segment_bytes=16 << 10, cache_bytes=8 << 10, compress_bytes_min=512)


def fill(log, count, size=1000, term=1):
    for _ in range(count):
        index = log.last_index + 1
        log.append(index, term, os.urandom(size))


def contents(log):
    return log.entries(log.first_index, log.entry_count)
