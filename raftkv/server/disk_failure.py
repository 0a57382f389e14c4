"""What a node does when its disk fails under it: it answers whoever waits, and its process ends.

After a write or a sync that failed, the page cache may show bytes that the disk does not have (Rebello et al., ATC
2020): a second attempt can report success for what is lost. Only reading the disk again tells what is there, so the log
is not used any more, and a new process recovers it. Staying up would be the other choice, but a halted node serves no
reads either (it hears of no commits), and whoever watches it sees a process that runs. The reason is in the log's last
lines and in the exit code.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Final

EXIT_DISK: Final = 74
"""The process ended because of its disk: start it again, once there is space or the disk works (EX_IOERR of
sysexits.h)."""
DISK_ERRORS: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a start after which another start may succeed."""
ANSWER_S: Final = 0.3
"""Time for the answers to whoever waits: some rounds of the node's housekeeping."""
END_WITHIN_S: Final = 5.0
"""A disk that answers no more can keep a thread, and so an orderly end, waiting for ever."""


def is_disk_error(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, is the disk's refusal."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return True
        error = error.__cause__
    return False


def end_soon(within_s: float = END_WITHIN_S, end: Callable[[int], object] = os._exit) -> None:
    """End this process ``within_s`` seconds from now with :data:`EXIT_DISK`, unless it has ended by then."""
    timer = threading.Timer(within_s, end, (EXIT_DISK,))
    timer.daemon = True
    timer.start()
