"""Asking nodes how they are: who leads, and does it serve. Used by ``raftkv dev``, tests and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from raftkv.cli.connection import Connection, as_fields
from raftkv.cli.resp import ErrorText
from raftkv.errors import RaftKVError

Address = tuple[str, int]
ASK_TIMEOUT_S: Final = 1.0
POLL_S: Final = 0.05
"""Between two questions, where there is nothing to wait on but the answer."""
PROBE_KEY: Final = "raftkv:probe"
"""Read, never written: a linearizable GET of any key proves that a leader serves."""


def status(
    address: Address, *fields: str, password: str = "", timeout_s: float = ASK_TIMEOUT_S
) -> dict[str, str] | None:
    """RAFT.STATUS of a node (of ``fields``) as text, or None while it does not answer it."""
    try:
        with Connection(*address, timeout_s=timeout_s) as connection:
            connection.greet(password=password)
            return as_fields(connection.call("RAFT.STATUS", *fields))
    except (OSError, RaftKVError, ValueError):
        return None


def serves(address: Address, *, password: str = "", timeout_s: float = ASK_TIMEOUT_S) -> bool:
    """Whether a node answers a linearizable read."""
    try:
        with Connection(*address, timeout_s=timeout_s) as connection:
            connection.greet(password=password)
            return not isinstance(connection.call("GET", PROBE_KEY), ErrorText)
    except (OSError, RaftKVError):
        return False


def leader(addresses: Sequence[Address], *, password: str = "") -> int | None:
    """Place in ``addresses`` of the node that says it leads, in the highest term if several do; else None."""
    best: tuple[int, int] | None = None
    for place, address in enumerate(addresses):
        found = status(address, password=password)
        if found is not None and found.get("role") == "leader":
            best = max(best or (-1, -1), (int(found.get("term", "0")), place))
    return None if best is None else best[1]


def wait_leader(addresses: Sequence[Address], *, password: str = "", within_s: float = 30.0) -> int:
    """Place of a leader that answers a linearizable read. Raises TimeoutError after ``within_s``."""
    deadline = time.monotonic() + within_s
    while True:
        place = leader(addresses, password=password)
        if place is not None and serves(addresses[place], password=password):
            return place
        if time.monotonic() > deadline:
            raise TimeoutError(f"no leader served within {within_s:g} s")
        time.sleep(POLL_S)
