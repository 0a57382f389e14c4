"""A lock with a fencing token, and why a lock without one is not safe.

A lock over a network has to expire, or a holder that dies would keep it for ever. But then a holder that only stands
still for a while (a long garbage collection, a paused machine, a slow disk) wakes up believing that it holds the lock,
when somebody else has it. No time-out and no clever lock service can prevent that: between the holder's last check and
its write there is always a gap in which it may be stopped.

So the thing that the lock protects has to help. With every grant comes a number that only grows, the fencing token; the
holder sends it along, and the resource refuses a token lower than the highest it has seen. Here the token is an INCR in
the same transaction as the grant: grants and tokens have the same order, that of the replicated log.

    python examples/distributed_lock.py [--nodes host:port,host:port,...]
"""

from __future__ import annotations

import argparse
import secrets
import time

from raftkv.client import RaftKV, Transaction

DEFAULT_NODES = "127.0.0.1:7379,127.0.0.1:7380,127.0.0.1:7381"


class Lock:
    """One holder's view of a lock that expires after ``ttl_ms`` milliseconds."""

    def __init__(self, client: RaftKV[str], name: str, ttl_ms: int) -> None:
        self._client = client
        self._key = f"lock:{name}"
        self._ttl_ms = ttl_ms
        self._owner = secrets.token_hex(16)

    def acquire(self) -> int | None:
        """The fencing token if the lock was free, else None.

        The counter also grows when the lock is taken: a token need not be the next, only higher than all before.
        """
        batch = self._client.pipeline(transaction=True)
        batch.set(self._key, self._owner, nx=True, px=self._ttl_ms)
        batch.incr(f"{self._key}:token")
        granted, token = batch.execute()
        return token if granted else None

    def release(self) -> bool:
        """Give the lock back; False if it was not ours any more. Never takes away somebody else's."""

        def give_back(transaction: Transaction[str]) -> bool:
            if transaction.get(self._key) != self._owner:
                return False
            batch = transaction.multi()
            batch.delete(self._key)
            batch.execute()
            return True

        return self._client.transaction(give_back, self._key)


class Document:
    """What the lock protects. It stands for any storage that can compare a number before it writes."""

    def __init__(self, *, fenced: bool) -> None:
        self.text = ""
        self._fenced = fenced
        self._highest = 0

    def write(self, text: str, token: int) -> bool:
        """Write, unless a later holder was here already."""
        if self._fenced and token < self._highest:
            return False
        self._highest = max(self._highest, token)
        self.text = text
        return True


def story(client: RaftKV[str], *, fenced: bool) -> None:
    """Anna takes the lock and stands still for longer than it lasts; Ben takes it and writes; Anna goes on."""
    name = f"demo-{secrets.token_hex(4)}"
    anna, ben = Lock(client, name, ttl_ms=500), Lock(client, name, ttl_ms=5000)
    document = Document(fenced=fenced)

    first = anna.acquire()
    assert first is not None
    print(f"  Anna gets the lock, token {first}; Ben gets {ben.acquire()}")
    print("  Anna's process stands still for longer than the lock lasts ...")
    while (second := ben.acquire()) is None:
        time.sleep(0.1)
    document.write("Ben's work", second)
    print(f"  Ben gets the lock, token {'higher' if second > first else 'NOT HIGHER'}, and writes")
    accepted = document.write("Anna's stale work", first)
    print(f"  Anna wakes up and writes: {'accepted' if accepted else 'refused, her token is too old'}")
    print(f"  The document holds: {document.text}")
    print(f"  Anna releases: {anna.release()}, Ben releases: {ben.release()}")


def main() -> None:
    """The same story twice."""
    parser = argparse.ArgumentParser(description="A lock with a fencing token.")
    parser.add_argument("--nodes", default=DEFAULT_NODES, help="members, host:port,...")
    with RaftKV(parser.parse_args().nodes.split(","), decode_responses=True) as client:
        print("A lock alone:")
        story(client, fenced=False)
        print("A lock with a fencing token:")
        story(client, fenced=True)


if __name__ == "__main__":
    main()
