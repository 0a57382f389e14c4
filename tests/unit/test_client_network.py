"""Both clients over real sockets against a scripted cluster: redirects, deaths, deadlines, bounds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from raftkv.client import AsyncRaftKV, ClosedError, ConnectionLostError, RaftKV, ResponseError, WatchError
from raftkv.errors import AuthError, CommandError, NoLeaderError, UnknownOutcomeError
from raftkv.protocol.encoder import encode
from raftkv.protocol.parser import RequestParser
from raftkv.protocol.replies import OK

DROP = object()
"""A command that is answered with this ends its connection."""


class Store:
    """What the nodes share: data, sessions, who leads."""

    def __init__(self):
        self.data = {}
        self.versions = {}
        self.sessions = {}
        self.applied = []

    def apply(self, argv):
        self.applied.append(argv)
        name, *args = argv
        if name == b"SET":
            self.data[args[0]] = args[1]
            self.versions[args[0]] = self.versions.get(args[0], 0) + 1
            return OK
        if name == b"INCR":
            value = int(self.data.get(args[0], 0)) + 1
            self.data[args[0]] = b"%d" % value
            return value
        if name == b"GET":
            return self.data.get(args[0])
        if name == b"ECHO":
            return args[0]
        if name == b"PING":
            return "PONG"
        if name == b"CONFIG":
            return OK
        if name == b"FAIL":
            return ResponseError("ERR as asked")
        return ResponseError(f"ERR unknown command '{name.decode()}'")


class FakeNode:
    """One node in the event loop of its cluster's thread."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.address = ""
        self.server = None
        self.writers = set()
        self.accepted = 0
        self.open_max = 0
        self.hook = None
        """Called with each command before it is answered; what it returns, if anything, is the answer."""

    async def start(self, port=0):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def kill(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.accepted += 1
        self.writers.add(writer)
        self.open_max = max(self.open_max, len(self.writers))
        parser, state = RequestParser(), {"queue": None, "watches": {}}
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                for argv in parser.feed(data):
                    reply = self.answer(argv, state)
                    if asyncio.iscoroutine(reply):
                        reply = await reply
                    if reply is DROP:
                        await writer.drain()
                        writer.close()
                        break
                    writer.write(encode(reply, 3))
                await writer.drain()
        self.writers.discard(writer)
        writer.close()

    def answer(self, argv, state):
        if self.hook is not None and (answer := self.hook(argv)) is not None:
            return answer
        name = argv[0].upper()
        if name == b"HELLO":
            password = self.cluster.password
            if password is not None and password not in argv:
                return ResponseError("WRONGPASS invalid username-password pair")
            return {b"proto": 3}
        if name == b"RAFT.STATUS":
            leads = self.cluster.leader is self
            leader = self.cluster.leader.address if self.cluster.leader else ""
            return {b"role": b"leader" if leads else b"follower", b"leader": leader.encode()}
        if name == b"SELECT":
            return OK
        if self.cluster.leader is None:
            return ResponseError("CLUSTERDOWN no leader")
        if self.cluster.leader is not self and self.cluster.redirects:
            return ResponseError(f"MOVED 0 {self.cluster.leader.address}")
        return self.execute(argv, state)

    def execute(self, argv, state):
        store, name = self.cluster.store, argv[0].upper()
        if name == b"MULTI":
            state["queue"] = []
            return OK
        if name == b"WATCH":
            state["watches"] = {key: store.versions.get(key, 0) for key in argv[1:]}
            return OK
        if argv[:2] == [b"RAFT.SESSION", b"OPEN"]:
            identity = b"%032x" % (len(store.sessions) + 1)
            store.sessions[identity] = {}
            return identity
        if argv[:2] == [b"RAFT.SESSION", b"RUN"]:
            replies = store.sessions.get(argv[2])
            if replies is None:
                return ResponseError("SESSIONEXPIRED unknown session")
            sequence = int(argv[3])
            if sequence not in replies:
                replies[sequence] = self.execute(argv[5:], state)
            state["queue"] = None
            return replies[sequence]
        if name == b"EXEC":
            queue, state["queue"] = state["queue"], None
            watches, state["watches"] = state["watches"], {}
            if any(store.versions.get(key, 0) != version for key, version in watches.items()):
                return None
            return [store.apply(one) for one in queue]
        if state["queue"] is not None:
            state["queue"].append(argv)
            return "QUEUED"
        return store.apply(argv)


class FakeCluster:
    """Three nodes in a thread of their own."""

    def __init__(self, size=3):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.store, self.password, self.redirects = Store(), None, False
        self.nodes = [FakeNode(self) for _ in range(size)]
        for node in self.nodes:
            self.do(node.start())
        self.leader = self.nodes[0]

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(5)

    def call(self, function, *args):
        async def run():
            return function(*args)

        return self.do(run())

    @property
    def addresses(self):
        return [node.address for node in self.nodes]

    def stop(self):
        async def stop():
            for node in self.nodes:
                node.kill()
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.do(stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def cluster():
    made = FakeCluster()
    yield made
    made.stop()


class BlockingForm:
    """The blocking client, called as the asyncio one is, so that one test does for both."""

    def __init__(self, nodes, **options):
        self.client = RaftKV(nodes, **options)

    async def __aenter__(self):
        return Awaitable(self.client)

    async def __aexit__(self, *_):
        self.client.close()


class Awaitable:
    """Wraps an object so that every method but those that only build something runs in a thread and is awaited."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        method = getattr(self.inner, name)
        if name in {"pipeline", "watch", "multi", "add"}:
            return lambda *args, **kwargs: Awaitable(method(*args, **kwargs))

        def call(*args, **kwargs):
            result = method(*args, **kwargs) if type(self.inner).__name__ == "Pipeline" and name != "execute" else None
            return result if result is not None else asyncio.to_thread(method, *args, **kwargs)

        return call

    async def __aenter__(self):
        await asyncio.to_thread(self.inner.__enter__)
        return self

    async def __aexit__(self, *details):
        self.inner.__exit__(*details)


@pytest.fixture(params=[BlockingForm, AsyncRaftKV], ids=["blocking", "asyncio"])
def form(request):
    return request.param


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_commands_pipelines_and_text(cluster, form):
    async def scenario():
        async with form(cluster.addresses, decode_responses=True) as client:
            assert await client.set("k", "v\u00e9") is True
            assert await client.get("k") == "v\u00e9"
            assert await client.get("missing") is None
            assert await client.execute("ECHO", 5) == "5"
            pipeline = client.pipeline()
            pipeline.incr("n")
            pipeline.get("n")
            pipeline.add("FAIL")
            results = await pipeline.execute(raise_on_error=False)
            assert results[:2] == [1, "1"]
            assert isinstance(results[2], ResponseError)
            with pytest.raises(ResponseError, match="unknown command") as caught:
                await client.execute("NONSENSE")
            assert caught.value.code == "ERR"
            assert caught.value.definite
        async with form(cluster.addresses) as client:
            assert await client.get("k") == "v\u00e9".encode()

    run(scenario())


def test_the_leader_is_found_from_any_node(cluster, form):
    cluster.leader = cluster.nodes[2]

    async def scenario():
        async with form(cluster.addresses[:1]) as client:
            await client.incr("n")
            await client.incr("n")

    run(scenario())
    assert [node.accepted for node in cluster.nodes] == [1, 0, 1]
    assert cluster.store.data == {b"n": b"2"}


def test_moved_is_followed(cluster, form):
    cluster.redirects = True

    async def scenario():
        async with form(cluster.addresses) as client:
            assert await client.incr("n") == 1
            cluster.leader = cluster.nodes[1]
            assert await client.incr("n") == 2

    run(scenario())


def test_a_leader_that_dies_in_the_middle_of_a_pipeline_applies_each_write_once(cluster, form):
    seen = 0

    def die_at_the_tenth(argv):
        nonlocal seen
        seen += argv[5:6] == [b"INCR"]
        if seen < 10:
            return None
        first = cluster.nodes[0]
        first.hook = None
        first.execute(argv, {"queue": None, "watches": {}})  # applied, and the answer is lost with the node
        cluster.leader = cluster.nodes[1]
        first.kill()
        return DROP

    cluster.nodes[0].hook = die_at_the_tenth

    async def scenario():
        async with form(cluster.addresses) as client:
            pipeline = client.pipeline()
            for _ in range(30):
                pipeline.incr("n")
            assert await pipeline.execute() == list(range(1, 31))

    run(scenario())
    assert cluster.store.data == {b"n": b"30"}


def test_a_lost_answer_of_a_transaction_is_asked_for_again(cluster, form):
    def lose_the_answer(argv):
        if argv[-1] != b"EXEC":
            return None
        cluster.nodes[0].hook = None
        cluster.nodes[0].execute(argv, {"queue": [[b"INCR", b"n"], [b"SET", b"k", b"v"]], "watches": {}})
        return DROP

    cluster.nodes[0].hook = lose_the_answer

    async def scenario():
        async with form(cluster.addresses) as client:
            batch = client.pipeline(transaction=True)
            batch.incr("n")
            batch.set("k", "v")
            assert await batch.execute() == [1, True]

    run(scenario())
    assert cluster.store.data == {b"n": b"1", b"k": b"v"}


def test_what_is_no_write_of_a_session_is_unknown_when_its_answer_is_lost(cluster, form):
    cluster.nodes[0].hook = lambda argv: DROP if argv[0] == b"CONFIG" else None

    async def scenario():
        async with form(cluster.addresses) as client:
            with pytest.raises(UnknownOutcomeError) as caught:
                await client.config_set("a", "1")
            assert not caught.value.definite

    run(scenario())


def test_the_deadline_ends_it_and_says_whether_it_may_have_happened(cluster, form):
    def silence(argv):
        return asyncio.sleep(30) if argv[5:6] == [b"INCR"] else None

    async def scenario():
        for node in cluster.nodes:
            node.hook = silence
        async with form(cluster.addresses, deadline_s=0.4, attempt_timeout_s=0.15) as client:
            started = time.monotonic()
            with pytest.raises(UnknownOutcomeError):
                await client.incr("n")
            assert 0.3 < time.monotonic() - started < 2
            cluster.leader = None
            with pytest.raises(NoLeaderError) as caught:
                await client.get("k")
            assert caught.value.definite
            assert "CLUSTERDOWN" in str(caught.value)

    run(scenario())


def test_nobody_there(form):
    async def scenario():
        async with form(["127.0.0.1:1"], deadline_s=0.3) as client:
            with pytest.raises(NoLeaderError, match=r"within 0\.3 s.*cannot connect to 127\.0\.0\.1:1"):
                await client.incr("n")

    run(scenario())


def test_a_wrong_password_is_said_at_once(cluster, form):
    cluster.password = b"right"

    async def scenario():
        async with form(cluster.addresses, password="wrong") as client:
            with pytest.raises(AuthError, match="WRONGPASS"):
                await client.get("k")
        async with form(cluster.addresses, password="right") as client:
            assert await client.get("k") is None

    run(scenario())
    assert cluster.nodes[0].accepted == 2


def test_the_pool_is_bounded_and_callers_wait_for_it(cluster, form):
    async def slowly():
        await asyncio.sleep(0.02)
        return b"v"

    cluster.nodes[0].hook = lambda argv: slowly() if argv[0] == b"GET" else None

    async def scenario():
        async with form(cluster.addresses, max_connections=3) as client:
            assert await asyncio.gather(*(client.get("k") for _ in range(20))) == [b"v"] * 20
        assert cluster.nodes[0].open_max <= 3
        async with form(cluster.addresses, max_connections=1, deadline_s=0.2) as client, client.watch("k"):
            with pytest.raises(NoLeaderError, match="all 1 connections are in use"):
                await client.ping()

    run(scenario())


def test_connections_are_used_again_and_replaced_when_the_server_closed_them(cluster, form):
    async def scenario():
        async with form(cluster.addresses) as client:
            for _ in range(5):
                await client.ping()
            assert cluster.nodes[0].accepted == 1
            cluster.call(lambda: [writer.close() for writer in cluster.nodes[0].writers])
            await asyncio.sleep(0.05)  # the end of file has to reach the client's socket before it is looked at
            await client.config_set("a", "1")  # would be of unknown outcome on the dead connection
            assert cluster.nodes[0].accepted == 2

    run(scenario())


def test_a_closed_client_says_so(cluster, form):
    async def scenario():
        async with form(cluster.addresses) as client:
            await client.ping()
        with pytest.raises(ClosedError):
            await client.ping()

    run(scenario())


def test_a_watched_transaction_commits_or_says_that_the_key_changed(cluster, form):
    async def scenario():
        async with form(cluster.addresses) as client:
            await client.set("k", "1")
            async with client.watch("k") as transaction:
                assert await transaction.get("k") == b"1"
                batch = transaction.multi()
                batch.set("k", "2")
                assert await batch.execute() == [True]
            async with client.watch("k") as transaction:
                await client.set("k", "3")
                batch = transaction.multi()
                batch.set("k", "4")
                with pytest.raises(WatchError) as caught:
                    await batch.execute()
                assert caught.value.definite
                with pytest.raises(CommandError, match="multi"):
                    await transaction.set("k", "5")
            assert await client.get("k") == b"3"

    run(scenario())


def test_a_watched_transaction_whose_answer_is_lost_is_unknown(cluster, form):
    cluster.nodes[0].hook = lambda argv: DROP if argv[0] in {b"EXEC", b"GET"} else None

    async def scenario():
        async with form(cluster.addresses) as client:
            async with client.watch("k") as transaction:
                batch = transaction.multi()
                batch.set("k", "2")
                with pytest.raises(UnknownOutcomeError):
                    await batch.execute()
            async with client.watch("k") as transaction:
                with pytest.raises(ConnectionLostError) as caught:
                    await transaction.get("k")
                assert caught.value.definite

    run(scenario())


def test_transaction_is_tried_again_until_no_key_changed_in_between(cluster):
    with RaftKV(cluster.addresses) as client:
        client.set("k", 0)

        def add(transaction):
            value = int(transaction.get("k"))
            if value < 3:
                client.set("k", value + 1)  # somebody else was faster
            return transaction.multi().set("k", value + 10).execute()

        assert client.transaction(add, "k") == [True]
        assert client.get("k") == b"13"


def test_asyncio_transaction_is_tried_again(cluster):
    async def scenario():
        async with AsyncRaftKV(cluster.addresses) as client:
            tries = 0

            async def add(transaction):
                nonlocal tries
                tries += 1
                if tries < 3:
                    await client.set("k", tries)
                return await transaction.multi().set("k", "done").execute()

            assert await client.transaction(add, "k") == [True]
            assert tries == 3

    run(scenario())


def test_threads_share_a_client_and_its_session(cluster):
    with RaftKV(cluster.addresses, max_connections=4) as client:
        threads = [threading.Thread(target=lambda: [client.incr("n") for _ in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert cluster.store.data == {b"n": b"400"}
    assert cluster.nodes[0].open_max <= 4


def test_nobody_starves_for_a_connection(cluster):
    async def scenario():
        async with AsyncRaftKV(cluster.addresses, max_connections=2) as client:
            done = [0] * 6

            async def loop(place):
                while min(done) < 20:
                    await client.ping()
                    done[place] += 1

            await asyncio.gather(*(loop(place) for place in range(6)))
            assert max(done) - min(done) <= 3

    run(scenario())


def test_a_cancelled_task_leaves_no_stray_reply_behind(cluster):
    cluster.nodes[0].hook = lambda argv: asyncio.sleep(0.2, b"late") if argv == [b"GET", b"slow"] else None

    async def scenario():
        async with AsyncRaftKV(cluster.addresses, max_connections=1) as client:
            await client.ping()
            task = asyncio.create_task(client.get("slow"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.execute("ECHO", "mine") == b"mine"

    run(scenario())
