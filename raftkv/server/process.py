"""Memory and processor time of this process, from /proc: the only place of the server that reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from raftkv.server.state import ProcessUsage

_KIB: Final = 1024


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
