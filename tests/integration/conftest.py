"""Real clusters: one ``raftkv server`` process a node, on free ports, with data in a temporary directory.

``cluster`` is a fresh one of three nodes, ``make_cluster(nodes=5, fsync="no")`` starts one of another kind, and
``shared_cluster`` is the same for the whole run, healed and emptied before each test. Nodes are counted from 0.
Waiting is always for a condition, with a deadline. The nodes' logs are shown with a test that failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from chaos.power import Power, build
from chaos.workload import Load
from raftkv.cli import probe
from raftkv.cli.connection import Connection
from raftkv.cli.topology import log_tail, server_command, spawn
from tests.ports import free_layout

TOLERANT: Final = {"RAFTKV_ELECTION_TIMEOUT_MS": "800", "RAFTKV_HEARTBEAT_MS": "80"}
"""A busy machine with two cores is late now and then; that shall not start an election."""
STOP_WITHIN_S: Final = 20.0
POLL_S: Final = 0.03
LOG_LINES_SHOWN: Final = 40


def wait_until(condition: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    """The first true value of ``condition``. Fails the test when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)


class Cluster:
    """Processes on this machine. ``settings`` are names of the settings table, for every node."""

    wait_until = staticmethod(wait_until)

    def __init__(self, directory: Path, nodes: int = 3, spares: int = 0, **settings: object) -> None:
        """``spares`` are places behind the first ``nodes``, for nodes that join later (:meth:`join`)."""
        self.members = free_layout(nodes + spares, directory)
        self.founders = self.members[:nodes]
        self.absent = set(range(nodes, nodes + spares))
        """Places that are no members: not there yet, or removed. Whatever concerns all nodes leaves them out."""
        self.words: dict[int, list[str]] = {}
        """Further words that a node is started with, from now on."""
        self.variables: dict[int, dict[str, str]] = {}
        """Further environment variables, likewise."""
        self.env = TOLERANT | {f"RAFTKV_{name.upper()}": str(value) for name, value in settings.items()}
        self.password = str(settings.get("requirepass", ""))
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * len(self.members)
        self.paused: set[int] = set()

    # ------------------------------------------------------------------ addresses
    @property
    def ports(self) -> list[int]:
        return [member.client_port for member in self.members]

    @property
    def http_ports(self) -> list[int]:
        return [member.http_port for member in self.members]

    @property
    def addresses(self) -> list[str]:
        return [f"{host}:{port}" for host, port in (member.client for member in self.members)]

    @property
    def pids(self) -> list[int | None]:
        return [None if one is None else one.pid for one in self.processes]

    @property
    def running(self) -> list[int]:
        """Members whose process is there and not paused."""
        return [
            place
            for place, process in enumerate(self.processes)
            if process is not None and process.poll() is None and place not in self.paused | self.absent
        ]

    # ------------------------------------------------------------------ processes
    def start(self, place: int) -> None:
        """Start a node that is down; :meth:`wait_ready` waits until it serves."""
        process = self.processes[place]
        assert process is None or process.poll() is not None, f"node {place} runs"
        words = self.words.get(place, [])
        founders = [] if "--join" in words else self.founders
        self.processes[place] = spawn(self.members[place], founders, words, env=self.environment(place))

    def join(self, place: int) -> None:
        """Start a node that is not there yet. It waits until it is added."""
        status = wait_until(lambda: self.status(self.running[0]), "the id of the cluster")
        self.words[place] = ["--join", "--cluster-id", status["cluster"]]
        self.absent.discard(place)
        self.start(place)

    def start_patched(self, place: int, patch: str) -> None:
        """Start a node that is down with ``patch``, Python that runs before it: a planted bug needs no hook in the product."""
        member = self.members[place]
        launcher = member.directory.parent / f"patched{place}.py"
        member.directory.mkdir(parents=True, exist_ok=True)
        launcher.write_text(f"{patch}\n\nimport sys\nfrom raftkv.cli.main import main\n\nsys.exit(main())\n")
        words = server_command(member, self.founders)
        paths = os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))
        with member.log.open("ab") as log:
            self.processes[place] = subprocess.Popen(
                [sys.executable, str(launcher), *words[words.index("server") :]], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, process_group=0,
                env={**os.environ, **self.environment(place), "PYTHONPATH": paths},
            )  # fmt: skip

    def environment(self, place: int) -> dict[str, str]:
        """What a node finds in its environment beside this process's own."""
        return self.env | self.variables.get(place, {})

    def start_all(self) -> None:
        for place in range(len(self.members)):
            if place not in self.running and place not in self.absent:
                self.start(place)

    def kill(self, *places: int) -> None:
        """SIGKILL, to all of them before the first is waited for."""
        for place in places:
            self._process(place).kill()
        for place in places:
            self._process(place).wait()
            self.paused.discard(place)

    def stop(self, place: int) -> int:
        """SIGTERM; the exit code (0 is a clean stop)."""
        process = self._process(place)
        process.terminate()
        return process.wait(STOP_WITHIN_S)

    def pause(self, place: int) -> None:
        """SIGSTOP: the process is there and answers nothing."""
        self._process(place).send_signal(signal.SIGSTOP)
        self.paused.add(place)

    def resume(self, place: int) -> None:
        self._process(place).send_signal(signal.SIGCONT)
        self.paused.discard(place)

    def heal(self) -> None:
        """Every node up, none paused, all serving."""
        for place in sorted(self.paused):
            self.resume(place)
        self.start_all()
        self.wait_ready()

    def close(self) -> None:
        """End every process: SIGTERM, then SIGKILL."""
        living = [process for process in self.processes if process is not None and process.poll() is None]
        for process in living:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in living:
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _process(self, place: int) -> subprocess.Popen[bytes]:
        process = self.processes[place]
        assert process is not None, f"node {place} was never started"
        return process

    # ---------------------------------------------------------------------- state
    def connect(self, place: int, timeout_s: float = 10.0) -> Connection:
        """A plain RESP connection to a node; close it, or use it as a context manager."""
        connection = Connection(*self.members[place].client, timeout_s=timeout_s)
        connection.greet(password=self.password)
        return connection

    def status(self, place: int, *fields: str) -> dict[str, str] | None:
        """RAFT.STATUS (of ``fields``) as text; None while the node does not answer."""
        return probe.status(self.members[place].client, *fields, password=self.password)

    def leader(self, within_s: float = 30.0) -> int:
        """A running node that leads and serves a linearizable read; waits for one."""

        def found() -> tuple[int] | None:
            places = self.running
            here = [self.members[place].client for place in places]
            best = probe.leader(here, password=self.password)
            if best is None or not probe.serves(here[best], password=self.password):
                return None
            return (places[best],)

        return wait_until(found, "a leader that serves", within_s)[0]

    def follower(self) -> int:
        """A running node that does not lead."""
        leader = self.leader()
        return next(place for place in self.running if place != leader)

    def wait_ready(self, within_s: float = 60.0) -> None:
        """Until a leader serves, every running node answers a linearizable read and has applied what is committed."""
        deadline = time.monotonic() + within_s

        def ready() -> bool:
            self.assert_alive()
            return all(probe.serves(self.members[place].client, password=self.password) for place in self.running)

        leader = self.leader(within_s)
        wait_until(ready, "every running node serves", max(0.0, deadline - time.monotonic()))
        target = int((self.status(leader) or {}).get("commit_index", "0"))
        wait_until(
            lambda: all(self.applied(place) >= target for place in self.running),
            f"every running node has applied entry {target}",
            max(0.0, deadline - time.monotonic()),
        )

    def applied(self, place: int) -> int:
        """The node's applied index; -1 while it does not answer."""
        return int((self.status(place) or {}).get("applied_index", "-1"))

    def assert_alive(self) -> None:
        """Fail when a process ended that nobody stopped."""
        for place, process in enumerate(self.processes):
            if process is not None and (process.poll() or 0) > 0:
                raise AssertionError(f"node {place} ended with exit code {process.returncode}:\n{self.log(place)}")

    def wait_converged(self, within_s: float = 30.0) -> str:
        """Until all running nodes have applied the same entries; their digest, which must be one."""

        def same() -> list[dict[str, str]] | None:
            wanted = ("applied_index", "commit_index", "digest")
            found = [self.status(place, *wanted) for place in self.running]
            if any(one is None for one in found):
                return None
            known = [one for one in found if one is not None]
            indexes = {one["applied_index"] for one in known} | {one["commit_index"] for one in known}
            return known if len(indexes) == 1 else None

        states = wait_until(same, "all nodes applied the same entries", within_s)
        digests = {one["digest"] for one in states}
        assert len(digests) == 1, f"the replicas differ: {states}"
        return digests.pop()

    def log(self, place: int, lines: int = LOG_LINES_SHOWN) -> str:
        return log_tail(self.members[place], lines=lines)


