"""A rate limiter over a sliding window, shared by any number of processes.

Two counters a client: of this window and of the one before. The rate is estimated as all of this window and that part
of the one before which the sliding window still covers; it is off by little and costs two keys, however many requests
come. Counting and reading are one transaction, and counted exactly once: a client that retries after a failover does
not eat its own budget.

    python examples/rate_limiter.py [--nodes host:port,host:port,...]
"""

from __future__ import annotations

import argparse
import secrets

from raftkv.client import RaftKV

DEFAULT_NODES = "127.0.0.1:7379,127.0.0.1:7380,127.0.0.1:7381"


class RateLimiter:
    """At most ``limit`` requests in any ``window_s`` seconds."""

    def __init__(self, client: RaftKV[str], limit: int, window_s: int) -> None:
        self._client = client
        self._limit = limit
        self._window_s = window_s

    def allow(self, who: str, now_s: float) -> tuple[bool, float]:
        """Whether a request of ``who`` at ``now_s`` is within the limit, and the rate with it.

        A refusal counts nothing.
        """
        window, into = divmod(now_s, self._window_s)
        this, before = f"rate:{who}:{window:.0f}", f"rate:{who}:{window - 1:.0f}"
        batch = self._client.pipeline(transaction=True)
        batch.incr(this)
        batch.expire(this, 2 * self._window_s, nx=True)
        batch.get(before)
        count, _, earlier = batch.execute()
        rate = count + int(earlier or 0) * (1 - into / self._window_s)
        if rate > self._limit:
            self._client.decr(this)
            return False, rate
        return True, rate


def main() -> None:
    """A burst, a pause, another burst. The clock is the server's, so that all callers agree."""
    parser = argparse.ArgumentParser(description="A sliding-window rate limiter.")
    parser.add_argument("--nodes", default=DEFAULT_NODES, help="members, host:port,...")
    with RaftKV(parser.parse_args().nodes.split(","), decode_responses=True) as client:
        limiter = RateLimiter(client, limit=5, window_s=10)
        who = f"demo-{secrets.token_hex(4)}"
        seconds, _ = client.time()
        start = seconds - seconds % 10  # the beginning of a window: the demonstration reads the same each time
        print("5 requests in any 10 s are allowed")
        for after_s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 9.0, 10.0, 12.5, 14.0, 14.5):
            allowed, rate = limiter.allow(who, start + after_s)
            print(f"  {after_s:4.1f} s  {'allowed' if allowed else 'REFUSED'}  (rate with it {rate:.2f})")


if __name__ == "__main__":
    main()
