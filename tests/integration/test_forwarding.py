"""Pipelines through followers while the leader changes: in order, never crossed, and every error says what it knows.

Each client owns one key and pipelines numbered commands in small packets, so that many are under way at once. A reply
names the number that it belongs to, so a crossed reply cannot hide; INCR and APPEND show in which order the commands
took effect.
"""

from __future__ import annotations

import queue
import threading
import time

from tests.integration.conftest import Cluster, wait_until
from tests.integration.one_way import WayTo
from tests.integration.wire import Wire, resp

DEFINITE = ("CLUSTERDOWN", "TRYAGAIN")
ROUNDS = 2
PACKETS_AHEAD = 400
PACE_S = 0.04
"""So slow that a node which waits for a new leader does not stop reading meanwhile: some packets meet the old one."""


class Pipeliner(threading.Thread):
    """Appends 1, 2, 3 ... to a list, several packets ahead of the replies; ECHOs the number behind each of them."""

    def __init__(self, port: int, key: str, pace_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.key = key
        self.pace_s = pace_s
        self.stop = threading.Event()
        self.acknowledged: list[tuple[int, int]] = []
        """(number, length of the list that its RPUSH answered)"""
        self.errors: dict[int, str] = {}
        self.crossed: list[object] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with Wire(self.port) as wire:
                self._drive(wire)
        except BaseException as error:  # noqa: BLE001 -- the test looks at it
            self.failure = error

    def _drive(self, wire: Wire) -> None:
        window = threading.Semaphore(PACKETS_AHEAD)
        sent = queue.SimpleQueue()

        def send() -> None:
            number = 0
            while not self.stop.wait(self.pace_s):
                if window.acquire(timeout=0.1):
                    number += 1
                    wire.send(resp("RPUSH", self.key, number))
                    sent.put(number)
            sent.put(0)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        while number := sent.get():
            self._take(number, wire.read())
            window.release()
        sender.join()
        for word in (b"last-1", b"last-2"):
            found = wire.do("ECHO", word)
            if found != ("bulk", word):
                self.crossed.append(found)

    def _take(self, number: int, reply: tuple[str, object]) -> None:
        kind, content = reply
        if kind == "integer":
            self.acknowledged.append((number, int(str(content))))
        elif kind == "error":
            self.errors[number] = str(content)
        else:
            self.crossed.append(reply)


class Mixer(Pipeliner):
    """SET of a fresh value and GET of it in one packet: the GET's reply must be that value or an error."""

    def _drive(self, wire: Wire) -> None:
        number = 0
        while not self.stop.is_set():
            numbers = range(number + 1, number + 9)
            number += 8
            wire.send(b"".join(resp("SET", self.key, f"v{one}") + resp("GET", self.key) for one in numbers))
            for one in numbers:
                set_reply, get_reply = wire.read(), wire.read()
                if set_reply == ("simple", "OK"):
                    self.acknowledged.append((one, one))
                    if get_reply[0] != "error" and get_reply != ("bulk", b"v%d" % one):
                        self.crossed.append((one, get_reply))
                elif set_reply[0] == "error":
                    self.errors[one] = set_reply[1]
                else:
                    self.crossed.append((one, set_reply))


def _drive_through(cluster: Cluster, disturb, clients: list[Pipeliner]) -> None:
    for client in clients:
        client.start()
    try:
        for number in range(ROUNDS):
            wait_for = [len(client.acknowledged) + 20 for client in clients]
            wait_until(
                lambda goals=wait_for: all(
                    len(client.acknowledged) >= goal or client.failure
                    for client, goal in zip(clients, goals, strict=True)
                ),
                f"every client gets on before disturbance {number}",
            )
            disturb()
    finally:
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(30)
    for client in clients:
        assert client.failure is None, client.failure
        assert not client.is_alive(), "a reply never came"
        assert not client.crossed, client.crossed[:5]


def _check_list(cluster: Cluster, client: Pipeliner) -> None:
    with Wire(cluster.ports[cluster.leader()]) as wire:
        stored = [int(item[1]) for item in wire.do("LRANGE", client.key, 0, -1)[1]]
    assert stored == sorted(set(stored)), "applied out of order, or twice"
    for number, length in client.acknowledged:
        assert stored[length - 1] == number, "the reply of another command"
    for number, text in client.errors.items():
        code = text.partition(" ")[0]
        assert code in {*DEFINITE, "UNKNOWN"}, text
        assert code == "UNKNOWN" or number not in stored, f"said it did nothing, and did: {text}"


def _transfer(cluster: Cluster) -> None:
    leader = cluster.leader()
    with Wire(cluster.ports[leader]) as wire:
        reply = wire.do("RAFT.TRANSFER")
    assert reply == ("simple", "OK"), reply
    wait_until(lambda: cluster.leader() != leader, "another leader")


class TestLeaderChanges:
    def test_transfer_keeps_the_order_through_every_node(self, shared_cluster):
        clients = [Pipeliner(port, f"list:{port}") for port in shared_cluster.ports]
        clients += [Mixer(port, f"value:{port}") for port in shared_cluster.ports]
        _drive_through(shared_cluster, lambda: _transfer(shared_cluster), clients)
        for client in clients[:3]:
            _check_list(shared_cluster, client)
        shared_cluster.wait_converged()

    def test_a_killed_leader_leaves_definite_errors_or_unknown(self, shared_cluster):
        cluster = shared_cluster
        leader = cluster.leader()
        followers = [place for place in range(3) if place != leader]
        clients = [Pipeliner(cluster.ports[place], f"list:{place}") for place in followers]
        clients += [Mixer(cluster.ports[place], f"value:{place}") for place in followers]

        def kill_the_leader() -> None:
            victim = cluster.leader()
            if victim in followers:  # its clients must live: hand leadership back to where nobody is connected
                with Wire(cluster.ports[victim]) as wire:
                    wire.do("RAFT.TRANSFER", cluster.members[leader].node_id)
                wait_until(lambda: cluster.leader() == leader, "leadership is back")
            cluster.kill(leader)
            started = time.monotonic()
            cluster.leader()
            assert time.monotonic() - started < 15
            cluster.start(leader)
            cluster.wait_ready()

        _drive_through(cluster, kill_the_leader, clients)
        for client in clients[:2]:
            _check_list(cluster, client)
        cluster.wait_converged()

    def test_a_paused_leader_is_replaced_and_its_late_work_is_void(self, shared_cluster):
        cluster = shared_cluster
        leader = cluster.leader()
        followers = [place for place in range(3) if place != leader]
        clients = [Pipeliner(cluster.ports[place], f"list:{place}", PACE_S) for place in followers]

        def pause_the_leader() -> None:
            old = cluster.leader()
            if old in followers:
                with Wire(cluster.ports[old]) as wire:
                    wire.do("RAFT.TRANSFER", cluster.members[leader].node_id)
                wait_until(lambda: cluster.leader() == leader, "leadership is back")
            cluster.pause(leader)
            try:
                cluster.leader()
            finally:
                cluster.resume(leader)
            cluster.wait_ready()

        _drive_through(cluster, pause_the_leader, clients)
        for client in clients:
            _check_list(cluster, client)
        cluster.wait_converged()


def _lead_from(cluster: Cluster, place: int) -> None:
    leader = cluster.leader()
    if leader != place:
        with Wire(cluster.ports[leader]) as wire:
            reply = wire.do("RAFT.TRANSFER", cluster.members[place].node_id)
        assert reply == ("simple", "OK"), reply
    wait_until(lambda: cluster.leader() == place, "the wanted leader")


class TestOneWay:
    def test_an_answer_that_is_lost_with_the_leaders_connection_is_not_waited_for(self, make_cluster):
        cluster = make_cluster(start=False, request_timeout_ms=20_000)
        follower = cluster.members[2]
        with WayTo(follower.peer_port) as way:
            for place, member in enumerate(cluster.members):
                peers = ",".join(
                    f"{one.node_id}={way.address if one is follower and member is not one else f'127.0.0.1:{one.peer_port}'}"
                    for one in cluster.members
                )
                cluster.words[place] = ["--peers", peers]
            cluster.words[2] += ["--peer-advertise", way.address]
            cluster.start_all()
            cluster.wait_ready()
            _lead_from(cluster, 0)
            with Wire(cluster.ports[2]) as client, Wire(cluster.ports[0]) as leader:
                way.swallows = True
                client.send(resp("INCR", "count"))
                wait_until(lambda: leader.do("GET", "count") == ("bulk", b"1"), "it is done", within_s=10)
                started = time.monotonic()
                way.reset()
                way.swallows = False
                kind, text = client.read()
                assert (kind, str(text).partition(" ")[0]) == ("error", "UNKNOWN"), text
                assert time.monotonic() - started < 5, "it was waited for until the timeout"
                assert client.do("INCR", "count") == ("integer", 2)
