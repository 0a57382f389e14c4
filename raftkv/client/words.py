"""Python values to the words of a command, and replies to the values that a caller expects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from raftkv.errors import CommandError, RaftKVError

Word: TypeAlias = "bytes | str | int | float | bytearray | memoryview"
"""What may stand in a command. Text is sent as UTF-8, numbers as Python prints them."""
Shape: TypeAlias = Callable[[Any], Any]
"""Turns a reply into what the method promises."""


def to_bytes(word: Word) -> bytes:
    """One word as it is sent. Raises CommandError for a type that has no obvious form (None, bool, containers)."""
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, int | float) and not isinstance(word, bool):
        return repr(word).encode()
    if isinstance(word, bytearray | memoryview):
        return bytes(word)
    raise CommandError(f"{word!r} is no bytes, text or number: convert it first")


def to_words(words: Iterable[Word]) -> list[bytes]:
    """A whole command. Raises CommandError when it is empty, and as :func:`to_bytes`."""
    argv = [to_bytes(word) for word in words]
    if not argv:
        raise CommandError("a command needs a name")
    return argv


def decoded(reply: Any) -> Any:
    """The reply with all bytes as text (UTF-8). Raises UnicodeDecodeError for other bytes."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [decoded(item) for item in reply]
    if isinstance(reply, dict):
        return {decoded(key): decoded(value) for key, value in reply.items()}
    return reply


def shaped(reply: Any, shape: Shape | None, *, decode: bool) -> Any:
    """What a caller gets for ``reply``; errors stay what they are."""
    if isinstance(reply, RaftKVError):
        return reply
    if decode:
        reply = decoded(reply)
    return shape(reply) if shape is not None else reply


# -------------------------------------------------------------------- shapes
def done(reply: Any) -> bool:
    """OK or not: SET with NX or XX answers null where it did nothing."""
    return reply is not None


def bools(reply: list[Any]) -> list[bool]:
    """Integers as truth values."""
    return [bool(item) for item in reply]


def text(reply: Any) -> str:
    """Always text, whatever ``decode_responses`` says: names and reports."""
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def members(reply: list[Any]) -> set[Any]:
    """A set."""
    return set(reply)


def pairs(reply: list[Any]) -> list[tuple[Any, Any]]:
    """Two-element lists as tuples."""
    return [(first, second) for first, second in reply]


def pair(reply: Any) -> tuple[Any, Any] | None:
    """One two-element list as tuple; null and the empty list as None."""
    return (reply[0], reply[1]) if reply else None


def number(reply: Any) -> float | None:
    """A double, also where it comes as text."""
    return None if reply is None else float(reply)


def cursor(reply: list[Any]) -> tuple[int, list[Any]]:
    """SCAN and SSCAN: next cursor and items."""
    return int(reply[0]), reply[1]


def cursor_of_fields(reply: list[Any]) -> tuple[int, dict[Any, Any]]:
    """HSCAN: next cursor and fields."""
    flat = reply[1]
    return int(reply[0]), dict(zip(flat[::2], flat[1::2], strict=True))


def cursor_of_scores(reply: list[Any]) -> tuple[int, list[tuple[Any, float]]]:
    """ZSCAN: next cursor and members with scores."""
    flat = reply[1]
    return int(reply[0]), [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]


def _readable(value: Any) -> Any:
    if isinstance(value, bytes):
        return text(value)
    if isinstance(value, dict):
        return {text(key): _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list) else value


def report(reply: Any) -> dict[str, Any]:
    """A map of names to values, in text."""
    if isinstance(reply, list):
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    return {text(key): _readable(value) for key, value in reply.items()}


def info(reply: Any) -> dict[str, str]:
    """INFO's ``name:value`` lines."""
    lines = (line.partition(":") for line in text(reply).splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in lines}
