"""COMMAND and ACL: the forms were compared with redis-server 7.0 (tests/integration does it again, where it is installed)."""

from __future__ import annotations

import pytest

from raftkv.commands.registry import TABLE, all_commands
from raftkv.config import Secret
from raftkv.errors import CommandError
from raftkv.protocol.encoder import encode
from raftkv.protocol.replies import SetReply
from raftkv.server.commands.introspection import find, is_container, wire_name, with_subcommands
from raftkv.server.commands.syntax import parse_syntax


def test_info_of_get_is_that_of_redis(server):
    assert server.line("COMMAND INFO get") == [
        [
            b"get", 2, SetReply(["readonly", "fast"]), 1, 1, 1, SetReply(["@fast", "@read", "@string"]), SetReply(),
            SetReply([
                {
                    b"flags": SetReply(["RO", "access"]),
                    b"begin_search": {b"type": b"index", b"spec": {b"index": 1}},
                    b"find_keys": {b"type": b"range", b"spec": {b"lastkey": 0, b"keystep": 1, b"limit": 0}},
                }
            ]),
            SetReply(),
        ]
    ]  # fmt: skip


def test_info_of_a_subcommand_on_the_wire_is_that_of_redis(server):
    reply = server.line("COMMAND INFO CONFIG|help nope")
    assert encode(reply, 2) == (
        b"*2\r\n*10\r\n$11\r\nconfig|help\r\n:2\r\n*2\r\n+loading\r\n+stale\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@slow\r\n*0\r\n*0\r\n*0\r\n"
        b"$-1\r\n"
    )
    assert encode(reply, 3) == (
        b"*2\r\n*10\r\n$11\r\nconfig|help\r\n:2\r\n~2\r\n+loading\r\n+stale\r\n:0\r\n:0\r\n:0\r\n~1\r\n+@slow\r\n~0\r\n~0\r\n~0\r\n"
        b"_\r\n"
    )


def test_a_container_lists_its_subcommands(server):
    entry = server.line("COMMAND INFO slowlog")[0]
    assert [sub[0] for sub in entry[9]] == [b"slowlog|get", b"slowlog|help", b"slowlog|len", b"slowlog|reset"]


def test_command_without_arguments_is_every_command(server):
    every = server.line("COMMAND")
    assert len(every) == server.line("COMMAND COUNT") == len(all_commands())
    assert every == server.line("COMMAND INFO")


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("MSET a 1 c 2", [b"a", b"c"]),
        ("mget a b c", [b"a", b"b", b"c"]),
        ("SET a b", [b"a"]),
        ("WATCH a b", [b"a", b"b"]),
    ],
)
def test_getkeys(server, line, keys):
    assert server.line("COMMAND GETKEYS " + line) == keys


def test_getkeysandflags(server):
    assert server.line("COMMAND GETKEYSANDFLAGS MGET a b") == [
        [b"a", SetReply(["RO", "access"])],
        [b"b", SetReply(["RO", "access"])],
    ]
    assert server.line("COMMAND GETKEYSANDFLAGS APPEND a b") == [[b"a", SetReply(["RW", "access", "update"])]]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("COMMAND GETKEYS foo a", "ERR Invalid command specified"),
        ("COMMAND GETKEYS ECHO a", "ERR The command has no key arguments"),
        ("COMMAND GETKEYS GET a b", "ERR Invalid number of arguments specified for command"),
        ("COMMAND GETKEYS get", "ERR wrong number of arguments for 'command|getkeys' command"),
        ("COMMAND NOPE", "ERR unknown subcommand 'NOPE'. Try COMMAND HELP."),
        ("COMMAND LIST FILTERBY PATTERN", "ERR syntax error"),
        ("COMMAND LIST FILTERBY foo bar", "ERR syntax error"),
        ("ACL CAT foo", "ERR Unknown category 'foo'"),
    ],
)
def test_errors_are_those_of_redis(server, line, error):
    with pytest.raises(CommandError) as raised:
        server.line(line)
    assert str(raised.value) == error


@pytest.mark.parametrize(
    ("filter_by", "some", "without"),
    [
        ("PATTERN *GET", {b"get", b"mget", b"config|get", b"slowlog|get"}, {b"set", b"getrange"}),
        ("ACLCAT string", {b"get", b"set"}, {b"ping", b"del"}),
        ("ACLCAT dangerous", {b"info", b"client|list", b"save"}, {b"get"}),
        ("MODULE x", set(), {b"get"}),
        ("ACLCAT nope", set(), {b"get"}),
    ],
)
def test_list_filters(server, filter_by, some, without):
    found = set(server.line("COMMAND LIST FILTERBY " + filter_by))
    assert some <= found
    assert not without & found


