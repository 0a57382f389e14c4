"""Power cuts and failed writes on the real file system, for real processes: a preloaded library keeps
what of a directory is durable.

:func:`build` compiles ``shim.c`` (whose head says what counts as durable). A process that is started with
:meth:`Power.environment` writes as ever; when it is dead, :meth:`Power.cut` puts what was durable in the place of what
it wrote. So it stands below ``OsFiles``, and needs nothing of the program: any that CPython runs will do, on Linux.

What it cannot say: what a kernel or a disk does that keeps more than it promised.
:mod:`chaos.disk` has those survivals.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("shim.c")
_FLAGS: Final = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
_SYNC_ALL: Final = """
import os, sys

def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)

for top, _, names in os.walk(sys.argv[1]):
    for name in names:
        sync(os.path.join(top, name))
    sync(top)
sync(os.path.dirname(sys.argv[1]))
"""


def build(directory: Path) -> Path:
    """The library, made in ``directory``.

    Raises FileNotFoundError without ``cc``, CalledProcessError when it refuses.
    """
    library = directory / "power.so"
    subprocess.run(["cc", *_FLAGS, "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Power:
    """The power of the disk that holds the directory ``data``; its durable state stands beside it, in ``shadow``.

    What is in ``data`` already is durable. One process writes there at a time, with the children that it forks.
    """

    def __init__(self, library: Path, data: Path) -> None:
        self.data = data.parent.resolve() / data.name
        self.shadow = self.data.with_name(f"{data.name}.durable")
        self._library = library
        self._begin()

    def environment(self, strike: str = "") -> dict[str, str]:
        """Variables for the process.

        ``strike``: it dies right before a call, as ``"<n> <pattern>"`` (see ``shim.c``).
        """
        return {
            "LD_PRELOAD": str(self._library),
            "POWER_ROOT": str(self.data),
            "POWER_SHADOW": str(self.shadow),
            "POWER_STRIKE": strike,
        }

    def fail(self, what: str) -> None:
        """From now on: what a write or a sync of the running process meets, as
        ``"<n> <how> <pattern>"`` (see ``shim.c``).
        """
        part = self.shadow / "fail.part"
        part.write_text(what)
        part.rename(self.shadow / "fail")

    def struck(self) -> str:
        """The call that the last strike or failure hit, and forget it; empty when there was none."""
        note = self.shadow / "struck"
        text = note.read_text() if note.exists() else ""
        note.unlink(missing_ok=True)
        return text

    def cut(self) -> None:
        """The power goes: what was not synced is gone. The process must be dead."""
        gone = self.data.with_name(f"{self.data.name}.gone")
        gone.mkdir()
        # Out of the way first: a child that was killed with its parent may be inside its last system call.
        durable = self.shadow.rename(gone / "durable") / "dirs" / str(self.data.parent.stat().st_ino) / self.data.name
        if self.data.exists():
            self.data.rename(gone / "data")
        if durable.exists():
            shutil.copytree(durable, self.data)
        shutil.rmtree(gone)
        self._begin()

    def _begin(self) -> None:
        for part in ("content", "dirs", "pins", "dirty"):
            (self.shadow / part).mkdir(parents=True)
        if self.data.exists():
            words = [sys.executable, "-I", "-S", "-c", _SYNC_ALL, str(self.data)]
            subprocess.run(words, check=True, env={**os.environ, **self.environment()})
