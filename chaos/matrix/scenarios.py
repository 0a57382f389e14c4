"""All scenarios, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from chaos.matrix.archives import ArchiveLife
from chaos.matrix.cells import Scenario
from chaos.matrix.directories import AsideLife, DirectoryLife, MoveLife
from chaos.matrix.groups import AloneLife, FollowerLife
from chaos.matrix.logs import FullDiskLife, LogLife
from chaos.matrix.stores import StoreLife

SCENARIOS: Final[Mapping[str, Callable[[], Scenario]]] = MappingProxyType(
    {
        "log": LogLife,
        "full disk": FullDiskLife,
        "snapshots": StoreLife,
        "archive": ArchiveLife,
        "directory": DirectoryLife,
        "move": MoveLife,
        "set aside": AsideLife,
        "node": AloneLife,
        "follower": FollowerLife,
    }
)
