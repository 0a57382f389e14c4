"""Which way a command takes: classes of pipelines, redirection to the leader, CLIENT PAUSE."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import raftkv.server.commands  # noqa: F401 -- adds the server commands to the table
from raftkv.commands.registry import TABLE, lookup
from raftkv.machine.alarms import NOSPACE
from raftkv.machine.machine import StateMachine
from raftkv.server.consistency import LINEARIZABLE, LOCAL
from raftkv.server.routing import MovedError, Routing
from raftkv.store.slots import key_slot

READ, WRITE, EACH = 1, 2, 0


class Router(Routing):
    """A node of which only the routing is real."""

    def __init__(self, redirect="forward"):
        self.settings = SimpleNamespace(redirect=redirect)
        self.raft = SimpleNamespace(is_leader=False, leader_id="n2")
        self.machine = StateMachine()
        self.now = 100.0
        self.clock = self
        self.addresses = {"n2": "10.0.0.2:7379"}
        self._init_routing()

    def monotonic(self):
        return self.now

    def client_address(self, node_id):
        return self.addresses.get(node_id, "")


class Connection:
    def __init__(self):
        self.resumed = 0

    def resume(self):
        self.resumed += 1


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({b"GET"}, READ),
        ({b"get", b"MGET", b"ZRANGE"}, READ),
        ({b"GET", b"SET"}, WRITE),
        ({b"set"}, WRITE),
        ({b"SPOP", b"DEL"}, WRITE),
        ({b"SET", b"CONFIG"}, EACH),
        ({b"GET", b"MULTI"}, EACH),
        ({b"EXEC"}, EACH),
        ({b"WATCH"}, EACH),
        ({b"GeT"}, EACH),
        ({b"NO-SUCH"}, EACH),
        ({b"SET", b"NO-SUCH"}, EACH),
        ({b""}, EACH),
    ],
)
def test_a_pipeline_is_as_harmless_as_its_worst_command(names, kind):
    assert Router().classify(names) == kind


def test_the_class_of_every_command_is_what_its_declaration_says():
    router = Router()
    for name, command in TABLE.items():
        together = router.classify({name})
        if command.scope != "data" or command.subcommands:
            assert together == EACH, name
            assert name not in router.kinds
        else:
            assert together == (WRITE if command.write else READ), name
            assert router.kinds[name] == together
        if name in router.reads_alone:
            assert together == READ
            assert command.arity > 0
    assert {b"GET", b"get", b"TTL"} <= router.reads_alone.keys()
    assert not {b"SET", b"MGET", b"OBJECT"} & router.reads_alone.keys()


def moved(router, *argv, consistency=LINEARIZABLE):
    return router.moved(lookup(list(argv)), list(argv), consistency)


def test_a_command_with_keys_is_redirected_to_the_leader_with_its_slot():
    error = moved(Router("moved"), b"SET", b"{user}:1", b"v")
    assert isinstance(error, MovedError)
    assert str(error) == f"MOVED {key_slot(b'user')} 10.0.0.2:7379"
    assert error.definite


def test_what_is_not_redirected():
    assert moved(Router("forward"), b"SET", b"k", b"v") is None
    router = Router("moved")
    assert moved(router, b"DBSIZE") is None
    router.addresses.clear()  # the leader has not said yet where its clients find it
    assert moved(router, b"SET", b"k", b"v") is None
    router = Router("moved")
    router.raft.leader_id = ""
    assert moved(router, b"SET", b"k", b"v") is None
    router = Router("moved")
    router.raft.is_leader = True
    assert moved(router, b"SET", b"k", b"v") is None


def test_who_reads_what_is_here_is_not_redirected_and_who_writes_is():
    router = Router("moved")
    assert moved(router, b"GET", b"k") is not None
    assert moved(router, b"GET", b"k", consistency=LOCAL) is None
    assert moved(router, b"SET", b"k", b"v", consistency=LOCAL) is not None


def test_pipelines_take_the_detour_while_commands_are_redirected():
    router = Router("moved")
    assert router.detour
    router.raft.is_leader = True
    router.leadership_changed()
    assert not router.detour
    router.raft.is_leader = False
    router.leadership_changed()
    assert router.detour
    router.settings.redirect = "forward"
    router.settings_changed()
    assert not router.detour


def holds(router, connection, *argv):
    return router.holds(connection, lookup(list(argv)))


def test_a_pause_holds_everything_but_client_until_its_time_and_no_longer():
    router, held, other = Router(), Connection(), Connection()
    assert not holds(router, held, b"GET", b"k")
    router.pause_clients(101.0, writes_only=False)
    assert router.detour
    assert holds(router, held, b"GET", b"k")
    assert holds(router, other, b"SET", b"k", b"v")
    assert not holds(router, Connection(), b"CLIENT", b"UNPAUSE")
    router.release_paused(100.99)
    assert (held.resumed, other.resumed) == (0, 0)
    router.release_paused(101.0)
    assert (held.resumed, other.resumed) == (1, 1)
    assert not router.detour
    assert not holds(router, held, b"SET", b"k", b"v")
    router.release_paused(102.0)
    assert held.resumed == 1


def test_a_pause_of_writes_lets_reads_pass_and_holds_transactions():
    router, connection = Router(), Connection()
    router.pause_clients(101.0, writes_only=True)
    assert router.detour
    assert not holds(router, connection, b"GET", b"k")
    assert not holds(router, connection, b"MULTI")
    assert holds(router, connection, b"SET", b"k", b"v")
    assert holds(router, connection, b"EXEC")


def test_an_end_before_its_time_lets_everybody_go():
    router, held = Router(), Connection()
    router.pause_clients(200.0, writes_only=False)
    assert holds(router, held, b"GET", b"k")
    router.pause_clients(0.0, writes_only=False)
    assert held.resumed == 1
    assert not router.detour
    assert not holds(router, held, b"GET", b"k")


def test_a_longer_pause_keeps_those_that_wait_waiting():
    router, held = Router(), Connection()
    router.pause_clients(101.0, writes_only=False)
    assert holds(router, held, b"GET", b"k")
    router.pause_clients(105.0, writes_only=False)
    router.release_paused(101.0)
    assert held.resumed == 0
    router.release_paused(105.0)
    assert held.resumed == 1


def test_the_end_of_a_pause_leaves_the_detour_of_redirection():
    router = Router("moved")
    router.pause_clients(101.0, writes_only=False)
    router.release_paused(101.0)
    assert router.detour


def test_while_a_member_is_full_each_command_is_looked_at_and_what_takes_space_is_refused():
    router = Router()
    commands = {
        name: lookup([name, *([b"1"] * count)]) for name, count in ((b"SET", 2), (b"DEL", 1), (b"GET", 1), (b"PING", 0))
    }
    assert router.refusal(*commands.values()) is None
    router.machine.alarms.raise_("n2", NOSPACE, "none is free", 1)
    router.machine._note_alarms()
    router.leadership_changed()
    assert router.detour
    assert [router.refusal(one) is not None for one in commands.values()] == [True, False, False, False]
    first, second = router.refusal(*commands.values()), router.refusal(commands[b"SET"])
    assert first.code == "NOSPACE"
    assert first is not second, "what is raised keeps the frames that it passed"
    router.machine.alarms.clear("n2", NOSPACE)
    router.machine._note_alarms()
    router.leadership_changed()
    assert not router.detour
