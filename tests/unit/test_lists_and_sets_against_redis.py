"""List and set commands answer what redis-server answers: random sequences, compared reply by reply.

Both sides start from the same keys (lists, sets, a string, some with an expiry) and get the same commands, valid
and invalid. Compared are the type and content of each reply in RESP2 and RESP3, in the end all values and expiries,
and what COMMAND INFO says of each command. Order counts for lists; that of a set's members is each side's own.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pytest

import raftkv.commands.lists
import raftkv.commands.sets  # noqa: F401 -- fills the table
from raftkv.commands.registry import Argv, Context, all_commands, lookup
from raftkv.errors import CommandError
from raftkv.protocol.replies import NilArray, Reply, SetReply
from raftkv.store.keyspace import Keyspace
from raftkv.store.sets import IndexedSet

pytestmark = pytest.mark.integration

SEQUENCES: Final = 40
COMMANDS_EACH: Final = 400
START_SECONDS_MAX: Final = 10.0
FAR_MS: Final = 4_000_000_000_000
KEYS: Final = [b"l1", b"l2", b"l3", b"s1", b"s2", b"s3", b"text", b"none"]
WORDS: Final = [b"a", b"b", b"c", b"1", b"2", b"", b"a\r\nb"]
NUMBERS: Final = [
    b"0", b"1", b"2", b"3", b"-1", b"-2", b"-3", b"7", b"x", b"+1", b"01", b"",
    b"9223372036854775807", b"-9223372036854775807", b"9223372036854775808",
]  # fmt: skip
SMALL: Final = [b"1", b"2", b"3", b"0", b"-1", b"x"]
UNORDERED: Final = frozenset((b"SMEMBERS", b"SINTER", b"SUNION", b"SDIFF", b"SPOP", b"SRANDMEMBER", b"SSCAN"))

GRAMMAR: Final[dict[str, list[str]]] = {
    "LPUSH": ["key word", "key word word word", "key"],
    "RPUSH": ["key word", "key word word word word word", "key"],
    "LPUSHX": ["key word", "key word word"],
    "RPUSHX": ["key word", "key word word"],
    "LPOP": ["key", "key number", "key number number"],
    "RPOP": ["key", "key number", "key number number"],
    "LLEN": ["key", "key key"],
    "LRANGE": ["key number number", "key =0 =-1"],
    "LINDEX": ["key number"],
    "LSET": ["key number word"],
    "LTRIM": ["key number number", "key =1 =-2"],
    "LREM": ["key number word", "key number"],
    "LINSERT": ["key =before word word", "key =AFTER word word", "key word word word"],
    "LPOS": [
        "key word", "key word =RANK number", "key word =count number", "key word =RANK number =COUNT number",
        "key word =MAXLEN number =COUNT =0", "key word =RANK number =COUNT number =MAXLEN number", "key word =RANK",
        "key word word number",
    ],
    "LMOVE": ["key key =LEFT =right", "key key =RIGHT =LEFT", "key key =LEFT =LEFT", "key key =UP =LEFT"],
    "RPOPLPUSH": ["key key"],
    "LMPOP": [
        "=1 key =LEFT", "=2 key key =RIGHT =COUNT number", "small key key =left", "=1 key =LEFT =COUNT",
        "=1 key =LEFT =COUNT =1 =COUNT =1", "=1 key word",
    ],
    "SADD": ["key word", "key word word word word", "key"],
    "SREM": ["key word", "key word word"],
    "SISMEMBER": ["key word"],
    "SMISMEMBER": ["key word word word", "key"],
    "SMEMBERS": ["key"],
    "SCARD": ["key"],
    # Only draws whose outcome is certain: the two sides have different generators.
    "SPOP": ["key =99", "key =0", "key =-1", "key =x", "key =1 =2", "=never"],
    "SRANDMEMBER": ["key =99", "key =0", "key =-4", "key =x", "key =1 =2", "=never", "key =-9223372036854775808"],
    "SMOVE": ["key key word"],
    "SINTER": ["key", "key key", "key key key"],
    "SUNION": ["key", "key key", "key key key"],
    "SDIFF": ["key", "key key", "key key key"],
    "SINTERSTORE": ["key key", "key key key"],
    "SUNIONSTORE": ["key key", "key key key"],
    "SDIFFSTORE": ["key key", "key key key"],
    "SINTERCARD": [
        "=1 key", "=2 key key", "small key key", "=2 key key =LIMIT number", "=1 key =LIMIT", "=1 key word number",
        "=2 key key =limit number =LIMIT number",
    ],
    "SSCAN": [
        "key =0 =COUNT =1000", "key =0 =MATCH =[ab] =COUNT =1000", "key =0 =MATCH =* =COUNT =1000", "key =0 =COUNT number =COUNT =1000",
        "key =x", "key =0 =MATCH", "key =0 =TYPE =set", "key =18446744073709551616",
    ],
}  # fmt: skip

Form = tuple[str, Any]
"""The RESP type and the content, containers as lists of forms."""


# -------------------------------------------------------------------- the other side
class Redis:
    """A connection that keeps what client libraries hide: which null, array or set, which error."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(START_SECONDS_MAX)
        self.socket.connect(str(path))
        self.stream: BinaryIO = self.socket.makefile("rb")

    def send(self, commands: list[Argv]) -> list[Form]:
        words = b"".join(
            b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)
            for argv in commands
        )
        self.socket.sendall(words)
        return [self._read() for _ in commands]

    def _read(self) -> Form:
        line = self.stream.readline()
        kind, rest = chr(line[0]), line[1:-2]
        if kind == "$":
            if rest == b"-1":
                return ("nil", None)
            content = self.stream.read(int(rest) + 2)[:-2]
            return ("$", content)
        if kind in "*~%":
            if rest == b"-1":
                return ("nil array", None)
            return (kind, [self._read() for _ in range(int(rest) * (2 if kind == "%" else 1))])
        return ("nil", None) if kind == "_" else (kind, int(rest) if kind == ":" else rest)

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture(scope="module")
def redis_socket() -> Iterator[Path]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed, so there is nothing to compare with")
    with tempfile.TemporaryDirectory(prefix="rkv") as folder:
        path = Path(folder) / "s"
        process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not path.exists():
                assert process.poll() is None, "redis-server did not start"
                assert time.monotonic() < deadline, "redis-server did not open its socket"
                time.sleep(0.01)
            yield path
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def redis(redis_socket: Path) -> Iterator[Redis]:
    connection = Redis(redis_socket)
    _, version = connection.send([[b"INFO", b"server"]])[0]
    if b"redis_version:7.0." not in version:
        connection.close()
        pytest.skip("redis-server is not 7.0, whose texts these are")
    yield connection
    connection.close()


