"""Files that a real Redis wrote, imported; and a snapshot's commands, taken by a real Redis. Every key is compared.

What is compared is type, value and expiry of each key, as Redis itself tells them over its port.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis

from raftkv.machine.batch import header, plain
from raftkv.machine.machine import StateMachine
from raftkv.offline.aof import Replay, Truncated
from raftkv.offline.importing import Event, Import
from raftkv.offline.rdb import ImportedFileError, Skipped, UnsupportedError
from raftkv.offline.rebuild import Piece, commands, elements_of, live
from raftkv.offline.snapshot import as_resp
from raftkv.protocol.encoder import encode_commands
from raftkv.store.keyspace import Keyspace, type_name
from tests.differential import old_rdb
from tests.differential.harness import START_TIMEOUT_S
from tests.ports import free_ports

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")

Contents = dict[tuple[int, bytes], tuple[str, Any, int]]
"""(database, key) to type, value and expiry in ms (-1: none)."""
DATABASES = (0, 3, 15)
INTEGERS = [
    0,
    1,
    12,
    13,
    127,
    128,
    -1,
    4095,
    -4096,
    32767,
    -32769,
    1 << 22,
    -(1 << 23),
    1 << 31,
    -(1 << 40),
    (1 << 63) - 1,
]


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[redis.Redis]:
    (port,) = free_ports(1)
    words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    words += [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(["redis-server", *words], stdout=log, stderr=subprocess.STDOUT)
    client = redis.Redis(port=port)
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while True:
            try:
                client.ping()
                break
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                assert process.poll() is None, (folder / "redis.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


def random_commands(rng: Random, now_ms: int) -> Iterator[tuple[int, list[bytes]]]:
    """Keys of all types and sizes, small ones in Redis' compact forms and large ones not."""

    def word() -> bytes:
        return rng.choice([
            b"%d" % rng.choice(INTEGERS), b"", b"\x00\xff\r\n", b"w%d" % rng.randrange(1000), b"ab" * rng.randrange(400),
            rng.randbytes(rng.randrange(90)), b"0%d" % rng.randrange(9), b"x" * 5000,
        ])  # fmt: skip

    for number in range(120):
        key = b"k%d:" % number + rng.randbytes(3)
        count = rng.choice([1, 3, 30, 200])
        kind = rng.randrange(6)
        database = rng.choice(DATABASES)
        words = [word() for _ in range(count)]
        if kind == 0:
            yield database, [b"SET", key, word()]
        elif kind == 1:
            yield database, [b"RPUSH", key, *words]
        elif kind == 2:
            yield database, [b"SADD", key, *words]
        elif kind == 3:
            yield database, [b"SADD", key, *(b"%d" % rng.choice(INTEGERS) for _ in range(count))]
        elif kind == 4:
            yield database, [b"HSET", key, *(one for value in words for one in (word(), value))]
        else:
            scores = [b"inf", b"-inf", b"0.1", b"-3", b"1e17", b"3.0000000000000004", b"0"]
            yield database, [b"ZADD", key, *(one for value in words for one in (rng.choice(scores), value))]
        if rng.random() < 0.3:
            yield database, [b"PEXPIREAT", key, b"%d" % (now_ms + rng.randrange(10**6, 10**9))]


def fill(client: redis.Redis, rows: Iterable[tuple[int, list[bytes]]]) -> None:
    pipeline = client.pipeline(transaction=False)
    for database, words in rows:
        pipeline.execute_command("SELECT", database)
        pipeline.execute_command(*words)
    pipeline.execute()


def contents_of_redis(client: redis.Redis) -> Contents:
    found: Contents = {}
    for database in range(16):
        one = redis.Redis(port=client.connection_pool.connection_kwargs["port"], db=database)
        for key in one.scan_iter(count=1000):
            kind = one.type(key).decode()
            found[database, key] = kind, value_in_redis(one, key, kind), one.pexpiretime(key)
        one.close()
    return found


