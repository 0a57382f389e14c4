"""Work that may wait for the disk for long, on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread


def on_a_thread(work: Callable[[], None]) -> Callable[[], bool]:
    """Begin ``work``. What is returned says whether it has ended, and raises what it raised."""
    ended: Future[None] = Future()

    def run() -> None:
        try:
            work()
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 -- whoever asks gets it
            ended.set_exception(error)

    def is_done() -> bool:
        if not ended.done():
            return False
        ended.result()
        return True

    Thread(target=run, name="aside", daemon=True).start()
    return is_done
