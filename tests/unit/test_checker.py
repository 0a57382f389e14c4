"""The judge of histories: legal ones are accepted, and each kind of planted lie is caught."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos import checker
from chaos.checker import check
from chaos.history import NEVER, Operation, Recorder, load, pair


class Story:
    """Writes operations down as ``(start, end)`` of whole seconds."""

    def __init__(self, model: str, key: str = "k") -> None:
        self.model = model
        self.key = key
        self.operations: list[Operation] = []

    def ok(self, start: float, end: float, action: str, argument: Any, result: Any = None) -> Story:
        return self._add(start, end, action, argument, "ok", result)

    def info(self, start: float, action: str, argument: Any) -> Story:
        return self._add(start, NEVER, action, argument, "info", "timed out")

    def fail(self, start: float, end: float, action: str, argument: Any) -> Story:
        return self._add(start, end, action, argument, "fail", "refused")

    def read(self, start: float, end: float, result: Any) -> Story:
        return self.ok(start, end, "read", None, result)

    def _add(self, start: float, end: float, action: str, argument: Any, outcome: str, result: Any) -> Story:
        number = len(self.operations)
        self.operations.append(Operation(number, self.model, action, self.key, argument, outcome, result, start, end))
        return self

    @property
    def holds(self) -> bool:
        return check(self.operations).linearizable

    @property
    def reasons(self) -> str:
        return str(check(self.operations))


# ------------------------------------------------------------------ registers
def test_register_sequence():
    assert Story("register").read(0, 1, None).ok(2, 3, "write", "a").read(4, 5, "a").holds


def test_register_stale_read():
    story = Story("register").ok(0, 1, "write", "a").ok(2, 3, "write", "b").read(4, 5, "a")
    assert not story.holds
    assert "read -> ok 'a'" in story.reasons


def test_register_concurrent_write_may_be_seen_or_not():
    story = Story("register").ok(0, 1, "write", "a").ok(2, 9, "write", "b")
    assert story.read(3, 4, "a").read(5, 6, "b").holds


def test_register_read_does_not_go_back_during_a_write():
    story = Story("register").ok(0, 1, "write", "a").ok(2, 9, "write", "b")
    assert not story.read(3, 4, "b").read(5, 6, "a").holds


def test_register_lost_write():
    assert not Story("register").ok(0, 1, "write", "a").read(2, 3, None).holds


def test_register_unknown_write_takes_effect_late():
    story = Story("register").info(0, "write", "a").read(1, 2, None).ok(3, 4, "write", "b").read(5, 6, "b")
    assert story.read(7, 8, "a").holds
    assert not story.read(9, 10, "b").holds, "it cannot take effect twice, nor be undone"


def test_register_unknown_write_not_before_its_invocation():
    assert not Story("register").read(0, 1, "a").info(2, "write", "a").holds


def test_register_refused_write_is_seen():
    assert not Story("register").fail(0, 1, "write", "a").read(2, 3, "a").holds


def test_register_unread_unknown_writes_cost_nothing():
    story = Story("register")
    for number in range(200):
        story.info(number, "write", f"lost{number}")
    assert story.ok(300, 301, "write", "a").read(302, 303, "a").holds


# ------------------------------------------------------------------- counters
def test_counter_sequence_and_unknown():
    story = Story("counter").ok(0, 1, "add", 1, 1).info(2, "add", 1).ok(3, 4, "add", 1, 2).ok(5, 6, "add", 1, 4)
    assert story.read(7, 8, 4).holds
    assert not story.read(9, 10, 5).holds


def test_counter_applied_twice():
    assert not Story("counter").ok(0, 1, "add", 1, 1).ok(2, 3, "add", 1, 3).holds


def test_counter_lost_add():
    assert not Story("counter").ok(0, 1, "add", 1, 1).ok(2, 3, "add", 1, 2).read(4, 5, 1).holds


def test_counter_same_reply_twice():
    assert not Story("counter").ok(0, 5, "add", 1, 1).ok(0, 5, "add", 1, 1).holds


def test_counter_refused_add_counts():
    assert not Story("counter").fail(0, 1, "add", 1).read(2, 3, 1).holds


def test_counter_many_unknown_adds():
    story = Story("counter")
    for number in range(150):
        story.info(number, "add", 1)
    assert story.ok(200, 201, "add", 1, 76).read(202, 203, 120).holds
    assert not story.read(204, 205, 152).holds


# ---------------------------------------------------------------------- lists
def test_list_sequence():
    story = Story("list").ok(0, 1, "append", "a", 1).ok(0, 9, "append", "b", 2)
    assert story.read(2, 3, ["a"]).read(4, 5, ["a", "b"]).holds


@pytest.mark.parametrize(
    ("final", "reason"),
    [
        (["a", "c"], "appended at 2, but its value is read nowhere"),
        (["a", "b", "c", "b"], "'b' was applied twice"),
        (["a", "c", "b"], "appended at 2, but its value is read at 3"),
        (["a", "b", "c", "x"], "'x' was read, but nobody appended it"),
        (["a", "b", "c", "refused"], "'refused' was refused for certain, but it is there"),
        (["a", "b"], "no order of the operations"),  # no place contradicts it: the read comes too late
    ],
    ids=["lost", "duplicate", "reordered", "invented", "error but committed", "lost at the end"],
)
def test_list_final_read_shows(final: list[str], reason: str):
    story = Story("list").ok(0, 1, "append", "a", 1).ok(2, 3, "append", "b", 2).ok(4, 5, "append", "c", 3)
    story.fail(6, 7, "append", "refused").read(8, 9, final)
    assert not story.holds
    assert reason in story.reasons


def test_list_stale_read():
    story = Story("list").ok(0, 1, "append", "a", 1).ok(2, 3, "append", "b", 2).read(4, 5, ["a"])
    assert not story.read(6, 7, ["a", "b"]).holds


def test_list_reads_that_disagree():
    story = Story("list").ok(0, 9, "append", "a").ok(0, 9, "append", "b").read(1, 2, ["a"])
    assert "no beginning of another" in story.read(3, 4, ["b", "a"]).reasons


def test_list_order_of_time():
    story = Story("list").ok(0, 1, "append", "a").ok(2, 3, "append", "b").read(4, 5, ["b", "a"])
    assert not story.holds


def test_list_unknown_append():
    story = Story("list").info(0, "append", "a").ok(1, 2, "append", "b", 1).read(3, 4, ["b"])
    assert story.holds
    assert story.read(5, 6, ["b", "a"]).holds
    assert not story.read(7, 8, ["b"]).holds


def test_list_unknown_append_fills_a_gap_behind_the_last_read():
    story = Story("list").info(0, "append", "a").read(1, 2, [])
    assert story.ok(3, 4, "append", "b", 2).holds
    assert not story.ok(5, 6, "append", "c", 4).holds


# ------------------------------------------------------------- legal histories
_SPAN = st.integers(0, 40)


@st.composite
def legal(draw: st.DrawFn, model: str) -> list[Operation]:
    """A store that works: operations take effect one after the other, at a moment within their intervals."""
    register: str | None = None
    total = 0
    values: list[str] = []
    story = Story(model)
    for moment in range(draw(st.integers(0, 40))):
        at = float(moment * 10)
        start, end = at - draw(_SPAN), at + draw(_SPAN) + 1
        outcome = draw(st.sampled_from(["ok", "ok", "ok", "info", "lost", "fail"]))
        applied = outcome in {"ok", "info"}
        if draw(st.booleans()):
            current: Any = {"register": register, "counter": total, "list": list(values)}[model]
            story.read(start, end, current)
            continue
        argument: Any = f"v{moment}" if model != "counter" else 1
        result: Any = None
        if applied and model == "register":
            register = argument
        elif applied and model == "counter":
            total += 1
            result = total
        elif applied:
            values.append(argument)
            result = len(values)
        action = {"register": "write", "counter": "add", "list": "append"}[model]
        if outcome == "ok":
            story.ok(start, end, action, argument, result)
        elif outcome == "fail":
            story.fail(start, end, action, argument)
        else:
            story.info(start, action, argument)
    return story.operations


@pytest.mark.parametrize("model", ["register", "counter", "list"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_a_correct_store_does_is_accepted(model: str, data: st.DataObject):
    verdict = check(data.draw(legal(model)))
    assert verdict.linearizable, str(verdict)


@pytest.mark.parametrize("model", ["counter", "list"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_acknowledged_write_that_the_last_read_misses_is_caught(model: str, data: st.DataObject):
    operations = data.draw(legal(model))
    told = [one for one in operations if one.outcome == "ok" and one.action != "read"]
    if not told:
        return
    end = 1000.0 + max(one.invoked for one in operations)
    newest = max(one.result for one in told)
    story = Story(model)
    story.operations = operations
    if model == "counter":
        story.read(end, end + 1, newest - 1)
    else:
        reads = [one.result for one in operations if one.action == "read"]
        story.read(end, end + 1, max(reads, key=len, default=[])[: newest - 1])
    assert not story.holds


# ------------------------------------------------------------------ the record
def test_keys_are_judged_one_by_one():
    good = Story("register", "good").ok(0, 1, "write", "a").read(2, 3, "a")
    bad = Story("register", "bad").read(0, 1, "a")
    verdict = check(good.operations + bad.operations)
    assert [one.key for one in verdict.violations] == ["bad"]
    assert (verdict.keys, verdict.operations) == (2, 3)


def test_too_hard_is_no_acquittal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checker, "CONFIGURATIONS_MAX", 100)
    story = Story("register")
    for number in range(12):
        story.ok(0, 100, "write", number)
    verdict = check(story.operations)
    assert verdict.undecided == ("k",)
    assert not verdict.linearizable
    assert not verdict.violations


def test_one_key_is_one_kind_of_thing():
    with pytest.raises(ValueError, match="counter and list"):
        check(Story("list").ok(0, 1, "append", 1, 1).operations + Story("counter").ok(0, 1, "add", 1, 1).operations)


def test_recorder_writes_what_it_pairs(tmp_path):
    ticks = count()
    path = tmp_path / "history.jsonl"
    recorder = Recorder(path, monotonic=lambda: float(next(ticks)))
    first = recorder.invoke(1, "list", "append", "k", "a")
    second = recorder.invoke(2, "list", "read", "k")
    second.ok([])
    first.ok(1)
    recorder.invoke(1, "list", "append", "k", "b").fail("refused")
    with pytest.raises(KeyError), recorder.invoke(1, "list", "append", "k", "c"):
        raise KeyError("the client broke")
    recorder.invoke(2, "list", "append", "k", "d")
    recorder.close()
    operations = recorder.operations()
    assert [(one.argument, one.outcome) for one in operations] == [
        ("a", "ok"), (None, "ok"), ("b", "fail"), ("c", "info"), ("d", "info"),
    ]  # fmt: skip
    assert (operations[0].invoked, operations[0].completed) == (1.0, 4.0)
    assert [one.completed for one in operations[3:]] == [NEVER, NEVER]
    assert load(path) == operations
    assert json.loads(path.read_text().splitlines()[0]) == {
        "time": 1.0, "type": "invoke", "process": 1, "model": "list", "action": "append", "key": "k", "value": "a",
    }  # fmt: skip


def test_a_verdict_is_given_once():
    call = Recorder().invoke(1, "register", "read", "k")
    call.ok(None)
    with pytest.raises(ValueError, match="ended already"):
        call.info("again")


def test_events_that_do_not_fit_together():
    event = {"time": 0.0, "process": 1, "model": "list", "action": "read", "key": "k", "value": None}
    with pytest.raises(ValueError, match="before the end of the last"):
        pair([event | {"type": "invoke"}, event | {"type": "invoke"}])
    with pytest.raises(ValueError, match="had not begun"):
        pair([event | {"type": "ok"}])
