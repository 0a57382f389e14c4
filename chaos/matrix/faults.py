"""What can happen at a failpoint: the columns of the matrix."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from chaos.disk import SURVIVALS, Call, Disk, Killed, PowerCut, ProcessEnd, Survival

SEEDS: Final = 3
"""Of each survival that is random, in a full matrix."""
SAMPLED: Final = ("nothing", "names", "scattered")
"""Survivals that a sample tries."""
AGAIN_MAX: Final = 40
"""Calls of one recovery, at most, that are struck in turn."""


class CellDisk(Disk):
    """A disk on which one thing goes wrong; a power cut leaves what the cell says."""

    def __init__(self, label: str) -> None:
        super().__init__(Random(label))  # noqa: S311 -- seeded on purpose
        self.make_dir("data")
        self.survival: Survival = "random"
        self.cuts = 0
        self.flip_at = 0
        self.flipped = ""
        """The file in which a bit was changed."""
        self._written: Call | None = None
        self._mutations = 0
        self._seed = self.rng.randrange(1 << 30)
        self.on_call = self._flip_before

    def power_cut(self, seed: int | None = None, survival: Survival | None = None) -> None:
        """As the cell says, unless it is said otherwise; the same whatever was drawn before."""
        self.cuts += 1
        super().power_cut(self._seed + self.cuts if seed is None else seed, survival or self.survival)

    def flip_after(self, number: int) -> None:
        """Change a bit of what the call ``number``, a write, has written, right before the next call."""
        self.arm(0)
        self._mutations, self.flip_at = 0, number

    def _flip_before(self, call: Call) -> None:
        if self.flip_at:
            self._mutations += 1
            if self._mutations == self.flip_at:
                self._written = call
            elif self._mutations > self.flip_at:
                self.flip_now()

    def flip_now(self) -> None:
        """The bit turns over, if it has not and the file is still there."""
        written, self._written = self._written, None
        if written is not None and written.path in self.names and written.length:
            offset = written.offset + self.rng.randrange(written.length)
            if offset < len(self.names[written.path].content):
                self.flip(written.path, offset)
                self.flipped = written.path


@dataclass(frozen=True, slots=True)
class Fault:
    """``column`` is where it is shown; several faults share one."""

    column: str
    name: str
    applies: Callable[[str], bool]
    """To this operation."""
    raises: int | type[ProcessEnd] | None = None
    lasting: bool = False
    survival: Survival = "random"
    again: bool = False
    """A second power cut strikes inside the recovery."""
    sampled: bool = True
    """Also in a sample."""

    def arm(self, disk: CellDisk, number: int) -> None:
        """It is to strike at the ``number``-th call from now on."""
        disk.survival = self.survival
        if self.raises is None:
            disk.flip_after(number)
        else:
            disk.arm(number, self.raises, lasting=self.lasting)

    def end(self, disk: CellDisk) -> None:
        """The life is over, one way or the other: what the next one finds."""
        disk.capacity_bytes = None
        if self.raises is None:
            disk.flip_now()
        disk.flip_at = 0
        if self.raises is PowerCut:
            disk.power_cut()
        else:
            disk.kill()


def _any(_operation: str) -> bool:
    return True


def _takes_space(operation: str) -> bool:
    return operation not in ("unlink", "syncdir", "truncate")


def _writes(operation: str) -> bool:
    return operation == "write"


FAULTS: Final = (
    Fault("killed", "killed", _any, Killed),
    *(
        Fault("power", f"power cut, survives: {one}", _any, PowerCut, survival=one, sampled=one in SAMPLED)
        for one in SURVIVALS
    ),
    Fault("again", "power cut, and another in the recovery", _any, PowerCut, again=True),
    Fault("full", "ENOSPC", _takes_space, errno.ENOSPC),
    Fault("full", "ENOSPC from here on", _takes_space, errno.ENOSPC, lasting=True, sampled=False),
    Fault("EIO", "EIO", _any, errno.EIO),
    Fault("EIO", "EIO from here on", _any, errno.EIO, lasting=True, sampled=False),
    Fault("EROFS", "read-only from here on", _any, errno.EROFS, lasting=True),
    Fault("flip", "a bit turns over", _writes),
)
COLUMNS: Final = tuple(dict.fromkeys(one.column for one in FAULTS))
