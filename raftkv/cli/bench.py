"""``raftkv bench``: a closed-loop load generator for users.

Each client keeps one batch of ``pipeline`` commands in flight and sends the next when all its replies are there. The
latency of every command is measured, from the write of its batch to its reply (redis-benchmark measures the first of
a batch only).

It is Python, on uvloop: a process of it sends some 100,000 to 400,000 commands per second, less than a Redis on the
same machine answers. The report therefore says how busy the generator was; near 100% it measured itself, and
``--processes`` or fewer expectations help.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final, cast

import hiredis
import uvloop

from raftkv.cli.resp import encode
from raftkv.errors import ConfigError, RaftKVError

RECONNECT_DELAY_S: Final = 0.1
RECONNECTS_MAX: Final = 50
"""In a row and without a reply, before a client gives up."""
BUSY: Final = 0.9
"""Share of a core from which on the generator is likely to be the limit."""
PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)

Maker = Callable[[int, bytes], bytes]
"""(number of the key, value) to an encoded command."""

WORKLOADS: Final[dict[str, Maker]] = {
    "ping": lambda _key, _value: encode(["PING"]),
    "set": lambda key, value: encode(["SET", f"key:{key:012d}", value]),
    "get": lambda key, _value: encode(["GET", f"key:{key:012d}"]),
    "incr": lambda key, _value: encode(["INCR", f"counter:{key:012d}"]),
    "lpush": lambda key, value: encode(["LPUSH", f"list:{key % 1000:012d}", value]),
    "rpush": lambda key, value: encode(["RPUSH", f"list:{key % 1000:012d}", value]),
    "lpop": lambda key, _value: encode(["LPOP", f"list:{key % 1000:012d}"]),
    "rpop": lambda key, _value: encode(["RPOP", f"list:{key % 1000:012d}"]),
    "sadd": lambda key, _value: encode(["SADD", f"set:{key % 1000:012d}", f"member:{key}"]),
    "hset": lambda key, value: encode(["HSET", f"hash:{key % 1000:012d}", f"field:{key}", value]),
    "hget": lambda key, _value: encode(["HGET", f"hash:{key % 1000:012d}", f"field:{key}"]),
    "zadd": lambda key, _value: encode(["ZADD", f"zset:{key % 1000:012d}", key, f"member:{key}"]),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process does for one workload."""

    host: str
    port: int
    workload: str
    clients: int
    pipeline: int
    requests: int
    """Commands to send, by all clients of this process together."""
    seconds: float
    """Stop sending after this time; 0: when ``requests`` were sent."""
    value_bytes: int
    keyspace: int
    seed: int
    password: str = ""


@dataclass(slots=True)
class Result:
    """What came of it."""

    latencies_us: array[int] = field(default_factory=lambda: array("I"))
    """One for each command that was answered, errors included."""
    errors: Counter[str] = field(default_factory=Counter)
    """Kind (code of the error reply, or ``connection lost``) to number of commands."""
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    """Of the generator's processes."""

    def add(self, other: Result) -> None:
        """Take in what another process did at the same time."""
        self.latencies_us.extend(other.latencies_us)
        self.errors.update(other.errors)
        self.elapsed_s = max(self.elapsed_s, other.elapsed_s)
        self.cpu_s += other.cpu_s


class _Load:
    """What the clients of a process share: how much is left to do, and the result."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.left = plan.requests
        self.deadline = time.perf_counter() + plan.seconds if plan.seconds else float("inf")
        self.result = Result()
        self._random = random.Random(plan.seed)  # noqa: S311 -- chooses keys, reproducibly; protects nothing
        self._value = b"x" * plan.value_bytes
        self._make = WORKLOADS[plan.workload]

    def batch(self) -> tuple[bytes, int]:
        """The next commands as bytes, and how many; none when the work is done."""
        count = min(self.plan.pipeline, self.left)
        if count <= 0 or time.perf_counter() >= self.deadline:
            return b"", 0
        self.left -= count
        draw, space, make, value = self._random.random, self.plan.keyspace, self._make, self._value
        return b"".join([make(int(draw() * space), value) for _ in range(count)]), count


class _Client(asyncio.Protocol):
    """One connection in a closed loop."""

    def __init__(self, load: _Load, greeting: bytes) -> None:
        self._load = load
        self._greeting = greeting
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._pending = 0
        self._greeted = not greeting
        self._sent_at = 0.0
        self.answered = False
        """Whether any reply came on this connection."""
        self.finished = False
        """Whether it ended because the work was done."""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is; carries the error of a refused AUTH."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        if self._greeting:
            self._transport.write(self._greeting)
        else:
            self._send()

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        reader = self._reader
        reader.feed(data)
        result = self._load.result
        while (reply := reader.gets()) is not False:
            if not self._greeted:
                self._greet(reply)
                continue
            result.latencies_us.append(int((now - self._sent_at) * 1e6))
            if isinstance(reply, hiredis.ReplyError):
                result.errors[str(reply).partition(" ")[0]] += 1
            self._pending -= 1
            self.answered = True
        if self._greeted and self._pending == 0:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        if not self.finished and self._pending:
            self._load.result.errors["connection lost"] += self._pending
        if not self.closed.done():
            self.closed.set_result(None)

    def _greet(self, reply: object) -> None:
        self._greeted = True
        if isinstance(reply, hiredis.ReplyError):
            code, _, text = str(reply).partition(" ")
            self.closed.set_exception(RaftKVError(text, code=code))
            self._close()

    def _send(self) -> None:
        data, self._pending = self._load.batch()
        if not self._pending:
            self.finished = True
            self._close()
            return
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(data)

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def _client(load: _Load) -> None:
    """One client until the work is done: connects, and connects again when it was cut off."""
    loop = asyncio.get_running_loop()
    greeting = encode(["AUTH", load.plan.password]) if load.plan.password else b""
    failures = 0
    while failures < RECONNECTS_MAX:
        try:
            _, client = await loop.create_connection(lambda: _Client(load, greeting), load.plan.host, load.plan.port)
        except OSError:
            load.result.errors["cannot connect"] += 1
            failures += 1
        else:
            await client.closed
            if client.finished:
                return
            failures = 0 if client.answered else failures + 1
        if load.left <= 0 or time.perf_counter() >= load.deadline:
            return
        await asyncio.sleep(RECONNECT_DELAY_S)


async def _all_clients(plan: Plan) -> Result:
    load = _Load(plan)
    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(_client(load) for _ in range(plan.clients)))
    load.result.elapsed_s = time.perf_counter() - began
    load.result.cpu_s = time.process_time() - cpu
    return load.result


def run_plan(plan: Plan) -> Result:
    """Run one process's share. Raises RaftKVError when the password is refused."""
    return uvloop.run(_all_clients(plan))


