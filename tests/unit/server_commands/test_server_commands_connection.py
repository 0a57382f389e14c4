"""PING to QUIT, AUTH and HELLO, and the transaction commands that only change the connection."""

from __future__ import annotations

import pytest

from raftkv.config import Secret
from raftkv.errors import AuthError, CommandError, InvariantError, NoLeaderError, RaftKVError

NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."


@pytest.mark.parametrize(
    ("line", "reply"),
    [("PING", "PONG"), ("PING x", b"x"), ("ECHO x", b"x"), ("TIME", [b"1700000000", b"123000"]), ("QUIT", "OK"),
     ("CLIENT ID", 1), ("SELECT 15", "OK")],
)  # fmt: skip
def test_plain_replies(server, line, reply):
    assert server.line(line) == reply


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("PING a b", "ERR wrong number of arguments for 'ping' command"),
        ("SELECT x", "ERR value is not an integer or out of range"),
        ("SELECT 16", "ERR DB index is out of range"),
        ("SELECT -1", "ERR DB index is out of range"),
        ("SELECT 99999999999", "ERR value is out of range, value must between -2147483648 and 2147483647"),
        ("AUTH a b", WRONGPASS),
        ("AUTH a b c", "ERR syntax error"),
        ("AUTH a", NO_PASSWORD),
        ("HELLO 4", "NOPROTO unsupported protocol version"),
        ("HELLO x", "ERR Protocol version is not an integer or out of range"),
        ("HELLO 3 foo", "ERR Syntax error in HELLO option 'foo'"),
        ("HELLO 3 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
        ("HELLO 3 AUTH default", "ERR Syntax error in HELLO option 'AUTH'"),
        ("HELLO 3 AUTH a b", WRONGPASS),
        ("DISCARD", "ERR DISCARD without MULTI"),
        ("EXEC", "ERR EXEC without MULTI"),
    ],
)
def test_errors_are_those_of_redis(server, line, error):
    with pytest.raises(RaftKVError) as raised:
        server.line(line)
    assert str(raised.value) == error


def test_quit_closes_after_the_reply(server):
    server.line("QUIT")
    assert server.client.closing
    assert server.closed == []


def test_select_changes_only_this_connection(server):
    other = server.connect()
    server.line("SELECT 3")
    assert (server.client.db, other.db) == (3, 0)


class TestAuth:
    @pytest.fixture(autouse=True)
    def _password(self, server):
        server.set(requirepass=Secret("s3cret"))
        server.client.authenticated = False

    @pytest.mark.parametrize("line", ["AUTH s3cret", "AUTH default s3cret", "HELLO 2 AUTH default s3cret"])
    def test_the_right_password_opens(self, server, line):
        server.line(line)
        assert server.client.authenticated

    @pytest.mark.parametrize(
        "line",
        ["AUTH s3cre", "AUTH s3cret2", "AUTH other s3cret", "AUTH *** ", "AUTH ***", "HELLO 3 AUTH default wrong"],
    )
    def test_a_wrong_one_does_not(self, server, line):
        with pytest.raises(AuthError, match="WRONGPASS"):
            server.line(line)
        assert not server.client.authenticated
        assert server.node.metrics.auth_failures == 1

    def test_hello_without_auth_is_refused_and_changes_nothing(self, server):
        with pytest.raises(AuthError, match="NOAUTH HELLO must be called with the client already authenticated"):
            server.line("HELLO 3 SETNAME me")
        assert (server.client.proto, server.client.name) == (2, "")

    def test_a_failed_hello_changes_nothing(self, server):
        with pytest.raises(AuthError):
            server.line("HELLO 3 AUTH default wrong SETNAME me")
        assert (server.client.proto, server.client.name) == (2, "")

    def test_reset_logs_out(self, server):
        server.line("AUTH s3cret")
        server.line("RESET")
        assert not server.client.authenticated


def test_without_a_password_any_opens_default(server):
    assert server.line("AUTH default anything") == "OK"


def test_hello_tells_who_answers(server):
    assert server.line("HELLO") == {
        b"server": b"redis", b"version": b"7.0.0", b"proto": 2, b"id": 1, b"mode": b"cluster", b"role": b"master",
        b"modules": [], b"raftkv_version": b"0.1.0",
    }  # fmt: skip
    server.node.replicator.follow("n2")
    reply = server.line("HELLO 3 SETNAME worker")
    assert (reply[b"proto"], reply[b"role"]) == (3, b"replica")
    assert (server.client.proto, server.client.name) == (3, "worker")
    server.line("HELLO")
    assert server.client.proto == 3


def test_hello_refuses_a_bad_name_before_it_changes_the_protocol(server):
    with pytest.raises(CommandError, match="Client names cannot contain spaces"):
        server.call(b"HELLO", b"3", b"SETNAME", b"a b")
    assert server.client.proto == 2


def test_reset_brings_back_the_first_state(server):
    client = server.client
    server.line("MULTI")
    client.name, client.db, client.proto, client.reply_on, client.readonly = "x", 3, 3, False, True
    client.watches[0, b"k"] = 5
    assert server.line("RESET") == "RESET"
    assert (client.name, client.db, client.proto, client.reply_on, client.readonly) == ("", 0, 2, True, False)
    assert client.transaction is None
    assert not client.watches
    assert client.authenticated


def test_read_chooses_how_fresh_reads_are_and_reset_undoes_it(server):
    assert server.line("READ") == "linearizable"
    assert server.line("READ at least 17") == "OK"
    assert server.line("READ") == "at least 17"
    assert server.line("CLIENT INFO").text.endswith(b" read=at-least-17\n")
    with pytest.raises(CommandError, match="READ takes"):
        server.line("READ fresh")
    assert server.line("READ") == "at least 17"
    server.line("RESET")
    assert server.line("READ") == "linearizable"


def test_a_token_is_what_is_applied_behind_a_barrier(server):
    assert server.line("RAFT.TOKEN") == 99
    server.node.replicator.barrier_error = NoLeaderError("none")
    with pytest.raises(NoLeaderError):
        server.line("RAFT.TOKEN")


class TestTransactions:
    def test_multi_then_discard(self, server):
        assert server.line("MULTI") == "OK"
        assert server.client.transaction == []
        server.client.transaction_failed = True
        server.client.watches[0, b"k"] = 1
        assert server.line("DISCARD") == "OK"
        assert server.client.transaction is None
        assert not server.client.transaction_failed
        assert not server.client.watches

    def test_multi_does_not_nest(self, server):
        server.line("MULTI")
        with pytest.raises(CommandError, match="MULTI calls can not be nested"):
            server.line("MULTI")
        with pytest.raises(CommandError, match="WATCH inside MULTI is not allowed"):
            server.line("WATCH k")

    def test_unwatch(self, server):
        server.client.watches[0, b"k"] = 1
        assert server.line("UNWATCH") == "OK"
        assert not server.client.watches

    def test_what_the_connection_runs_says_so(self, server):
        with pytest.raises(InvariantError, match="connection runs it"):
            server.line("WATCH k")
        server.line("MULTI")
        with pytest.raises(InvariantError, match="connection runs it"):
            server.line("EXEC")
