"""Web sessions: one hash each, gone when nobody used it for a while.

Creating a session sets its fields and its expiry in one transaction, so that no session is ever left behind without
an expiry. Expiry is replicated: it is decided at the same place of the log on every node.

    python examples/session_store.py [--nodes host:port,host:port,...]
"""

from __future__ import annotations

import argparse
import secrets
import time

from raftkv.client import RaftKV

DEFAULT_NODES = "127.0.0.1:7379,127.0.0.1:7380,127.0.0.1:7381"


class SessionStore:
    """Sessions that end ``idle_ms`` milliseconds after their last use."""

    def __init__(self, client: RaftKV[str], idle_ms: int) -> None:
        self._client = client
        self._idle_ms = idle_ms

    def create(self, user: str, **fields: str) -> str:
        """A new session; returns its token, which nobody can guess."""
        token = secrets.token_urlsafe(24)
        batch = self._client.pipeline(transaction=True)
        batch.hset(f"session:{token}", {"user": user, **fields})
        batch.pexpire(f"session:{token}", self._idle_ms)
        batch.execute()
        return token

    def load(self, token: str) -> dict[str, str] | None:
        """The fields of a living session, whose time starts anew; None if there is none."""
        batch = self._client.pipeline(transaction=True)
        batch.hgetall(f"session:{token}")
        batch.pexpire(f"session:{token}", self._idle_ms)
        fields, alive = batch.execute()
        return fields if alive else None

    def end(self, token: str) -> bool:
        """Log out; False if the session was over already."""
        return self._client.delete(f"session:{token}") == 1


def main() -> None:
    """Log in, come back, log out, and let a session run out."""
    parser = argparse.ArgumentParser(description="A store for web sessions.")
    parser.add_argument("--nodes", default=DEFAULT_NODES, help="members, host:port,...")
    with RaftKV(parser.parse_args().nodes.split(","), decode_responses=True) as client:
        store = SessionStore(client, idle_ms=2000)

        token = store.create("ada", theme="dark")
        print(f"ada logs in:         token {token[:8]}..., {store.load(token)}")
        print(f"a forged token:      {store.load('forged')}")
        print(f"ada logs out:        {store.end(token)}, and then {store.load(token)}")

        token = store.create("grace")
        for _ in range(5):
            time.sleep(0.5)
            store.load(token)
        print(f"grace keeps clicking for 2.5 s: {store.load(token)}")
        time.sleep(2.5)
        print(f"grace is away for 2.5 s:        {store.load(token)}")


if __name__ == "__main__":
    main()
