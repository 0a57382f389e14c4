"""Hostile arguments to every data command, on keys of every type.

An exception in apply that is no CommandError stops the node, and every other replica at the same entry: one such command is
poison for the whole cluster. So nothing else may come out, a refused command and a read change nothing, every reply can be
encoded, and replicas agree on replies and state, also when one of them was loaded from a snapshot on the way or has another
hash seed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

import raftkv.commands  # noqa: F401 -- fills the table
from raftkv.commands.random_draws import REPEATED_BYTES_MAX, REPEATS_MAX
from raftkv.commands.registry import TABLE, Command, Context, lookup
from raftkv.errors import CommandError
from raftkv.protocol.encoder import encode
from raftkv.store.digest import StateDigest, digest_of, slot_digest
from raftkv.store.dump import dump, load
from raftkv.store.keyspace import Keyspace
from raftkv.store.slots import key_slot
from tests.differential.grammar import Group
from tests.differential.groups import GROUPS

COMMANDS = sorted(
    {one.full_name: one for top in TABLE.values() for one in (top, *top.subcommands.values())}.values(),
    key=lambda one: one.full_name,
)
COMMANDS = [one for one in COMMANDS if one.scope == "data"]
ROUNDS = 8
"""How often a sequence plays every command."""
SEEDS = range(3)
SOAK_SEEDS = range(1000, 1200)
SANE_CALLS_SOAK = 30
SANE_TRIES = 100
DATABASES = (0, 0, 0, 0, 1, 15)
CPU_MAX_S = 2.0
BYTES_MAX = 48 << 20
"""Most that one call may allocate here, where no word is longer than LONG and no number makes SETRANGE fill memory."""
HELD_REPLIES = 16
LONG = 1 << 20
START_MS = 1_700_000_000_000

# ------------------------------------------------------------------ words
KEYS = (
    b"string", b"int", b"float", b"binary", b"list", b"set", b"hash", b"zset", b"lex", b"many list", b"many set", b"many hash",
    b"many zset", b"late list", b"late string", b"due zset", b"due set", b"missing", b"", b"\xff\x00{", b"{hash}tag", b"a", b"k", b"s", b"h", b"z",
)  # fmt: skip
NUMBERS = (
    b"0", b"1", b"-1", b"2", b"3", b"7", b"-3", b"100", b"-100", b"1000", b"-0", b"65536", b"-70000", b"2147483647", b"-2147483649",
    b"4294967296", b"9223372036854775807", b"-9223372036854775808", b"-9223372036854775807", b"9223372036854775808",
    b"9223372036854775806", b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616", b"1" + b"0" * 40,
    b"9223372036854775", b"9223372036854776", b"1700000000", b"1700000000001", b"1700000100000",
)  # fmt: skip
NEARLY_NUMBERS = (
    b"+1", b"007", b" 1", b"1 ", b"1\n", b"\t1", b"1_000", b"1,5", b"0x10", b"0b1", b"1e2", b"1e400", b"1e-400", b"1e5000", b"1e-99999999999", b"1.5", b".5",
    b"5.", b".", b"-", b"--1", b"1e", b"e1", b"inf", b"-inf", b"+inf", b"INF", b"Infinity", b"nan", b"-nan", b"nan(1)", b"0x1p3", b"0x.8p-70", b"0xp1",
    b"1.7976931348623157e308", b"-1.7976931348623157e308", b"5e-324", b"1.1e4932", b"0x1p99999", b"1.0x", "\u0661".encode(), "\u00b2".encode(), b"1\x00", b"\x001",
    b"(1", b"(", b"((1", b"(inf", b"(-inf", b"(nan", b"( 1", b"(0x1p3", b"(1_0", b"9" * 5000, b"0." + b"0" * 4500 + b"1", b"1e-" + b"0" * 5000, b"0x" + b"f" * 5000,
    b"9" * 100_000, b"-" + b"1" * 19, b"0." + b"3" * 40,
)  # fmt: skip
TEXTS = (
    b"", b"x", b"member", b"field", b"1", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"a\r\nb", b"%s%n%d", b"{", b"}", b"{}", b"*", b"?", b"[", b"[^", b"[a-", b"[\xff-\x01]", b"\\",
    b"*" * 60 + b"b", b"*a" * 60, b"?" * 300, b"[a-z]" * 100, b"a*" * 3000, b"[" * 5000, b"[a", b"(a", b"[", b"(", b"+", b"-", b"[\xff\xff\xff", b"(\x00", b"y" * 70, b"y" * 513,
    b"c3f8721cbb97f72bc19e972846bd7aaf91901658", b"a4e8783852e6b949f9ef3a97212805108459a890", b"1cac51482acf5858da00f6d685d68f886cd6b6b2", b"f" * 40,
    "\U0001f600".encode(), b"ab" * 2000, b"\x80" * 65536,
)  # fmt: skip
RARE = (b"v" * LONG, b"\xff" * LONG, b"1" * LONG, b"*" * LONG, b"?" * LONG, b"[a" * (LONG // 2), b"inf" * (LONG // 3))


def _options(commands: list[Command]) -> tuple[bytes, ...]:
    return tuple(sorted({word.encode() for one in commands for word in re.findall(r"[A-Z]{2,}", one.syntax)}))


OPTIONS = _options(COMMANDS)
OWN_OPTIONS = {one.full_name: _options([one]) or OPTIONS for one in COMMANDS}


def _word(rng: Random, one: Command | None) -> bytes:
    draw = rng.random()
    if draw < 0.004:
        return rng.choice(RARE)
    if draw < 0.25 and one is not None:
        return _any_case(rng, rng.choice(OWN_OPTIONS[one.full_name]))
    if draw < 0.30:
        return _any_case(rng, rng.choice(OPTIONS))
    pools = (KEYS, NUMBERS[:10], NUMBERS[:10], NUMBERS, NUMBERS, NEARLY_NUMBERS, TEXTS, TEXTS)
    return rng.choice(rng.choice(pools))


def _any_case(rng: Random, word: bytes) -> bytes:
    return rng.choice((word, word, word.lower(), word.capitalize()))


def hostile(rng: Random, one: Command) -> list[bytes]:
    """A call of ``one``: words of all kinds, the first keys where keys are expected, nearly always enough of them."""
    name = one.full_name.encode().split()
    fewest = abs(one.arity) - len(name)
    count = fewest if one.arity > 0 else fewest + rng.choice((0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 8, 12))
    if rng.random() < 0.02:
        count = max(0, count + rng.choice((-1, 1)))
    argv = [_any_case(rng, word) for word in name] + [_word(rng, one) for _ in range(count)]
    for at in _key_places(one, len(argv)):
        if rng.random() < 0.9:
            argv[at] = rng.choice(KEYS)
    if rng.random() < 0.1 and len(argv) > len(name) + 1:
        argv[-1] = argv[len(name)]
    return argv


def _key_places(one: Command, length: int) -> range:
    first, last, step = one.keys
    if one.key_finder is not None or not first:
        return range(2, min(4, length)) if one.key_finder is not None else range(0)
    return range(first, min(length, (length + last if last < 0 else last) + 1), step)


def _sane_forms() -> dict[str, list[Group]]:
    """The templates that are compared with Redis, by command, on the keys that are here."""
    found: dict[str, list[Group]] = {}
    for group in GROUPS:
        fitting = tuple(key for key in KEYS if TYPE_OF[group.name] in key)
        pools = group.pools | {"key": group.pools["key"] + 3 * fitting}
        for template in group.templates:
            name = " ".join(template.split()[: 2 if template.startswith(("OBJECT", "MEMORY", "SCRIPT")) else 1])
            found.setdefault(name, []).append(Group(group.name, (template,), pools))
    return found


TYPE_OF = {
    "strings": b"string", "keys": b"", "lists": b"list", "sets": b"set", "hashes": b"hash", "zsets": b"z", "locks": b"string",
}  # fmt: skip
SANE_FORMS = _sane_forms()


def nearly_sane(rng: Random, one: Command) -> list[bytes]:
    """A call that makes sense, sometimes with one word of it exchanged: it gets further than one at random."""
    forms = SANE_FORMS.get(one.full_name)
    if forms is None:
        return hostile(rng, one)
    argv = rng.choice(forms).generate(rng, 1)[0]
    if len(argv) > 1 and rng.random() < 0.3:
        argv[rng.randrange(1, len(argv))] = _word(rng, None)
    return argv


def keys_of_each_type() -> Iterator[list[bytes]]:
    """A small and a large one, some with an expiry ahead and some that expire at once."""
    yield [b"MSET", b"string", b"hello world", b"int", b"41", b"float", b"3.25", b"binary", bytes(range(256))]
    yield [b"SET", b"late string", b"v"]
    yield [b"RPUSH", b"list", b"a", b"b", b"a", b"", b"1"]
    yield [b"SADD", b"set", b"a", b"b", b"", b"1", b"\xff"]
    yield [b"HSET", b"hash", b"field", b"1", b"f", b"1.5", b"", b"", b"inf", b"inf"]
    yield [b"ZADD", b"zset", b"1", b"a", b"-inf", b"b", b"inf", b"c", b"2.5", b""]
    yield [b"ZADD", b"lex", *(word for letter in b"abcdefgh" for word in (b"0", bytes([letter])))]
    names = [b"m%d" % number for number in range(300)]
    yield [b"RPUSH", b"many list", *names]
    yield [b"SADD", b"many set", *names]
    yield [b"HSET", b"many hash", *(word for name in names for word in (name, name))]
    yield [b"ZADD", b"many zset", *(word for number, name in enumerate(names) for word in (b"%d" % (number % 7), name))]
    yield [b"COPY", b"list", b"late list", b"REPLACE"]
    yield [b"COPY", b"zset", b"due zset", b"REPLACE"]
    yield [b"COPY", b"set", b"due set", b"REPLACE"]
    yield [b"PEXPIRE", b"late list", b"100000"]
    yield [b"PEXPIRE", b"late string", b"100000"]
    yield [b"PEXPIRE", b"due zset", b"1"]
    yield [b"PEXPIRE", b"due set", b"1"]


# ------------------------------------------------------------------ replicas
class Replica:
    """A keyspace and what apply does with it."""

    def __init__(self) -> None:
        self.keyspace = Keyspace()
        self.keyspace.now_ms = START_MS
        self.digest = StateDigest(self.keyspace)

    def apply(self, index: int, db: int, argv: list[bytes]) -> Any:
        """The reply, or the CommandError; any other exception leaves, as it does from apply."""
        try:
            return lookup(argv).function(Context(self.keyspace, db, index), argv)
        except CommandError as error:
            return error

    def pass_time(self, by_ms: int) -> int:
        """Let keys expire; how many were removed."""
        self.keyspace.now_ms += by_ms
        return sum([database.expire_due(1) for database in self.keyspace.databases])

    def reload(self) -> None:
        """Become what a replica is that was sent a snapshot."""
        now_ms = self.keyspace.now_ms
        self.keyspace = load([b"".join(dump(self.keyspace))])
        self.keyspace.now_ms = now_ms
        self.digest = StateDigest(self.keyspace)

    def seen_at(self, argv: list[bytes]) -> list[int]:
        """Digests, from the data itself, of all places that ``argv`` names."""
        slots = [key_slot(word) for word in argv[1:]]
        databases = [self.keyspace.databases[db] for db in sorted(set(DATABASES))]
        return [slot_digest(database, slot) for database in databases if database.size for slot in slots]


def encoded(reply: Any) -> tuple[bytes, bytes]:
    return encode(reply, 2), encode(reply, 3)


def sequence(seed: int) -> Iterator[tuple[int, list[bytes]]]:
    """(database, command): each command ROUNDS times, keys of each type set anew now and then."""
    rng = Random(f"never raise/{seed}")
    for _ in range(ROUNDS):
        for db in sorted(set(DATABASES)):
            yield from ((db, argv) for argv in keys_of_each_type())
        for one in rng.sample(COMMANDS, len(COMMANDS)):
            yield rng.choice(DATABASES), hostile(rng, one)
            yield rng.choice(DATABASES), nearly_sane(rng, one)


class Trial:
    """Two replicas that apply the same commands."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.one, self.other = Replica(), Replica()
        self.rng = Random(f"trial/{seed}")
        self.index = 0
        self.state = self.one.digest.full()
        self.held: list[tuple[list[bytes], Any, tuple[bytes, bytes]]] = []

    def run(self) -> None:
        for db, argv in sequence(self.seed):
            self.index += 1
            try:
                self.step(db, argv)
            except CommandError:
                raise
            except Exception as error:
                raise AssertionError(f"seed {self.seed}, command {self.index}, database {db}: {show(argv)}") from error
            if self.index % 400 == 0:
                self.other.reload()
        assert self.one.digest.full() == digest_of(self.one.keyspace) == digest_of(self.other.keyspace), "no touch()"

    def step(self, db: int, argv: list[bytes]) -> None:
        one, other = self.one, self.other
        by_ms = self.rng.choice((0, 0, 0, 1, 50))
        if one.pass_time(by_ms) + other.pass_time(by_ms):
            self.state = one.digest.full()
        words, places = list(argv), one.seen_at(argv)
        started = time.thread_time()
        reply = one.apply(self.index, db, argv)
        assert time.thread_time() - started < CPU_MAX_S, "held up apply"
        assert argv == words, "changed its own arguments"
        mine = encoded(reply)
        assert mine == encoded(other.apply(self.index, db, argv)), "replicas answer differently"
        state, now_there = one.digest.full(), one.seen_at(argv)
        assert now_there == other.seen_at(argv), "replicas differ"
        if isinstance(reply, CommandError) or not lookup(argv).write:
            assert (state, now_there) == (self.state, places), f"changed something and answered {reply!r}"
        self.state = state
        self.hold(argv, reply, mine)

    def hold(self, argv: list[bytes], reply: Any, mine: tuple[bytes, bytes]) -> None:
        """A transaction's replies are encoded after its last command: no reply may share what a later one changes."""
        self.held.append((argv, reply, mine))
        if len(self.held) == HELD_REPLIES:
            assert self.state == self.other.digest.full(), "replicas differ"
            for words, kept, was in self.held:
                assert encoded(kept) == was, f"the reply of {show(words)} changed later"
            self.held.clear()


