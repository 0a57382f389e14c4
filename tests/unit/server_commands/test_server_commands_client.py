"""CLIENT: about the caller, and about others."""

from __future__ import annotations

import pytest

from raftkv.errors import CommandError
from raftkv.protocol.replies import SetReply, Verbatim


def ids(reply: Verbatim) -> list[int]:
    return [int(line.split(b" ")[0].removeprefix(b"id=")) for line in reply.text.splitlines()]


def test_name(server):
    assert server.line("CLIENT GETNAME") is None
    assert server.line("CLIENT SETNAME worker-1") == "OK"
    assert server.line("CLIENT GETNAME") == b"worker-1"
    server.call(b"CLIENT", b"SETNAME", b"")
    assert server.line("CLIENT GETNAME") is None


def test_setinfo(server):
    server.line("CLIENT SETINFO LIB-NAME redis-py")
    server.line("client setinfo lib-ver 8.1.0")
    assert (server.client.lib_name, server.client.lib_ver) == ("redis-py", "8.1.0")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([b"SETNAME", b"a b"], "ERR Client names cannot contain spaces, newlines or special characters."),
        ([b"SETNAME", b"a\n"], "ERR Client names cannot contain spaces, newlines or special characters."),
        ([b"SETNAME", b"\xff"], "ERR Client names cannot contain spaces, newlines or special characters."),
        ([b"SETNAME"], "ERR wrong number of arguments for 'client|setname' command"),
        ([b"SETINFO", b"a", b"b"], "ERR Unrecognized option 'a'"),
        ([b"SETINFO", b"LIB-NAME", b"a b"], "ERR lib-name cannot contain spaces, newlines or special characters."),
        ([b"NOPE"], "ERR unknown subcommand 'NOPE'. Try CLIENT HELP."),
        ([b"REPLY", b"foo"], "ERR syntax error"),
        ([b"NO-EVICT", b"foo"], "ERR syntax error"),
        ([b"PAUSE", b"x"], "ERR timeout is not an integer or out of range"),
        ([b"PAUSE", b"-1"], "ERR timeout is negative"),
        ([b"PAUSE", b"10", b"foo"], "ERR CLIENT PAUSE mode must be WRITE or ALL"),
        ([b"LIST", b"TYPE", b"foo"], "ERR Unknown client type 'foo'"),
        ([b"LIST", b"ID"], "ERR syntax error"),
        ([b"LIST", b"ID", b"x"], "ERR Invalid client ID"),
        ([b"LIST", b"foo", b"bar"], "ERR syntax error"),
        ([b"KILL"], "ERR wrong number of arguments for 'client|kill' command"),
        ([b"KILL", b"1.2.3.4:1"], "ERR No such client"),
        ([b"KILL", b"ID", b"0"], "ERR client-id should be greater than 0"),
        ([b"KILL", b"TYPE", b"foo"], "ERR Unknown client type 'foo'"),
        ([b"KILL", b"USER", b"nouser"], "ERR No such user 'nouser'"),
        ([b"KILL", b"SKIPME", b"foo"], "ERR syntax error"),
        ([b"KILL", b"foo", b"bar", b"baz"], "ERR syntax error"),
    ],
)
def test_errors_are_those_of_redis(server, words, error):
    server.connect()
    with pytest.raises(CommandError) as raised:
        server.call(b"CLIENT", *words)
    assert str(raised.value) == error
    assert server.closed == []


def test_info_is_the_line_of_list(server):
    server.connect()
    info = server.line("CLIENT INFO")
    assert ids(info) == [1]
    assert server.line("CLIENT LIST").text.splitlines()[0] == info.text.rstrip(b"\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("CLIENT LIST", [1, 2, 3]), ("CLIENT LIST TYPE normal", [1, 2, 3]), ("CLIENT LIST TYPE replica", []),
     ("CLIENT LIST ID 3 99 1", [3, 1])],
)  # fmt: skip
def test_list(server, line, expected):
    server.connect()
    server.connect()
    assert ids(server.line(line)) == expected


class TestKill:
    @pytest.fixture(autouse=True)
    def _others(self, server):
        server.connect()
        server.connect(local_address="127.0.0.1:9999")

    @pytest.mark.parametrize(
        ("line", "killed"),
        [
            ("CLIENT KILL ID 2", [2]),
            ("CLIENT KILL ID 77", []),
            ("CLIENT KILL ADDR 127.0.0.1:50003", [3]),
            ("CLIENT KILL LADDR 127.0.0.1:9999", [3]),
            ("CLIENT KILL TYPE normal", [2, 3]),
            ("CLIENT KILL TYPE pubsub", []),
            ("CLIENT KILL USER default", [2, 3]),
            ("CLIENT KILL USER default ID 3", [3]),
            ("CLIENT KILL ID 2 ID 3", []),
            ("CLIENT KILL ID 1", []),
        ],
    )
    def test_new_form_counts(self, server, line, killed):
        assert server.line(line) == len(killed)
        assert server.closed == killed
        assert not server.client.closing

    def test_skipme_no_kills_the_caller_after_its_answer(self, server):
        assert server.line("CLIENT KILL TYPE normal SKIPME no") == 3
        assert server.closed == [2, 3]
        assert server.client.closing

    def test_old_form(self, server):
        assert server.line("CLIENT KILL 127.0.0.1:50002") == "OK"
        assert server.closed == [2]


def test_reply_modes(server):
    client = server.client
    server.line("CLIENT REPLY SKIP")
    assert (client.reply_on, client.reply_skip) == (True, 2)
    server.line("CLIENT REPLY OFF")
    server.line("CLIENT REPLY SKIP")
    assert (client.reply_on, client.reply_skip) == (False, 0)
    assert server.line("CLIENT REPLY ON") == "OK"
    assert (client.reply_on, client.reply_skip) == (True, 0)


def test_pause_and_unpause(server):
    server.line("CLIENT PAUSE 1500")
    server.line("CLIENT PAUSE 100 write")
    server.line("CLIENT UNPAUSE")
    assert server.node.pauses == [(1001.5, False), (1000.1, True), (0.0, False)]


def test_switches(server):
    assert server.line("CLIENT NO-EVICT on") == "OK"
    assert server.client.no_evict
    server.line("CLIENT NO-EVICT OFF")
    assert not server.client.no_evict
    assert server.line("CLIENT NO-TOUCH ON") == "OK"


def test_client_side_caching_is_off(server):
    assert server.line("CLIENT GETREDIR") == -1
    assert server.line("CLIENT TRACKINGINFO") == {b"flags": SetReply([b"off"]), b"redirect": -1, b"prefixes": []}


def test_help_names_every_subcommand(server):
    lines = server.line("CLIENT HELP")
    assert lines[0] == "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    assert {line.split(" ")[0] for line in lines[1:] if not line.startswith(" ")} == {
        "ID", "INFO", "SETNAME", "GETNAME", "SETINFO", "REPLY", "NO-EVICT", "NO-TOUCH", "GETREDIR", "TRACKINGINFO", "LIST",
        "KILL", "PAUSE", "UNPAUSE", "HELP",
    }  # fmt: skip