# ------------------------------------------------------------------------ fixtures
CLUSTERS: pytest.StashKey[list[Cluster]] = pytest.StashKey()


@pytest.fixture(name="wait_until", scope="session")
def _wait_until() -> Callable[..., Any]:
    """``wait_until(condition, "what", within_s=30)`` for tests: conftest cannot be imported by name."""
    return wait_until


@pytest.fixture
def make_cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """Starts clusters that end with the test: ``make_cluster(nodes=1, fsync="no", wait=False)``.

    ``start=False``: no node runs yet.
    """
    made: list[Cluster] = []
    shown = request.node.stash.setdefault(CLUSTERS, [])

    def make(nodes: int = 3, spares: int = 0, *, start: bool = True, wait: bool = True, **settings: object) -> Cluster:
        cluster = Cluster(tmp_path / f"cluster{len(made) + 1}", nodes, spares, **settings)
        made.append(cluster)
        shown.append(cluster)
        if start:
            cluster.start_all()
        if start and wait:
            cluster.wait_ready()
        return cluster

    try:
        yield make
    finally:
        for cluster in made:
            cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes of this test's own."""
    return make_cluster()


@pytest.fixture
def load_on(tmp_path: Path) -> Iterator[Callable[..., Load]]:
    """Starts loads that end with the test. The history stays beside the nodes' data."""
    loads: list[Load] = []

    def start(cluster: Cluster, **options: Any) -> Load:
        load = Load(cluster.addresses, path=tmp_path / f"history{len(loads) + 1}.jsonl", **options)
        loads.append(load)
        load.start()
        load.wait_acknowledged(200)
        return load

    yield start
    for load in loads:
        load.close()


