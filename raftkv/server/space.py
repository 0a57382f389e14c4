"""A node and the free space of its disk: the alarm that it raises and clears, and the reserve that it keeps.

A thread looks, because a disk that is in trouble may let whoever asks it wait; the event loop decides
(:class:`SpaceKeeper`, which knows neither thread nor clock but what it is given). The alarm is an entry of the log
(:mod:`raftkv.machine.alarms`), so that all members refuse the same commands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from persistence.files import Files, Space
from persistence.reserve import Reserve
from raftkv.machine.alarms import NOSPACE, Alarms, clearing, raising
from raftkv.machine.batch import ALARM, Group
from raftkv.protocol.encoder import encode_commands
from raftkv.server.commands.common import human_bytes

if TYPE_CHECKING:
    from raftkv.commands.registry import Argv

LOOK_S: Final = 1.0
"""Between two looks at the disk."""
ORDER_AGAIN_S: Final = 2.0
"""An alarm that was ordered and does not stand yet is ordered again after so long."""


def alarm_group(words: Argv) -> Group:
    """The entry that raises or clears an alarm."""
    return Group(ALARM, 0, 1, encode_commands([words]))


class SpaceWatch:
    """The thread. ``report`` is called on it with each look, and must not wait."""

    def __init__(
        self, path: str, reserve: Reserve, files: Files, low_bytes: Callable[[], int], report: Callable[[Space], object]
    ) -> None:
        self._path = path
        self._reserve = reserve
        self._files = files
        self._low_bytes = low_bytes
        self._report = report
        self._ended = threading.Event()
        # A daemon: a disk that does not answer must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="disk-space", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No report from now on; does not wait for the disk."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._report(self.look())
            except OSError:
                pass  # what is wrong with the disk the log finds, and says
            except RuntimeError:
                return  # the event loop is closed
            self._ended.wait(LOOK_S)

    def look(self) -> Space:
        """Free space, after an attempt to make the reserve if (a part of) it is missing and there is room for it."""
        reserve, space = self._reserve, self._files.space(self._path)
        held = 0 if reserve.shortage else reserve.held_bytes  # after a shortage make() wants more
        lacking = reserve.size_bytes - held
        if reserve.wanting and space.free >= lacking + self._low_bytes():
            reserve.make()
            space = self._files.space(self._path)
        return space


class SpaceKeeper:
    """What a node makes of it. ``order`` has a command of :mod:`raftkv.machine.alarms` committed, or not."""

    def __init__(
        self,
        node_id: str,
        reserve: Reserve,
        alarms: Callable[[], Alarms],
        order: Callable[[Argv], object],
        shortage: Callable[[], str] = str,
    ) -> None:
        """``shortage`` says what else finds no room; empty when nothing does."""
        self._node_id = node_id
        self._reserve = reserve
        self._shortage = shortage
        self._alarms = alarms
        self._order = order
        self._ordered_at = -ORDER_AGAIN_S

    def look(self, now: float, free: int, low: int, high: int) -> None:
        """``free`` bytes are left: an alarm is due below ``low``, and is cleared above ``high``."""
        own = self._alarms().of(self._node_id)
        trouble = self.trouble(free, low)
        if own is None and trouble:
            self._order_at(now, raising(self._node_id, NOSPACE, trouble))
        elif own is not None and not trouble and free > high:
            self._order_at(now, clearing(self._node_id, NOSPACE))

    def trouble(self, free: int, low: int) -> str:
        """Why an alarm is due; empty when none is."""
        shortage = self._shortage() or self._reserve.shortage
        if shortage:
            return shortage
        if free < low:
            return f"{human_bytes(free)} free, below disk_low_bytes {human_bytes(low)}"
        return ""

    def clear_of_former(self, now: float, members: Iterable[str]) -> None:
        """On the leader: nobody else clears the alarm of a node that was removed."""
        known = set(members)
        for one in self._alarms().standing:
            if one.node not in known:
                self._order_at(now, clearing(one.node, one.kind))

    def _order_at(self, now: float, words: Argv) -> None:
        if now - self._ordered_at >= ORDER_AGAIN_S:
            self._ordered_at = now
            self._order(words)
