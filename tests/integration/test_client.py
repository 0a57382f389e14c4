"""Our client against a real cluster: what each method returns, and what it survives."""

from __future__ import annotations

import asyncio
import threading

import pytest

from raftkv.client import AsyncRaftKV, RaftKV, ResponseError, WatchError
from raftkv.errors import NoLeaderError, UnknownOutcomeError

pytestmark = pytest.mark.integration


@pytest.fixture
def client(shared_cluster):
    with RaftKV(shared_cluster.addresses, decode_responses=True) as made:
        yield made


def test_strings(client):
    assert client.set("k", "v", ex=100) is True
    assert client.set("k", "w", nx=True) is False
    assert client.set_and_get("k", "w", keepttl=True) == "v"
    assert 0 < client.ttl("k") <= 100
    assert client.put("k", "x") is True
    assert client.get("missing") is None
    assert client.setnx("k", "y") is False
    assert client.setex("e", 100, "1") is True
    assert client.psetex("e", 100_000, "1") is True
    assert client.getset("k", "abc") == "x"
    assert client.getex("k", ex=50) == "abc"
    assert client.mset({"a": 1, "b": 2}) is True
    assert client.msetnx({"a": 1, "c": 2}) is False
    assert client.mget("a", "missing", "b") == ["1", None, "2"]
    assert client.append("k", "def") == 6
    assert client.strlen("k") == 6
    assert client.getrange("k", 1, -2) == "bcde"
    assert client.substr("k", 0, 1) == "ab"
    assert client.setrange("k", 5, "F!") == 7
    assert (client.incr("n"), client.incrby("n", 5), client.decr("n"), client.decrby("n", 2)) == (1, 6, 5, 3)
    assert client.incrbyfloat("n", 0.5) == 3.5
    assert client.mset({"s": "ohmytext", "t": "mynewtext"})
    assert client.lcs("s", "t") == "mytext"
    assert client.lcs_length("s", "t") == 6
    assert client.getdel("k") == "abcdeF!"


def test_keys(client):
    client.mset({"a": 1, "b": 2, "c": 3})
    assert client.exists("a", "a", "missing") == 2
    assert client.touch("a", "b") == 2
    assert client.type("a") == "string"
    assert sorted(client.keys("[ab]")) == ["a", "b"]
    assert sorted(client.scan_iter()) == ["a", "b", "c"]
    cursor, keys = client.scan(match="a", count=1000, type_="string")
    assert isinstance(cursor, int)
    assert set(keys) <= {"a"}
    assert client.randomkey() in {"a", "b", "c"}
    assert client.rename("a", "d") is True
    assert client.renamenx("b", "c") is False
    assert client.copy("c", "e") is True
    assert client.move("e", 1) is True
    assert client.expire("c", 100) is True
    assert client.expire("c", 50, gt=True) is False
    assert client.pexpire("c", 100_000) is True
    assert 0 < client.pttl("c") <= 100_000
    assert client.expireat("c", 4_000_000_000) is True
    assert client.expiretime("c") == 4_000_000_000
    assert client.pexpireat("c", 4_000_000_000_123) is True
    assert client.pexpiretime("c") == 4_000_000_000_123
    assert client.persist("c") is True
    assert client.ttl("c") == -1
    assert client.object_encoding("c") == "int"
    assert client.dbsize() == 3
    assert (client.delete("b"), client.mdel("c", "missing"), client.unlink("d")) == (1, 1, 1)


def test_lists(client):
    assert client.rpush("l", "a", "b", "c") == 3
    assert client.lpush("l", "z") == 4
    assert client.lpushx("missing", "z") == 0
    assert client.rpushx("l", "d") == 5
    assert client.lrange("l", 0, -1) == ["z", "a", "b", "c", "d"]
    assert client.llen("l") == 5
    assert client.lindex("l", 1) == "a"
    assert client.lset("l", 1, "A") is True
    assert client.linsert("l", "BEFORE", "b", "x") == 6
    assert client.lpos("l", "x") == 2
    assert client.lpos("l", "missing") is None
    assert client.lpos_many("l", "x", 0) == [2]
    assert client.lrem("l", 0, "x") == 1
    assert client.lpop("l") == "z"
    assert client.rpop("l") == "d"
    assert client.lpop_many("l", 2) == ["A", "b"]
    assert client.rpop_many("missing", 2) is None
    assert client.lmove("l", "m") == "c"
    assert client.rpoplpush("m", "l") == "c"
    assert client.ltrim("l", 0, 0) is True
    assert client.lmpop("missing", "l", count=5) == ("l", ["c"])
    assert client.lmpop("l") is None


