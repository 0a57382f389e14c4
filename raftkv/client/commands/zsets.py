# mypy: disable-error-code="no-any-return"
# Reason: the protocol decides the type of a reply; tests/integration/test_client.py pins each method to what it declares.
"""Sorted sets: changing them, and asking for single members. Ranges are in :mod:`zranges`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raftkv.client.commands.caller import Caller, T, flags, option
from raftkv.client.words import Word, cursor_of_scores, number, pairs


class SortedSetCommands(Caller[T]):
    """Members in the order of their scores, equal scores in the order of their bytes."""

    def zadd(
        self, key: Word, scores: Mapping[Any, float], *, nx: bool = False, xx: bool = False, gt: bool = False,
        lt: bool = False, ch: bool = False,
    ) -> int:  # fmt: skip
        """Add members or change their scores; how many are new (``ch``: new or changed)."""
        words = [word for member, score in scores.items() for word in (score, member)]
        return self._call("ZADD", key, *flags(nx=nx, xx=xx, gt=gt, lt=lt, ch=ch), *words)

    def zadd_incr(
        self, key: Word, member: Word, amount: float, *, nx: bool = False, xx: bool = False, gt: bool = False,
        lt: bool = False,
    ) -> float | None:  # fmt: skip
        """Add to a score (ZADD ... INCR); the new one, None when a condition forbade it."""
        return self._call("ZADD", key, *flags(nx=nx, xx=xx, gt=gt, lt=lt), "INCR", amount, member, shape=number)

    def zincrby(self, key: Word, amount: float, member: Word) -> float:
        """Add to a score; the new one."""
        return self._call("ZINCRBY", key, amount, member, shape=float)

    def zrem(self, key: Word, *members: Word) -> int:
        """Remove members; how many there were."""
        return self._call("ZREM", key, *members)

    def zcard(self, key: Word) -> int:
        """Number of members."""
        return self._call("ZCARD", key)

    def zscore(self, key: Word, member: Word) -> float | None:
        """The score of a member."""
        return self._call("ZSCORE", key, member, shape=number)

    def zmscore(self, key: Word, *members: Word) -> list[float | None]:
        """The scores of members, in order."""
        return self._call("ZMSCORE", key, *members)

    def zrank(self, key: Word, member: Word) -> int | None:
        """Place of a member, 0 for the lowest score."""
        return self._call("ZRANK", key, member)

    def zrevrank(self, key: Word, member: Word) -> int | None:
        """Place of a member, 0 for the highest score."""
        return self._call("ZREVRANK", key, member)

    def zcount(self, key: Word, low: Word, high: Word) -> int:
        """Number of members with scores from ``low`` to ``high``; ``"(1"`` excludes, ``"-inf"`` and ``"+inf"`` are open."""
        return self._call("ZCOUNT", key, low, high)

    def zlexcount(self, key: Word, low: Word, high: Word) -> int:
        """Number of members from ``low`` to ``high``: ``"[a"``, ``"(a"``, ``"-"``, ``"+"``; all scores equal."""
        return self._call("ZLEXCOUNT", key, low, high)

    def zpopmin(self, key: Word, count: int = 1) -> list[tuple[T, float]]:
        """Remove and return those with the lowest scores."""
        return self._call("ZPOPMIN", key, count, shape=pairs)

    def zpopmax(self, key: Word, count: int = 1) -> list[tuple[T, float]]:
        """Remove and return those with the highest scores."""
        return self._call("ZPOPMAX", key, count, shape=pairs)

    def zmpop(self, *keys: Word, highest: bool = False, count: int = 1) -> tuple[T, list[tuple[T, float]]] | None:
        """Pop from the first of ``keys`` that has members; its name, and what was popped."""
        end = "MAX" if highest else "MIN"
        return self._call("ZMPOP", len(keys), *keys, end, "COUNT", count, shape=_popped)

    def zrandmember(self, key: Word) -> T | None:
        """Any member."""
        return self._call("ZRANDMEMBER", key)

    def zrandmember_many(self, key: Word, count: int) -> list[T]:
        """Up to ``count`` members; with a negative count exactly as many, repeated at will."""
        return self._call("ZRANDMEMBER", key, count)

    def zremrangebyrank(self, key: Word, start: int, stop: int) -> int:
        """Remove places ``start`` to ``stop``; how many went."""
        return self._call("ZREMRANGEBYRANK", key, start, stop)

    def zremrangebyscore(self, key: Word, low: Word, high: Word) -> int:
        """Remove scores ``low`` to ``high``; how many went."""
        return self._call("ZREMRANGEBYSCORE", key, low, high)

    def zremrangebylex(self, key: Word, low: Word, high: Word) -> int:
        """Remove members ``low`` to ``high``; how many went."""
        return self._call("ZREMRANGEBYLEX", key, low, high)

    def zscan(
        self, key: Word, cursor_: int = 0, *, match: Word | None = None, count: int | None = None
    ) -> tuple[int, list[tuple[T, float]]]:
        """Next cursor (0 at the end) and some members with scores."""
        words = [*option("MATCH", match), *option("COUNT", count)]
        return self._call("ZSCAN", key, cursor_, *words, shape=cursor_of_scores)


def _popped(reply: Any) -> Any:
    return None if reply is None else (reply[0], pairs(reply[1]))
