"""Where the members of a cluster on one machine live, and the command that starts each as a process.

``raftkv dev`` uses the fixed layout of ports below; tests and benchmarks choose free ones.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from raftkv.errors import ConfigError

LOOPBACK: Final = "127.0.0.1"
PEER_OFFSET: Final = 10_000
HTTP_OFFSET: Final = 1_000
PORT_MAX: Final = 65_535
NODES_MAX: Final = 9
FREE_PORTS: Final = range(15_000, 32_000)
"""Linux gives ports from 32768 on to outgoing connections (net.ipv4.ip_local_port_range)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a cluster on this machine."""

    number: int
    """1-based."""
    client_port: int
    peer_port: int
    http_port: int
    directory: Path
    """Holds ``data``, ``pid`` and ``log``."""

    @property
    def node_id(self) -> str:
        return f"n{self.number}"

    @property
    def client(self) -> tuple[str, int]:
        return LOOPBACK, self.client_port

    @property
    def ports(self) -> tuple[int, int, int]:
        return self.client_port, self.peer_port, self.http_port

    @property
    def data(self) -> Path:
        """What the node itself writes; a directory of its own, because it refuses one that holds other files."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """Standard output and error of the process, appended to by every start."""
        return self.directory / "log"

    @property
    def pid_file(self) -> Path:
        return self.directory / "pid"


def fixed_layout(count: int, port: int, data: Path) -> list[Member]:
    """Node i (1-based): clients at port+i-1, peers at port+10000+i-1, HTTP at port+1000+i-1, its files in data/node<i>.

    Raises ConfigError when the ports do not fit.
    """
    if not 1 <= count <= NODES_MAX:
        raise ConfigError(f"--nodes is {count}; allowed: 1 to {NODES_MAX}")
    if not 1 <= port <= PORT_MAX - PEER_OFFSET - count + 1:
        raise ConfigError(
            f"--port is {port}; allowed: 1 to {PORT_MAX - PEER_OFFSET - count + 1}, because peers listen at port+{PEER_OFFSET}"
        )
    return [
        Member(place + 1, port + place, port + PEER_OFFSET + place, port + HTTP_OFFSET + place, data / f"node{place + 1}")
        for place in range(count)
    ]  # fmt: skip


def free_ports(count: int, among: Iterable[int] | None = None) -> list[int]:
    """Different ports that nobody listens on, below those that the system gives to outgoing connections.

    A port of that range could be taken by some client between the stop of a node and its next start. ``among`` are
    different candidates in the order of choice; without it, all in any order.
    """
    candidates = secrets.SystemRandom().sample(FREE_PORTS, len(FREE_PORTS)) if among is None else among
    return list(islice(filter(_is_free, candidates), count))


def free_layout(count: int, data: Path, among: Iterable[int] | None = None) -> list[Member]:
    """Members on ports that are free now, out of those of :func:`free_ports`."""
    ports = free_ports(3 * count, among)
    triples = zip(ports[::3], ports[1::3], ports[2::3], strict=True)
    return [Member(number, *triple, data / f"node{number}") for number, triple in enumerate(triples, 1)]


def ports_in_use(members: Sequence[Member]) -> list[int]:
    """Those ports of ``members`` that another process listens on."""
    return [port for member in members for port in member.ports if not _is_free(port)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the node does: TIME_WAIT does not matter
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def server_command(member: Member, members: Sequence[Member], extra: Sequence[str] = ()) -> list[str]:
    """The words that start ``member`` as ``raftkv server``; ``members`` are those that the
    cluster begins with, if any.
    """
    peers = ",".join(f"{one.node_id}={LOOPBACK}:{one.peer_port}" for one in members)
    return [
        sys.executable, "-m", "raftkv", "server", "--id", member.node_id,
        "--listen", f"{LOOPBACK}:{member.client_port}", "--peer-listen", f"{LOOPBACK}:{member.peer_port}",
        "--http-listen", f"{LOOPBACK}:{member.http_port}", *(["--peers", peers] if peers else []),
        "--data", str(member.data), *extra,
    ]  # fmt: skip


def spawn(
    member: Member, members: Sequence[Member], extra: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``member``, its output appended to its log, its pid written.

    It gets a process group of its own, so that a Ctrl-C on the terminal reaches only the one who started it and
    the nodes are stopped in order.
    """
    member.directory.mkdir(parents=True, exist_ok=True)
    with member.log.open("ab") as log:
        process = subprocess.Popen(
            server_command(member, members, extra), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            process_group=0, env={**os.environ, **(env or {})},
        )  # fmt: skip
    member.pid_file.write_text(f"{process.pid}\n")
    return process


def log_tail(member: Member, *, since: int = 0, lines: int = 15) -> str:
    """The last lines of a node's log after byte ``since``."""
    try:
        with member.log.open("rb") as log:
            log.seek(since)
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
