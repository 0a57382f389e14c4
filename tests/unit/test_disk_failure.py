"""Which errors are the disk's, and that a process ends even if its disk answers no more."""

from __future__ import annotations

import errno
import threading
from types import SimpleNamespace

import pytest

from persistence.directory import explain
from persistence.errors import CorruptLogError, LogFailedError
from raftkv.consensus.replica import Replica
from raftkv.server.disk_failure import EXIT_DISK, end_soon, is_disk_error


def caused_by(error: OSError) -> Exception:
    failure = LogFailedError("the log failed")
    failure.__cause__ = error
    return failure


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_another_start_may_find_mended(number):
    error = OSError(number, "no")
    assert is_disk_error(error)
    assert is_disk_error(caused_by(error))


@pytest.mark.parametrize(
    "error", [None, OSError(errno.EACCES, "no"), CorruptLogError("f", 1, "x"), explain(OSError(2, "no"), "d")]
)
def test_what_another_start_will_not_mend(error):
    assert not is_disk_error(error)


def test_a_process_that_does_not_end_is_ended():
    codes, done = [], threading.Event()
    end_soon(0.0, lambda code: (codes.append(code), done.set()))
    assert done.wait(30)
    assert codes == [EXIT_DISK]


def test_a_log_that_fails_in_the_middle_of_the_work_is_named_as_the_reason():
    said = []

    def work():
        raise LogFailedError("the log in /d failed: no space")

    Replica._guarded(SimpleNamespace(core=SimpleNamespace(halt=said.append, applied=3)), work)
    assert said == ["the log cannot be written: the log in /d failed: no space"]
