"""All that can happen to a group in a storm, in one table: faults, and what an operator changes meanwhile."""

from __future__ import annotations

from typing import Final

from chaos.sim.changes import CHANGES
from chaos.sim.faults import HARMS, Fault

FAULTS: Final[dict[str, Fault]] = {**HARMS, **CHANGES}