def split(plan: Plan, processes: int) -> list[Plan]:
    """The plan for each process; nothing is lost when the numbers do not divide."""
    return [
        Plan(
            **{name: getattr(plan, name) for name in Plan.__slots__}
            | {
                "clients": plan.clients // processes + (place < plan.clients % processes),
                "requests": plan.requests // processes + (place < plan.requests % processes),
                "seed": plan.seed + place,
            }
        )
        for place in range(min(processes, plan.clients))
    ]


def run_workload(plan: Plan, processes: int) -> Result:
    """Run a workload in one or several processes."""
    if processes == 1:
        return run_plan(plan)
    total = Result()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for result in pool.map(run_plan, split(plan, processes)):
            total.add(result)
    return total


def percentile_ms(ordered: Sequence[int], percent: float) -> float:
    """Nearest-rank percentile of sorted microseconds, in ms; 0 for none."""
    if not ordered:
        return 0.0
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1] / 1000


def summary(workload: str, result: Result, processes: int) -> dict[str, object]:
    """The figures of one workload."""
    ordered = sorted(result.latencies_us)
    elapsed = result.elapsed_s or 1e-9
    return {
        "workload": workload,
        "commands": len(ordered),
        "per_second": round(len(ordered) / elapsed),
        **{f"p{percent:g}_ms": round(percentile_ms(ordered, percent), 3) for percent in PERCENTILES},
        "max_ms": round(percentile_ms(ordered, 100), 3),
        "errors": dict(sorted(result.errors.items())),
        "generator_busy": round(result.cpu_s / elapsed / processes, 2),
    }


def report(rows: list[dict[str, object]], *, as_json: bool) -> str:
    """All workloads as a table, or as JSON lines."""
    if as_json:
        return "\n".join(json.dumps(row) for row in rows)
    columns = ["workload", "commands", "per_second", *(f"p{percent:g}_ms" for percent in PERCENTILES), "max_ms"]
    lines = ["".join(f"{name:>12}" for name in columns) + "  errors"]
    for row in rows:
        errors = row["errors"]
        assert isinstance(errors, dict)
        shown = ", ".join(f"{kind} {count}" for kind, count in errors.items()) or "none"
        lines.append("".join(f"{row[name]!s:>12}" for name in columns) + f"  {shown}")
    busiest = max(float(str(row["generator_busy"])) for row in rows)
    lines += ["", f"The load generator (Python) was busy {busiest:.0%} of its processes' time at most."]
    if busiest >= BUSY:
        lines.append("That is its limit, not the server's: try more --processes, or a generator in C (benchmarks/).")
    return "\n".join(lines)


def check(plan: Plan, workloads: Sequence[str], processes: int) -> None:
    """Raises ConfigError for numbers and names that make no sense."""
    for name in workloads or [""]:
        if name not in WORKLOADS:
            raise ConfigError(f"no workload {name!r}; known: {', '.join(WORKLOADS)}")
    for option, number in (
        ("--clients", plan.clients), ("--pipeline", plan.pipeline), ("--requests", plan.requests),
        ("--keyspace", plan.keyspace), ("--processes", processes),
    ):  # fmt: skip
        if number < 1:
            raise ConfigError(f"{option} is {number}; allowed: 1 or more")
    if processes > plan.clients:
        raise ConfigError(f"--processes is {processes}, more than --clients {plan.clients}")