def test_sets(client):
    assert client.sadd("s", "a", "b", "c") == 3
    assert client.sadd("t", "b", "c", "d") == 3
    assert client.srem("s", "missing") == 0
    assert client.sismember("s", "a") is True
    assert client.smismember("s", "a", "d") == [True, False]
    assert client.smembers("s") == {"a", "b", "c"}
    assert client.scard("s") == 3
    assert client.sinter("s", "t") == {"b", "c"}
    assert client.sunion("s", "t") == {"a", "b", "c", "d"}
    assert client.sdiff("s", "t") == {"a"}
    assert client.sinterstore("i", "s", "t") == 2
    assert client.sunionstore("u", "s", "t") == 4
    assert client.sdiffstore("d", "s", "t") == 1
    assert client.sintercard("s", "t", limit=1) == 1
    assert client.smove("s", "t", "a") is True
    assert client.srandmember("s") in {"b", "c"}
    assert len(client.srandmember_many("s", -5)) == 5
    cursor, members = client.sscan("s")
    assert (cursor, sorted(members)) == (0, ["b", "c"])
    assert client.spop("d") == "a"
    assert client.spop_many("i", 5) == {"b", "c"}


def test_hashes(client):
    assert client.hset("h", {"a": 1, "b": 2}) == 2
    assert client.hmset("h", {"c": 3}) is True
    assert client.hsetnx("h", "a", 5) is False
    assert client.hget("h", "a") == "1"
    assert client.hmget("h", "a", "missing") == ["1", None]
    assert client.hgetall("h") == {"a": "1", "b": "2", "c": "3"}
    assert client.hdel("h", "c") == 1
    assert client.hexists("h", "a") is True
    assert (client.hlen("h"), client.hstrlen("h", "a")) == (2, 1)
    assert sorted(client.hkeys("h")) == ["a", "b"]
    assert sorted(client.hvals("h")) == ["1", "2"]
    assert client.hincrby("h", "a", 2) == 3
    assert client.hincrbyfloat("h", "a", 0.5) == 3.5
    assert client.hrandfield("h") in {"a", "b"}
    assert sorted(client.hrandfield_many("h", 5)) == ["a", "b"]
    assert dict(client.hrandfield_with_values("h", 5)) == {"a": "3.5", "b": "2"}
    assert client.hscan("h") == (0, {"a": "3.5", "b": "2"})


