"""The registry of connections and the line that CLIENT LIST shows of one."""

from __future__ import annotations

import pytest

from raftkv.server.clients import ClientRegistry, describe
from raftkv.server.state import Client


def make_client(client_id: int, **fields: object) -> Client:
    client = Client(
        id=client_id, address=f"10.0.0.1:{client_id}", local_address="10.0.0.2:7379", created=100.0,
        close=lambda: None, write=lambda _: None,
    )  # fmt: skip
    for name, value in fields.items():
        setattr(client, name, value)
    return client


def fields_of(line: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in line.split(" "))


def test_ids_only_grow_also_after_a_removal() -> None:
    registry = ClientRegistry()
    first = make_client(registry.next_id())
    registry.add(first)
    registry.remove(first)
    assert [first.id, registry.next_id(), registry.next_id()] == [1, 2, 3]


def test_iterates_by_id_and_tolerates_removal_meanwhile() -> None:
    registry = ClientRegistry()
    for client_id in (3, 1, 2):
        registry.add(make_client(client_id))
    seen = []
    for client in registry:
        seen.append(client.id)
        registry.remove(client)
    assert seen == [1, 2, 3]
    assert registry.count == len(registry) == 0


def test_counts_received_and_rejected() -> None:
    registry = ClientRegistry()
    registry.add(make_client(1))
    registry.reject()
    assert (registry.count, registry.total_received, registry.total_rejected) == (1, 2, 1)
    registry.reset_counters()
    assert (registry.count, registry.total_received, registry.total_rejected) == (1, 0, 0)


def test_an_id_cannot_be_taken_twice_and_a_stranger_cannot_remove_it() -> None:
    registry = ClientRegistry()
    mine = make_client(1)
    registry.add(mine)
    with pytest.raises(ValueError, match="registered twice"):
        registry.add(make_client(1))
    registry.remove(make_client(1))
    assert registry.get(1) is mine
    assert registry.get(2) is None


def test_describe_has_every_field_of_redis_7_0_in_its_order() -> None:
    line = describe(make_client(7), 100.0)
    names = [
        "id", "addr", "laddr", "fd", "name", "age", "idle", "flags", "db", "sub", "psub", "ssub", "multi", "qbuf", "qbuf-free",
        "argv-mem", "multi-mem", "rbs", "rbp", "obl", "oll", "omem", "tot-mem", "events", "cmd", "user", "redir", "resp",
    ]  # fmt: skip
    assert list(fields_of(line))[: len(names)] == names
    assert "\n" not in line


def test_describe_shows_the_state() -> None:
    client = make_client(
        7, name="worker", db=3, transaction=[[b"GET", b"k"], [b"DEL", b"k"]], readonly=True, last_interaction=104.5,
        last_command="get", proto=3, buffers=lambda: (5, 9), lib_name="redis-py", lib_ver="8.1.0",
    )  # fmt: skip
    shown = fields_of(describe(client, 110.0))
    expected = {
        "id": "7", "addr": "10.0.0.1:7", "laddr": "10.0.0.2:7379", "name": "worker", "age": "10", "idle": "5", "flags": "xr",
        "db": "3", "multi": "2", "multi-mem": "8", "qbuf": "5", "omem": "9", "oll": "1", "tot-mem": "22", "events": "rw",
        "cmd": "get", "user": "default", "resp": "3", "lib-name": "redis-py", "lib-ver": "8.1.0",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


def test_a_new_client_is_idle_since_it_connected() -> None:
    shown = fields_of(describe(make_client(1), 103.9))
    assert (shown["age"], shown["idle"], shown["flags"], shown["multi"]) == ("3", "3", "N", "-1")


@pytest.mark.parametrize(
    ("name", "shown"), [(b"GET", "get"), ("OBJECT ENCODING", "object|encoding"), ("NULL", "NULL"), (b"\xff", "\\xff")]
)
def test_the_last_command_is_shown_as_redis_does(name, shown):
    assert f" cmd={shown} " in describe(make_client(1, last_command=name), 0.0)
