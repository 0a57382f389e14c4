"""How far the start of a node is: written by whoever recovers, read by ``/ready``, clients and the operator's terminal.

A start has phases, one after the other: ``log`` (bytes checked), ``snapshot`` (bytes loaded) and
``replay`` (entries applied, up to the commit index that the leader told). The first two run on a
thread, so that the event loop answers meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

from raftkv.server.logs import Logger

Phase = Literal["log", "snapshot", "replay"]

UNITS: Final[dict[Phase, str]] = {"log": "bytes", "snapshot": "bytes", "replay": "entries"}
REWRITE_S: Final = 0.25
"""How often the line on a terminal is written anew."""
LOG_EVERY_S: Final = 5.0
"""How often a line goes to the log where there is no terminal."""
QUIET_S: Final = 1.0
"""A start that takes no longer says nothing."""
RATE_AFTER_S: Final = 0.2
"""A rate over less time than that is no rate."""


class AbandonedError(Exception):
    """The node was told to stop while it recovered."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The start at one moment."""

    phase: Phase
    done: int
    total: int
    """0 while nobody knows."""
    unit: str
    rate: float
    """Units a second since the phase began; 0 while it is too early to say."""
    eta_s: float | None
    """Until the end of the phase; None while it is too early to say."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        eta_s = None if self.eta_s is None else round(self.eta_s, 1)
        return {"phase": self.phase, "done": self.done, "total": self.total, "unit": self.unit, "rate": round(self.rate), "eta_s": eta_s}  # fmt: skip

    def __str__(self) -> str:
        if not self.total:
            return f"{self.phase}: nothing known yet"
        amount, rate = f"{self.done:,} of {self.total:,} entries", f"{self.rate:,.0f}/s"
        if self.unit == "bytes":
            amount, rate = f"{_mib(self.done)} of {_mib(self.total)} MiB", f"{_mib(self.rate)} MiB/s"
        eta = "" if self.eta_s is None else f", {rate}, {self.eta_s:.0f} s left"
        return f"{self.phase}: {amount} ({self.done / self.total:.0%}){eta}"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f}"


class Progress:
    """One thread at a time moves it on; any may look at it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.began = monotonic()
        self.seconds: dict[Phase, float] = {}
        """How long each phase took that is over."""
        self.over = False
        self._abandoned = False
        self._phase: tuple[Phase, float] = ("log", self.began)
        self._at = (0, 0)

    def begin(self, phase: Phase) -> None:
        """The phase before is over."""
        self._close()
        self._at = (0, 0)
        self._phase = (phase, self._monotonic())

    def at(self, done: int, total: int) -> None:
        """So far, in the phase's unit. Raises AbandonedError after :meth:`abandon`."""
        if self._abandoned:
            raise AbandonedError
        self._at = (done, total)

    def end(self) -> None:
        """The node has caught up."""
        self._close()
        self.over = True

    def abandon(self) -> None:
        """Whoever works gets AbandonedError when it next says how far it is."""
        self._abandoned = True

    @property
    def age_s(self) -> float:
        """Since the start began."""
        return self._monotonic() - self.began

    def picture(self) -> Picture:
        """Now."""
        (phase, began), (done, total) = self._phase, self._at
        elapsed_s = self._monotonic() - began
        rate = done / elapsed_s if elapsed_s >= RATE_AFTER_S else 0.0
        eta_s = max(0, total - done) / rate if rate and total else None
        return Picture(phase, done, total, UNITS[phase], rate, eta_s)

    def _close(self) -> None:
        phase, began = self._phase
        self.seconds[phase] = self._monotonic() - began


async def tell(progress: Progress, log: Logger, terminal: TextIO | None) -> None:
    """Until the start is over: a line that is rewritten on ``terminal``, or else one in the log now and then."""
    told_s = QUIET_S - LOG_EVERY_S
    try:
        while not progress.over:
            await asyncio.sleep(REWRITE_S)
            picture = progress.picture()
            if progress.over or progress.age_s < QUIET_S or not picture.total:
                continue
            if terminal is not None:
                # The cursor goes back, so that a log record overwrites the line instead of standing behind it.
                _write(terminal, f"raftkv: {picture}\r")
            elif progress.age_s - told_s >= LOG_EVERY_S:
                told_s = progress.age_s
                log.info("recovering", **picture.as_dict())
    finally:
        if terminal is not None:
            _write(terminal, "")


def _write(terminal: TextIO, line: str) -> None:
    terminal.write(f"\r\x1b[K{line}")
    terminal.flush()