def show(argv: list[bytes]) -> str:
    return " ".join(repr(word)[1:] if len(word) < 200 else f"<{word[:20]!r}... {len(word)} bytes>" for word in argv)


# ------------------------------------------------------------------ tests
@pytest.mark.parametrize("seed", SEEDS)
def test_only_command_errors_come_out_and_replicas_agree(seed: int) -> None:
    Trial(seed).run()


def exchange_words(one: Command, rng: Random) -> None:
    """Play a call that makes sense with each hostile word at each of its places."""
    replica, call = Replica(), nearly_sane(rng, one)
    for at in range(1, len(call)):
        for argv in keys_of_each_type():
            replica.apply(1, 0, argv)
        for word in (*KEYS, *NUMBERS, *NEARLY_NUMBERS, *TEXTS):
            argv = [*call[:at], word, *call[at + 1 :]]
            before = replica.seen_at(argv)
            reply = replica.apply(1, 0, argv)
            encoded(reply)
            if isinstance(reply, CommandError):
                assert replica.seen_at(argv) == before, f"{show(argv)} changed something and answered {reply!r}"


@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: one.full_name)
def test_any_word_may_stand_at_any_place(one: Command) -> None:
    """What chance would try once in a day."""
    exchange_words(one, Random(one.full_name))


