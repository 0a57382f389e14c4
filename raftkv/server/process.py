"""What the system gives this process: memory and processor time used (from /proc), and how many files may be open."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from raftkv.server.state import ProcessUsage

_KIB: Final = 1024

RESERVED_FILES: Final = 384
"""Descriptors that clients must leave: log and snapshots, links to members, HTTP (256), and room for arrivals."""


def clients_possible(wanted: int) -> int:
    """Raise the limit of open files for ``wanted`` clients; how many of them it allows for, at least one.

    Without a limit of their own, clients would take the descriptor that the log needs for its next segment, and a log
    that cannot be written stops the node.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED_FILES))


def _field_kib(lines: str, name: str) -> int:
    """The number after ``name:`` in the format of /proc/self/status, in bytes; 0 if there is none."""
    for line in lines.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * _KIB
    return 0


def read_process_usage(proc: Path = Path("/proc")) -> ProcessUsage:
    """What the kernel says now. Where there is no /proc, memory is 0 (unknown) and the rest still holds."""
    try:
        status = (proc / "self/status").read_text(encoding="ascii", errors="replace")
        meminfo = (proc / "meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = meminfo = ""
    times = os.times()
    return ProcessUsage(
        pid=os.getpid(),
        rss_bytes=_field_kib(status, "VmRSS"),
        rss_peak_bytes=_field_kib(status, "VmHWM"),
        system_memory_bytes=_field_kib(meminfo, "MemTotal"),
        cpu_user_s=times.user,
        cpu_system_s=times.system,
    )
