"""The sorted set type against a model that sorts everything anew for every answer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftkv.store import zset as zset_module
from raftkv.store.zset import CHUNK, LAZY_MAX, LexRange, ScoreRange, ZSet

MEMBERS = st.binary(max_size=2)
SCORES = st.sampled_from([-math.inf, -2.5, -0.0, 0.0, 1.0, 1.5, 3.0, math.inf])
BOUNDS = st.one_of(st.none(), MEMBERS)
LEX_RANGES = st.builds(LexRange, BOUNDS, BOUNDS, st.booleans(), st.booleans())
SCORE_RANGES = st.builds(ScoreRange, SCORES, SCORES, st.booleans(), st.booleans())


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen members are then enough to split and to join chunks."""
    monkeypatch.setattr(zset_module, "CHUNK", 4)
    monkeypatch.setattr(zset_module, "CHUNK_MIN", 2)


def in_scores(wanted: ScoreRange, score: float) -> bool:
    above = score > wanted.low if wanted.low_open else score >= wanted.low
    return above and (score < wanted.high if wanted.high_open else score <= wanted.high)


def in_lex(wanted: LexRange, member: bytes) -> bool:
    return wanted.above_low(member) and wanted.below_high(member)


class AgainstSorting(RuleBasedStateMachine):
    """Any history of changes; the index is built by whichever rule asks first, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, float] = {}
        self.zset = ZSet()

    @property
    def ordered(self) -> list[tuple[bytes, float]]:
        return sorted(self.model.items(), key=lambda item: (item[1], item[0]))

    @initialize(pairs=st.dictionaries(MEMBERS, SCORES, max_size=40))
    def load(self, pairs: dict[bytes, float]) -> None:
        self.model = dict(pairs)
        self.zset = ZSet(pairs.items())

    @rule(member=MEMBERS, score=SCORES)
    def add(self, member: bytes, score: float) -> None:
        assert self.zset.add(member, score) == (member not in self.model)
        self.model[member] = score

    @rule(pairs=st.lists(st.tuples(MEMBERS, SCORES), min_size=5, max_size=30))
    def add_many(self, pairs: list[tuple[bytes, float]]) -> None:
        for member, score in pairs:
            self.add(member, score)

    @rule(member=MEMBERS)
    def remove(self, member: bytes) -> None:
        assert self.zset.remove(member) == (self.model.pop(member, None) is not None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove_present(self, data: st.DataObject) -> None:
        self.remove(data.draw(st.sampled_from(sorted(self.model))))

    @rule(data=st.data(), share=st.floats(0, 1))
    def remove_span(self, data: st.DataObject, share: float) -> None:
        start = data.draw(st.integers(0, len(self.model)))
        stop = start + int((len(self.model) - start) * share)
        gone = self.ordered[start:stop]
        assert self.zset.remove_span(start, stop) == len(gone)
        for member, _ in gone:
            del self.model[member]

    @rule(count=st.integers(0, 9))
    def pop_min(self, count: int) -> None:
        expected = self.ordered[:count]
        assert self.zset.pop_min(count) == expected
        for member, _ in expected:
            del self.model[member]

    @rule(count=st.integers(0, 9))
    def pop_max(self, count: int) -> None:
        expected = self.ordered[::-1][:count]
        assert self.zset.pop_max(count) == expected
        for member, _ in expected:
            del self.model[member]

    @rule()
    def ranks(self) -> None:
        ordered = self.ordered
        assert [self.zset.rank(member) for member, _ in ordered] == list(range(len(ordered)))
        assert [self.zset.at(rank) for rank in range(len(ordered))] == ordered
        assert self.zset.rank(b"longer than any") is None

    @rule(data=st.data())
    def slices(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(self.model)))
        stop = data.draw(st.integers(0, len(self.model)))
        assert self.zset.slice(start, stop) == self.ordered[start:stop]
        assert self.zset.slice(start, stop, reverse=True) == self.ordered[start:stop][::-1]

    @rule(wanted=SCORE_RANGES)
    def by_score(self, wanted: ScoreRange) -> None:
        start, stop = self.zset.span_of_scores(wanted)
        assert self.zset.slice(start, stop) == [item for item in self.ordered if in_scores(wanted, item[1])]

    @rule(wanted=LEX_RANGES, reverse=st.booleans())
    def by_member_needs_no_index(self, wanted: LexRange, reverse: bool) -> None:
        """With or without an index, whatever its chunks: the same span, also when the scores differ."""
        fresh = ZSet(reversed(self.ordered))
        assert self.zset.span_of_members(wanted, reverse=reverse) == fresh.span_of_members(wanted, reverse=reverse)

    @rule()
    def copy_is_independent(self) -> None:
        copy = self.zset.copy()
        assert copy == self.zset
        copy.add(b"only in the copy", 1.0)
        assert b"only in the copy" not in self.zset
        assert copy != self.zset

    @invariant()
    def same_contents(self) -> None:
        ordered = self.ordered
        assert len(self.zset) == len(ordered)
        assert list(self.zset.items()) == ordered
        assert list(self.zset) == [member for member, _ in ordered]
        assert all(self.zset.score(member) == score for member, score in ordered)


AgainstSorting.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


class TestAgainstSorting(AgainstSorting.TestCase):
    """Runs the machine."""

    @pytest.fixture(autouse=True)
    def _short_chunks(self, short_chunks: None) -> None:
        """Run with chunks that split and join."""


@given(members=st.sets(MEMBERS, max_size=40), wanted=LEX_RANGES, reverse=st.booleans(), skip=st.integers(0, 50))
@settings(deadline=None, max_examples=150)
def test_lexical_range_of_one_score(members: set[bytes], wanted: LexRange, reverse: bool, skip: int) -> None:
    zset = ZSet((member, 7.0) for member in members)
    start, stop = zset.span_of_members(wanted, reverse=reverse, skip=skip)
    found = [member for member, _ in zset.slice(start, stop, reverse=reverse)]
    assert found == sorted((m for m in members if in_lex(wanted, m)), reverse=reverse)[skip:]


def test_lexical_range_of_different_scores_is_one_run() -> None:
    zset = ZSet([(b"c", 1), (b"a", 2), (b"d", 3), (b"b", 4), (b"e", 5)])
    assert zset.span_of_members(LexRange(b"b", b"d")) == (0, 4)
    assert zset.span_of_members(LexRange(b"b", b"d"), skip=2) == (2, 4)
    assert zset.span_of_members(LexRange(b"b", b"d"), skip=9) == (5, 5)
    assert zset.span_of_members(LexRange(b"a", b"b")) == (0, 0)
    assert zset.span_of_members(LexRange(b"b", b"c"), reverse=True) == (2, 4)
    assert zset.span_of_members(LexRange(None, None)) == (0, 5)
    assert zset.span_of_members(LexRange(b"f", None)) == (0, 0)


@pytest.mark.parametrize(
    ("wanted", "empty"),
    [
        (LexRange(b"b", b"a"), True),
        (LexRange(b"a", b"a"), False),
        (LexRange(b"a", b"a", high_open=True), True),
        (LexRange(None, b""), False),
        (ScoreRange(2, 1), True),
        (ScoreRange(1, 1), False),
        (ScoreRange(1, 1, low_open=True), True),
    ],
)
def test_ranges_that_nothing_can_lie_in(wanted: LexRange | ScoreRange, empty: bool) -> None:
    assert wanted.empty is empty


def test_negative_zero_is_zero() -> None:
    zset = ZSet({b"a": -0.0})
    zset.add(b"b", -0.0)
    assert [math.copysign(1.0, score) for score in zset.scores.values()] == [1.0, 1.0]


def test_large_set_builds_its_index_while_it_grows() -> None:
    zset = ZSet((b"%06d" % at, at) for at in range(LAZY_MAX))
    assert zset._index is None
    zset.add(b"last", -1.0)
    assert zset._index is not None
    assert zset.slice(0, 2) == [(b"last", -1.0), (b"000000", 0.0)]


def test_iteration_builds_no_index() -> None:
    zset = ZSet({b"b": 2.0, b"a": 2.0, b"c": 1.0})
    assert list(zset.items()) == [(b"c", 1.0), (b"a", 2.0), (b"b", 2.0)]
    assert zset._index is None


def test_chunks_stay_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing from everywhere must not leave a long row of nearly empty chunks."""
    monkeypatch.setattr(zset_module, "CHUNK", CHUNK)
    monkeypatch.setattr(zset_module, "CHUNK_MIN", CHUNK // 4)
    zset = ZSet((b"%06d" % at, float(at % 977)) for at in range(20 * CHUNK))
    zset.rank(b"000000")
    for at in range(20 * CHUNK):
        if at % 10:
            zset.remove(b"%06d" % at)
    assert zset._index is not None
    sizes = [len(chunk) for chunk in zset._index._members]
    assert sum(sizes) == 2 * CHUNK
    assert len(sizes) <= 8
    assert max(sizes) <= 2 * CHUNK
