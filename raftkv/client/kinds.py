"""Which commands write, which only read, and which a pooled connection must not send.

The client knows no command table (that is the server's); a test compares these names with it. A command in neither
set is sent at most once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftkv.client.policy import Kind
from raftkv.errors import CommandError


def _names(text: str) -> frozenset[bytes]:
    return frozenset(text.encode().split())


WRITES: Final = _names("""
    APPEND COPY DECR DECRBY DEL EVALSHA EXPIRE EXPIREAT FLUSHALL FLUSHDB GETDEL GETEX GETSET HDEL HINCRBY HINCRBYFLOAT HMSET HSET
    HSETNX INCR INCRBY INCRBYFLOAT LINSERT LMOVE LMPOP LPOP LPUSH LPUSHX LREM LSET LTRIM MDEL MOVE MSET MSETNX PERSIST
    PEXPIRE PEXPIREAT PSETEX RENAME RENAMENX RPOP RPOPLPUSH RPUSH RPUSHX SADD SDIFFSTORE SET SETEX SETNX SETRANGE
    SINTERSTORE SMOVE SPOP SREM SUNIONSTORE SWAPDB UNLINK ZADD ZDIFFSTORE ZINCRBY ZINTERSTORE ZMPOP ZPOPMAX ZPOPMIN
    ZRANGESTORE ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZUNIONSTORE
""")
READS: Final = _names("""
    CLUSTER COMMAND DBSIZE ECHO EXISTS EXPIRETIME GET GETRANGE HEXISTS HGET HGETALL HKEYS HLEN HMGET HRANDFIELD HSCAN
    HSTRLEN HVALS INFO KEYS LCS LINDEX LLEN LOLWUT LPOS LRANGE MEMORY MGET OBJECT PEXPIRETIME PING PTTL RAFT.MEMBERS RAFT.NODES
    RAFT.STATUS RAFT.TOKEN RANDOMKEY ROLE SCAN SCARD SCRIPT SDIFF SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SRANDMEMBER SSCAN STRLEN SUBSTR SUNION
    TIME TOUCH TTL TYPE ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX
    ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION
""")
BOUND_TO_CONNECTION: Final = _names("""
    ASKING AUTH DISCARD EXEC HELLO MONITOR MULTI PSUBSCRIBE QUIT RAFT.SESSION READ READONLY READWRITE RESET SELECT SUBSCRIBE
    UNSUBSCRIBE UNWATCH WATCH
""")
"""They change the connection, which another caller gets next."""


def kind_of(argv: Sequence[bytes]) -> Kind:
    """What decides whether ``argv`` may be repeated.

    Raises CommandError for a command that would leave its mark on the connection.
    """
    name = argv[0].upper()
    if name in READS:
        return Kind.READ
    if name in WRITES:
        return Kind.WRITE
    if name in BOUND_TO_CONNECTION or (name == b"CLIENT" and argv[1:2] and argv[1].upper() in {b"REPLY", b"SETNAME"}):
        raise CommandError(
            f"{name.decode('ascii', 'replace')} belongs to one connection, and this client has a pool of them; use the "
            "client's arguments (username, password, db, client_name), pipeline(transaction=True) or transaction()"
        )
    return Kind.OTHER
