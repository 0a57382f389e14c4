from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import CommandError, ProtocolError, RaftKVError, WrongTypeError
from raftkv.protocol.decoder import Push, ReplyParser, ResponseError
from raftkv.protocol.encoder import encode, encode_command, encode_commands, encode_many
from raftkv.protocol.replies import NIL_ARRAY, OK, Pairs, Raw, SetReply, Verbatim

TABLE = [
    (None, b"$-1\r\n", b"_\r\n"),
    (NIL_ARRAY, b"*-1\r\n", b"_\r\n"),
    (OK, b"+OK\r\n", b"+OK\r\n"),
    ("PONG", b"+PONG\r\n", b"+PONG\r\n"),
    ("two\r\nlines", b"+two  lines\r\n", b"+two  lines\r\n"),
    (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
    (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
    (b"x" * 5000, b"$5000\r\n" + b"x" * 5000 + b"\r\n", b"$5000\r\n" + b"x" * 5000 + b"\r\n"),
    (0, b":0\r\n", b":0\r\n"),
    (-1, b":-1\r\n", b":-1\r\n"),
    (1023, b":1023\r\n", b":1023\r\n"),
    (1024, b":1024\r\n", b":1024\r\n"),
    (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
    (True, b":1\r\n", b"#t\r\n"),
    (False, b":0\r\n", b"#f\r\n"),
    (3.14, b"$18\r\n3.1400000000000001\r\n", b",3.14\r\n"),
    (5.0, b"$1\r\n5\r\n", b",5\r\n"),
    (-0.0, b"$2\r\n-0\r\n", b",-0\r\n"),
    (1e17, b"$5\r\n1e+17\r\n", b",1e+17\r\n"),
    (float("inf"), b"$3\r\ninf\r\n", b",inf\r\n"),
    (float("-inf"), b"$4\r\n-inf\r\n", b",-inf\r\n"),
    (float("nan"), b"$3\r\nnan\r\n", b",nan\r\n"),
    ([], b"*0\r\n", b"*0\r\n"),
    ((1, b"a"), b"*2\r\n:1\r\n$1\r\na\r\n", b"*2\r\n:1\r\n$1\r\na\r\n"),
    ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
    (SetReply([b"a"]), b"*1\r\n$1\r\na\r\n", b"~1\r\n$1\r\na\r\n"),
    (Pairs([(b"a", 1.5)]), b"*2\r\n$1\r\na\r\n$3\r\n1.5\r\n", b"*1\r\n*2\r\n$1\r\na\r\n,1.5\r\n"),
    (Verbatim(b"hi"), b"$2\r\nhi\r\n", b"=6\r\ntxt:hi\r\n"),
    (CommandError("syntax error"), b"-ERR syntax error\r\n", b"-ERR syntax error\r\n"),
    (RaftKVError("a\r\nb", code="MOVED"), b"-MOVED a  b\r\n", b"-MOVED a  b\r\n"),
    (ProtocolError("expected '$', got '\udcff'"), b"-ERR Protocol error: expected '$', got '\xff'\r\n") * 1
    + (b"-ERR Protocol error: expected '$', got '\xff'\r\n",),
    (Raw(b":7\r\n"), b":7\r\n", b":7\r\n"),
    ([None, [True, {b"k": NIL_ARRAY}]], b"*2\r\n$-1\r\n*2\r\n:1\r\n*2\r\n$1\r\nk\r\n*-1\r\n", b"*2\r\n_\r\n*2\r\n#t\r\n%1\r\n$1\r\nk\r\n_\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "resp2", "resp3"), TABLE)
def test_table_of_replies(value, resp2, resp3):
    assert encode(value, 2) == resp2
    assert encode(value, 3) == resp3


@pytest.mark.parametrize("proto", [2, 3])
def test_many_replies_are_the_single_ones_joined(proto):
    values = [row[0] for row in TABLE]
    assert encode_many(values, proto) == b"".join(encode(value, proto) for value in values)


def test_every_error_is_encoded_by_its_base():
    assert encode(WrongTypeError(), 2) == b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
def test_what_is_no_reply_is_refused(value):
    with pytest.raises(TypeError, match="is no reply"):
        encode(value, 2)


@given(st.lists(st.lists(st.binary(max_size=2000), min_size=1)))
def test_commands_are_what_a_reply_parser_reads(commands):
    reader = hiredis.Reader()
    data = encode_commands(commands)
    reader.feed(data)
    assert [reader.gets() for _ in commands] == commands
    assert reader.gets() is False
    assert data == b"".join(encode_command(argv) for argv in commands)


@pytest.mark.parametrize("argument", [None, 1, "text", [b"a"], 1.5])
def test_commands_are_made_of_bytes(argument):
    with pytest.raises(TypeError):
        encode_command([b"SET", argument])


replies3 = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=4), inner, max_size=5),
    max_leaves=15,
)


@given(st.lists(replies3, max_size=5), st.data())
def test_what_is_encoded_in_resp3_is_decoded_whatever_the_cuts(values, data):
    encoded = encode_many(values, 3)
    cut = data.draw(st.integers(0, len(encoded)))
    parser = ReplyParser()
    assert parser.feed(encoded[:cut]) + parser.feed(encoded[cut:]) == values


def test_decoder_gives_errors_as_instances_also_inside_arrays():
    replies = ReplyParser().feed(b"-MOVED 3 host:1\r\n*1\r\n-ERR no\r\n-unknown thing\r\n-BUSY\r\n")
    assert [type(reply) for reply in replies] == [ResponseError, list, ResponseError, ResponseError]
    assert (replies[0].code, replies[0].message, str(replies[0])) == ("MOVED", "3 host:1", "MOVED 3 host:1")
    assert (replies[1][0].code, replies[1][0].message) == ("ERR", "no")
    assert (replies[2].code, str(replies[2])) == ("ERR", "ERR unknown thing")
    assert (replies[3].code, str(replies[3])) == ("BUSY", "BUSY")


def test_decoder_tells_push_messages_apart():
    push, array = ReplyParser().feed(b">2\r\n+invalidate\r\n*0\r\n*1\r\n:1\r\n")
    assert isinstance(push, Push)
    assert push == [b"invalidate", []]
    assert not isinstance(array, Push)


@pytest.mark.parametrize("data", [b"what\r\n", b"%1\r\n*1\r\n:1\r\n:2\r\n", b"*x\r\n"])
def test_decoder_refuses_what_is_no_reply(data):
    with pytest.raises(ProtocolError):
        ReplyParser().feed(data)
