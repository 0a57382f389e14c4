"""What an entry of the log says, for people and for JSON: batches with their commands,
configurations, the engine's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from raftkv.consensus.configuration import CONFIGURATION, Configuration
from raftkv.errors import InvariantError
from raftkv.machine.batch import ALARM, DIGEST, OPEN, PLAIN, TICK, TXN, WATCH, Group, groups, large_commands, stamp_of

BATCH: Final = 0
NO_OP: Final = 1
WORD_BYTES_SHOWN: Final = 32
WORDS_SHOWN: Final = 8
COMMANDS_SHOWN: Final = 4
"""Of one group, unless whole commands are asked for."""

_KINDS: Final = {
    PLAIN: "plain",
    TXN: "transaction",
    OPEN: "open session",
    WATCH: "watch",
    TICK: "tick",
    DIGEST: "digest",
    ALARM: "alarm",
}


def explain(payload: bytes, index: int, *, whole: bool = False) -> dict[str, Any]:
    """What the entry says, as values that JSON can hold. An entry that cannot be read has the field ``unreadable``.

    ``whole``: every command with all its words; else the first few, shortened.
    """
    kind = payload[0] if payload else -1
    try:
        if kind == BATCH:
            return _batch(payload, whole=whole)
        if kind == CONFIGURATION:
            return _configuration(Configuration.decode(payload, index))
    except InvariantError as error:
        return {"entry": "unreadable", "unreadable": error.message}
    if kind == NO_OP:
        return {"entry": "no-op"}
    return {"entry": "unreadable", "unreadable": f"kind {kind}" if payload else "no payload"}


def time_text(stamp_ms: int) -> str:
    """UTC with milliseconds; the number itself where no calendar has such a time."""
    try:
        return datetime.fromtimestamp(stamp_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{stamp_ms} ms"


def word_text(word: bytes, limit: int | None = WORD_BYTES_SHOWN) -> str:
    r"""A word as text: bytes that are not UTF-8 become ``\xNN``; what is cut off is counted."""
    if limit is None or len(word) <= limit:
        return word.decode("utf-8", "backslashreplace")
    return f"{word[:limit].decode('utf-8', 'backslashreplace')}...({len(word)}B)"


def _batch(payload: bytes, *, whole: bool) -> dict[str, Any]:
    stamp_ms = stamp_of(payload)
    shown = [_group(one, whole=whole) for one in groups(payload)]
    return {"entry": "batch", "stamp_ms": stamp_ms, "time": time_text(stamp_ms), "groups": shown}


def _group(group: Group, *, whole: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": _KINDS[group.kind], "db": group.database}
    if group.run is not None:
        run = group.run
        shown |= {"session": run.session.hex(), "sequence": run.sequence, "acknowledged": run.acknowledged}
    if group.watches:
        shown["watched"] = [
            {"db": one.database, "key": word_text(one.key), "index": one.index} for one in group.watches
        ]
    if group.kind == OPEN:
        shown["ttl_ms"] = group.numbers[0]
    elif group.kind == DIGEST:
        shown |= {"index": group.numbers[0], "digest": f"{group.numbers[1]:016x}"}
    if group.kind in {PLAIN, TXN, WATCH, ALARM}:
        commands = large_commands(memoryview(group.data), group.commands)
        kept = commands if whole else commands[:COMMANDS_SHOWN]
        shown |= {"count": len(commands), "commands": [_words(words, whole=whole) for words in kept]}
    return shown


def _words(words: Sequence[bytes], *, whole: bool) -> list[str]:
    if whole:
        return [word_text(word, None) for word in words]
    shown = [word_text(word) for word in words[:WORDS_SHOWN]]
    return shown if len(words) <= WORDS_SHOWN else [*shown, f"...({len(words)}words)"]


def _configuration(configuration: Configuration) -> dict[str, Any]:
    return {"entry": "configuration", "members": configuration.listed(), **members(configuration)}


def members(configuration: Configuration) -> dict[str, Any]:
    """Who belongs to it, with addresses and disks."""
    return {
        "voters": [_member(configuration, one) for one in configuration.voters],
        "learners": [_member(configuration, one) for one in configuration.ids if one not in configuration.voters],
        "removed_disks": list(configuration.removed),
    }


def _member(configuration: Configuration, node_id: str) -> dict[str, str]:
    one = configuration.get(node_id)
    assert one is not None  # it is one of its ids
    return {"id": one.node_id, "address": one.address, "disk": one.disk}


def one_line(found: dict[str, Any]) -> str:
    """What :func:`explain` found, in one line."""
    kind = found["entry"]
    if kind == "batch":
        return f"{found['time']} " + "; ".join(f"{_head(one)}{' | '.join(_commands(one))}" for one in found["groups"])
    if kind == "configuration":
        return f"configuration: {found['members']}"
    return f"unreadable: {found['unreadable']}" if kind == "unreadable" else str(kind)


def all_lines(found: dict[str, Any]) -> list[str]:
    """The same with one line a command."""
    if found["entry"] != "batch":
        return [one_line(found)]
    lines = [str(found["time"])]
    for one in found["groups"]:
        lines += [_head(one) + text for text in _commands(one) or [""]]
    return lines


def _head(group: dict[str, Any]) -> str:
    kind = group["kind"]
    head = "" if kind == "plain" else f"{kind} "
    if "session" in group:
        head = f"session {group['session'][:8]} #{group['sequence']} {head}"
    if "watched" in group:
        head += "watching " + ",".join(quoted(one["key"]) for one in group["watched"]) + " "
    if kind == "open session":
        return f"{head}for {group['ttl_ms']} ms"
    if kind == "digest":
        return f"{head}{group['digest']} at {group['index']}"
    return f"{head}db{group['db']} " if "commands" in group else head


def _commands(group: dict[str, Any]) -> list[str]:
    shown = [" ".join(map(quoted, words)) for words in group.get("commands", [])]
    left = group.get("count", 0) - len(shown)
    return [*shown, f"and {left:,} more"] if left else shown


def quoted(word: str) -> str:
    """As it is, or as Python writes it where a reader (or a terminal) could take it for something else."""
    plain = word.isprintable() and not any(one.isspace() or one in "|;" for one in word)
    return word if word and plain else repr(word)
