"""The words that each method sends, and that the three forms of the methods agree."""

from __future__ import annotations

import ast
import contextlib
import inspect

import pytest

from raftkv import commands as _data_commands
from raftkv.client import kinds, make_twins
from raftkv.client.base import Batch
from raftkv.client.commands import Commands
from raftkv.client.kinds import kind_of
from raftkv.client.policy import Kind
from raftkv.client.pool import Slots
from raftkv.client.words import decoded, shaped, to_bytes, to_words
from raftkv.commands import registry
from raftkv.errors import CommandError
from raftkv.protocol.decoder import ResponseError


class Recorder(Commands[bytes]):
    def __init__(self, reply=None):
        self.sent = []
        self.reply = reply

    def _call(self, *words, shape=None):
        self.sent = b" ".join(to_words(words)).decode()
        return shaped(self.reply, shape, decode=False)


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        (lambda c: c.set("k", "v"), "SET k v"),
        (lambda c: c.set("k", 1.5, ex=10, nx=True), "SET k 1.5 EX 10 NX"),
        (lambda c: c.set("k", b"v", px=10, xx=True, keepttl=True), "SET k v PX 10 XX KEEPTTL"),
        (lambda c: c.set_and_get("k", "v", ex=5), "SET k v EX 5 GET"),
        (lambda c: c.put("k", "v"), "SET k v"),
        (lambda c: c.getex("k", persist=True), "GETEX k PERSIST"),
        (lambda c: c.mset({"a": 1, b"b": "2"}), "MSET a 1 b 2"),
        (lambda c: c.lcs_length("a", "b"), "LCS a b LEN"),
        (lambda c: c.delete("a", "b"), "DEL a b"),
        (lambda c: c.mdel("a", "b"), "MDEL a b"),
        (lambda c: c.expire("k", 5, gt=True), "EXPIRE k 5 GT"),
        (lambda c: c.copy("a", "b", db=3, replace=True), "COPY a b DB 3 REPLACE"),
        (lambda c: c.lpos("k", "v", rank=-1, maxlen=5), "LPOS k v RANK -1 MAXLEN 5"),
        (lambda c: c.lpos_many("k", "v", 0), "LPOS k v COUNT 0"),
        (lambda c: c.lmove("a", "b", "RIGHT", "LEFT"), "LMOVE a b RIGHT LEFT"),
        (lambda c: c.lmpop("a", "b", end="RIGHT", count=2), "LMPOP 2 a b RIGHT COUNT 2"),
        (lambda c: c.sintercard("a", "b", limit=4), "SINTERCARD 2 a b LIMIT 4"),
        (lambda c: c.hset("k", {"f": 1, "g": 2}), "HSET k f 1 g 2"),
        (lambda c: c.zadd("k", {"m": 1.5, "n": 2}, gt=True, ch=True), "ZADD k GT CH 1.5 m 2 n"),
        (lambda c: c.zadd_incr("k", "m", 2, xx=True), "ZADD k XX INCR 2 m"),
        (lambda c: c.zrange("k", 0, -1, rev=True), "ZRANGE k 0 -1 REV"),
        (lambda c: c.zrangestore("d", "s", "(1", "+inf", by="SCORE"), "ZRANGESTORE d s (1 +inf BYSCORE"),
        (lambda c: c.zrangebyscore("k", "-inf", 5, offset=1, count=2), "ZRANGEBYSCORE k -inf 5 LIMIT 1 2"),
        (lambda c: c.zunionstore("d", "a", "b", weights=(1, 2.5), aggregate="MAX"),
         "ZUNIONSTORE d 2 a b WEIGHTS 1 2.5 AGGREGATE MAX"),
        (lambda c: c.zmpop("a", "b", highest=True, count=3), "ZMPOP 2 a b MAX COUNT 3"),
        (lambda c: c.transfer_leadership(), "RAFT.TRANSFER"),
        (lambda c: c.cluster_nodes(), "RAFT.NODES"),
        (lambda c: c.add_member("n4", "db4:17379", replaces="n2"), "RAFT.ADD n4 db4:17379 REPLACES n2"),
        (lambda c: c.add_member("n4", "db4:17379", learner=True), "RAFT.ADD n4 db4:17379 LEARNER"),
        (lambda c: c.promote_member("n4"), "RAFT.PROMOTE n4"),
        (lambda c: c.remove_member("n4"), "RAFT.REMOVE n4"),
    ],
)  # fmt: skip
def test_words(call, sent):
    recorder = Recorder()
    with contextlib.suppress(TypeError):  # from the shape of a reply that was not given
        call(recorder)
    assert recorder.sent == sent