@pytest.mark.soak
@pytest.mark.parametrize("one", COMMANDS, ids=lambda one: one.full_name)
def test_any_word_may_stand_at_any_place_of_many_calls(one: Command) -> None:
    for number in range(SANE_CALLS_SOAK):
        exchange_words(one, Random(f"{one.full_name}/{number}"))


@pytest.mark.soak
@pytest.mark.parametrize("seed", SOAK_SEEDS)
def test_only_command_errors_come_out_and_replicas_agree_for_minutes(seed: int) -> None:
    Trial(seed).run()


def test_a_call_allocates_no_more_than_its_arguments_and_values_explain() -> None:
    replica = Replica()
    tracemalloc.start()
    try:
        for index, (db, argv) in enumerate(sequence(seed=-1), start=1):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            encoded(replica.apply(index, db, argv))
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < BYTES_MAX, f"{(peak - before) >> 20} MiB for {show(argv)}"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("fill", "draw"),
    [
        (b"SADD key %b", b"SRANDMEMBER key %d"), (b"HSET key %b 1", b"HRANDFIELD key %d"),
        (b"HSET key f %b", b"HRANDFIELD key %d WITHVALUES"), (b"ZADD key 1 %b", b"ZRANDMEMBER key %d WITHSCORES"),
    ],
)  # fmt: skip
def test_repeated_draws_of_long_words_are_bounded(fill: bytes, draw: bytes) -> None:
    replica = Replica()
    replica.apply(1, 0, (fill % (b"w" * LONG)).split())
    most = REPEATED_BYTES_MAX // LONG
    assert len(replica.apply(2, 0, (draw % -most).split())) == most
    assert str(replica.apply(3, 0, (draw % -(most + 1)).split())) == "ERR value is out of range"
    assert str(replica.apply(4, 0, (draw % -(REPEATS_MAX + 1)).split())) == "ERR value is out of range"


