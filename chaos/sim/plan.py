"""A run as it is asked for: what is fixed by the seed, and what of it is left out.

One line of the shell says all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from chaos.sim.guards import GUARDS
from chaos.sim.profiles import PROFILES, Profile
from raftkv.errors import ConfigError

NODES: Final = (3, 5)
CLIENTS_MAX: Final = 100
STORM_MAX_S: Final = 10_000.0
JOBS_MAX: Final = 256
SHRINK_RUNS_MAX: Final = 100_000
TRACE_LINES_MAX: Final = 100_000
NO_FAULTS: Final = "none"
RAFTKV: Final = "raftkv"
STOCK: Final = "stock"
"""pysyncobj as it is installed (:mod:`chaos.sim.stock`)."""
ENGINES: Final = (RAFTKV, STOCK)


@dataclass(frozen=True, slots=True)
class Plan:
    """What :func:`chaos.sim.world.simulate` runs.

    Faults are numbered from 1 in the order in which the storm draws them. Leaving some out changes neither kind, time
    nor dice of the others, so a part of a storm is still the same storm.
    """

    seed: int
    profile: str
    nodes: int = 3
    off: tuple[str, ...] = ()
    """Guards that are switched off (:mod:`chaos.sim.guards`)."""
    clients: int | None = None
    """How many of the profile's clients take part; None: all."""
    storm_s: float | None = None
    """How long faults come, in virtual seconds; None: as long as the profile says."""
    faults: frozenset[int] | None = None
    """Numbers of the only faults that happen; None: all."""
    engine: str = RAFTKV

    def weather(self) -> Profile:
        """The profile, as far as the plan keeps it."""
        profile = PROFILES[self.profile]
        return replace(
            profile,
            clients=profile.clients if self.clients is None else self.clients,
            storm_s=profile.storm_s if self.storm_s is None else self.storm_s,
        )

    def command(self) -> str:
        """The command that runs exactly this."""
        words = ["raftkv sim", f"--seeds {self.seed}", f"--profile {self.profile}", f"--nodes {self.nodes}"]
        words += [f"--engine {self.engine}"] if self.engine != RAFTKV else []
        words += [f"--off {name}" for name in self.off]
        if self.clients is not None:
            words.append(f"--clients {self.clients}")
        if self.storm_s is not None:
            words.append(f"--storm {self.storm_s:g}")
        if self.faults is not None:
            words.append(f"--faults {ranges_text(self.faults)}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Choice:
    """Many plans that differ in seed and profile. Raises ConfigError, with what is allowed."""

    seeds: range
    profiles: tuple[str, ...]
    nodes: int = 3
    off: tuple[str, ...] = ()
    clients: int | None = None
    storm_s: float | None = None
    faults: frozenset[int] | None = None
    engine: str = RAFTKV

    def __post_init__(self) -> None:
        for name in self.profiles:
            _one_of("--profile", name, ["all", *PROFILES])
        _one_of("--nodes", self.nodes, NODES)
        for name in self.off:
            _one_of("--off", name, sorted(GUARDS))
        _one_of("--engine", self.engine, ENGINES)
        if self.off and self.engine == STOCK:
            raise ConfigError(f"--off is {self.off[0]}; --engine {STOCK} has no guards: leave one of the two away")
        within("--clients", self.clients, 1, CLIENTS_MAX)
        within("--storm", self.storm_s, 0, STORM_MAX_S)

    def plans(self, profile: str) -> Iterator[Plan]:
        """Those of one profile, by seed."""
        for seed in self.seeds:
            yield Plan(seed, profile, self.nodes, self.off, self.clients, self.storm_s, self.faults, self.engine)


def ranges_text(numbers: frozenset[int]) -> str:
    """``1-3,7``; the inverse of :func:`parse_faults`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts) or NO_FAULTS


# -- words of the command line; all raise ConfigError, with what is allowed
def parse_seeds(text: str) -> range:
    """``7`` or ``1..200``."""
    first, dots, last = text.partition("..")
    with _asked_for(f"--seeds is {text!r}; allowed: one number as 7, or a range as 1..200"):
        seeds = range(int(first), int(last if dots else first) + 1)
        if not seeds or seeds.start < 0:
            raise ValueError
    return seeds


def parse_faults(text: str) -> frozenset[int]:
    """``1-3,7``, or ``none``."""
    numbers: set[int] = set()
    if text != NO_FAULTS:
        with _asked_for(f"--faults is {text!r}; allowed: numbers from 1 on as 1-3,7, or {NO_FAULTS}"):
            for part in text.split(","):
                first, dash, last = part.partition("-")
                span = range(int(first), int(last if dash else first) + 1)
                if not span or span.start < 1:
                    raise ValueError
                numbers.update(span)
    return frozenset(numbers)


def parse_profiles(text: str) -> list[str]:
    """Names separated by commas, or ``all``."""
    return list(PROFILES) if text == "all" else text.split(",")


@contextmanager
def _asked_for(message: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise ConfigError(message) from None


def _one_of(option: str, value: str | int, allowed: Iterable[str | int]) -> None:
    choices = list(allowed)
    if value not in choices:
        raise ConfigError(f"{option} is {value}; allowed: {', '.join(map(str, choices))}")


def within(option: str, value: float | None, low: float, high: float) -> None:
    """Raise ConfigError, with the limits, unless ``value`` is None or between them."""
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{option} is {value:g}; allowed: {low:g} to {high:g}")
