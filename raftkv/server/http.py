"""HTTP for machines that watch the node: health, readiness, metrics. It serves no data and no secret.

``/health`` asks whether the process should be left alone: 200 while it works, 503 once its replica halted.

``/ready`` asks whether clients should be sent here: this node is a voter, a leader is known, and it has caught up. That
cannot be read from the node's own indexes, because a follower that was away knows no higher commit index than its own;
so every probe runs a read barrier (ReadIndex, Raft thesis 6.4), which succeeds once this node has applied everything
that was committed when it was asked. A plain probe waits shortly; ``?sync`` waits until it succeeds or time is up.

It listens before the node recovers its data: until the node is there, ``/health`` says that it is
starting and ``/ready`` (503) how far that is. The replay of the log, which the node does while it is
a member already, shows there too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from raftkv import __version__
from raftkv.config_values import split_address
from raftkv.errors import BusyError, ConfigError, RaftKVError
from raftkv.server.commands.alarms import alarm_texts
from raftkv.server.logs import get_logger
from raftkv.server.metrics import make_registry

if TYPE_CHECKING:
    from raftkv.server.progress import Progress
    from raftkv.server.state import Node

PROBE_WAIT_S: Final = 0.5
"""How long a plain ``/ready`` waits for its barrier: some heartbeats."""
SYNC_RETRY_S: Final = 0.05
"""Pause of ``/ready?sync`` after a barrier that failed (no leader yet)."""
SYNC_TIMEOUT_MS_MAX: Final = 60_000
BARRIERS_MAX: Final = 64
"""Barriers of probes that replication has not answered; further probes get 503 at once."""
CONNECTIONS_MAX: Final = 256
"""HTTP connections open at once; a further one is closed as soon as it is accepted."""
REQUEST_BYTES_MAX: Final = 64 * 1024
HANDLER_TIMEOUT_S: Final = SYNC_TIMEOUT_MS_MAX / 1000 + 10
KEEPALIVE_TIMEOUT_S: Final = 15.0
"""A connection that sends no complete request for so long is closed."""
SHUTDOWN_TIMEOUT_S: Final = 1.0
BACKLOG: Final = 128

ENDPOINTS: Final = {
    "/health": "200 while the process works, 503 with the reason when its replica halted",
    "/ready": "200 when this node is a voter, knows a leader and has caught up; ?sync&timeout_ms=N waits for it; "
    "while it recovers, how far that is",
    "/metrics": "Prometheus text format (docs/metrics.md)",
}

_NODE: Final[web.AppKey[Node]] = web.AppKey("node")
_REGISTRY: Final = web.AppKey("registry", CollectorRegistry)
_BARRIERS: Final[web.AppKey[_Barriers]] = web.AppKey("barriers")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = get_logger("http")


class _Barriers:
    """Read barriers for probes, never more than BARRIERS_MAX unanswered."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._unanswered = 0

    async def run(self) -> RaftKVError | None:
        """None when a barrier succeeded, else why not. Cancelling leaves it counted until it is answered."""
        if self._unanswered >= BARRIERS_MAX:
            return BusyError(f"{BARRIERS_MAX} probes are waiting already")
        answer: asyncio.Future[RaftKVError | None] = asyncio.get_running_loop().create_future()
        self._unanswered += 1

        def done(_now_ms: int, error: RaftKVError | None) -> None:
            self._unanswered -= 1
            if not answer.done():
                answer.set_result(error)

        self._node.replicator.read_barrier(done)
        return await answer


def make_app(node: Node) -> web.Application:
    """The application for one node; also mountable in a test client."""
    app = web.Application(middlewares=[_guard], client_max_size=REQUEST_BYTES_MAX)
    app[_NODE] = node
    app[_REGISTRY] = make_registry(node)
    app[_BARRIERS] = _Barriers(node)
    app.router.add_get("/", _index)
    app.router.add_get("/health", _health)
    app.router.add_get("/ready", _ready)
    app.router.add_get("/metrics", _metrics)
    return app


def make_starting_app(node_id: str, progress: Progress) -> web.Application:
    """The application of a node that recovers its data and is not there yet."""
    own = {"node": node_id, "version": __version__}

    async def health(_request: web.Request) -> web.StreamResponse:
        return _json({"status": "starting", **own, "uptime_s": round(progress.age_s, 3)})

    async def ready(_request: web.Request) -> web.StreamResponse:
        picture = progress.picture()
        return _json(
            {"status": "not ready", **own, "reason": f"recovering: {picture}", "recovery": picture.as_dict()}, 503
        )

    async def metrics(_request: web.Request) -> web.StreamResponse:
        return _json({"error": "the node is recovering; /ready says how far it is"}, 503)

    app = web.Application(middlewares=[_guard], client_max_size=REQUEST_BYTES_MAX)
    for path, handler in {"/health": health, "/ready": ready, "/metrics": metrics}.items():
        app.router.add_get(path, handler)
    return app


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


