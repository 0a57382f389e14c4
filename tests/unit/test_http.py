"""Health, readiness, metrics over HTTP, with a node whose replication is scripted."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from raftkv.clock import SystemClock
from raftkv.config import ConfigError, Secret, Settings
from raftkv.errors import NoLeaderError
from raftkv.machine.alarms import Alarms
from raftkv.replicator import ReplicationStatus
from raftkv.server import http
from raftkv.server.clients import ClientRegistry
from raftkv.server.metrics import Metrics
from raftkv.server.progress import Progress
from raftkv.server.state import DiskState
from raftkv.store.keyspace import Keyspace
from tests.ports import free_ports

LEADING = ReplicationStatus(
    node_id="n1", cluster_id="c-1", role="leader", leader_id="n1", term=3, commit_index=9, applied_index=9,
    last_index=9, first_index=1, durable_index=9, snapshot_index=0, pending=0, halted="",
)  # fmt: skip


class ScriptedReplicator:
    """Answers each read barrier with the next of ``answers``; without one it never answers by itself."""

    def __init__(self) -> None:
        self.now = LEADING
        self.answers: list[NoLeaderError | None] = []
        self.asked = 0
        self.waiting = []
        self.held = asyncio.Event()

    def status(self) -> ReplicationStatus:
        return self.now

    def read_barrier(self, done) -> None:
        self.asked += 1
        if self.answers:
            done(1, self.answers.pop(0))
        else:
            self.waiting.append(done)
            self.held.set()


@pytest.fixture
def node():
    clock = SystemClock()
    recovery = Progress(clock.monotonic)
    recovery.end()
    return SimpleNamespace(
        settings=Settings(requirepass=Secret("hunter2"), peer_secret=Secret("swordfish")),
        clock=clock, replicator=ScriptedReplicator(), machine=SimpleNamespace(keyspace=Keyspace(), alarms=Alarms()),
        clients=ClientRegistry(), metrics=Metrics(), disk=DiskState(), started=clock.monotonic(),
        recovery=recovery, archiver=None,
    )  # fmt: skip


def with_client(node, scenario):
    """Run ``scenario(client)`` against the application."""

    async def main():
        async with TestClient(TestServer(http.make_app(node))) as client:
            return await asyncio.wait_for(scenario(client), 30)

    return asyncio.run(main())


def get(node, path: str, **options):
    """(status, decoded body, headers) of one request."""

    async def scenario(client):
        response = await client.request(options.pop("method", "GET"), path, **options)
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(text) if is_json and text else text, response.headers

    return with_client(node, scenario)


# -------------------------------------------------------------------- health


def test_health_of_a_working_node(node):
    status, body, headers = get(node, "/health")
    assert (status, body["status"], body["node"], body["role"]) == (200, "ok", "n1", "leader")
    assert body["uptime_s"] >= 0
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "raftkv"


def test_health_of_a_halted_node_says_why(node):
    node.replicator.now = replace(LEADING, halted="the log cannot be written: No space left on device")
    status, body, _ = get(node, "/health")
    assert (status, body["status"]) == (503, "halted")
    assert body["reason"] == "the log cannot be written: No space left on device"


def test_a_node_without_a_leader_is_healthy_and_not_ready(node):
    node.replicator.now = replace(LEADING, role="candidate", leader_id="")
    assert get(node, "/health")[0] == 200
    status, body, _ = get(node, "/ready")
    assert (status, body["status"], body["reason"]) == (503, "not ready", "no leader is known")
    assert node.replicator.asked == 0


# -------------------------------------------------------------------- readiness


def test_ready_once_a_barrier_succeeds(node):
    node.replicator.answers = [None]
    status, body, _ = get(node, "/ready")
    assert status == 200
    assert body == {
        "status": "ready", "node": "n1", "role": "leader", "voter": True, "leader": "n1", "term": 3, "commit_index": 9,
        "applied_index": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"voter": False}, "this node is a learner: it takes no clients before it has caught up and is promoted"),
        (
            {"voter": False, "is_member": False, "leader_id": ""},
            "this node is no member yet; any member adds it: raftkv cluster add n1 127.0.0.1:17379",
        ),
        ({"voter": False, "is_member": False, "halted": "removed"}, "removed"),
    ],
)
def test_who_has_no_vote_is_not_ready(node, fields, reason):
    node.replicator.answers = [None]
    node.replicator.now = replace(LEADING, role="follower", **fields)
    status, body, _ = get(node, "/ready")
    assert (status, body["reason"], body["voter"]) == (503, reason, False)


def test_a_plain_probe_asks_once_and_passes_the_reason_on(node):
    node.replicator.answers = [NoLeaderError("the leader is changing"), None]
    status, body, _ = get(node, "/ready")
    assert (status, body["reason"], node.replicator.asked) == (503, "the leader is changing", 1)


def test_a_plain_probe_of_a_node_that_catches_up_is_answered_soon(node, monkeypatch):
    monkeypatch.setattr(http, "PROBE_WAIT_S", 0.02)
    status, body, _ = get(node, "/ready")
    assert status == 503
    assert body["reason"] == "this node is catching up, or the leader has lost its majority (waited 0.02 s)"


def test_sync_tries_again_until_it_succeeds(node, monkeypatch):
    monkeypatch.setattr(http, "SYNC_RETRY_S", 0.0)
    node.replicator.answers = [NoLeaderError("no"), NoLeaderError("no"), None]
    status, body, _ = get(node, "/ready?sync")
    assert (status, body["status"], node.replicator.asked) == (200, "ready", 3)


def test_sync_waits_for_a_barrier_that_is_answered_later(node):
    async def scenario(client):
        request = asyncio.ensure_future(client.get("/ready?sync=1"))
        await node.replicator.held.wait()
        assert not request.done()
        node.replicator.waiting.pop()(1, None)
        return (await request).status

    assert with_client(node, scenario) == 200


def test_sync_gives_up_in_time_with_the_last_reason(node, monkeypatch):
    monkeypatch.setattr(http, "SYNC_RETRY_S", 0.001)
    node.replicator.now = replace(LEADING, leader_id="")
    status, body, _ = get(node, "/ready?sync&timeout_ms=20")
    assert (status, body["reason"]) == (503, "no leader is known (waited 0.02 s)")


def test_sync_ends_at_once_on_a_halted_node(node):
    node.replicator.now = replace(LEADING, halted="state differs from the others")
    status, body, _ = get(node, "/ready?sync&timeout_ms=60000")
    assert (status, body["reason"]) == (503, "state differs from the others")


@pytest.mark.parametrize("text", ["0", "60001", "-1", "1.5", "x", "", "999999"])
def test_a_timeout_that_is_not_allowed(node, text):
    status, body, _ = get(node, f"/ready?sync&timeout_ms={text}")
    assert (status, body["error"]) == (400, "timeout_ms must be an integer from 1 to 60000")


def test_probes_do_not_pile_up_in_replication(node, monkeypatch):
    """Those given up on count until they are answered: the bound is on what replication holds."""
    monkeypatch.setattr(http, "BARRIERS_MAX", 2)
    monkeypatch.setattr(http, "PROBE_WAIT_S", 0.01)

    async def scenario(client):
        statuses = [await (await client.get("/ready")).json() for _ in range(3)]
        assert node.replicator.asked == 2
        assert statuses[2]["reason"] == "2 probes are waiting already"
        for done in node.replicator.waiting:
            done(0, NoLeaderError("late"))
        node.replicator.answers = [None]
        return (await client.get("/ready")).status

    assert with_client(node, scenario) == 200


# -------------------------------------------------------------------- metrics and the rest


def test_metrics_in_both_formats(node):
    status, text, headers = get(node, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert "raftkv_raft_term 3.0" in text
    assert "process_resident_memory_bytes" in text
    _, text, headers = get(node, "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_the_index_names_every_endpoint(node):
    status, body, _ = get(node, "/")
    assert status == 200
    assert set(body["endpoints"]) == {"/health", "/ready", "/metrics"}
    for path in body["endpoints"]:
        node.replicator.answers = [None]
        assert get(node, path)[0] == 200


def test_other_paths_and_methods_are_refused_in_json(node):
    status, body, _ = get(node, "/secret")
    assert (status, body["error"]) == (404, "Not Found")
    status, body, headers = get(node, "/health", method="POST", data=b"x")
    assert (status, headers["Allow"]) == (405, "GET,HEAD")
    assert get(node, "/health", method="HEAD")[0] == 200


def test_a_fault_of_ours_is_a_500_without_details(node, caplog):
    node.replicator.status = lambda: 1 / 0
    status, body, _ = get(node, "/health")
    assert (status, body) == (500, {"error": "internal error; the log has the details"})
    assert "http request failed" in caplog.text


def test_a_handler_that_hangs_is_ended(node, monkeypatch):
    monkeypatch.setattr(http, "HANDLER_TIMEOUT_S", 0.02)
    status, body, _ = get(node, "/ready?sync")
    assert (status, body) == (503, {"error": "no answer within 0.02 s"})


def test_no_page_shows_a_secret(node):
    for path in ("/", "/health", "/ready", "/metrics", "/none"):
        node.replicator.answers = [None]
        shown = str(get(node, path))
        assert "hunter2" not in shown
        assert "swordfish" not in shown


# -------------------------------------------------------------------- recovery


def recovering() -> Progress:
    one = Progress(SystemClock().monotonic)
    one.begin("snapshot")
    one.at(1 << 20, 4 << 20)
    return one


def test_a_replica_that_replays_its_log_says_how_far_it_is(node):
    node.recovery = recovering()
    node.recovery.begin("replay")
    node.recovery.at(30, 120)
    node.replicator.answers = [NoLeaderError("the node is behind")]
    status, body, _ = get(node, "/ready")
    assert (status, body["reason"]) == (503, "the node is behind")
    assert body["recovery"] == {
        "phase": "replay",
        "done": 30,
        "total": 120,
        "unit": "entries",
        "rate": 0,
        "eta_s": None,
    }
    node.replicator.answers = [None]
    assert "recovery" not in get(node, "/ready")[1]


def test_before_the_node_is_there_it_is_healthy_and_says_how_far_it_is(free_port):
    progress = recovering()

    async def main():
        server = on_port(free_port)
        await server.start(http.make_starting_app("n1", progress))
        answers = {}
        async with aiohttp.ClientSession() as session:
            for path in ("/health", "/ready", "/metrics", "/none"):
                async with session.get(f"http://127.0.0.1:{free_port}{path}") as response:
                    answers[path] = response.status, await response.json()
        await server.stop()
        return answers

    answers = asyncio.run(main())
    assert answers["/health"][0] == 200
    assert answers["/health"][1]["status"] == "starting"
    status, body = answers["/ready"]
    assert (status, body["status"], body["node"]) == (503, "not ready", "n1")
    assert body["reason"] == "recovering: snapshot: 1.0 of 4.0 MiB (25%)"
    assert body["recovery"]["done"] == 1 << 20
    assert answers["/metrics"][0] == 503
    assert answers["/none"][0] == 404


def test_the_node_takes_over_from_its_start(node, free_port):
    async def main():
        server = on_port(free_port)
        await server.start(http.make_starting_app("n1", recovering()))
        url = f"http://127.0.0.1:{free_port}/health"
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as response:
                assert (await response.json())["status"] == "starting"
            await server.use(http.make_app(node))  # the session's connection is closed, and made anew
            async with session.get(url) as response:
                assert (await response.json())["status"] == "ok"
        await server.stop()

    asyncio.run(main())


# -------------------------------------------------------------------- the listening server


@pytest.fixture
def free_port():
    return free_ports(1)[0]


def on_port(port: int) -> http.HttpServer:
    return http.HttpServer(f"127.0.0.1:{port}")


def test_start_serves_and_stop_frees_the_port(node, free_port):
    async def main():
        for _ in range(2):
            server = on_port(free_port)
            await server.start(http.make_app(node))
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{free_port}/health") as response,
            ):
                assert response.status == 200
            await server.stop()
            await server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free_port)

    asyncio.run(main())


def test_a_port_in_use_is_named(node, free_port):
    async def main():
        first, second = on_port(free_port), on_port(free_port)
        await first.start(http.make_app(node))
        with pytest.raises(ConfigError, match=f"http_listen: cannot listen on 127.0.0.1:{free_port}: .*in use"):
            await second.start(http.make_app(node))
        await second.stop()
        await first.stop()

    asyncio.run(main())


def test_connections_are_bounded(node, free_port, monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)

    async def main():
        server = on_port(free_port)
        await server.start(http.make_app(node))
        held = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            held.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            answer = b""
        assert answer == b""
        for one in (*held, writer):
            one.close()
        await server.stop()

    asyncio.run(main())


def test_a_silent_connection_is_closed(node, free_port, monkeypatch):
    monkeypatch.setattr(http, "KEEPALIVE_TIMEOUT_S", 0.05)

    async def main():
        server = on_port(free_port)
        await server.start(http.make_app(node))
        reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
        writer.write(b"GET /health HTTP/1.1\r\nHos")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await server.stop()

    asyncio.run(main())
