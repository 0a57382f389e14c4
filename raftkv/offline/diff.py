"""What two states differ in, key by key. Both are in memory; what had expired at a state's own time is not in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from raftkv.commands.glob import compile_glob
from raftkv.offline.entries import word_text
from raftkv.offline.rebuild import element_bytes, elements_of, live, score_text
from raftkv.store.keyspace import Keyspace, type_name

SHOWN_BYTES = 40
"""Of a value, or of an element that tells two values apart."""
ELEMENTS_SHOWN = 3
ALL_KEYS = b"*"


@dataclass(frozen=True, slots=True)
class Side:
    """A key in one of the states."""

    kind: str
    """As TYPE answers."""
    elements: int
    bytes: int
    value: str
    """Shortened; of containers the first elements."""
    expire_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same in both."""

    database: int
    key: bytes
    change: Literal["added", "removed", "changed"]
    before: Side | None
    after: Side | None

    @property
    def name(self) -> str:
        r"""The key as text; bytes that are not UTF-8 become ``\xNN``."""
        return word_text(self.key, None)

    def fields(self) -> dict[str, Any]:
        r"""For JSON; bytes of the key that are not UTF-8 become ``\xNN``."""
        return asdict(self) | {"key": self.name}


@dataclass(slots=True)
class Counts:
    """Filled while :func:`differences` is iterated: database to keys."""

    added: dict[int, int] = field(default_factory=dict)
    removed: dict[int, int] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    equal: dict[int, int] = field(default_factory=dict)

    def count(self, name: str, database: int) -> None:
        counts: dict[int, int] = getattr(self, name)
        counts[database] = counts.get(database, 0) + 1

    @property
    def differ(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def differences(a: Keyspace, b: Keyspace, counts: Counts, pattern: bytes = ALL_KEYS) -> Iterator[Difference]:
    """Database by database, keys in order. Equal are two keys of the same type, value and expiry; of a list the order
    counts, of other containers it does not. Raises CommandError for a pattern that is too long.
    """
    matches = compile_glob(pattern) if pattern != ALL_KEYS else _any  # the matcher's ``*`` leaves out the empty key
    for number, (one, other) in enumerate(zip(a.databases, b.databases, strict=True)):
        before, after = ({key: rest for key, *rest in live(database) if matches(key)} for database in (one, other))
        for key in sorted(before.keys() | after.keys()):
            old, new = before.get(key), after.get(key)
            if old is None or new is None:
                change: Literal["added", "removed", "changed"] = "added" if old is None else "removed"
            elif _same(old, new):
                counts.count("equal", number)
                continue
            else:
                change = "changed"
            counts.count(change, number)
            yield Difference(number, key, change, _side(old), _side(new))


def _any(_key: bytes) -> bool:
    return True


def _same(old: list[Any], new: list[Any]) -> bool:
    (value, expiry), (other, other_expiry) = old, new
    if expiry != other_expiry or type(value) is not type(other):
        return False
    if type_name(value) == "set":
        return set(value) == set(other)  # its own comparison is a replica's, for which the order counts (SPOP)
    return bool(value == other)


def _side(found: list[Any] | None) -> Side | None:
    if found is None:
        return None
    value, expire_at_ms = found
    kind, elements = type_name(value), elements_of(value)
    shown = [_text(one) for one in elements[:ELEMENTS_SHOWN]]
    if len(elements) > ELEMENTS_SHOWN:
        shown.append("...")
    text = shown[0] if kind == "string" else "[" + ", ".join(shown) + "]"
    return Side(kind, len(elements), sum(map(element_bytes, elements)), text, expire_at_ms)


def _text(element: Any) -> str:
    if isinstance(element, bytes):
        return f'"{word_text(element, SHOWN_BYTES)}"'
    name, value = element
    show: Callable[[Any], str] = _text if isinstance(value, bytes) else lambda score: score_text(score).decode()
    return f"{_text(name)}: {show(value)}"
