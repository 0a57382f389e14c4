"""A command's syntax, one line of Redis' notation, as the nested arguments that COMMAND DOCS answers.

The table declares ``key value [NX | XX] [EX seconds | KEEPTTL]``; redis-cli builds its hints from::

    [{name: key, type: key}, {name: value, type: string}, {name: condition, type: oneof, flags: optional,
      arguments: [{name: nx, type: pure-token, token: NX}, ...]}, ...]

Grammar (upper-case words are tokens, others are values)::

    choice   = sequence { "|" sequence }
    sequence = { word | "[" choice "]" | "<" choice ">" | "..." }

Three readings make the tree the one that Redis documents: a token takes the values after it in its sequence;
``key [key ...]`` is one argument that may be repeated, and so is a group; a bracket with one element is that
element, optional. Types are guessed from names: they change hints, never behaviour.
Source: https://redis.io/docs/latest/commands/command-docs/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

_WORDS: Final = re.compile(r"\.\.\.|[\[\]<>|]|[^\s\[\]<>|]+")
_TOKEN: Final = re.compile(r"[A-Z][A-Z0-9_.-]*\Z|[=~*#$-]\Z")
_KEYS: Final = frozenset({"key", "source", "destination", "newkey", "key1", "key2"})
_INTEGERS: Final = frozenset({
    "bit", "bytes", "client-id", "count", "db", "decrement", "element-count", "index", "len", "length", "limit",
    "maxlen", "milliseconds", "num-matches", "numkeys", "numreplicas", "offset", "protover", "rank", "seconds", "slot",
    "start", "stop", "end", "timeout", "cursor",
})  # fmt: skip
_DOUBLES: Final = frozenset({"increment", "max", "min", "score", "weight"})


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument, or a group of them."""

    name: str
    type: str
    """string integer double key pattern unix-time pure-token oneof block."""
    token: str = ""
    """The word that introduces it."""
    optional: bool = False
    multiple: bool = False
    arguments: tuple[Argument, ...] = ()


class _Reader:
    """The words that are left to parse."""

    def __init__(self, syntax: str) -> None:
        self._words = _WORDS.findall(syntax)
        self._at = 0

    def peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def take(self) -> str:
        word = self.peek()
        self._at += 1
        return word

    def expect(self, word: str, syntax: str) -> None:
        if self.take() != word:
            msg = f"'{word}' is missing in the syntax '{syntax}'"
            raise ValueError(msg)


def parse_syntax(syntax: str) -> tuple[Argument, ...]:
    """The arguments that ``syntax`` describes. Raises ValueError when brackets do not match."""
    reader = _Reader(syntax)
    alternatives, _ = _choice(reader, syntax)
    if reader.peek():
        msg = f"'{reader.peek()}' is too much in the syntax '{syntax}'"
        raise ValueError(msg)
    return alternatives[0] if len(alternatives) == 1 else (_one_of(alternatives),)


def _choice(reader: _Reader, syntax: str) -> tuple[list[tuple[Argument, ...]], bool]:
    """The alternatives up to a closing bracket, and whether the last one ended with ``...``."""
    alternatives: list[tuple[Argument, ...]] = []
    while True:
        sequence, repeated = _sequence(reader, syntax)
        alternatives.append(sequence)
        if reader.peek() != "|":
            return alternatives, repeated
        reader.take()


def _sequence(reader: _Reader, syntax: str) -> tuple[tuple[Argument, ...], bool]:
    found: list[Argument] = []
    while (word := reader.peek()) and word not in {"]", ">", "|"}:
        reader.take()
        if word == "...":
            return _with_tokens(found), True
        if word == "<":
            alternatives, _ = _choice(reader, syntax)
            reader.expect(">", syntax)
            found.append(_group(alternatives))
        elif word == "[":
            alternatives, repeated = _choice(reader, syntax)
            reader.expect("]", syntax)
            _append_optional(found, alternatives, repeated=repeated)
        elif _TOKEN.match(word):
            found.append(Argument(word.lower(), "pure-token", token=word))
        else:
            found.append(Argument(word, _type_of(word)))
    return _with_tokens(found), False


def _append_optional(found: list[Argument], alternatives: list[tuple[Argument, ...]], *, repeated: bool) -> None:
    """Add ``[...]``; when it repeats what stands before it (``key [key ...]``), mark that as repeatable instead."""
    group = alternatives[0]
    if repeated and len(alternatives) == 1 and found and tuple(found[-len(group) :]) == group:
        del found[-len(group) :]
        found.append(replace(_group(alternatives), multiple=True))
    else:
        one = _group(alternatives)
        found.append(replace(one, optional=True, multiple=one.multiple or repeated))


def _with_tokens(found: list[Argument]) -> tuple[Argument, ...]:
    """Give each bare token the values that follow it."""
    merged: list[Argument] = []
    at = 0
    while at < len(found):
        one = found[at]
        at += 1
        if one.type == "pure-token" and not one.optional:
            values = []
            while at < len(found) and found[at].type != "pure-token" and not found[at].optional:
                values.append(found[at])
                at += 1
            if len(values) == 1 and not values[0].token:
                one = replace(values[0], token=one.token)
            elif values:
                one = Argument(one.name, "block", token=one.token, arguments=tuple(values))
        merged.append(one)
    return tuple(merged)


def _group(alternatives: list[tuple[Argument, ...]]) -> Argument:
    if len(alternatives) > 1:
        return _one_of(alternatives)
    return _block(alternatives[0])


def _block(sequence: tuple[Argument, ...]) -> Argument:
    if len(sequence) == 1:
        return sequence[0]
    return Argument("-".join(one.name for one in sequence[:2]), "block", arguments=sequence)


def _one_of(alternatives: list[tuple[Argument, ...]]) -> Argument:
    choices = tuple(_block(sequence) for sequence in alternatives)
    return Argument("-or-".join(one.name for one in choices[:2]), "oneof", arguments=choices)


def _type_of(name: str) -> str:
    if name in _KEYS:
        return "key"
    if name.startswith("unix-time"):
        return "unix-time"
    if name == "pattern":
        return "pattern"
    if name in _INTEGERS:
        return "integer"
    return "double" if name in _DOUBLES else "string"