def value_in_redis(client: redis.Redis, key: bytes, kind: str) -> Any:
    match kind:
        case "string":
            return client.get(key)
        case "list":
            return client.lrange(key, 0, -1)
        case "set":
            return client.smembers(key)
        case "hash":
            return client.hgetall(key)
        case "zset":
            return dict(client.zrange(key, 0, -1, withscores=True))
    raise AssertionError(kind)


def contents_of(keyspace: Keyspace) -> Contents:
    found: Contents = {}
    for number, database in enumerate(keyspace.databases):
        for key, value, expire_at_ms in live(database):
            kind, elements = type_name(value), elements_of(value)
            shown = (
                elements[0]
                if kind == "string"
                else elements
                if kind == "list"
                else set(elements)
                if kind == "set"
                else dict(elements)
            )
            found[number, key] = kind, shown, -1 if expire_at_ms is None else expire_at_ms
    return found


def imported(events: Iterable[Event], now_ms: int) -> tuple[StateMachine, list[Skipped | Truncated]]:
    """A state machine after all of it; no command may fail."""
    machine, rest = StateMachine(), []
    for event in events:
        if isinstance(event, Skipped | Truncated):
            rest.append(event)
            continue
        batch = event.commands if isinstance(event, Replay) else list(commands(event))
        entry = header(now_ms) + b"".join(plain(event.database, len(batch), [encode_commands(batch)]))
        (replies,) = machine.apply(machine.index + 1, entry)
        assert not [one for one in replies if isinstance(one, Exception)], (event, replies)
    return machine, rest


def differences(ours: Contents, theirs: Contents) -> str:
    return "\n".join(
        f"{at}: {str(ours.get(at))[:300]} not {str(theirs.get(at))[:300]}"
        for at in sorted({*ours, *theirs})
        if ours.get(at) != theirs.get(at)
    )


@pytest.mark.parametrize(
    ("seed", "settings"),
    [
        (1, {}),
        (2, {"rdbcompression": "no", "rdbchecksum": "no"}),
        (3, {"hash_max_listpack_entries": "0", "zset_max_listpack_entries": "0", "set_max_intset_entries": "0"}),
        (
            4,
            {
                "list_max_listpack_size": "2",
                "list_compress_depth": "1",
                "maxmemory": "1gb",
                "maxmemory_policy": "allkeys-lfu",
            },
        ),
        (5, {"maxmemory": "1gb", "maxmemory_policy": "allkeys-lru"}),
    ],
)
def test_an_rdb_gives_the_same_keys(tmp_path: Path, seed: int, settings: dict[str, str]) -> None:
    now_ms = time.time_ns() // 1_000_000
    with running(tmp_path, **settings) as client:
        fill(client, random_commands(Random(seed), now_ms))
        client.save()
        theirs = contents_of_redis(client)
    source = Import.of(tmp_path / "dump.rdb")
    machine, rest = imported(source, now_ms)
    assert not rest
    assert len(theirs) > 100
    assert not differences(contents_of(machine.keyspace), theirs)
    assert source.facts["redis-ver"].startswith("7.")
    assert source.read_bytes == source.total_bytes