@pytest.mark.parametrize(
    ("call", "reply", "value"),
    [
        (lambda c: c.set("k", "v"), b"OK", True),
        (lambda c: c.set("k", "v", nx=True), None, False),
        (lambda c: c.setnx("k", "v"), 0, False),
        (lambda c: c.incrbyfloat("k", 1), b"1.5", 1.5),
        (lambda c: c.smismember("k", "a", "b"), [1, 0], [True, False]),
        (lambda c: c.smembers("k"), [b"a", b"b"], {b"a", b"b"}),
        (lambda c: c.type("k"), b"string", "string"),
        (lambda c: c.scan(), [b"0", [b"k"]], (0, [b"k"])),
        (lambda c: c.hscan("k"), [b"5", [b"f", b"v"]], (5, {b"f": b"v"})),
        (lambda c: c.zscan("k"), [b"0", [b"m", b"1.5"]], (0, [(b"m", 1.5)])),
        (lambda c: c.zscore("k", "m"), None, None),
        (lambda c: c.zscore("k", "m"), 2.0, 2.0),
        (lambda c: c.zrange_with_scores("k", 0, -1), [[b"m", 1.5]], [(b"m", 1.5)]),
        (lambda c: c.zmpop("k"), [b"k", [[b"m", 1.0]]], (b"k", [(b"m", 1.0)])),
        (lambda c: c.zmpop("k"), None, None),
        (lambda c: c.time(), [b"5", b"7"], (5, 7)),
        (lambda c: c.info(), b"# Server\r\na:1\r\nb:x:y\r\n", {"a": "1", "b": "x:y"}),
        (lambda c: c.cluster_status(), {b"role": b"leader", b"term": 3}, {"role": "leader", "term": 3}),
        (lambda c: c.cluster_status(), [b"role", b"leader"], {"role": "leader"}),
        (lambda c: c.cluster_nodes(), [{b"node": b"1"}], [{"node": "1"}]),
        (lambda c: c.cluster_members(), {b"members": [{b"node": b"1"}]}, {"members": [{"node": "1"}]}),
    ],
)
def test_shapes(call, reply, value):
    result = call(Recorder(reply))
    assert result == value
    assert type(result) is type(value)


def test_errors_are_not_shaped():
    error = ResponseError("ERR no")
    assert Recorder(error).smembers("k") is error


def test_the_derived_types_are_up_to_date():
    written = ast.parse(make_twins.TARGET.read_text(encoding="utf-8"))
    assert ast.dump(written) == ast.dump(ast.parse(make_twins.render())), "python -m raftkv.client.make_twins"


def test_kinds_agree_with_the_table_of_commands():
    assert _data_commands
    declared = [one for one in registry.all_commands() if one.scope == "data"]
    assert len(declared) > 50
    for one in declared:
        name = one.name.encode()
        assert (name in kinds.WRITES) == one.write or name in kinds.BOUND_TO_CONNECTION, one.name
        assert (name in kinds.READS) != one.write or name in kinds.BOUND_TO_CONNECTION, one.name
    assert not kinds.READS & kinds.WRITES


def test_every_command_of_a_method_has_a_kind():
    known = (
        kinds.READS
        | kinds.WRITES
        | {b"CONFIG", b"RAFT.ADD", b"RAFT.PROMOTE", b"RAFT.REMOVE", b"RAFT.SNAPSHOT", b"RAFT.TRANSFER", b"SLOWLOG"}
    )
    tree = ast.parse("\n".join(inspect.getsource(group) for group in Commands.__mro__[1:-2]))
    names = [
        node.args[0].value.encode()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_call"
    ]
    assert len(names) > 150
    assert set(names) <= known
    assert kinds.WRITES - set(names) == {b"EVALSHA"}, "which is for the scripts of other clients"


