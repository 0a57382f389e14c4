"""CONFIG: tools' names, secrets, and changes that are all made or none."""

from __future__ import annotations

import pytest

from raftkv.config import Secret
from raftkv.errors import CommandError


def test_get_by_patterns(server):
    assert server.line("CONFIG GET slowlog-* MaxClients") == {
        b"maxclients": b"10000", b"slowlog-log-slower-than": b"10000", b"slowlog-max-len": b"128",
    }  # fmt: skip
    assert server.line("CONFIG GET nope") == {}


def test_get_what_tools_ask_for(server):
    assert server.line("CONFIG GET save appendonly appendfsync databases maxmemory maxmemory-policy") == {
        b"appendonly": b"yes", b"appendfsync": b"always", b"save": b"", b"databases": b"16", b"maxmemory": b"0",
        b"maxmemory-policy": b"noeviction",
    }  # fmt: skip


def test_get_never_shows_secrets(server):
    server.set(requirepass=Secret("s3cret"), peer_secret=Secret("p33r"))
    shown = server.line("CONFIG GET *")
    assert shown[b"requirepass"] == shown[b"peer-secret"] == b""
    assert b"s3cret" not in b" ".join(shown.values())
    assert b"p33r" not in b" ".join(shown.values())


def test_set(server):
    assert server.line("CONFIG SET maxclients 5 slowlog-max-len 7") == "OK"
    assert (server.node.settings.maxclients, server.node.settings.slowlog_max_len) == (5, 7)
    assert server.line("CONFIG GET maxclients") == {b"maxclients": b"5"}


def test_set_a_password_that_then_is_required(server):
    server.line("CONFIG SET requirepass s3cret")
    server.client.authenticated = False
    assert server.line("AUTH s3cret") == "OK"
    server.call(b"CONFIG", b"SET", b"requirepass", b"")
    assert server.node.settings.requirepass == ""


def test_setting_what_is_fixed_to_what_it_is_is_no_error(server):
    before = server.node.settings
    assert server.call(b"CONFIG", b"SET", b"save", b"", b"appendonly", b"yes") == "OK"
    assert server.node.settings == before


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("foo bar", "ERR Unknown option or number of arguments for CONFIG SET - 'foo'"),
        ("maxclients", "ERR wrong number of arguments for 'config|set' command"),
        ("maxclients 5 slowlog-max-len", "ERR wrong number of arguments for 'config|set' command"),
        (
            "maxclients abc",
            "ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed into an integer",
        ),
        (
            "maxclients 5 maxclients 6",
            "ERR CONFIG SET failed (possibly related to argument 'maxclients') - duplicate parameter",
        ),
        ("fsync no", "ERR CONFIG SET failed (possibly related to argument 'fsync') - can't set immutable config"),
    ],
)
def test_a_refused_set_changes_nothing(server, words, error):
    before = server.node.settings
    with pytest.raises(CommandError) as raised:
        server.line("CONFIG SET " + words)
    assert str(raised.value) == error
    assert server.node.settings == before


def test_one_wrong_value_of_two_changes_nothing(server):
    before = server.node.settings
    with pytest.raises(CommandError):
        server.line("CONFIG SET maxclients 5 slowlog-max-len x")
    assert server.node.settings == before


def test_resetstat(server):
    server.node.clients.reject()
    assert server.line("CONFIG RESETSTAT") == "OK"
    assert (server.node.resets, server.node.clients.total_rejected) == (1, 0)


def test_rewrite_says_why_not(server):
    with pytest.raises(CommandError, match="CONFIG REWRITE is not supported: change the file"):
        server.line("CONFIG REWRITE")
