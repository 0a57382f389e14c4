"""Hash slots, as Redis Cluster defines them (CRC16/XMODEM modulo 16384, hash tags in braces).

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16384


def key_slot(key: bytes) -> int:
    """The slot of ``key``, in ``range(SLOTS)``. Only what is inside the first ``{...}`` counts, if not empty."""
    if b"{" in key:
        start = key.find(b"{") + 1
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) & 0x3FFF
