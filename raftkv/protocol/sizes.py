"""How large replies will be, known before they are encoded.

A short pipeline can ask for a value a thousand times. The replies share its bytes until they are encoded; after that it
is too late to find that they do not fit the client's output buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.protocol.replies import NilArray, Reply, Verbatim

SMALL: Final = frozenset({str, int, bool, float, type(None), NilArray})
"""Types of replies whose size does not matter."""
_BYTES: Final = frozenset({bytes})


def exceeds(replies: Sequence[Reply], limit: int) -> bool:
    """Whether the encoded replies take more than ``limit`` bytes (their frames are not counted)."""
    kinds = {*map(type, replies)}
    if kinds <= SMALL:
        return False
    if kinds == _BYTES:
        return sum(map(len, replies)) > limit
    return payload_bytes(replies) > limit


def payload_bytes(reply: Reply) -> int:
    """Bytes of all strings in a reply, at any depth."""
    if isinstance(reply, bytes):
        return len(reply)
    if isinstance(reply, list | tuple):
        return sum(map(payload_bytes, reply))
    if isinstance(reply, dict):
        return sum(map(payload_bytes, reply)) + sum(map(payload_bytes, reply.values()))
    return len(reply.text) if isinstance(reply, Verbatim) else 0
