"""Ports for what the tests start: each worker of pytest-xdist has its own, and uses one again as late as it can.

A port that is free now may belong to a node that is down and will be started again, by this worker or by another.
"""

from __future__ import annotations

import os
import random
from itertools import cycle
from pathlib import Path
from typing import Final

from raftkv.cli import topology
from raftkv.cli.topology import FREE_PORTS, Member, fixed_layout, ports_in_use

WORKERS: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def is_mine(port: int) -> bool:
    """Whether this worker may use ``port``. The offsets of a fixed layout are multiples of 1000: all its ports are one worker's."""
    return port % 1000 * WORKERS // 1000 == WORKER


_MINE: Final = [port for port in FREE_PORTS if is_mine(port)]
_TURN: Final = cycle(random.SystemRandom().sample(_MINE, len(_MINE)))


def free_ports(count: int) -> list[int]:
    """Different ports of this worker that nobody listens on."""
    return topology.free_ports(count, among=_TURN)


def free_layout(count: int, directory: Path) -> list[Member]:
    """Members on ports of this worker that are free now."""
    return topology.free_layout(count, directory, among=_TURN)


def free_fixed_layout(count: int, directory: Path) -> int:
    """The first port of a ``fixed_layout`` whose ports are this worker's, and free now."""
    ports = (port for port in _TURN if port + topology.PEER_OFFSET + count in FREE_PORTS and is_mine(port + count - 1))
    return next(port for port in ports if not ports_in_use(fixed_layout(count, port, directory)))
