"""redis-py, unchanged, in its oldest and its newest version that matter: plain, cluster, Sentinel, locks.

Version 8 is installed beside the tests. Version 5 is put into a directory of the test cache on first use, and imported
from there under a name of its own; without a package index (and without the cache) its tests are skipped.
"""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.integration.conftest import wait_until

OLD = "5.0.8"
INSTALL_WITHIN_S = 60
LARGE = 20 << 20
NAMES = ("redis", "redis.cluster", "redis.sentinel", "redis.lock", "redis.exceptions", "redis.retry", "redis.backoff")


def _import(path: Path | None) -> SimpleNamespace:
    """The modules of the redis-py in ``path``, leaving what is imported as ``redis`` alone."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "redis"}
    if path is not None:
        sys.path.insert(0, str(path))
    try:
        modules = {name.rpartition(".")[2]: importlib.import_module(name) for name in NAMES}
    finally:
        if path is not None:
            sys.path.remove(str(path))
        for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
            del sys.modules[name]
        sys.modules.update(kept)
    return SimpleNamespace(**modules)


def _install_old(config: pytest.Config) -> Path:
    target = Path(config.cache.mkdir(f"redis-py-{OLD}"))
    if not (target / "redis" / "lock.py").exists():
        try:
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", "--retries", "1",
                 "--target", str(target), f"redis=={OLD}"],
                check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN_S,
            )  # fmt: skip
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"redis-py {OLD} cannot be installed: {getattr(error, 'stderr', None) or error}")
    return target


@pytest.fixture(scope="module", params=["old", "new"])
def library(request):
    """Modules of one version of redis-py, and that version."""
    if request.param == "new":
        found = _import(None)
    else:
        found = _import(_install_old(request.config))
        assert found.redis.__version__ == OLD
    return found


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def client(request, library, shared_cluster):
    """Connected to a follower, so that every write is forwarded."""
    port = shared_cluster.ports[shared_cluster.follower()]
    with library.redis.Redis(port=port, protocol=request.param, socket_timeout=30) as made:
        yield made


class TestPlain:
    def test_types_come_back_as_they_went(self, client):
        key = bytes(range(256))
        assert client.set(key, key[::-1]) is True
        assert client.get(key) == key[::-1]
        assert client.set("n", 1, nx=True, ex=100) is True
        assert client.set("n", 2, nx=True) is None
        assert client.incrby("n", 41) == 42
        assert 0 < client.ttl("n") <= 100
        assert client.rpush("list", *range(5)) == 5
        assert client.lrange("list", 1, -2) == [b"1", b"2", b"3"]
        assert client.hset("hash", mapping={"a": 1, "b": "zwei"}) == 2
        assert client.hgetall("hash") == {b"a": b"1", b"b": b"zwei"}
        assert client.sadd("set", "x", "y") == 2
        assert set(client.smembers("set")) == {b"x", b"y"}
        assert client.zadd("zset", {"low": 1, "high": 2.5}) == 2
        scored = client.zrange("zset", 0, -1, withscores=True)
        assert [(one[0], one[1]) for one in scored] == [(b"low", 1.0), (b"high", 2.5)]
        assert client.zscore("zset", "high") == 2.5
        assert sorted(client.scan_iter(match="?set", count=2)) == [b"zset"]
        assert client.info("server")["redis_mode"]
        assert client.exists("n", "list", "nothing") == 2

    def test_text_is_decoded_when_asked(self, library, shared_cluster):
        port = shared_cluster.ports[shared_cluster.follower()]
        with library.redis.Redis(port=port, decode_responses=True) as client:
            client.hset("h", "ключ", "värde")
            assert client.hgetall("h") == {"ключ": "värde"}
            assert client.set("k", "v", get=True) is None
            assert client.set("k", "w", get=True) == "v"

    def test_databases_and_names(self, library, shared_cluster):
        port = shared_cluster.ports[shared_cluster.follower()]
        with library.redis.Redis(port=port, db=7, client_name="seven") as client:
            client.set("only", "here")
            assert client.client_getname() in {"seven", b"seven"}
            assert client.dbsize() == 1
        with library.redis.Redis(port=port) as client:
            assert client.get("only") is None

    def test_a_value_of_20_mib(self, client):
        value = bytes(range(256)) * (LARGE // 256)
        assert client.set("large", value) is True
        assert client.get("large") == value
        assert client.append("large", b"!") == LARGE + 1
        assert client.getrange("large", LARGE - 1, -1) == b"\xff!"
        assert client.getset("large", "") == value + b"!"

    def test_errors_are_redis_errors(self, library, client):
        client.set("text", "x")
        with pytest.raises(library.exceptions.ResponseError, match="not an integer"):
            client.incr("text")
        with pytest.raises(library.exceptions.ResponseError, match="WRONGTYPE"):
            client.lpush("text", 1)


class TestPipelines:
    def test_of_10_000_mixed_commands_keep_their_order(self, client):
        pipe = client.pipeline(transaction=False)
        expected: list[object] = []
        for number in range(2500):
            key = f"key:{number % 7}"
            pipe.set(key, f"value:{number}")
            pipe.get(key)
            pipe.incr("count")
            pipe.getrange(key, 6, -1)
            expected += [True, b"value:%d" % number, number + 1, b"%d" % number]
        assert pipe.execute() == expected

    def test_a_failing_command_fails_alone(self, library, client):
        pipe = client.pipeline(transaction=False)
        pipe.set("text", "x").incr("text").get("text").execute_command("NOSUCH", "a").ping()
        replies = pipe.execute(raise_on_error=False)
        assert (replies[0], replies[2], replies[4]) == (True, b"x", True)
        assert isinstance(replies[1], library.exceptions.ResponseError)
        assert isinstance(replies[3], library.exceptions.ResponseError)


class TestTransactions:
    def test_succeed_when_nothing_changed(self, library, client):
        client.set("balance", 10)
        with client.pipeline() as pipe:
            pipe.watch("balance")
            balance = int(pipe.get("balance"))
            pipe.multi()
            pipe.set("balance", balance + 5)
            pipe.incr("balance")
            assert pipe.execute() == [True, 16]

    def test_fail_when_another_node_changed_the_key(self, library, client, shared_cluster):
        with (
            library.redis.Redis(port=shared_cluster.ports[shared_cluster.leader()]) as other,
            client.pipeline() as pipe,
        ):
            pipe.watch("balance")
            other.set("balance", 99)
            pipe.multi()
            pipe.set("balance", 1)
            with pytest.raises(library.exceptions.WatchError):
                pipe.execute()
        assert client.get("balance") == b"99"

    def test_of_many_threads_lose_no_update(self, library, shared_cluster):
        def add(port: int) -> None:
            with library.redis.Redis(port=port) as client:
                for _ in range(10):
                    client.transaction(
                        lambda pipe: (value := int(pipe.get("sum") or 0), pipe.multi(), pipe.set("sum", value + 1)),
                        "sum",
                    )

        threads = [threading.Thread(target=add, args=(port,)) for port in shared_cluster.ports]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with library.redis.Redis(port=shared_cluster.ports[0]) as client:
            assert client.get("sum") == b"30"


class TestCluster:
    def test_reads_and_writes_everywhere(self, library, shared_cluster):
        with contextlib.closing(library.cluster.RedisCluster(host="127.0.0.1", port=shared_cluster.ports[0])) as client:
            for number in range(200):
                assert client.set(f"key:{number}", number) is True
            assert [client.get(f"key:{number}") for number in range(200)] == [b"%d" % number for number in range(200)]
            assert client.mget_nonatomic([f"key:{number}" for number in range(50)]) == [
                b"%d" % one for one in range(50)
            ]
            pipe = client.pipeline()
            for number in range(100):
                pipe.incr(f"count:{number}")
                pipe.get(f"key:{number}")
            assert pipe.execute() == [one for number in range(100) for one in (1, b"%d" % number)]
            assert client.delete(*[f"key:{number}" for number in range(200)]) == 200
            assert len(client.get_primaries()) >= 2

    @pytest.mark.parametrize("who", ["leader", "follower"])
    def test_goes_on_without_a_node(self, library, shared_cluster, who):
        cluster = shared_cluster
        victim = cluster.leader() if who == "leader" else cluster.follower()
        nodes = [library.cluster.ClusterNode("127.0.0.1", port) for port in cluster.ports]
        with contextlib.closing(library.cluster.RedisCluster(startup_nodes=nodes, socket_timeout=5)) as client:
            for number in range(60):
                client.set(f"key:{number}", number)
            cluster.kill(victim)
            cluster.leader()
            wait_until(lambda: self._set_all(library, client), "all keys can be written", 30)
            assert [client.get(f"key:{number}") for number in range(60)] == [b"%d" % (one + 1) for one in range(60)]

    def _set_all(self, library, client) -> bool:
        try:
            return all(client.set(f"key:{number}", number + 1) for number in range(60))
        except library.exceptions.RedisError:
            return False


class TestSentinel:
    def test_finds_the_leader_now_and_after_a_failover(self, library, shared_cluster):
        cluster = shared_cluster
        leader = cluster.leader()
        sentinel = library.sentinel.Sentinel([("127.0.0.1", port) for port in cluster.ports], socket_timeout=2)
        assert sentinel.discover_master("raftkv") == ("127.0.0.1", cluster.ports[leader])
        assert sorted(sentinel.discover_slaves("mymaster")) == sorted(
            ("127.0.0.1", port) for port in cluster.ports if port != cluster.ports[leader]
        )
        master = sentinel.master_for("mymaster", socket_timeout=5)
        replica = sentinel.slave_for("mymaster", socket_timeout=5)
        assert master.set("k", "before") is True
        assert replica.get("k") == b"before"
        cluster.kill(leader)
        successor = cluster.leader()
        assert wait_until(lambda: self._set(library, master), "the new master takes writes")
        assert sentinel.discover_master("mymaster") == ("127.0.0.1", cluster.ports[successor])
        assert master.get("k") == b"after"

    def _set(self, library, master) -> bool:
        try:
            return bool(master.set("k", "after"))
        except library.exceptions.RedisError:
            return False


class TestLock:
    def test_is_held_by_one_extended_and_released(self, library, client):
        lock = client.lock("lock", timeout=30)
        assert lock.acquire() is True
        assert client.lock("lock", timeout=30).acquire(blocking=False) is False
        assert lock.owned()
        assert lock.extend(20) is True
        assert 45 < client.ttl("lock") <= 50
        assert lock.extend(5, replace_ttl=True) is True
        assert client.ttl("lock") <= 5
        assert lock.reacquire() is True
        assert 25 < client.ttl("lock") <= 30
        lock.release()
        assert client.exists("lock") == 0
        with pytest.raises(library.exceptions.LockError):
            lock.release()

    def test_that_expired_is_somebody_elses(self, library, client):
        lock = client.lock("lock", timeout=0.05)
        assert lock.acquire() is True
        wait_until(lambda: client.exists("lock") == 0, "it expires")
        other = client.lock("lock", timeout=30)
        assert other.acquire(blocking=False) is True
        for use in (lambda: lock.extend(10), lock.reacquire, lock.release):
            with pytest.raises(library.exceptions.LockNotOwnedError):
                use()
        assert other.owned()

    def test_excludes_through_all_nodes(self, library, shared_cluster):
        inside: list[int] = []
        most = []

        def work(port: int) -> None:
            with library.redis.Redis(port=port) as client:
                for _ in range(5):
                    with client.lock("lock", timeout=30, sleep=0.005):
                        inside.append(port)
                        most.append(len(inside))
                        time.sleep(0.001)  # give the others a chance to break in
                        inside.remove(port)

        threads = [threading.Thread(target=work, args=(port,)) for port in shared_cluster.ports]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert most == [1] * 15