def transcript(seed: int) -> str:
    """A digest of all replies and of the state after them."""
    replica, seen = Replica(), sha256()
    for index, (db, argv) in enumerate(sequence(seed), start=1):
        for part in encoded(replica.apply(index, db, argv)):
            seen.update(part)
        replica.pass_time(index % 3)
    return f"{seen.hexdigest()} {replica.digest.full()}"


def test_processes_with_other_hash_seeds_agree() -> None:
    """Two nodes hash bytes differently: whatever iterated a Python set of them would answer in another order."""
    root = Path(__file__).parents[2]
    told = set()
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, __file__, "77"], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        told.add(done.stdout)
    assert len(told) == 1


def test_every_data_command_is_played_and_gets_past_its_checks() -> None:
    """Or this file would prove nothing about it."""
    containers = {one.full_name for one in COMMANDS if one.subcommands}
    always_refused = {"SCRIPT LOAD"}  # takes three texts that are not among the words here
    for one in COMMANDS:
        replica, rng = Replica(), Random(one.full_name)
        for argv in keys_of_each_type():
            replica.apply(1, 0, argv)
        tries = (isinstance(replica.apply(2, 0, nearly_sane(rng, one)), CommandError) for _ in range(SANE_TRIES))
        assert all(tries) is (one.full_name in containers | always_refused), one.full_name
    assert {"SET", "LCS", "OBJECT ENCODING", "EVALSHA", "ZRANGESTORE", "SWAPDB"} <= {one.full_name for one in COMMANDS}


if __name__ == "__main__":
    print(transcript(int(sys.argv[1])))
