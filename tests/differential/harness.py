"""The same commands to :mod:`raftkv.commands` and to redis-server; every reply compared, error texts included."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.lock import Lock

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands.args import format_float
from raftkv.commands.registry import Context, lookup
from raftkv.errors import RaftKVError
from raftkv.protocol.replies import NIL_ARRAY, Pairs, SetReply
from raftkv.store.digest import StateDigest, digest_of
from raftkv.store.dump import dump, load
from raftkv.store.keyspace import Keyspace
from tests.differential import resp
from tests.differential.resp import Connection, Seen
from tests.ports import free_ports

START_TIMEOUT_S = 10
LINE_BREAKS = str.maketrans("\r\n", "  ")
"""An error is one line, so that the encoder, as Redis does, replaces what would end it."""
LOCK_SCRIPTS = (Lock.LUA_RELEASE_SCRIPT, Lock.LUA_EXTEND_SCRIPT, Lock.LUA_REACQUIRE_SCRIPT)


# ------------------------------------------------------------------ the reference
@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """A redis-server of our own on a free port, with Redis' defaults and no persistence; yields the port."""
    binary = shutil.which("redis-server")
    assert binary is not None
    [port] = free_ports(1)
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_it_answers(port, process, folder)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            Connection(port).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "redis.log").read_text()) from None
            time.sleep(0.02)
        else:
            return


# ------------------------------------------------------------------ ours
@dataclass
class Subject:
    """A keyspace of ours, driven by words; ``proto`` says how its replies are to be seen."""

    proto: int
    keyspace: Keyspace = field(default_factory=Keyspace)
    db: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        # Redis uses its clock; the same time here, because absolute times in commands are compared with it.
        self.keyspace.now_ms = time.time_ns() // 1_000_000
        self.digest = StateDigest(self.keyspace)

    def run(self, argv: list[bytes]) -> Seen:
        self.index += 1
        if argv[0].upper() == b"SELECT":  # a connection command; the connection here is this object
            self.db = int(argv[1])
            return "simple", "OK"
        before = digest_of(self.keyspace) if self.index % 50 == 0 else None
        try:
            reply = lookup(argv).function(Context(self.keyspace, self.db, self.index), argv)
        except RaftKVError as error:
            assert before is None or digest_of(self.keyspace) == before, f"{argv} failed and changed the state"
            return see(error, self.proto)
        return see(reply, self.proto)

    def check(self) -> None:
        """What must hold of any state: every change was announced, and a snapshot is the state."""
        assert self.digest.full() == digest_of(self.keyspace), "a command changed a value without touch()"
        stream = b"".join(dump(self.keyspace))
        loaded = load([stream])
        assert digest_of(loaded) == digest_of(self.keyspace)
        assert b"".join(dump(loaded)) == stream, "a snapshot changes the order of something"
        for mine, theirs in zip(self.keyspace.databases, loaded.databases, strict=True):
            assert mine.size == theirs.size == sum(1 for _ in mine.items())
            assert mine.expiries == theirs.expiries


def see(reply: Any, proto: int) -> Seen:
    """What a client sees of a reply (the table in protocol/replies.py)."""
    if reply is None:
        return resp.NULL
    if reply is NIL_ARRAY:
        return resp.NIL_ARRAY if proto == 2 else resp.NULL
    match reply:
        case RaftKVError():
            return "error", str(reply).translate(LINE_BREAKS)
        case bool():
            return ("integer", int(reply)) if proto == 2 else ("bool", reply)
        case int():
            return "integer", reply
        case str():
            return "simple", reply
        case bytes():
            return "bulk", reply
        case float():
            return ("bulk", format_float(reply)) if proto == 2 else ("double", reply)
    return _see_container(reply, proto)


def _see_container(reply: Any, proto: int) -> Seen:
    if isinstance(reply, dict):
        pairs = [(see(key, proto), see(value, proto)) for key, value in reply.items()]
        return ("map", pairs) if proto == 3 else ("array", [one for pair in pairs for one in pair])
    if isinstance(reply, Pairs):
        nested: list[Seen] = [("array", [see(one, proto) for one in pair]) for pair in reply]
        return "array", nested if proto == 3 else [one for pair in nested for one in pair[1]]
    kind = "set" if isinstance(reply, SetReply) and proto == 3 else "array"
    return kind, [see(one, proto) for one in reply]


# ------------------------------------------------------------------ comparing
Loosen = Callable[[Seen], Any]


def unordered(seen: Seen) -> Any:
    """For replies whose order Redis leaves open."""
    return (seen[0], sorted(seen[1], key=repr)) if isinstance(seen[1], list) else seen


