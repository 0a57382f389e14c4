"""What a node does about the space of its disk: when it raises its alarm, when it clears it, when it makes its reserve."""

from __future__ import annotations

import errno
import threading
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.disk import Disk
from persistence.files import OsFiles, Space
from persistence.reserve import Reserve
from raftkv.machine.alarms import NOSPACE, Alarms, clearing, raising
from raftkv.server.space import ORDER_AGAIN_S, SpaceKeeper, SpaceWatch
from raftkv.server.timing import WARN_EVERY_S, SlowSyncs

MIB = 1 << 20
LOW, HIGH = 10 * MIB, 20 * MIB


class Member:
    """n1, whose orders are carried out at once unless ``leaderless``."""

    def __init__(self):
        self.disk = Disk(Random(1))
        self.disk.make_dir("data")
        self.reserve = Reserve("data", MIB, self.disk)
        self.alarms = Alarms()
        self.orders = []
        self.leaderless = False
        self.now = 100.0
        self.shortage = ""
        self.keeper = SpaceKeeper("n1", self.reserve, lambda: self.alarms, self.order, lambda: self.shortage)

    def order(self, words):
        self.orders.append(words)
        if not self.leaderless:
            self.alarms.apply(words, 1)

    def look(self, free, after=ORDER_AGAIN_S):
        self.now += after
        self.keeper.look(self.now, free, LOW, HIGH)
        return self.alarms.of("n1") is not None


def test_an_alarm_stands_from_the_low_mark_to_the_high_one():
    member = Member()
    assert [member.look(free) for free in (HIGH, LOW, LOW - 1, LOW + 1, HIGH, HIGH + 1, LOW, LOW - 1)] == [
        False, False, True, True, True, False, False, True,
    ]  # fmt: skip
    assert member.orders[:2] == [
        raising("n1", NOSPACE, "10.00M free, below disk_low_bytes 10.00M"),
        clearing("n1", NOSPACE),
    ]


def test_a_snapshot_that_finds_no_room_is_a_reason_and_stays_one_until_it_does():
    member = Member()
    member.shortage = "a snapshot of 9 bytes from the leader: Disk quota exceeded"
    assert member.look(2 * HIGH)
    assert member.alarms.of("n1").reason == member.shortage
    assert member.look(2 * HIGH), "a quota does not show in the free space"
    member.shortage = ""
    assert not member.look(2 * HIGH)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2 * HIGH)))
def test_it_changes_only_beyond_a_mark(looks):
    member = Member()
    stood = False
    for free in looks:
        stands = member.look(free)
        assert stands == (free < LOW or (stood and free <= HIGH))
        stood = stands


def test_an_order_that_nobody_took_is_repeated_now_and_then():
    member = Member()
    member.leaderless = True
    for _ in range(10):
        member.look(0, after=ORDER_AGAIN_S / 4)
    assert len(member.orders) == 3


def test_what_met_a_full_disk_is_reason_enough_whatever_is_said_to_be_free():
    member = Member()
    member.reserve.note(OSError(errno.EDQUOT, "x"), "preparing a segment of the log")
    assert member.look(10 * HIGH)
    assert member.alarms.of("n1").reason == "preparing a segment of the log: Disk quota exceeded"
    assert member.look(10 * HIGH), "it stands until the reserve could be made"
    assert member.reserve.make()
    assert not member.look(10 * HIGH)


def test_an_alarm_that_an_operator_cleared_comes_back_while_there_is_no_room():
    member = Member()
    assert member.look(0)
    member.alarms.clear("n1", NOSPACE)
    assert member.look(0)


def test_others_alarms_are_theirs_unless_they_are_no_members():
    member = Member()
    member.alarms.raise_("n2", NOSPACE, "x", 1)
    assert not member.look(10 * HIGH)
    member.keeper.clear_of_former(member.now + 9, ["n1", "n2"])
    assert member.orders == []
    member.keeper.clear_of_former(member.now + 9, ["n1", "n3"])
    assert member.orders == [clearing("n2", NOSPACE)]


# ------------------------------------------------------------ the look
def watch(member, report=lambda _: None):
    return SpaceWatch("data", member.reserve, member.disk, lambda: LOW, report)


def test_the_reserve_is_made_when_it_leaves_more_than_the_low_mark():
    member = Member()
    member.disk.capacity_bytes = LOW + MIB - 1
    assert watch(member).look() == Space(LOW + MIB - 1, LOW + MIB - 1)
    assert not member.reserve.held
    member.disk.capacity_bytes = LOW + MIB
    assert watch(member).look() == Space(LOW + MIB, LOW)
    assert member.reserve.held
    assert watch(member).look().free == LOW


@pytest.mark.parametrize("found", [0, MIB // 4, 2 * MIB])
def test_a_reserve_of_another_size_is_made_right(found):
    """A process that was killed while it claimed the space left a part; or the setting was another one."""
    member = Member()
    Reserve("data", found or MIB, member.disk).make()
    if not found:
        member.disk.open("data/reserve", create=True)
    member.disk.capacity_bytes = LOW + MIB
    member.reserve = Reserve("data", MIB, member.disk)
    assert (member.reserve.held, member.reserve.held_bytes) == (True, found)
    assert watch(member).look().free == LOW
    assert member.reserve.held_bytes == member.disk.used_bytes == MIB
    member.disk.capacity_bytes = 2 * MIB
    member.reserve = Reserve("data", MIB, member.disk)
    watch(member).look()
    assert member.reserve.held_bytes == MIB, "what is whole takes no space"


def test_a_reserve_that_was_given_back_is_made_again():
    member = Member()
    watch(member).look()
    member.reserve.helps(OSError(errno.ENOSPC, "x"), "a write")
    assert member.reserve.spent
    watch(member).look()
    assert (member.reserve.held, member.reserve.spent, member.reserve.shortage) == (True, False, "")


@pytest.mark.parametrize("failure", [errno.EIO, errno.ESTALE])
def test_a_disk_that_cannot_be_asked_ends_nothing(tmp_path, failure):
    looks, looked = [], threading.Event()

    class Failing(OsFiles):
        def space(self, path):
            looks.append(path)
            looked.set()
            raise OSError(failure, "no")

    watching = SpaceWatch("data", Reserve(str(tmp_path), 0, OsFiles()), Failing(), lambda: 0, lambda _: None)
    watching.start()
    assert looked.wait(30)
    assert watching._thread.is_alive()
    watching.stop()
    watching._thread.join(5)
    assert not watching._thread.is_alive()


# ------------------------------------------------------------ slow syncs
def test_slow_syncs_are_told_of_together():
    syncs = SlowSyncs(0.1)
    for seconds in (0.05, 0.3, 0.1, 0.2):
        syncs.observe(seconds)
    assert syncs.news(50.0) == (2, 0.3)
    syncs.observe(0.15)
    assert syncs.news(50.0 + WARN_EVERY_S / 2) is None
    assert syncs.news(50.0 + WARN_EVERY_S) == (1, 0.15)
    assert syncs.news(99.0) is None
    assert syncs.total == 3


def test_none_is_slow_when_there_is_no_bound():
    syncs = SlowSyncs(0.0)
    syncs.observe(9.0)
    assert syncs.news(1.0) is None
