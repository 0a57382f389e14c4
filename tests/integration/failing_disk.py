"""A disk that fails when it is told to, for a node of :meth:`tests.integration.conftest.Cluster.start_patched`.

What it is to do stands in a file: ``EIO-write``, ``EIO-sync``, ``EROFS-write``, ``stall-sync`` (syncs wait until the file is
gone), ``slow-sync 0.5`` (each takes so many seconds more), ``quota-space 1000000`` (the files of the node's data directory are
never longer than that together: EDQUOT), or nothing. It stands below ``OsFiles``, in the system calls themselves.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_PATCH = """
import errno, os, time

def order():
    try:
        with open({path!r}) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""

def fail_if_told(step):
    what, _, amount = order().partition(" ")
    kind, _, where = what.partition("-")
    if where == step and kind == "stall":
        while order():
            time.sleep(0.01)
    elif where == step and kind == "slow":
        time.sleep(float(amount))
    elif where == step:
        number = getattr(errno, kind)
        raise OSError(number, os.strerror(number))

def keep_to_quota(fd, end):
    what, _, limit = order().partition(" ")
    grows = end - os.fstat(fd).st_size
    if what == "quota-space" and grows > 0 and bytes_below({data!r}) + grows > int(limit):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

def bytes_below(directory):
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                pass
    return total

real_pwritev, real_fdatasync, real_fsync = os.pwritev, os.fdatasync, os.fsync
real_posix_fallocate = os.posix_fallocate

def pwritev(fd, buffers, offset, flags=0):
    fail_if_told("write")
    keep_to_quota(fd, offset + sum(map(len, buffers)))
    written = real_pwritev(fd, buffers, offset, flags & ~getattr(os, "RWF_DSYNC", 0))
    if flags:
        fdatasync(fd)
    return written

def fdatasync(fd):
    fail_if_told("sync")
    real_fdatasync(fd)

def fsync(fd):
    fail_if_told("sync")
    real_fsync(fd)

def posix_fallocate(fd, offset, length):
    keep_to_quota(fd, offset + length)
    real_posix_fallocate(fd, offset, length)

os.pwritev, os.fdatasync, os.fsync, os.posix_fallocate = pwritev, fdatasync, fsync, posix_fallocate
"""


def bytes_below(directory: Path) -> int:
    """What a quota counts."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # it was renamed or deleted in this moment
            total += path.stat().st_size if path.is_file() else 0
    return total


class FailingDisk:
    """``orders`` is the file that says what the disk does; it works until :meth:`does`. ``data`` is what a quota counts."""

    def __init__(self, orders: Path, data: Path | None = None) -> None:
        self._orders = orders
        self.patch = _PATCH.format(path=str(orders), data=str(data))

    def does(self, what: str) -> None:
        """From now on, for instance ``EIO-sync``."""
        part = self._orders.with_suffix(".part")
        part.write_text(what)
        part.rename(self._orders)

    def works(self) -> None:
        """As if nothing had been."""
        self._orders.unlink(missing_ok=True)
