"""All that can happen to a group in a storm: harm, and changes in the middle of it."""

from __future__ import annotations

from typing import Final

from chaos.sim.changes import CHANGES
from chaos.sim.faults import HARMS, Fault

FAULTS: Final[dict[str, Fault]] = {**HARMS, **CHANGES}
