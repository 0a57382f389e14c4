"""``raftkv dev``: a cluster on this machine, one process a node, watched until Ctrl-C.

The watcher sleeps in ``select`` on a pipe that the signal module writes to, so that the end of a child or a Ctrl-C
wakes it at once and none is missed between a test and the sleep.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from raftkv.cli import probe
from raftkv.cli.topology import LOOPBACK, Member, log_tail, ports_in_use, spawn
from raftkv.errors import ConfigError

STOP_GRACE_S: Final = 10.0
"""From SIGTERM to SIGKILL."""
READY_POLL_S: Final = 0.1
SLOW_START_S: Final = 20.0
"""After that long without a leader the user is told what is waited for, once."""
OTHERS_GRACE_S: Final = 5.0
"""How long ``ready`` waits for the nodes beside the leader."""
RESTART_DELAY_S: Final = 1.0
"""``--restart`` waits that long, so that a node that cannot start does not spin."""


@dataclass(slots=True)
class Running:
    """A node and its process."""

    member: Member
    process: subprocess.Popen[bytes]
    log_start: int
    """Size of the log when the process started: its own lines come after."""
    restart_at: float | None = None
    """time.monotonic() of the next start; None while it runs, or when it stays down."""
    reported: bool = False

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@dataclass(slots=True)
class Cluster:
    """The nodes of one ``raftkv dev``."""

    members: list[Member]
    extra: list[str] = field(default_factory=list)
    """Further words for every ``raftkv server``."""
    restart: bool = False
    password: str = ""
    nodes: list[Running] = field(default_factory=list)
    stop_requests: int = 0

    def run(self) -> int:
        """Start, watch, stop. 0 after a clean stop on request, 1 when the nodes ended by themselves.

        Raises ConfigError before anything starts when a port is taken.
        """
        self._refuse_taken_ports()
        with self._signals() as wake:
            self.nodes = [self._start(member) for member in self.members]
            self._introduce()
            try:
                served = self._wait_ready(wake)
                if served:
                    self._watch(wake)
            finally:
                clean = self._stop(wake)
        return 0 if self.stop_requests and clean else 1

    # ------------------------------------------------------------------ start
    def _refuse_taken_ports(self) -> None:
        taken = ports_in_use(self.members)
        if not taken:
            return
        lines = [f"in use: {', '.join(f'{LOOPBACK}:{port}' for port in taken)}; nothing was started."]
        lines += [
            f"{member.pid_file} names process {pid}, which still runs; to stop it: kill {pid}"
            for member in self.members
            if set(member.ports) & set(taken) and (pid := _living_pid(member))
        ]
        lines.append("Stop what listens there, or choose other ports: raftkv dev --port PORT")
        raise ConfigError("\n".join(lines))

    def _start(self, member: Member) -> Running:
        size = member.log.stat().st_size if member.log.exists() else 0
        return Running(member, spawn(member, self.members, self.extra), size)

    def _introduce(self) -> None:
        say(f"{len(self.members)} nodes, one process each; their files are in {self.members[0].directory.parent}")
        for node in self.nodes:
            client, peer, http = node.member.ports
            say(
                f"  {node.member.node_id}  clients {LOOPBACK}:{client}  http://{LOOPBACK}:{http}"
                f"  peers {LOOPBACK}:{peer}  pid {node.process.pid}"
            )

    # ------------------------------------------------------------------ ready
    def _wait_ready(self, wake: int) -> bool:
        """Until a leader serves; False when that cannot happen any more or a stop was asked for."""
        addresses = [member.client for member in self.members]
        began, told = time.monotonic(), False
        while not self.stop_requests:
            if failed := [node for node in self.nodes if not node.alive and node.process.returncode >= 0]:
                self._report_ended()
                say(f"{failed[0].member.node_id} could not start: stopping the others")
                return False
            self._report_ended()
            if not any(node.alive for node in self.nodes):
                return False
            leader = probe.leader(addresses, password=self.password)
            if leader is not None and probe.serves(addresses[leader], password=self.password):
                self._wait_others(wake, addresses)
                self._announce(leader)
                return True
            if not told and time.monotonic() - began > SLOW_START_S:
                told = True
                say(f"still no leader after {SLOW_START_S:g} s; the nodes' logs: {self.members[0].log} ...")
            self._sleep(wake, READY_POLL_S)
        return False

    def _wait_others(self, wake: int, addresses: list[probe.Address]) -> None:
        """A leader serves; give the others a moment, so that "ready" usually means all of them."""
        deadline = time.monotonic() + OTHERS_GRACE_S
        waiting = list(addresses)
        while not self.stop_requests and time.monotonic() < deadline:
            waiting = [one for one in waiting if not probe.serves(one, password=self.password)]
            if not waiting:
                return
            self._sleep(wake, READY_POLL_S)
        for host, port in waiting:
            say(f"{host}:{port} does not serve yet")

    def _announce(self, leader: int) -> None:
        first, last, led = self.members[0], self.members[-1], self.members[leader]
        say("")
        say("Any node takes any command. In another terminal, try:")
        say(f"  redis-cli -p {first.client_port} set greeting hello")
        say(f"  redis-cli -p {last.client_port} get greeting")
        say(f"  raftkv cli -p {first.client_port}          a prompt with completion; RAFT.STATUS shows the replica")
        say(f"  curl http://{LOOPBACK}:{first.http_port}/ready   also /health and /metrics")
        say(f"  kill -9 $(cat {led.pid_file})   the leader; what was acknowledged stays")
        say("Ctrl-C here stops all nodes; their data stays.")
        say("")
        say(f"ready: {led.node_id} leads at {LOOPBACK}:{led.client_port}")

    # ------------------------------------------------------------------ watch
    def _watch(self, wake: int) -> None:
        """Until a stop is asked for, or no node is left and none will be restarted."""
        while not self.stop_requests:
            self._report_ended()
            due = [node.restart_at for node in self.nodes if node.restart_at is not None]
            if not due and not any(node.alive for node in self.nodes):
                say("no node is left")
                return
            for place, node in enumerate(self.nodes):
                if node.restart_at is not None and node.restart_at <= time.monotonic():
                    self.nodes[place] = self._start(node.member)
                    say(f"{node.member.node_id} started again, pid {self.nodes[place].process.pid}")
            now = time.monotonic()
            due = [node.restart_at for node in self.nodes if node.restart_at is not None]
            self._sleep(wake, max(0.0, min(due) - now) if due else None)

    def _report_ended(self) -> None:
        for node in self.nodes:
            if node.alive or node.reported:
                continue
            node.reported = True
            say(f"{node.member.node_id} (pid {node.process.pid}) ended: {how_it_ended(node.process.returncode)}")
            if tail := log_tail(node.member, since=node.log_start):
                say(f"the end of {node.member.log}:")
                say("\n".join("  | " + line for line in tail.splitlines()))
            if self.restart and not self.stop_requests:
                node.restart_at = time.monotonic() + RESTART_DELAY_S

    # ------------------------------------------------------------------- stop
    def _stop(self, wake: int) -> bool:
        """SIGTERM to each, wait, SIGKILL to what is left. True when all ended by themselves, with exit code 0."""
        before = self.stop_requests
        running = [node for node in self.nodes if node.alive]
        if running:
            say(f"stopping {', '.join(node.member.node_id for node in running)}")
        for node in running:
            node.process.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        while any(node.alive for node in running):
            left = deadline - time.monotonic()
            if left <= 0 or self.stop_requests > max(before, 1):
                break
            self._sleep(wake, min(left, READY_POLL_S))
        for node in running:
            if node.alive:
                say(f"{node.member.node_id} (pid {node.process.pid}) did not stop: killed")
                node.process.kill()
            node.process.wait()
        for node in self.nodes:
            node.member.pid_file.unlink(missing_ok=True)
        # A process that was still importing when SIGTERM came dies of it: nothing had begun, nothing is wrong.
        failed = [node for node in running if node.process.returncode not in (0, -signal.SIGTERM)]
        for node in failed:
            if not node.reported:
                say(f"{node.member.node_id} ended: {how_it_ended(node.process.returncode)}; its log: {node.member.log}")
        if running and not failed:
            say("all stopped")
        return not failed

    # ---------------------------------------------------------------- signals
    @contextmanager
    def _signals(self) -> Iterator[int]:
        """Count requests to stop; yield a file descriptor that becomes readable at every signal."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)

        def on_stop(_number: int, _frame: object) -> None:
            self.stop_requests += 1

        wakes = {signal.SIGINT: on_stop, signal.SIGTERM: on_stop, signal.SIGHUP: on_stop, signal.SIGCHLD: _ignore}
        before = {number: signal.signal(number, handler) for number, handler in wakes.items()}
        old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(old_writer)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    @staticmethod
    def _sleep(wake: int, timeout_s: float | None) -> None:
        """Until a signal came or ``timeout_s`` passed."""
        if select.select([wake], [], [], timeout_s)[0]:
            try:
                os.read(wake, 4096)
            except BlockingIOError:
                return


def _ignore(_number: int, _frame: object) -> None:
    """Only wakes the watcher: a signal without a handler of Python's own would not."""


def _living_pid(member: Member) -> int | None:
    """The pid of an earlier run, if that process still exists."""
    try:
        pid = int(member.pid_file.read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def how_it_ended(code: int) -> str:
    """A return code of :mod:`subprocess` in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def say(text: str) -> None:
    """One line for the user, also through a pipe at once."""
    print(text, flush=True)