def test_sorted_sets(client):
    assert client.zadd("z", {"a": 1, "b": 2, "c": 3}) == 3
    assert client.zadd("z", {"a": 0, "d": 4}, gt=True, ch=True) == 1
    assert client.zadd_incr("z", "a", 0.5) == 1.5
    assert client.zadd_incr("z", "missing", 1, xx=True) is None
    assert client.zincrby("z", 0.5, "a") == 2.0
    assert client.zcard("z") == 4
    assert client.zscore("z", "a") == 2.0
    assert client.zmscore("z", "a", "missing") == [2.0, None]
    assert (client.zrank("z", "c"), client.zrevrank("z", "c"), client.zrank("z", "missing")) == (2, 1, None)
    assert (client.zcount("z", "(2", "+inf"), client.zlexcount("z", "-", "+")) == (2, 4)
    assert client.zrange("z", 0, 1) == ["a", "b"]
    assert client.zrange_with_scores("z", 0, 0, rev=True) == [("d", 4.0)]
    assert client.zrevrange("z", 0, 0) == ["d"]
    assert client.zrevrange_with_scores("z", 0, 0) == [("d", 4.0)]
    assert client.zrangebyscore("z", 2, 3, offset=1, count=5) == ["b", "c"]
    assert client.zrangebyscore_with_scores("z", 3, "+inf") == [("c", 3.0), ("d", 4.0)]
    assert client.zrevrangebyscore("z", 3, 3) == ["c"]
    assert client.zrevrangebyscore_with_scores("z", 3, 3) == [("c", 3.0)]
    client.zadd("x", {"a": 0, "b": 0, "c": 0})
    assert client.zrangebylex("x", "[b", "+") == ["b", "c"]
    assert client.zrevrangebylex("x", "+", "[b") == ["c", "b"]
    assert client.zrangestore("r", "z", 0, 1) == 2
    assert client.zinter("z", "x") == ["a", "b", "c"]
    assert client.zinter_with_scores("z", "x", weights=(2, 1), aggregate="MAX")[0] == ("a", 4.0)
    assert client.zunion("z", "x") == ["a", "b", "c", "d"]
    assert client.zunion_with_scores("z", "x")[-1] == ("d", 4.0)
    assert client.zdiff("z", "x") == ["d"]
    assert client.zdiff_with_scores("z", "x") == [("d", 4.0)]
    assert (client.zinterstore("i", "z", "x"), client.zunionstore("u", "z", "x"), client.zdiffstore("d", "z", "x")) == (
        3,
        4,
        1,
    )
    assert client.zintercard("z", "x", limit=2) == 2
    assert client.zrandmember("d") == "d"
    assert client.zrandmember_many("d", 3) == ["d"]
    assert client.zscan("d") == (0, [("d", 4.0)])
    assert client.zpopmin("z") == [("a", 2.0)]
    assert client.zpopmax("z", 2) == [("d", 4.0), ("c", 3.0)]
    assert client.zmpop("missing", "i", highest=True) == ("i", [("c", 3.0)])
    assert client.zmpop("missing") is None
    assert client.zrem("u", "a") == 1
    assert client.zremrangebyrank("u", 0, 0) == 1
    assert client.zremrangebyscore("u", "-inf", 3) == 1
    assert client.zremrangebylex("x", "[a", "[b") == 2


def test_cluster_and_server(client, shared_cluster):
    assert client.ping() is True
    assert client.echo("hello") == "hello"
    seconds, micros = client.time()
    assert seconds > 1_700_000_000
    assert 0 <= micros < 1_000_000
    status = client.cluster_status()
    assert status["role"] == "leader"
    assert status["leader"] == shared_cluster.addresses[shared_cluster.leader()]
    assert len(client.cluster_nodes()) == 3
    assert client.stats()["redis_version"]
    assert client.info("server")["redis_version"]
    assert client.keyslot("foo") == 12182
    assert client.snapshot() > 0
    assert client.config_get("databases") == {"databases": "16"}
    assert client.slowlog_get(1) is not None
    client.set("k", "v")
    assert client.swapdb(0, 1) is True
    assert client.dbsize() == 0
    assert client.flushdb() is True
    assert client.flushall() is True


def test_text_is_optional(shared_cluster):
    with RaftKV(shared_cluster.addresses) as client:
        client.set(b"\xff", b"\x00\r\n")
        assert client.get(b"\xff") == b"\x00\r\n"


def test_errors_have_codes(client):
    client.set("k", "v")
    with pytest.raises(ResponseError) as caught:
        client.llen("k")
    assert caught.value.code == "WRONGTYPE"
    assert caught.value.definite


def test_pipelines_and_transactions(client):
    pipeline = client.pipeline()
    for i in range(700):
        pipeline.set(f"k{i}", i).get(f"k{i}")
    results = pipeline.execute()
    assert results[1::2] == [str(i) for i in range(700)]
    assert client.pipeline(transaction=True).set("a", 1).incr("a").smembers("s").execute() == [True, 2, set()]
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        client.pipeline(transaction=True).set("a", 1).llen("a").execute()
    with client.watch("a") as transaction:
        assert transaction.get("a") == "1"
        client.set("a", 9)
        with pytest.raises(WatchError):
            transaction.multi().set("a", 5).execute()
    assert client.transaction(lambda tx: tx.multi().set("b", int(tx.get("a") or 0) + 1).execute(), "a") == [True]
    assert client.get("b") == "10"