# -------------------------------------------------------------------- this side
def run(ctx: Context, argv: Argv) -> Reply:
    try:
        return lookup(argv).function(ctx, argv)
    except CommandError as error:
        return error


def form(reply: Reply, proto: int) -> Form:
    match reply:
        case None:
            return ("nil", None)
        case NilArray():
            return ("nil array" if proto == 2 else "nil", None)
        case CommandError():
            return ("-", str(reply).encode())
        case bool():
            raise AssertionError("no command here answers a boolean")
        case str():
            return ("+", reply.encode())
        case bytes():
            return ("$", reply)
        case int():
            return (":", reply)
        case SetReply():
            return ("~" if proto == 3 else "*", [form(item, proto) for item in reply])
        case list():
            return ("*", [form(item, proto) for item in reply])
    raise AssertionError(reply)


def comparable(argv: Argv, answer: Form) -> Form:
    """``answer`` without what the two sides may choose: the order of a set's members, and which ones are drawn."""
    kind, content = answer
    if argv[0] not in UNORDERED or not isinstance(content, list):
        return answer
    if argv[0] == b"SRANDMEMBER" and argv[2].startswith(b"-"):
        return (kind, [drawn_kind for drawn_kind, _ in content])
    if argv[0] == b"SSCAN":
        return (kind, [content[0], (content[1][0], sorted(content[1][1]))])
    return (kind, sorted(content))


# -------------------------------------------------------------------- sequences
def draw_command(rng: random.Random) -> Argv:
    name = rng.choice(list(GRAMMAR))
    pools = {"key": KEYS, "word": WORDS, "number": NUMBERS, "small": SMALL}
    words = [
        word[1:].encode() if word.startswith("=") else rng.choice(pools[word])
        for word in rng.choice(GRAMMAR[name]).split()
    ]
    # Mostly keys of the right type; the few others give WRONGTYPE.
    own = {"L": b"l", "R": b"l", "S": b"s"}[name[0]]
    return [
        name.encode(),
        *(own + word[1:] if word in KEYS[:6] and rng.random() < 0.9 else word for word in words),
    ]