def test_a_large_container_comes_in_pieces(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        client.zadd("z", {b"member %d" % one: one for one in range(20_000)})
        client.rpush("l", *(b"x" * 1000 for _ in range(5000)))
        client.pexpireat("z", 1 << 42)
        client.save()
        theirs = contents_of_redis(client)
    pieces = [one for one in Import.of(tmp_path / "dump.rdb") if isinstance(one, Piece)]
    assert max(len(one.elements) for one in pieces) <= 512
    assert sum(one.first for one in pieces) == sum(one.last for one in pieces) == 2
    machine, _ = imported(pieces, 1)
    assert not differences(contents_of(machine.keyspace), theirs)


def append(client: redis.Redis, rng: Random, now_ms: int) -> None:
    fill(client, random_commands(rng, now_ms))
    for number in range(3):
        with client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("SELECT", 5)
            pipeline.incrby("counter", number).rpush("both", number)
            pipeline.execute_command("SELECT", 6)
            pipeline.set("other", number, ex=10_000)
            pipeline.execute()
    client.set("gone", 1)
    client.delete("gone")
    client.set("later", 1, ex=5000)
    client.hincrbyfloat("h", "f", 0.25)
    client.spop("missing")


@pytest.mark.parametrize("preamble", ["yes", "no"])
def test_append_only_files_give_the_same_keys(tmp_path: Path, preamble: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    settings = {"appendonly": "yes", "aof_use_rdb_preamble": preamble, "aof_timestamp_enabled": "yes"}
    with running(tmp_path, **settings) as client:
        append(client, Random(7), now_ms)
        client.bgrewriteaof()
        deadline = time.monotonic() + 20
        while (
            client.info("persistence")["aof_rewrite_in_progress"] or client.info("persistence")["aof_rewrite_scheduled"]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        append(client, Random(8), now_ms)
        theirs = contents_of_redis(client)
    folder = tmp_path / "appendonlydir"
    whole = Import.of(folder)
    assert len(whole.paths) == 2
    machine, rest = imported(whole, now_ms)
    assert not rest
    assert whole.replays
    assert not differences(contents_of(machine.keyspace), theirs)
    # What Redis before 7 wrote with a preamble: one file, an RDB and the commands behind it.
    single = tmp_path / "single.aof"
    single.write_bytes(b"".join(one.read_bytes() for one in whole.paths))
    machine, rest = imported(Import.of(single), now_ms)
    assert not differences(contents_of(machine.keyspace), theirs)


def test_a_torn_end_is_left_out_as_redis_does(tmp_path: Path) -> None:
    with running(tmp_path, appendonly="yes") as client:
        client.set("a", 1)
        with client.pipeline(transaction=True) as pipeline:
            pipeline.set("b", 2).set("c", 3).execute()
    (increment,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    content = increment.read_bytes()
    transaction = content.index(b"*1\r\n$5\r\nMULTI")
    for cut in range(1, len(content), 3):
        increment.write_bytes(content[:cut])
        machine, rest = imported(Import.of(tmp_path / "appendonlydir"), 1)
        keys = {key for _, key in contents_of(machine.keyspace)}
        assert keys == ({b"a"} if cut >= transaction else set()), cut
        assert cut == transaction or not keys or rest == [Truncated(str(increment), transaction)]
    for cut in (transaction - 3, transaction + 30):
        increment.write_bytes(content[:cut])
        machine, _ = imported(Import.of(tmp_path / "appendonlydir"), 1)
        with running(tmp_path, appendonly="yes") as client:
            assert set(client.scan_iter()) == {key for _, key in contents_of(machine.keyspace)}


def test_what_raftkv_has_not_is_refused_or_named(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        client.xadd("stream", {"f": "v"})
        client.xgroup_create("stream", "group", "0")
        client.xreadgroup("group", "consumer", {"stream": ">"})
        client.function_load("#!lua name=mylib\nredis.register_function('f', function() return 1 end)")
        client.set("kept", 1)
        client.save()
    with pytest.raises(UnsupportedError, match="--skip-unsupported"):
        list(Import.of(tmp_path / "dump.rdb"))
    events = list(Import.of(tmp_path / "dump.rdb", skip_unsupported=True))
    skipped = [one for one in events if isinstance(one, Skipped)]
    assert sorted(one.kind for one in skipped) == ["function", "stream"]
    assert {one.name for one in skipped} == {"stream", "#!lua name=mylib"}
    assert [one.key for one in events if isinstance(one, Piece)] == [b"kept"]


def old_file(version: int) -> bytes:
    o = old_rdb
    words = [b"%d" % one for one in INTEGERS] + [b"", b"a", b"x" * 63, b"y" * 64, b"z" * 300, b"w" * 17000]
    pairs = list(zip(words, reversed(words), strict=True))
    flat = [one for pair in pairs for one in pair]
    scores = [0.0, 1.5, -3.0, float("inf"), float("-inf"), 1e17, 0.1, 2.0000000000000004]
    scored = [(b"m%d" % place, score) for place, score in enumerate(scores)]
    texts = [one for member, score in scored for one in (member, b"%.17g" % score)]
    parts = [
        b"\xfe\x00",
        o.key(b"int8", 0, b"\xc0\x85"),
        o.key(b"int16", 0, b"\xc1\x00\x80"),
        o.key(b"int32", 0, b"\xc2\x00\x00\x00\x80"),
        o.key(b"list", 1, o.many(*map(o.string, words)), expire_s=2_000_000_000),
        o.key(b"set", 2, o.many(*map(o.string, words)), expire_ms=2_000_000_000_123),
        o.key(b"zset", 3, o.many(*(o.string(member) + o.old_double(score) for member, score in scored))),
        o.key(b"hash", 4, o.many(*(o.string(one) + o.string(two) for one, two in pairs))[0:0] + o.length(len(pairs)) + b"".join(map(o.string, flat))),
        o.key(b"zipmap", 9, o.string(o.zipmap(pairs[:-1]))),
        o.key(b"listzip", 10, o.string(o.ziplist(words))),
        o.key(b"intset2", 11, o.string(o.intset([1, -5, 300]))),
        o.key(b"intset8", 11, o.string(o.intset(INTEGERS))),
        o.key(b"zsetzip", 12, o.string(o.ziplist(texts))),
        o.key(b"hashzip", 13, o.string(o.ziplist(flat))),
    ]  # fmt: skip
    if version >= 7:
        binary = o.many(*(o.string(member) + struct.pack("<d", score) for member, score in scored))
        parts += [
            b"\xfa" + o.string(b"redis-ver") + o.string(b"3.2"),
            b"\xfb" + o.length(4) + o.length(0),
            o.key(b"quick", 14, o.many(o.string(o.ziplist(words[:9])), o.string(o.ziplist(words[9:])))),
            *([o.key(b"zset2", 5, binary)] if version >= 8 else []),
        ]
    if version >= 10:
        parts += [
            o.key(b"hashpack", 16, o.string(o.listpack(flat))),
            o.key(b"zsetpack", 17, o.string(o.listpack(texts))),
            o.key(
                b"quick2", 18, o.many(o.length(1) + o.string(b"w" * 9000), o.length(2) + o.string(o.listpack(words)))
            ),
        ]
    return o.rdb(version, *parts)


@pytest.mark.parametrize("version", [1, 4, 5, 6, 7, 8, 9, 10])
def test_files_of_older_versions_give_what_redis_reads_of_them(tmp_path: Path, version: int) -> None:
    (tmp_path / "dump.rdb").write_bytes(old_file(version))
    with running(tmp_path) as client:
        theirs = contents_of_redis(client)
    machine, rest = imported(Import.of(tmp_path / "dump.rdb"), 1)
    assert not rest
    assert len(theirs) >= 13
    assert not differences(contents_of(machine.keyspace), theirs)


def test_the_sets_of_redis_72_are_read(tmp_path: Path) -> None:
    o = old_rdb
    (tmp_path / "dump.rdb").write_bytes(o.rdb(11, o.key(b"s", 20, o.string(o.listpack([b"a", b"-7", b"x" * 200])))))
    machine, _ = imported(Import.of(tmp_path / "dump.rdb"), 1)
    assert contents_of(machine.keyspace) == {(0, b"s"): ("set", {b"a", b"-7", b"x" * 200}, -1)}
    (tmp_path / "dump.rdb").write_bytes(o.rdb(12))
    with pytest.raises(ImportedFileError, match="version 12; versions 1 to 11"):
        list(Import.of(tmp_path / "dump.rdb"))


def test_redis_takes_the_commands_of_a_snapshot(tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    machine = StateMachine()
    for index, (database, words) in enumerate(random_commands(Random(11), now_ms), 1):
        machine.apply(index, header(now_ms) + b"".join(plain(database, 1, [encode_commands([words])])))
    with running(tmp_path) as client:
        port = str(client.connection_pool.connection_kwargs["port"])
        data = b"".join(as_resp(machine.keyspace))
        done = subprocess.run(["redis-cli", "-p", port, "--pipe"], input=data, capture_output=True, check=True)
        assert b"errors: 0" in done.stdout
        assert not differences(contents_of(machine.keyspace), contents_of_redis(client))