@web.middleware
async def _guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every answer is JSON with a reason, every handler ends, and nothing internal leaks."""
    try:
        async with asyncio.timeout(HANDLER_TIMEOUT_S):
            response = await handler(request)
    except web.HTTPException as error:
        response = _json({"error": error.reason, "endpoints": list(ENDPOINTS)}, error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except TimeoutError:
        response = _json({"error": f"no answer within {HANDLER_TIMEOUT_S:g} s"}, 503)
    except Exception:
        log.exception("http request failed", path=request.path)
        response = _json({"error": "internal error; the log has the details"}, 500)
    response.headers["Server"] = "raftkv"
    return response


async def _index(request: web.Request) -> web.StreamResponse:
    node = request.app[_NODE]
    return _json({"name": "raftkv", "version": __version__, "node": node.settings.node_id, "endpoints": ENDPOINTS})


async def _health(request: web.Request) -> web.StreamResponse:
    node = request.app[_NODE]
    status = node.replicator.status()
    body: dict[str, Any] = {"status": "halted" if status.halted else "ok", "node": status.node_id}
    if status.halted:
        body["reason"] = status.halted
    body |= _alarms(node)
    body |= {"role": status.role, "version": __version__, "uptime_s": round(node.clock.monotonic() - node.started, 3)}
    return _json(body, 503 if status.halted else 200)


def _alarms(node: Node) -> dict[str, Any]:
    """Said, and no reason for another status: the node answers reads and deletions, and a restart makes no space."""
    texts = alarm_texts(node)
    return {"alarms": texts} if texts else {}


async def _ready(request: web.Request) -> web.StreamResponse:
    node = request.app[_NODE]
    sync = "sync" in request.query
    wait_s = _sync_timeout_s(request) if sync else PROBE_WAIT_S
    reason = await _why_not_ready(node, request.app[_BARRIERS], wait_s, sync=sync)
    status = node.replicator.status()
    body: dict[str, Any] = {"status": "not ready" if reason else "ready", "node": status.node_id}
    if reason:
        body["reason"] = reason
    if reason and not node.recovery.over:
        body["recovery"] = node.recovery.picture().as_dict()
    body |= _alarms(node)
    body |= {
        "role": status.role,
        "voter": status.voter,
        "leader": status.leader_id,
        "term": status.term,
        "commit_index": status.commit_index,
        "applied_index": status.applied_index,
    }
    return _json(body, 503 if reason else 200)


def _sync_timeout_s(request: web.Request) -> float:
    text = request.query.get("timeout_ms")
    if text is None:
        return min(request.app[_NODE].settings.request_timeout_ms, SYNC_TIMEOUT_MS_MAX) / 1000
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= SYNC_TIMEOUT_MS_MAX):
        raise web.HTTPBadRequest(reason=f"timeout_ms must be an integer from 1 to {SYNC_TIMEOUT_MS_MAX}")
    return int(text) / 1000


async def _why_not_ready(node: Node, barriers: _Barriers, wait_s: float, *, sync: bool) -> str:
    """Empty when ready. With ``sync``, failures are tried again until ``wait_s`` is over."""
    reason = ""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                reason = await _probe(node, barriers)
                halted = node.replicator.status().halted
                if halted or not reason or not sync:
                    return halted or reason
                await asyncio.sleep(SYNC_RETRY_S)
    except TimeoutError:
        last = reason or "this node is catching up, or the leader has lost its majority"
        return f"{last} (waited {wait_s:g} s)"


async def _probe(node: Node, barriers: _Barriers) -> str:
    status = node.replicator.status()
    if status.halted:
        return status.halted
    if status.repairing:
        return status.repairing
    if not status.is_member:
        own = f"{status.node_id} {node.settings.peer_advertise}"
        return f"this node is no member yet; any member adds it: raftkv cluster add {own}"
    if not status.leader_id:
        return "no leader is known"
    if not status.voter:
        return "this node is a learner: it takes no clients before it has caught up and is promoted"
    error = await barriers.run()
    return "" if error is None else error.message


async def _metrics(request: web.Request) -> web.StreamResponse:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = encode(request.app[_REGISTRY])
    return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


class _Refusal(asyncio.Protocol):
    """A connection above CONNECTIONS_MAX."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _quiet() -> logging.Logger:
    """A logger that drops everything: the errors of handlers are logged by :func:`_guard`."""
    quiet = logging.Logger("aiohttp.server")  # noqa: LOG001 -- one of its own, so that no root handler sees it
    quiet.addHandler(logging.NullHandler())
    return quiet


class HttpServer:
    """The ``http_listen`` address, and the application that answers there."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self, app: web.Application) -> None:
        """Listen. Raises ConfigError when the address cannot be had (in use, not of this machine)."""
        await self.use(app)
        host, port = split_address(self._address)
        try:
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, port, backlog=BACKLOG)
        except OSError as error:
            await self.stop()
            msg = f"http_listen: cannot listen on {self._address}: {error.strerror or error}"
            raise ConfigError(msg) from None
        log.info("http listening", address=self._address)

    async def use(self, app: web.Application) -> None:
        """``app`` answers from now on; connections to the one before are closed when they have their answer."""
        before, runner = (
            self._runner,
            web.AppRunner(
                app,
                access_log=None,
                logger=_quiet(),  # what is no HTTP gets its 400; a traceback of each would fill the log
                handle_signals=False,
                handler_cancellation=True,
                keepalive_timeout=KEEPALIVE_TIMEOUT_S,
                shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            ),
        )
        await runner.setup()
        self._runner = runner
        if before is not None:
            await before.cleanup()

    def _accept(self) -> asyncio.Protocol:
        server = None if self._runner is None else self._runner.server
        if server is None or len(server.connections) >= CONNECTIONS_MAX:
            return _Refusal()
        return server()

    async def stop(self) -> None:
        """Stop listening and close what is open; safe to call twice, or without :meth:`start`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
