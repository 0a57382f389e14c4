"""A disk that fails when it is told to, for a node of :meth:`tests.integration.conftest.Cluster.start_patched`.

What it is to do stands in a file: ``EIO-write``, ``EIO-sync``, ``EROFS-write``, ``stall-sync`` (syncs wait until the file is
gone), or nothing. It stands below ``OsFiles``, in the system calls themselves.
"""

from __future__ import annotations

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
    kind, _, where = order().partition("-")
    if where == step and kind == "stall":
        while order():
            time.sleep(0.01)
    elif where == step:
        number = getattr(errno, kind)
        raise OSError(number, os.strerror(number))

real_pwritev, real_fdatasync, real_fsync = os.pwritev, os.fdatasync, os.fsync

def pwritev(fd, buffers, offset, flags=0):
    fail_if_told("write")
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

os.pwritev, os.fdatasync, os.fsync = pwritev, fdatasync, fsync
"""


class FailingDisk:
    """``orders`` is the file that says what the disk does; it works until :meth:`does`."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self.patch = _PATCH.format(path=str(orders))

    def does(self, what: str) -> None:
        """From now on, for instance ``EIO-sync``."""
        part = self._orders.with_suffix(".part")
        part.write_text(what)
        part.rename(self._orders)

    def works(self) -> None:
        """As if nothing had been."""
        self._orders.unlink(missing_ok=True)
