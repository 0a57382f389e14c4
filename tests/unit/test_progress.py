"""How far a start is: phases, rates, what the operator sees."""

from __future__ import annotations

import asyncio
import io

import pytest

from raftkv.server import progress
from raftkv.server.logs import get_logger
from raftkv.server.progress import AbandonedError, Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_phase_says_how_far_how_fast_and_how_long_yet(clock):
    one = Progress(clock)
    one.begin("snapshot")
    one.at(0, 40 << 20)
    assert one.picture().eta_s is None
    clock.now += 2
    one.at(10 << 20, 40 << 20)
    assert one.picture().as_dict() == {
        "phase": "snapshot", "done": 10 << 20, "total": 40 << 20, "unit": "bytes", "rate": 5 << 20, "eta_s": 6.0,
    }  # fmt: skip
    assert str(one.picture()) == "snapshot: 10.0 of 40.0 MiB (25%), 5.0 MiB/s, 6 s left"


def test_a_new_phase_begins_at_nothing_and_the_old_one_keeps_its_time(clock):
    one = Progress(clock)
    one.begin("log")
    clock.now += 3
    one.at(5, 5)
    one.begin("replay")
    assert (one.picture().phase, one.picture().done, one.picture().total) == ("replay", 0, 0)
    assert str(one.picture()) == "replay: nothing known yet"
    clock.now += 1
    one.at(2_000, 10_000)
    assert str(one.picture()) == "replay: 2,000 of 10,000 entries (20%), 2,000/s, 4 s left"
    assert not one.over
    one.end()
    assert (one.over, one.seconds) == (True, {"log": 3.0, "replay": 1.0})


def test_who_works_for_an_abandoned_start_is_stopped(clock):
    one = Progress(clock)
    one.at(1, 2)
    one.abandon()
    with pytest.raises(AbandonedError):
        one.at(2, 2)


def told(clock, monkeypatch, terminal, rounds: int) -> None:
    """Let ``rounds`` of the teller pass, each a second long."""
    one = Progress(clock)
    one.begin("log")

    async def pass_time(_seconds: float) -> None:
        nonlocal rounds
        rounds -= 1
        clock.now += 1.0
        one.at(int(clock.now - 100) << 20, 100 << 20)
        if not rounds:
            one.end()

    monkeypatch.setattr(progress.asyncio, "sleep", pass_time)
    asyncio.run(progress.tell(one, get_logger("test"), terminal))


def test_a_terminal_gets_one_line_that_is_rewritten_and_cleared_at_the_end(clock, monkeypatch):
    terminal = io.StringIO()
    told(clock, monkeypatch, terminal, 4)
    lines = terminal.getvalue().split("\r\x1b[K")
    assert lines[1:] == [
        "raftkv: log: 1.0 of 100.0 MiB (1%), 1.0 MiB/s, 99 s left\r",
        "raftkv: log: 2.0 of 100.0 MiB (2%), 1.0 MiB/s, 98 s left\r",
        "raftkv: log: 3.0 of 100.0 MiB (3%), 1.0 MiB/s, 97 s left\r",
        "",
    ]
    assert "\n" not in terminal.getvalue()


def test_without_a_terminal_the_log_gets_a_line_now_and_then(clock, monkeypatch, caplog):
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    with caplog.at_level("INFO", "raftkv"):
        told(clock, monkeypatch, None, 14)
    found = [one.fields["done"] >> 20 for one in caplog.records if one.message == "recovering"]
    assert found == [1, 6, 11]