def test_asyncio(shared_cluster):
    async def scenario():
        async with AsyncRaftKV(shared_cluster.addresses, decode_responses=True) as client:
            assert sorted(await asyncio.gather(*(client.incr("n") for _ in range(200)))) == list(range(1, 201))
            assert await client.pipeline(transaction=True).incr("n").get("n").execute() == [201, "201"]
            async with client.watch("n") as transaction:
                assert await transaction.get("n") == "201"
                assert await transaction.multi().decr("n").execute() == [200]
            await client.sadd("s", "a", "b")
            assert [key async for key in client.scan_iter(type_="set")] == ["s"]

    asyncio.run(scenario())


def test_each_acknowledged_increment_happens_once_while_leaders_are_killed(cluster, wait_until):
    """Four threads count; the leader dies twice and comes back. Nothing is lost, nothing counted twice."""
    stop = threading.Event()
    acknowledged, unknown, failures = [0] * 4, [0] * 4, []

    def count(place, client):
        while not stop.is_set():
            try:
                client.incr(f"n{place}")
                acknowledged[place] += 1
            except UnknownOutcomeError:
                unknown[place] += 1
            except NoLeaderError:
                pass
            except Exception as error:  # noqa: BLE001 -- a thread's error is raised in the test
                failures.append(error)
                return

    with RaftKV(cluster.addresses, deadline_s=30.0) as client:
        threads = [threading.Thread(target=count, args=(place, client)) for place in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            before = sum(acknowledged)
            wait_until(lambda before=before: sum(acknowledged) > before + 100, "a hundred more are acknowledged")
            victim = cluster.leader()
            cluster.kill(victim)
            before = sum(acknowledged)
            wait_until(lambda before=before: sum(acknowledged) > before + 100, "a hundred more are acknowledged")
            cluster.start(victim)
            cluster.wait_ready()
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert unknown == [0] * 4
        assert [int(client.get(f"n{place}")) for place in range(4)] == acknowledged
    cluster.wait_converged()


def test_a_leader_that_stands_still_is_left_behind(shared_cluster):
    with RaftKV(shared_cluster.addresses, deadline_s=20.0, attempt_timeout_s=0.5) as client:
        assert client.incr("n") == 1
        paused = shared_cluster.leader()
        shared_cluster.pause(paused)
        assert [client.incr("n") for _ in range(20)] == list(range(2, 22))
        assert client.cluster_status()["leader"] != shared_cluster.addresses[paused]
        shared_cluster.resume(paused)
        assert client.incr("n") == 22


def test_a_token_makes_another_client_read_what_was_written(shared_cluster):
    with RaftKV(shared_cluster.addresses) as writer, RaftKV(shared_cluster.addresses, reads="token") as reader:
        for number in range(60):
            writer.set("k", number)
            reader.read_after(writer.token())
            assert [reader.get("k") for _ in range(3)] == [b"%d" % number] * 3


def test_without_a_majority_a_relaxed_client_still_reads(make_cluster):
    cluster = make_cluster(request_timeout_ms=500)
    follower = cluster.follower()
    with RaftKV(cluster.addresses, reads="local", deadline_s=5.0) as client:
        client.set("k", "v")
        cluster.wait_converged()
        cluster.kill(*(place for place in range(3) if place != follower))
        assert [client.get("k") for _ in range(4)] == [b"v"] * 4
        with pytest.raises((NoLeaderError, UnknownOutcomeError)):
            client.set("k", "w")


def test_the_asyncio_client_reads_behind_a_token(shared_cluster):
    async def use() -> bytes | None:
        async with AsyncRaftKV(shared_cluster.addresses, reads="token") as client:
            await client.set("k", "v")
            client.read_after(await client.token())
            return await client.get("k")

    assert asyncio.run(use()) == b"v"
