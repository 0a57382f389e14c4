"""How whoever opens a log or a snapshot is told how far that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes read, bytes in all), many times a second. What it raises abandons the reading."""


def untold(_done: int, _total: int) -> None:
    """A progress that is told to nobody."""
