"""The load generators: building them, running them, reading what they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
BUILD: Final = HERE / ".build"
VALUE_BYTES: Final = 64
SLACK_S: Final = 60.0
"""A generator that is not done so long after its time is stuck."""

_ETCDBENCH: Final = re.compile(r"(?P<rps>[\d.]+)/s p50=(?P<p50>[\d.]+) p99=(?P<p99>[\d.]+) ms errs=(?P<errors>\d+)")


class BenchError(Exception):
    """Something that a benchmark needs did not work; the message says what."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def build() -> None:
    """Install what is missing (Debian packages) and compile both generators when their source is newer."""
    run([HERE.parent / "tests" / "setup" / "system-packages.sh", "--bench"])
    BUILD.mkdir(exist_ok=True)
    loadgen, etcdbench = HERE / "loadgen" / "loadgen.c", HERE / "etcdbench" / "main.go"
    if _stale(BUILD / "loadgen", loadgen):
        run(["gcc", "-O2", "-o", BUILD / "loadgen", loadgen, "-lm"])
    if _stale(BUILD / "etcdbench", etcdbench):
        go = {"GOPATH": "/usr/share/gocode", "GO111MODULE": "off", "GOFLAGS": ""}
        run(["go", "build", "-o", BUILD / "etcdbench", etcdbench], env=go)


def _stale(made: Path, source: Path) -> bool:
    return not made.exists() or made.stat().st_mtime < source.stat().st_mtime


def run(command: list[str | Path], *, env: dict[str, str] | None = None, timeout_s: float = 600.0) -> str:
    """Standard output of a command. Raises BenchError with its standard error when it fails."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, env={**os.environ, **(env or {})}, timeout=timeout_s, capture_output=True, text=True, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{words[0]}: {error}") from None
    if done.returncode != 0:
        raise BenchError(f"{' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def resp(
    port: int, mode: str, *, clients: int, pipeline: int = 1, seconds: float, keys: int, wait_ms: int = 1000, first: str = ""
) -> Sample:  # fmt: skip
    """Loadgen for ``seconds`` (``fill``: until each key is written, within that time).

    ``first`` is a command that each connection begins with and that must be answered OK.

    Raises BenchError when it fails or any reply is missing; error replies are counted in the sample.
    """
    out = run(
        [
            BUILD / "loadgen", "-p", str(port), "-m", mode, "-c", str(clients), "-P", str(pipeline), "-n", "2000000000",
            "-d", str(VALUE_BYTES), "-r", str(keys), "-t", str(wait_ms), "-T", str(seconds), "-j",
            *(["-i", first] if first else []),
        ],
        timeout_s=seconds + SLACK_S,
    )  # fmt: skip
    found = json.loads(out)
    if mode == "fill" and found["n"] != keys:
        raise BenchError(f"only {found['n']} of {keys} keys were written within {seconds:g} s")
    return Sample(found["rps"], found["p50"], found["p99"], found["errs"] + found["miss"])


def etcd(endpoint: str, op: str, *, clients: int, seconds: float, keys: int) -> Sample:
    """Etcdbench against one endpoint for ``seconds`` (``fill``: until each key is written)."""
    limit = [] if op == "fill" else ["-T", str(seconds)]
    out = run(
        [
            BUILD / "etcdbench", "-endpoints", endpoint, "-op", op, "-c", str(clients), "-n", "2000000000",
            "-d", str(VALUE_BYTES), "-r", str(keys), *limit,
        ],
        timeout_s=seconds + 3 * SLACK_S,
    )  # fmt: skip
    found = _ETCDBENCH.search(out)
    if found is None:
        raise BenchError(f"etcdbench printed {out!r}")
    return Sample(float(found["rps"]), float(found["p50"]), float(found["p99"]), int(found["errors"]))
