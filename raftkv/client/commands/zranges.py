# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Sorted sets: ranges of one, and combinations of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from raftkv.client.commands.caller import Caller, T, flags, option
from raftkv.client.words import Word, pairs

Aggregate = Literal["SUM", "MIN", "MAX"]


class SortedSetRangeCommands(Caller[T]):
    """``..._with_scores`` methods give (member, score). Bounds are written as for ``zcount`` and ``zlexcount``."""

    def zrange(self, key: Word, start: int, stop: int, *, rev: bool = False) -> list[T]:
        """Members at places ``start`` to ``stop``, both included."""
        return self._call("ZRANGE", key, start, stop, *flags(rev=rev))

    def zrange_with_scores(self, key: Word, start: int, stop: int, *, rev: bool = False) -> list[tuple[T, float]]:
        """As :meth:`zrange`."""
        return self._call("ZRANGE", key, start, stop, *flags(rev=rev), "WITHSCORES", shape=pairs)

    def zrevrange(self, key: Word, start: int, stop: int) -> list[T]:
        """Members at places counted from the highest score."""
        return self._call("ZREVRANGE", key, start, stop)

    def zrevrange_with_scores(self, key: Word, start: int, stop: int) -> list[tuple[T, float]]:
        """As :meth:`zrevrange`."""
        return self._call("ZREVRANGE", key, start, stop, "WITHSCORES", shape=pairs)

    def zrangebyscore(self, key: Word, low: Word, high: Word, *, offset: int = 0, count: int = -1) -> list[T]:
        """Members with scores from ``low`` to ``high``."""
        return self._call("ZRANGEBYSCORE", key, low, high, "LIMIT", offset, count)

    def zrangebyscore_with_scores(
        self, key: Word, low: Word, high: Word, *, offset: int = 0, count: int = -1
    ) -> list[tuple[T, float]]:
        """As :meth:`zrangebyscore`."""
        return self._call("ZRANGEBYSCORE", key, low, high, "WITHSCORES", "LIMIT", offset, count, shape=pairs)

    def zrevrangebyscore(self, key: Word, high: Word, low: Word, *, offset: int = 0, count: int = -1) -> list[T]:
        """Members with scores from ``high`` down to ``low``."""
        return self._call("ZREVRANGEBYSCORE", key, high, low, "LIMIT", offset, count)

    def zrevrangebyscore_with_scores(
        self, key: Word, high: Word, low: Word, *, offset: int = 0, count: int = -1
    ) -> list[tuple[T, float]]:
        """As :meth:`zrevrangebyscore`."""
        return self._call("ZREVRANGEBYSCORE", key, high, low, "WITHSCORES", "LIMIT", offset, count, shape=pairs)

    def zrangebylex(self, key: Word, low: Word, high: Word, *, offset: int = 0, count: int = -1) -> list[T]:
        """Members from ``low`` to ``high``, where all scores are equal."""
        return self._call("ZRANGEBYLEX", key, low, high, "LIMIT", offset, count)

    def zrevrangebylex(self, key: Word, high: Word, low: Word, *, offset: int = 0, count: int = -1) -> list[T]:
        """Members from ``high`` down to ``low``, where all scores are equal."""
        return self._call("ZREVRANGEBYLEX", key, high, low, "LIMIT", offset, count)

    def zrangestore(
        self, destination: Word, source: Word, start: Word, stop: Word, *,
        by: Literal["SCORE", "LEX"] | None = None, rev: bool = False,
    ) -> int:  # fmt: skip
        """Store a range (of places, scores or members); its size."""
        words = [f"BY{by}"] if by else []
        return self._call("ZRANGESTORE", destination, source, start, stop, *words, *flags(rev=rev))

    def zinter(self, *keys: Word) -> list[T]:
        """Members of all the sets."""
        return self._call("ZINTER", len(keys), *keys)

    def zinter_with_scores(
        self, *keys: Word, weights: Sequence[float] = (), aggregate: Aggregate | None = None
    ) -> list[tuple[T, float]]:
        """Members of all the sets, scores combined."""
        return self._call("ZINTER", *_sources(keys, weights, aggregate), "WITHSCORES", shape=pairs)

    def zunion(self, *keys: Word) -> list[T]:
        """Members of any of the sets."""
        return self._call("ZUNION", len(keys), *keys)

    def zunion_with_scores(
        self, *keys: Word, weights: Sequence[float] = (), aggregate: Aggregate | None = None
    ) -> list[tuple[T, float]]:
        """Members of any of the sets, scores combined."""
        return self._call("ZUNION", *_sources(keys, weights, aggregate), "WITHSCORES", shape=pairs)

    def zdiff(self, *keys: Word) -> list[T]:
        """Members of the first set that are in none of the others."""
        return self._call("ZDIFF", len(keys), *keys)

    def zdiff_with_scores(self, *keys: Word) -> list[tuple[T, float]]:
        """As :meth:`zdiff`."""
        return self._call("ZDIFF", len(keys), *keys, "WITHSCORES", shape=pairs)

    def zinterstore(
        self, destination: Word, *keys: Word, weights: Sequence[float] = (), aggregate: Aggregate | None = None
    ) -> int:
        """Store :meth:`zinter_with_scores`; its size."""
        return self._call("ZINTERSTORE", destination, *_sources(keys, weights, aggregate))

    def zunionstore(
        self, destination: Word, *keys: Word, weights: Sequence[float] = (), aggregate: Aggregate | None = None
    ) -> int:
        """Store :meth:`zunion_with_scores`; its size."""
        return self._call("ZUNIONSTORE", destination, *_sources(keys, weights, aggregate))

    def zdiffstore(self, destination: Word, *keys: Word) -> int:
        """Store :meth:`zdiff_with_scores`; its size."""
        return self._call("ZDIFFSTORE", destination, len(keys), *keys)

    def zintercard(self, *keys: Word, limit: int | None = None) -> int:
        """Size of :meth:`zinter`, counted up to ``limit``."""
        return self._call("ZINTERCARD", len(keys), *keys, *option("LIMIT", limit))


def _sources(keys: Sequence[Word], weights: Sequence[float], aggregate: str | None) -> list[Word]:
    given: list[Word] = ["WEIGHTS", *weights] if weights else []
    return [len(keys), *keys, *given, *option("AGGREGATE", aggregate)]