SMALL: Final = {
    "election_timeout_ms": 400,
    "heartbeat_ms": 50,
    "segment_bytes": "1mb",
    "snapshot_log_bytes": "1mb",
    "log_retain_bytes": 0,
    "disk_reserve_bytes": "1mb",
}
"""Rolls, snapshots and compactions within a second; the library of ``powered`` copies whole files."""


@pytest.fixture(scope="session")
def power_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("power"))


@pytest.fixture
def powered(make_cluster: Callable[..., Cluster], power_library: Path) -> Callable[..., tuple[Cluster, list[Power]]]:
    """``powered(nodes, fsync="no")``: a cluster none of whose nodes runs yet, and the power of each."""

    def make(nodes: int, **settings: object) -> tuple[Cluster, list[Power]]:
        cluster = make_cluster(nodes, start=False, **SMALL | settings)
        for member in cluster.members:
            member.directory.mkdir(parents=True)
        powers = [Power(power_library, member.data) for member in cluster.members]
        cluster.variables = {place: power.environment() for place, power in enumerate(powers)}
        return cluster, powers

    return make


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """``mounts(name, *arguments)`` mounts, until the end of the test; skips where that is not allowed."""
    made = []

    def mount(name: str, *arguments: str) -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        made.append(path)
        return path

    yield mount
    for path in reversed(made):
        subprocess.run(["umount", "-l", str(path)], check=False)


@pytest.fixture
def small_disk(mounts: Callable[..., Path]) -> Callable[[int], Path]:
    """Mounts a file system of so many bytes."""
    return lambda size: mounts("small", "-t", "tmpfs", "-o", f"size={size}", "none")


@pytest.fixture(scope="session")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """What ``shared_cluster`` heals and empties; tests ask for that one."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"))
    try:
        cluster.start_all()
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def shared_cluster(session_cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """Three nodes that all tests share: up, serving and empty at the start of each."""
    request.node.stash.setdefault(CLUSTERS, []).append(session_cluster)
    session_cluster.heal()
    with session_cluster.connect(session_cluster.leader()) as connection:
        connection.ask("FLUSHALL")
    return session_cluster


# --------------------------------------------------------------------------- hooks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        for number, cluster in enumerate(item.stash.get(CLUSTERS, []), 1):
            for place, member in enumerate(cluster.members):
                title = f"cluster {number}, node {place} (pid {cluster.pids[place]}), end of {os.fspath(member.log)}"
                report.sections.append((title, cluster.log(place)))
    return report
