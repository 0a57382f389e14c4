"""Python clients of a raftkv cluster, blocking and asyncio, with the same methods.

with RaftKV(["127.0.0.1:7379"], decode_responses=True) as client:
    client.set("greeting", "hello", ex=60)
"""

from raftkv.client.asyncio_client import AsyncPipeline, AsyncRaftKV, AsyncTransaction
from raftkv.client.blocking import Pipeline, RaftKV, Transaction
from raftkv.client.errors import ClosedError, ConnectionLostError, ResponseError, SessionExpiredError, WatchError

__all__ = [
    "AsyncPipeline",
    "AsyncRaftKV",
    "AsyncTransaction",
    "ClosedError",
    "ConnectionLostError",
    "Pipeline",
    "RaftKV",
    "ResponseError",
    "SessionExpiredError",
    "Transaction",
    "WatchError",
]