def unordered_pairs(seen: Seen) -> Any:
    """As :func:`unordered`, for a flat row of pairs."""
    if seen[0] != "array" or len(seen[1]) % 2 or any(one[0] == "array" for one in seen[1]):
        return unordered(seen)
    return "array", sorted(zip(seen[1][::2], seen[1][1::2], strict=True), key=repr)


def scanned(seen: Seen) -> Any:
    """For a scan that ended in one call."""
    return (seen[0], [seen[1][0], unordered(seen[1][1])]) if seen[0] == "array" else seen


def scanned_pairs(seen: Seen) -> Any:
    return (seen[0], [seen[1][0], unordered_pairs(seen[1][1])]) if seen[0] == "array" else seen


LOOSE: dict[bytes, Loosen] = {
    b"KEYS": unordered, b"SMEMBERS": unordered, b"SINTER": unordered, b"SUNION": unordered, b"SDIFF": unordered,
    b"HKEYS": unordered, b"HVALS": unordered, b"HGETALL": unordered_pairs,
    b"SCAN": scanned, b"SSCAN": scanned, b"HSCAN": scanned_pairs, b"ZSCAN": scanned_pairs,
    b"SPOP": unordered, b"SRANDMEMBER": unordered, b"HRANDFIELD": unordered_pairs, b"ZRANDMEMBER": unordered_pairs,
}  # fmt: skip
CURSOR_AT = {b"SCAN": 1, b"SSCAN": 2, b"HSCAN": 2, b"ZSCAN": 2}
DRAWS = frozenset((b"SRANDMEMBER", b"HRANDFIELD", b"ZRANDMEMBER"))
"""Only a draw of all members (count 1000 here) does not depend on chance."""
TOLERANCE = {b"TTL": 2, b"EXPIRETIME": 2, b"PTTL": 5000, b"PEXPIRETIME": 5000}
"""The two clocks differ by what a batch takes: seconds and milliseconds."""


def same(argv: list[bytes], ours: Seen, theirs: Seen) -> bool:
    name = argv[0].upper()
    if name in TOLERANCE and ours[0] == theirs[0] == "integer" and min(ours[1], theirs[1]) > 0:
        return bool(abs(ours[1] - theirs[1]) <= TOLERANCE[name])
    if name in CURSOR_AT and (b"0" not in argv[CURSOR_AT[name] :][:1] or b"100000" not in argv):
        return ours[0] == theirs[0]  # cursors are numbers of our own; only a scan that ends at once is comparable
    if name == b"EVALSHA" and ours[0] == theirs[0] == "error":
        return bool(ours[1].split()[0] == theirs[1].split()[0])  # Redis adds where in the Lua text it happened
    if name in DRAWS and b"1000" not in argv[2:3] and ours[0] == theirs[0] != "error":
        return ours[0] == "bulk" or ours[1] is None or len(ours[1]) == len(theirs[1])
    loosen = unordered if name in DRAWS and len(argv) == 3 else LOOSE.get(name)
    if loosen is not None:
        return bool(loosen(ours) == loosen(theirs))
    return ours == theirs or _both_nan(ours, theirs)


def _both_nan(ours: Seen, theirs: Seen) -> bool:
    return ours[0] == theirs[0] == "double" and math.isnan(ours[1]) and math.isnan(theirs[1])


def compare(connection: Connection, commands: list[list[bytes]], *, proto: int, label: str) -> None:
    """Run ``commands`` on both sides from an empty keyspace; fail on the first different reply."""
    prologue = [[b"HELLO", b"%d" % proto], [b"FLUSHALL"], [b"SELECT", b"0"]]
    prologue += [[b"SCRIPT", b"LOAD", text.encode()] for text in LOCK_SCRIPTS]
    theirs = connection.ask(prologue + commands)[len(prologue) :]
    subject = Subject(proto)
    for number, (argv, expected) in enumerate(zip(commands, theirs, strict=True)):
        found = subject.run(argv)
        if not same(argv, found, expected):
            raise AssertionError(_report(commands, number, found, expected, label))
    subject.check()


def _report(commands: list[list[bytes]], number: int, found: Seen, expected: Seen, label: str) -> str:
    words = set(commands[number][1:])
    history = [argv for argv in commands[:number] if words & set(argv[1:])][-12:]
    lines = [f"{label}, command {number}: replies differ"]
    lines += [f"   {_show(argv)}" for argv in history]
    lines += [f"-> {_show(commands[number])}", f"   redis:  {expected}", f"   raftkv: {found}"]
    return "\n".join(lines)


def _show(argv: list[bytes]) -> str:
    return " ".join(repr(word)[1:] if len(word) < 100 else f"<{len(word)} bytes>" for word in argv)
