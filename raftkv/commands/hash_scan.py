"""The cursor of HSCAN and ZSCAN: a point in the space of 32-bit hashes of names.

A call returns the names whose hash lies in the window that begins at the cursor; the next cursor is the window's end.
A name never changes its hash, so a name that is present during the whole scan lies in exactly one window and is
returned exactly once, whatever is added, removed, stored anew or restored from a snapshot in between, and
whichever node answers. No state is kept for a scan.

The price: a call looks at every name, some 80 ns each, because a dict cannot be entered in the middle. The window
is therefore never narrower than a share of 1 / CALLS_MAX: a whole scan of N names costs O(CALLS_MAX * N) and not
O(N * N / COUNT), and may return more than COUNT names at a time, as SCAN allows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from zlib import crc32

SMALL_MAX: Final = 128
"""Up to this size everything is returned at once, whatever COUNT says, as Redis does with its compact encoding."""
CALLS_MAX: Final = 64
"""A scan with an unchanged number of names takes at most so many calls."""
_SPACE: Final = 1 << 32


def scan_page(names: Collection[bytes], cursor: int, count: int) -> tuple[int, list[bytes]]:
    """Some ``count`` of ``names`` (sometimes none) in byte order, and the next cursor, 0 at the end.

    At most SMALL_MAX names come in their own order.
    """
    size = len(names)
    if size <= SMALL_MAX:
        return 0, list(names)
    wanted = max(count, -(-size // CALLS_MAX))
    end = cursor + max(_SPACE * wanted // size, 1)
    page = sorted(name for name in names if cursor <= crc32(name) < end)
    return (end if end < _SPACE else 0), page
