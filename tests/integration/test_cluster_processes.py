"""The cluster of processes that the other tests stand on: kill, stop, pause, start, converge."""

from __future__ import annotations

from collections.abc import Callable


def put(cluster, place: int, key: str, value: str) -> None:
    with cluster.connect(place) as connection:
        assert connection.ask("SET", key, value) == "OK"


def get(cluster, place: int, key: str) -> object:
    with cluster.connect(place) as connection:
        return connection.ask("GET", key)


def test_a_killed_leader_is_replaced_and_comes_back(cluster):
    old = cluster.leader()
    put(cluster, old, "key", "before")
    cluster.kill(old)
    new = cluster.leader()
    assert new != old
    assert get(cluster, new, "key") == b"before"
    put(cluster, new, "key", "after")
    cluster.start(old)
    cluster.wait_ready()
    assert get(cluster, old, "key") == b"after"
    cluster.wait_converged()


def test_a_paused_leader_loses_its_office_and_knows_it(cluster):
    old = cluster.leader()
    put(cluster, old, "key", "1")
    cluster.pause(old)
    new = cluster.leader()
    assert new != old
    put(cluster, new, "key", "2")
    cluster.resume(old)
    cluster.wait_ready()
    assert get(cluster, old, "key") == b"2"


def test_a_survivor_alone_names_no_leader_until_one_is_back(cluster):
    leader = cluster.leader()
    survivor, other = (place for place in range(3) if place != leader)
    cluster.kill(leader, other)
    cluster.wait_until(lambda: cluster.status(survivor)["leader_id"] == "", "the dead leader is forgotten", within_s=10)
    with cluster.connect(survivor) as connection:
        assert connection.ask("CLUSTER", "INFO").startswith(b"cluster_state:fail")
        cluster.start(other)
        assert connection.ask("SET", "key", "1") == "OK"  # kept until there is one
        assert connection.ask("CLUSTER", "INFO").startswith(b"cluster_state:ok")


def test_a_stopped_node_ends_with_zero(cluster):
    place = cluster.follower()
    assert cluster.stop(place) == 0
    put(cluster, cluster.leader(), "key", "1")
    cluster.start(place)
    cluster.wait_ready()
    assert get(cluster, place, "key") == b"1"


def test_all_killed_at_once_keep_what_was_acknowledged(cluster):
    put(cluster, cluster.leader(), "key", "1")
    cluster.kill(0, 1, 2)
    assert cluster.running == []
    cluster.start_all()
    cluster.wait_ready()
    assert get(cluster, cluster.follower(), "key") == b"1"


def test_one_node_is_a_cluster_and_settings_reach_it(make_cluster: Callable[..., object]):
    cluster = make_cluster(nodes=1, maxclients=77)
    with cluster.connect(0) as connection:
        assert connection.ask("CONFIG", "GET", "maxclients") == [b"maxclients", b"77"]


def test_the_shared_cluster_is_empty(shared_cluster):
    with shared_cluster.connect(0) as connection:
        assert connection.ask("DBSIZE") == 0
        connection.ask("SET", "left", "behind")


def test_the_shared_cluster_is_empty_again(shared_cluster):
    with shared_cluster.connect(0) as connection:
        assert connection.ask("DBSIZE") == 0