def seed_commands(rng: random.Random) -> list[Argv]:
    """Commands that fill both sides; SET and PEXPIREAT are carried out here by hand."""
    commands: list[Argv] = [[b"SET", b"text", b"v"]]
    commands += [[b"RPUSH", key, *rng.choices(WORDS, k=rng.randint(1, 8))] for key in KEYS[:3]]
    commands += [[b"SADD", key, *rng.choices(WORDS, k=rng.randint(1, 6))] for key in KEYS[3:6]]
    return [*commands, *([b"PEXPIREAT", key, b"%d" % FAR_MS] for key in (b"l1", b"s1", b"text"))]


def seed(ctx: Context, commands: list[Argv]) -> None:
    for argv in commands:
        if argv[0] == b"SET":
            ctx.db.set(argv[1], argv[2])
        elif argv[0] == b"PEXPIREAT":
            ctx.db.set_expiry(argv[1], int(argv[2]))
        else:
            run(ctx, argv)


def state(ctx: Context) -> list[Form]:
    """As :func:`state_commands` on the other side."""
    found: list[Form] = []
    for key in KEYS:
        value, at_ms = ctx.db.get(key), ctx.db.expire_at(key)
        kinds = {deque: b"list", IndexedSet: b"set", bytes: b"string", type(None): b"none"}
        found.append(("+", kinds[type(value)]))
        found.append((":", -2 if value is None else -1 if at_ms is None else at_ms))
        if isinstance(value, deque):
            found.append(("*", [("$", item) for item in value]))
        elif isinstance(value, IndexedSet):
            found.append(("*", sorted(("$", member) for member in value)))
        assert value is None or len(value), f"{key!r} holds an empty container"
    return found


def state_of(redis: Redis) -> list[Form]:
    found: list[Form] = []
    for key in KEYS:
        kind, expiry = redis.send([[b"TYPE", key], [b"PEXPIRETIME", key]])
        found += [kind, expiry]
        if kind[1] == b"list":
            found += redis.send([[b"LRANGE", key, b"0", b"-1"]])
        elif kind[1] == b"set":
            found.append(("*", sorted(redis.send([[b"SMEMBERS", key]])[0][1])))
    return found


@pytest.mark.parametrize("proto", [2, 3])
def test_random_sequences(redis: Redis, proto: int) -> None:
    for number in range(SEQUENCES):
        rng = random.Random(number)
        redis.send([[b"HELLO", b"2"], [b"FLUSHALL"]])
        ctx = Context(Keyspace(), index=number + 1)
        commands = seed_commands(rng)
        redis.send(commands)
        seed(ctx, commands)
        commands = [draw_command(rng) for _ in range(COMMANDS_EACH)]
        theirs = redis.send([[b"HELLO", b"%d" % proto], *commands, [b"HELLO", b"2"]])[1:-1]
        for at, (argv, answer) in enumerate(zip(commands, theirs, strict=True)):
            ours = form(run(ctx, list(argv)), proto)
            assert comparable(argv, ours) == comparable(argv, answer), f"sequence {number}, command {at}: {argv}"
        assert state(ctx) == state_of(redis), f"sequence {number}"


def test_every_command_is_in_the_grammar() -> None:
    assert sorted(GRAMMAR) == [one.name for one in all_commands() if one.group in {"list", "set"}]


def test_declarations_are_those_of_command_info(redis: Redis) -> None:
    for name in GRAMMAR:
        ours = lookup_by_name(name)
        info = [content for _, content in redis.send([[b"COMMAND", b"INFO", name.encode()]])[0][1][0][1]]
        docs = [content for _, content in redis.send([[b"COMMAND", b"DOCS", name.encode()]])[0][1][1][1]]
        assert ours.arity == info[1], name
        assert sorted(ours.flags) == sorted(flag.decode() for _, flag in info[2]), name
        assert list(ours.keys) == info[3:6], name
        assert ours.categories() == sorted(category.decode()[1:] for _, category in info[6]), name
        assert ours.since.encode() == docs[docs.index(b"since") + 1], name
        assert ours.group.encode() == docs[docs.index(b"group") + 1], name


def lookup_by_name(name: str) -> Any:
    return next(one for one in all_commands() if one.name == name)


def test_keys_are_found_where_redis_finds_them(redis: Redis) -> None:
    for line in (b"LMPOP 2 a b LEFT COUNT 3", b"SINTERCARD 1 a LIMIT 2", b"LMOVE a b LEFT LEFT", b"SDIFFSTORE a b c"):
        argv = line.split()
        theirs = [key for _, key in redis.send([[b"COMMAND", b"GETKEYS", *argv]])[0][1]]
        assert lookup(argv).keys_of(argv) == theirs
