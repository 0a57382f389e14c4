"""What the groups of commands stand on."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from raftkv.client.words import Shape, Word

T = TypeVar("T", bytes, str)
"""``bytes``, or ``str`` with ``decode_responses``."""


class Caller(Generic[T]):
    """Sends a command and shapes its reply: at once, as an awaitable, or later with a pipeline."""

    def _call(self, *words: Word, shape: Shape | None = None) -> Any:
        raise NotImplementedError


def option(name: str, *values: Word | None) -> list[Word]:
    """``name`` and its values, or nothing when a value is None."""
    given = [value for value in values if value is not None]
    return [name, *given] if len(given) == len(values) else []


def flags(**given: bool) -> list[Word]:
    """The names of those that are True, in capitals."""
    return [name.upper() for name, on in given.items() if on]