def test_find_knows_commands_and_subcommands_in_any_case():
    assert find(b"gEt") is TABLE[b"GET"]
    assert find(b"Config|Set").full_name == "CONFIG SET"
    assert [find(name) for name in (b"nope", b"config|nope", b"config|", b"get|x", b"|")] == [None] * 5


class TestDocs:
    def test_of_one(self, server):
        assert server.line("COMMAND DOCS echo nope") == {
            b"echo": {
                b"summary": b"Answer the message.",
                b"since": b"1.0.0",
                b"group": b"connection",
                b"complexity": b"O(1)",
                b"arguments": [{b"name": b"message", b"type": b"string"}],
            }
        }

    def test_of_a_container(self, server):
        docs = server.line("COMMAND DOCS slowlog")[b"slowlog"]
        assert list(docs[b"subcommands"]) == [b"slowlog|get", b"slowlog|help", b"slowlog|len", b"slowlog|reset"]

    def test_every_command_has_docs_and_encodes(self, server):
        every = server.line("COMMAND DOCS")
        assert len(every) == len(all_commands())
        assert all(entry[b"summary"] and entry[b"since"] and entry[b"group"] for entry in every.values())
        assert encode(every, 2).startswith(b"*%d\r\n" % (2 * len(every)))
        assert encode(every, 3).startswith(b"%%%d\r\n" % len(every))


class TestSyntax:
    def tree(self, syntax):
        def shown(argument):
            marks = ("+" if argument.multiple else "") + ("?" if argument.optional else "")
            inner = f"({' '.join(map(shown, argument.arguments))})" if argument.arguments else ""
            token = f"{argument.token}:" if argument.token else ""
            return f"{token}{argument.type}{inner}{marks}"

        return " ".join(map(shown, parse_syntax(syntax)))

    @pytest.mark.parametrize(
        ("syntax", "tree"),
        [
            ("", ""),
            ("key", "key"),
            ("key [key ...]", "key+"),
            ("key value [key value ...]", "block(key string)+"),
            ("[NX | XX]", "oneof(NX:pure-token XX:pure-token)?"),
            ("[EX seconds | KEEPTTL]", "oneof(EX:integer KEEPTTL:pure-token)?"),
            ("[LIMIT offset count]", "LIMIT:block(integer integer)?"),
            ("<ON | OFF>", "oneof(ON:pure-token OFF:pure-token)"),
            ("key [WITHSCORES]", "key WITHSCORES:pure-token?"),
            ("[ID client-id [client-id ...]]", "ID:integer+?"),
            ("protover [AUTH username password]", "integer AUTH:block(string string)?"),
        ],
    )
    def test_trees(self, syntax, tree):
        assert self.tree(syntax) == tree

    @pytest.mark.parametrize("syntax", ["[a", "a]", "<a", "a>", "[a>"])
    def test_unbalanced_brackets_are_refused(self, syntax):
        with pytest.raises(ValueError, match="in the syntax"):
            parse_syntax(syntax)

    @pytest.mark.parametrize("one", with_subcommands(all_commands()), ids=wire_name)
    def test_every_declared_syntax_parses(self, one):
        arguments = parse_syntax(one.syntax)
        needed = sum(not argument.optional for argument in arguments)
        words = abs(one.arity) - (2 if one.parent else 1)
        if not is_container(one):
            assert bool(arguments) or words == 0
            assert one.arity < 0 or needed <= words


class TestAcl:
    def test_users(self, server):
        assert server.line("ACL WHOAMI") == b"default"
        assert server.line("ACL USERS") == [b"default"]
        assert server.line("ACL LIST") == [b"user default on nopass ~* &* +@all"]
        assert server.line("ACL GETUSER nobody") is None
        assert server.line("ACL GETUSER default")[b"flags"] == SetReply([b"on", b"nopass"])

    def test_a_password_is_never_shown(self, server):
        server.set(requirepass=Secret("s3cret"))
        replies = [server.line("ACL LIST"), server.line("ACL GETUSER default")]
        assert b"nopass" not in repr(replies).encode()
        assert "s3cret" not in repr(replies)
        assert server.line("ACL GETUSER default") == {
            b"flags": SetReply([b"on"]), b"passwords": [], b"commands": b"+@all", b"keys": b"~*", b"channels": b"&*",
            b"selectors": [],
        }  # fmt: skip

    def test_categories_name_commands(self, server):
        categories = server.line("ACL CAT")
        assert {b"read", b"write", b"string", b"admin", b"dangerous", b"connection"} <= set(categories)
        assert b"get" in server.line("ACL CAT read")
        connection = server.line("ACL CAT connection")
        assert b"client|list" in connection
        assert b"client" not in connection
        assert all(server.line("ACL CAT " + category.decode()) for category in categories)
