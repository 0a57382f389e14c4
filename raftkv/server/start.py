"""From settings to a node that serves, and to its end: what one process does.

HTTP and the clients' port listen first, because recovery may take a while and somebody will ask. Then log and snapshot
are read (:mod:`raftkv.server.disk`) on a thread, the node is made of them, and the ports are handed to it.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import uvloop

from persistence.directory import DataDirectory, explain
from persistence.errors import PersistenceError
from raftkv.clock import Clock, SystemClock
from raftkv.config import Settings
from raftkv.config_values import split_address
from raftkv.errors import RaftKVError
from raftkv.server import logs
from raftkv.server.disk import Disk, open_disk
from raftkv.server.disk_failure import ANSWER_S, EXIT_DISK, is_disk_error
from raftkv.server.door import Door
from raftkv.server.http import HttpServer, make_starting_app
from raftkv.server.metrics import Metrics
from raftkv.server.node import ServerNode
from raftkv.server.progress import AbandonedError, Progress, tell

EXIT_STOPPED: Final = 0
EXIT_REFUSED: Final = 2
GC_GENERATIONS: Final = (50_000, 20, 50)
"""Collections are rare: the state holds no cycles, and a full one over a million objects stops the node."""


def run(settings: Settings) -> int:
    """Run a node until SIGTERM, SIGINT or its disk fails.

    Returns the exit code; a refused start is said on standard error.
    """
    logs.configure(settings.loglevel, settings.logformat, secrets=(settings.requirepass, settings.peer_secret))
    gc.set_threshold(*GC_GENERATIONS)
    sys.setswitchinterval(0.0001)  # the log's thread must not wait 5 ms for the interpreter when its fsync is done
    try:
        directory = DataDirectory.open(
            str(settings.data_dir), node_id=settings.node_id, cluster_id=settings.cluster_id,
            new_disk_id=secrets.token_hex(8),
        )  # fmt: skip
    except PersistenceError as error:
        return _refuse(str(error), error)
    try:
        return uvloop.run(_serve(settings, directory))
    except RaftKVError as error:
        return _refuse(error.message, error)
    except PersistenceError as error:
        return _refuse(str(error), error)
    except OSError as error:
        return _refuse(_explain(settings, error), error)
    finally:
        directory.close()


async def _serve(settings: Settings, directory: DataDirectory) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    clock = SystemClock()
    progress, metrics = Progress(clock.monotonic), Metrics()
    door, http = Door(settings, progress), HttpServer(settings.http_listen)
    terminal = sys.stderr if sys.stderr.isatty() else None
    teller = asyncio.create_task(tell(progress, logs.get_logger("raftkv.server"), terminal))
    try:
        await door.listen()
        await http.start(make_starting_app(settings.node_id, progress))
        disk = await _recover(settings, directory, clock, metrics, progress, stop)
        if disk is None:
            return EXIT_STOPPED
        return await _run_node(ServerNode(settings, directory, clock, metrics, disk, progress), door, http, stop)
    finally:
        teller.cancel()
        door.close()
        await http.stop()


async def _recover(
    settings: Settings,
    directory: DataDirectory,
    clock: Clock,
    metrics: Metrics,
    progress: Progress,
    stop: asyncio.Event,
) -> Disk | None:
    """:func:`open_disk` on a thread; None when ``stop`` came first."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.create_task(stop.wait())
    with ThreadPoolExecutor(1, "recovery") as thread:
        opening = loop.run_in_executor(thread, open_disk, settings, directory, clock, metrics, progress)
        await asyncio.wait((opening, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            progress.abandon()
        stopped.cancel()
        try:
            disk = await opening
        except AbandonedError:
            return None
    if stop.is_set():
        disk.log.close()
        return None
    return disk


async def _run_node(node: ServerNode, door: Door, http: HttpServer, stop: asyncio.Event) -> int:
    """Until ``stop``, or the end of its disk; the exit code."""
    asyncio.get_running_loop().set_exception_handler(node.on_loop_error)
    try:
        await node.start(door, http)
        gc.collect()
        gc.freeze()
        ends = [asyncio.ensure_future(one.wait()) for one in (stop, node.disk_failed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for one in ends:
            one.cancel()
        if node.disk_failed.is_set():
            await asyncio.sleep(ANSWER_S)
    finally:
        door.close()
        await node.stop()
    return EXIT_DISK if node.disk_failed.is_set() else EXIT_STOPPED


def _explain(settings: Settings, error: OSError) -> str:
    taken = [
        f"{name} {address}"
        for name, address in (
            ("listen", settings.listen), ("peer_listen", settings.peer_listen), ("http_listen", settings.http_listen),
        )
        if not _free(address)
    ]  # fmt: skip
    if taken:
        return f"cannot listen on {', '.join(taken)}: in use by another process or not an address of this machine"
    if is_disk_error(error):
        return str(explain(error, str(settings.data_dir)))
    return f"cannot start: {error}"


def _free(address: str) -> bool:
    host, port = split_address(address)
    try:
        with socket.create_server((host, port), reuse_port=False):
            return True
    except OSError:
        return False


def _refuse(message: str, error: BaseException) -> int:
    sys.stderr.write(f"raftkv: {message}\n")
    return EXIT_DISK if is_disk_error(error) else EXIT_REFUSED
