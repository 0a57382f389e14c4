"""A decorator that caches what a function returns, for all processes together.

When an entry runs out under load, every process would compute it at once (a stampede). Here one of them takes a short
lock and computes; the others wait for its result. The lock only saves work, so it needs no fencing: if its owner is
slow or dies, somebody else computes the same value again, and nothing is wrong.

    python examples/cache_decorator.py [--nodes host:port,host:port,...]
"""

from __future__ import annotations

import argparse
import functools
import json
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from raftkv.client import RaftKV

DEFAULT_NODES = "127.0.0.1:7379,127.0.0.1:7380,127.0.0.1:7381"
POLL_S = 0.02


def cached(
    client: RaftKV[str], name: str, ttl_ms: int, compute_ms_max: int = 5000
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Cache the results of a function of JSON arguments and a JSON result for ``ttl_ms`` milliseconds."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            key = f"cache:{name}:{json.dumps(args)}"
            while True:
                hit = client.get(key)
                if hit is None and client.set(f"{key}:lock", "taken", nx=True, px=compute_ms_max):
                    hit = client.get(key)  # again: the last owner may have finished between our two questions
                    if hit is None:
                        hit = json.dumps(function(*args))
                        client.set(key, hit, px=ttl_ms)
                    client.delete(f"{key}:lock")
                if hit is not None:
                    return json.loads(hit)
                time.sleep(POLL_S)

        return wrapper

    return decorate


def main() -> None:
    """A slow function, called once and then from eight threads at once."""
    parser = argparse.ArgumentParser(description="A cache as a decorator.")
    parser.add_argument("--nodes", default=DEFAULT_NODES, help="members, host:port,...")
    with RaftKV(parser.parse_args().nodes.split(","), decode_responses=True) as client:
        calls: list[int] = []

        @cached(client, f"square-{secrets.token_hex(4)}", ttl_ms=1000)
        def square(number: int) -> int:
            calls.append(number)
            time.sleep(0.3)
            return number * number

        for attempt in ("first", "second"):
            started = time.monotonic()
            result = square(12)
            took = "slowly" if time.monotonic() - started > 0.25 else "from the cache"
            print(f"{attempt} call: {result}, {took}")

        results: list[int] = []
        threads = [threading.Thread(target=lambda: results.append(square(13))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"8 threads at once: {set(results)}, computed {calls.count(13)} time(s)")

        time.sleep(1.2)
        square(12)
        print(f"after the entry ran out: computed again, {calls.count(12)} times in all")


if __name__ == "__main__":
    main()
