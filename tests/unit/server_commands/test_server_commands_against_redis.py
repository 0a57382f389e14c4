"""What is deterministic of the server commands is, byte for byte, what redis-server answers; the table says what it says.

Each line goes to a fresh connection on both sides. What raftkv does differently on purpose is listed with its reason.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

import hiredis
import pytest

from raftkv.commands.registry import all_commands
from raftkv.errors import RaftKVError
from raftkv.protocol.encoder import encode, encode_command
from raftkv.server.commands.introspection import info_entry, is_container, wire_name, with_subcommands

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

LINES = """
PING | PING a | PING a b | ECHO a | ECHO | SELECT 3 | SELECT x | SELECT 16 | SELECT -1 | SELECT 99999999999 | QUIT | RESET
AUTH a | AUTH a b | AUTH default x | AUTH a b c | HELLO 4 | HELLO x | HELLO 3 foo | HELLO 3 SETNAME | HELLO 3 AUTH a b
MULTI | DISCARD | EXEC | UNWATCH | WATCH
CLIENT NOPE | CLIENT | CLIENT GETNAME | CLIENT SETNAME a | CLIENT SETNAME | CLIENT GETREDIR | CLIENT TRACKINGINFO
CLIENT NO-EVICT ON | CLIENT NO-EVICT foo | CLIENT REPLY ON | CLIENT REPLY foo
CLIENT PAUSE x | CLIENT PAUSE -1 | CLIENT PAUSE 0 foo | CLIENT PAUSE 0 | CLIENT UNPAUSE
CLIENT LIST TYPE foo | CLIENT LIST TYPE replica | CLIENT LIST ID | CLIENT LIST ID x | CLIENT LIST foo bar
CLIENT KILL | CLIENT KILL x | CLIENT KILL ID 0 | CLIENT KILL ID 9999 | CLIENT KILL TYPE foo | CLIENT KILL SKIPME foo
CLIENT KILL USER nouser | CLIENT KILL foo bar baz | CLIENT KILL 1.2.3.4:1 | CLIENT KILL TYPE pubsub
COMMAND INFO get | COMMAND INFO getrange lrange | COMMAND INFO nope | COMMAND INFO config|help | COMMAND DOCS nope | COMMAND NOPE
COMMAND GETKEYS foo a | COMMAND GETKEYS get | COMMAND GETKEYS ECHO a | COMMAND GETKEYS GET a b | COMMAND GETKEYS MSET a 1 b 2
COMMAND GETKEYSANDFLAGS MGET a b | COMMAND LIST FILTERBY foo bar | COMMAND LIST foo | COMMAND LIST FILTERBY MODULE x
CONFIG GET save | CONFIG GET databases | CONFIG GET maxmemory-policy | CONFIG GET nope | CONFIG GET | CONFIG SET foo bar
CONFIG SET maxclients | CONFIG SET maxclients abc | CONFIG SET maxclients 5 maxclients 6 | CONFIG SET databases 4 | CONFIG NOPE
SLOWLOG GET x | SLOWLOG GET -2 | SLOWLOG GET 0 | SLOWLOG FOO | SLOWLOG RESET | LATENCY LATEST | LATENCY HISTORY x | LATENCY RESET
ACL WHOAMI | ACL CAT foo | ACL LIST | ACL USERS | ACL GETUSER default | ACL GETUSER x | MODULE LIST | MODULE FOO
WAIT x 1 | WAIT 1 -1 | WAIT 1 x | WAIT 0 0 | INFO nope | BGSAVE foo | SAVE
CLUSTER KEYSLOT a | CLUSTER KEYSLOT {a}b | CLUSTER KEYSLOT | CLUSTER COUNTKEYSINSLOT 99999 | CLUSTER COUNTKEYSINSLOT 5
CLUSTER GETKEYSINSLOT 1 -1 | CLUSTER GETKEYSINSLOT 99999 1 | CLUSTER GETKEYSINSLOT 5 5 | CLUSTER REPLICAS x | CLUSTER LINKS
READONLY | READWRITE | ASKING | CLUSTER NOPE
"""

NOT_COMPARED = {
    "SELECT 3": "a Redis Cluster has one database only, raftkv has sixteen",
    "SELECT 16": "as SELECT 3",
    "SELECT -1": "as SELECT 3",
    "WAIT 0 0": "the number of replicas differs",
}

OTHER_CATEGORIES = {"asking", "command", "lastsave", "readonly", "readwrite", "role"}
"""Categories are derived from flags and group; Redis gives these further ones by hand."""


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    if port > 55_535:  # the cluster bus listens 10,000 above
        port -= 20_000
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--save", "", "--dir", directory, "--cluster-enabled", "yes"],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=10)


def ask(port: int, *commands: list[bytes]) -> list[bytes]:
    """The raw replies of redis-server to commands on one connection."""
    replies = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for argv in commands:
            connection.sendall(encode_command(argv))
            reader, raw = hiredis.Reader(), b""
            while True:
                data = connection.recv(65_536)
                assert data, "redis-server closed the connection"
                raw += data
                reader.feed(data)
                if reader.gets() is not False:
                    break
            replies.append(raw)
    return replies


def lines() -> list[str]:
    return [line.strip() for row in LINES.strip().splitlines() for line in row.split(" | ")]


def unordered(value: object) -> object:
    """Sets and maps have no order of their own on the wire."""
    if isinstance(value, list):
        made = [unordered(one) for one in value]
        return sorted(made) if all(isinstance(one, bytes) for one in made) else made
    return repr(value) if isinstance(value, hiredis.ReplyError) else value


def parsed(raw: bytes) -> object:
    reader = hiredis.Reader()
    reader.feed(raw)
    return unordered(reader.gets())


@pytest.mark.parametrize("line", [line for line in lines() if line not in NOT_COMPARED])
@pytest.mark.parametrize("proto", [2, 3])
def test_replies(server, redis_port, line, proto):
    argv = line.encode().split(b" ")
    server.client.proto = proto
    theirs = ask(redis_port, [b"HELLO", b"%d" % proto], argv)[1]
    try:
        reply = server.call(*argv)
    except RaftKVError as error:
        reply = error
    ours = encode(reply, server.client.proto)
    assert ours[:1] == theirs[:1]
    assert parsed(ours) == parsed(theirs)


@pytest.mark.parametrize(
    "one",
    [
        one
        for one in with_subcommands(all_commands())
        if one.scope == "server" and one.group not in {"raft", "sentinel"}
    ],
    ids=wire_name,
)
def test_declarations(redis_port, one):
    raw = ask(redis_port, [b"COMMAND", b"INFO", wire_name(one).encode()])[0]
    reader = hiredis.Reader()
    reader.feed(raw)
    (theirs,) = reader.gets()
    if theirs is None:
        assert one.since > "7.0", "Redis 7.0 does not have it"
        return
    ours = info_entry(one)
    assert ours[1] == theirs[1]
    assert ours[3:6] == theirs[3:6]
    assert {flag.encode() for flag in ours[2]} == set(theirs[2])
    if wire_name(one).split("|")[0] not in OTHER_CATEGORIES and not is_container(one):
        assert {category.encode() for category in ours[6]} == set(theirs[6])
