"""The disk of a node of a real cluster: put on another file system, filled up, asked about."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.conftest import wait_until


def log_of(cluster: Any, place: int) -> str:
    return cluster.members[place].log.read_text()


def ended(cluster: Any, place: int) -> int:
    """Waits for the process to end by itself; its exit code."""
    return wait_until(lambda: (cluster.processes[place].poll(),) if cluster.processes[place].poll() is not None else None,
                      "the process ends", 30.0)[0]  # fmt: skip


def move_to(cluster: Any, place: int, disk: Path) -> None:
    """The node's data directory, which is down, is on that file system from now on."""
    data = cluster.members[place].data
    shutil.move(data, disk / "data")
    subprocess.run(["sync", "-f", str(disk)], check=True)  # as the node itself had done
    data.symlink_to(disk / "data", target_is_directory=True)


def fill_up(disk: Path, *, leave: int = 0) -> Path:
    """A file that takes all of the free space but ``leave`` bytes, though the node may write meanwhile."""
    ballast = disk / "ballast"

    def taken() -> bool:
        with ballast.open("ab") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, ballast.stat().st_size + shutil.disk_usage(disk).free - leave)
        return shutil.disk_usage(disk).free <= leave

    wait_until(taken, "the disk is full")
    return ballast


def info(cluster: Any, place: int) -> dict[str, str]:
    with cluster.connect(place) as client:
        lines = client.call(b"INFO", b"persistence").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def delete_much(cluster: Any, place: int, count: int) -> None:
    """Deletions that take four kilobytes of the log each."""
    with cluster.connect(place) as client:
        for number in range(count):
            assert client.call(b"DEL", b"%04000d" % number) == 0
