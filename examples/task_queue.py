"""A task queue that loses nothing: each task is finished at least once, and its result recorded exactly once.

A worker moves a task from ``pending`` to a list of its own in one step (LMOVE), so a task is always in some list. A
worker that lives renews a key that expires; when the key is gone, a supervisor moves the worker's tasks back. Taking
the task out and recording its result is one transaction, which only happens while the worker still has the task: a
worker that was believed dead and comes back cannot record a second result.

    python examples/task_queue.py [--nodes host:port,host:port,...]
"""

from __future__ import annotations

import argparse
import time

from raftkv.client import RaftKV, Transaction

DEFAULT_NODES = "127.0.0.1:7379,127.0.0.1:7380,127.0.0.1:7381"


class TaskQueue:
    """Tasks are text. ``alive_ms``: how long a worker may be silent before its tasks are taken away."""

    def __init__(self, client: RaftKV[str], name: str, alive_ms: int) -> None:
        self._client = client
        self._name = name
        self._alive_ms = alive_ms

    def clear(self) -> None:
        """Forget everything."""
        keys = [f"{self._name}:{kind}" for kind in ("pending", "workers", "results")]
        self._client.delete(*keys, *(self._taken(worker) for worker in self._client.smembers(keys[1])))

    def put(self, *tasks: str) -> None:
        """Add tasks at the end."""
        self._client.rpush(f"{self._name}:pending", *tasks)

    def beat(self, worker: str) -> None:
        """Say that a worker lives; to be called more often than ``alive_ms``."""
        batch = self._client.pipeline(transaction=True)
        batch.sadd(f"{self._name}:workers", worker)
        batch.set(f"{self._name}:alive:{worker}", "1", px=self._alive_ms)
        batch.execute()

    def take(self, worker: str) -> str | None:
        """The next task, now this worker's; None when there is none."""
        return self._client.lmove(f"{self._name}:pending", self._taken(worker), "LEFT", "RIGHT")

    def finish(self, worker: str, task: str, result: str) -> bool:
        """Record a result; False when the task was taken away meanwhile, and so is somebody else's."""

        def commit(transaction: Transaction[str]) -> bool:
            if task not in transaction.lrange(self._taken(worker), 0, -1):
                return False
            batch = transaction.multi()
            batch.lrem(self._taken(worker), 1, task)
            batch.hset(f"{self._name}:results", {task: result})
            batch.execute()
            return True

        return self._client.transaction(commit, self._taken(worker))

    def rescue(self) -> list[str]:
        """Give the tasks of silent workers back to the queue; which ones."""
        rescued = []
        for worker in sorted(self._client.smembers(f"{self._name}:workers")):
            if self._client.exists(f"{self._name}:alive:{worker}"):
                continue
            while (
                task := self._client.lmove(self._taken(worker), f"{self._name}:pending", "RIGHT", "LEFT")
            ) is not None:
                rescued.append(task)
        return rescued

    def results(self) -> dict[str, str]:
        """What is finished."""
        return self._client.hgetall(f"{self._name}:results")

    def _taken(self, worker: str) -> str:
        return f"{self._name}:taken:{worker}"


def main() -> None:
    """Two workers; one falls silent in the middle of a task and comes back too late."""
    parser = argparse.ArgumentParser(description="A reliable task queue.")
    parser.add_argument("--nodes", default=DEFAULT_NODES, help="members, host:port,...")
    with RaftKV(parser.parse_args().nodes.split(","), decode_responses=True) as client:
        queue = TaskQueue(client, "demo-queue", alive_ms=600)
        queue.clear()
        queue.put("resize:1", "resize:2", "resize:3", "resize:4")

        queue.beat("sleepy")
        stuck = queue.take("sleepy")
        print(f"sleepy takes {stuck} and falls silent")

        while (rescued := queue.rescue()) == []:
            time.sleep(0.1)
        print(f"the supervisor gives back {', '.join(rescued)}")

        queue.beat("busy")
        while (task := queue.take("busy")) is not None:
            done = queue.finish("busy", task, "by busy")
            print(f"busy finishes {task}: {done}")
            queue.beat("busy")

        late = queue.finish("sleepy", stuck or "", "by sleepy")
        print(f"sleepy wakes up and finishes {stuck}: {late}")
        print("results:", ", ".join(f"{task} {result}" for task, result in sorted(queue.results().items())))


if __name__ == "__main__":
    main()