@pytest.mark.parametrize(
    "words", [("SELECT", 1), ("MULTI",), ("watch", "k"), ("CLIENT", "REPLY", "OFF"), ("RAFT.SESSION", "OPEN")]
)
def test_commands_of_one_connection_are_refused(words):
    with pytest.raises(CommandError, match="belongs to one connection"):
        kind_of(to_words(words))
    assert kind_of([b"CLIENT", b"LIST"]) is Kind.OTHER


@pytest.mark.parametrize("word", [None, True, [1], {}, object()])
def test_words_without_an_obvious_form_are_refused(word):
    with pytest.raises(CommandError, match="convert it first"):
        to_bytes(word)
    with pytest.raises(CommandError, match="needs a name"):
        to_words([])


def test_words_of_every_form():
    assert to_words([b"a", "\u00e9", 1, -2.5, bytearray(b"b"), memoryview(b"c")]) == [
        b"a",
        "\u00e9".encode(),
        b"1",
        b"-2.5",
        b"b",
        b"c",
    ]


def test_decoding_goes_all_the_way_down():
    error = ResponseError("ERR no")
    assert decoded([b"a", {b"k": [b"v", 1, None, error]}]) == ["a", {"k": ["v", 1, None, error]}]


def test_a_batch_is_one_request_a_command_or_one_for_all():
    for transaction, kinds_ in [(False, [Kind.WRITE, Kind.READ]), (True, [Kind.WRITE])]:
        batch = Batch(transaction=transaction, decode=True)
        batch.add(["SET", "a", 1], lambda reply: reply == "OK")
        batch.add(["GET", "a"], None)
        requests = batch.requests()
        assert [one.kind for one in requests] == kinds_
        assert [one.atomic for one in requests] == [transaction] * len(requests)
        for one, reply in zip(requests, [[b"OK", b"1"]] if transaction else [b"OK", b"1"], strict=True):
            one.finish(reply)
        assert batch.results(requests, raise_on_error=True) == [True, "1"]
        assert batch.requests() == []


def test_a_batch_raises_the_first_error_or_hands_all_out():
    error = ResponseError("WRONGTYPE no")
    for raise_on_error in (True, False):
        batch = Batch(transaction=False, decode=False)
        batch.add(["GET", "a"], None)
        batch.add(["LLEN", "a"], None)
        requests = batch.requests()
        requests[0].finish(b"v")
        requests[1].finish(error)
        if raise_on_error:
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                batch.results(requests, raise_on_error=True)
        else:
            assert batch.results(requests, raise_on_error=False) == [b"v", error]


def test_slots_are_bounded_and_reused():
    slots, woken = Slots(2), []
    assert slots.enter("a", woken.clear).grant.idle is None
    assert slots.enter("b", woken.clear).grant.idle is None
    first = slots.enter("a", lambda: woken.append("first"))
    second = slots.enter("b", lambda: woken.append("second"))
    third = slots.enter("c", lambda: woken.append("third"))
    assert (first.grant, second.grant, woken) == (None, None, [])
    slots.give("a", "connection a")
    assert (first.grant.idle, woken) == ("connection a", ["first"])
    slots.give("a", "connection a")
    assert (second.grant.idle, second.grant.evict) == (None, "connection a")
    assert slots.leave(third) is None
    assert slots.open == 2
    slots.drop()
    slots.give("b", "connection b")
    assert woken == ["first", "second"]
    assert slots.drain() == ["connection b"]
    assert slots.open == 0


def test_a_grant_that_comes_too_late_goes_to_the_next():
    slots, woken = Slots(1), []
    slots.enter("a", woken.clear)
    late = slots.enter("a", lambda: woken.append("late"))
    other = slots.enter("b", lambda: woken.append("other"))
    after = slots.enter("b", lambda: woken.append("after"))
    slots.give("a", "connection a")
    assert slots.leave(late) is None
    assert other.grant.evict == "connection a"
    assert slots.leave(other) == "connection a"
    assert (after.grant.idle, after.grant.evict, slots.open) == (None, None, 1)
    assert woken == ["late", "other", "after"]


def test_draining_wakes_all_that_wait():
    slots, woken = Slots(1), []
    slots.enter("a", woken.clear)
    turn = slots.enter("a", lambda: woken.append("closed"))
    assert slots.drain() == []
    assert (turn.grant, woken) == (None, ["closed"])
