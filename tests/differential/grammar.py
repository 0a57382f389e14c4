"""Random commands from one-line templates.

``SET <key> <value> [NX | XX] [EX <seconds>]``: ``<pool>`` is drawn from a pool, ``[...]`` is there half of the time,
``a | b`` inside brackets or parentheses is one of both, ``item+`` is there one to four times. Now and then a word is
lost, doubled or replaced, so that arity and syntax errors are compared too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

_TOKEN = re.compile(r"<[a-z_]+>\+?|[\[\]()|]\+?|[^\s\[\]()|]+")
_MUTATION_RATE = 0.03
_LOWER_CASE_RATE = 0.2
_NEVER_MUTATED = (b"SELECT", b"EVALSHA", b"OBJECT", b"MEMORY", b"SPOP")
"""Played by the harness; checks its arguments before the script runs; a binary word would be shown in an error; bytes of our own; random."""


@dataclass(frozen=True)
class Group:
    """Templates of one family of commands, and the pools that they draw from."""

    name: str
    templates: tuple[str, ...]
    pools: dict[str, tuple[bytes, ...]]

    def generate(self, rng: Random, count: int) -> list[list[bytes]]:
        """``count`` commands."""
        return [self._one(rng) for _ in range(count)]

    def _one(self, rng: Random) -> list[bytes]:
        tokens = _TOKEN.findall(rng.choice(self.templates))
        words, at = _alternatives(tokens, 0, self.pools, rng)
        assert at == len(tokens), f"unbalanced template {tokens}"
        return _mutated(words, rng)


def _alternatives(
    tokens: list[str], at: int, pools: dict[str, tuple[bytes, ...]], rng: Random
) -> tuple[list[bytes], int]:
    """One of the rows between ``|``, up to a closing bracket or the end."""
    rows: list[list[bytes]] = [[]]
    while at < len(tokens) and tokens[at][0] not in "])":
        token = tokens[at]
        at += 1
        if token == "|":
            rows.append([])
        elif token in "[(":
            start = at
            inner, at = _alternatives(tokens, start, pools, rng)
            repeat = rng.randint(1, 4) if tokens[at].endswith("+") else 1
            for _ in range(repeat - 1):
                inner = inner + _alternatives(tokens, start, pools, rng)[0]
            at += 1
            rows[-1] += inner if token == "(" or rng.random() < 0.5 else []
        elif token.startswith("<"):
            pool = pools[token.strip("<>+")]
            rows[-1] += [rng.choice(pool) for _ in range(rng.randint(1, 4) if token.endswith("+") else 1)]
        else:
            rows[-1].append(token.lower().encode() if rng.random() < _LOWER_CASE_RATE else token.encode())
    return rng.choice(rows), at


def _mutated(words: list[bytes], rng: Random) -> list[bytes]:
    if rng.random() >= _MUTATION_RATE or len(words) < 2 or words[0].upper() in _NEVER_MUTATED:
        return words
    at = rng.randrange(1, len(words))
    replacement = rng.choice(([], [words[at], words[at]], [b"x"], [b""], [b"-1"]))
    return words[:at] + replacement + words[at + 1 :]
