from __future__ import annotations

import pytest

from raftkv.errors import ProtocolError
from raftkv.protocol.encoder import encode_command, encode_commands
from raftkv.protocol.inline import split_inline
from raftkv.protocol.parser import Limits, ReferenceParser, RequestParser, parse_commands

SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n"
PARSERS = [RequestParser, ReferenceParser]


def fed_by_byte(parser, data):
    return [command for byte in data for command in parser.feed(bytes([byte]))]


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize("feed", [lambda parser, data: parser.feed(data), fed_by_byte], ids=["whole", "by byte"])
@pytest.mark.parametrize(
    ("data", "commands"),
    [
        (SET, [[b"SET", b"k", b"hello"]]),
        (SET * 3, [[b"SET", b"k", b"hello"]] * 3),
        (b"*1\r\n$0\r\n\r\n", [[b""]]),
        (b"*2\r\n$3\r\nGET\r\n$4\r\n\r\n$1\r\n", [[b"GET", b"\r\n$1"]]),
        (b"PING\r\n", [[b"PING"]]),
        (b"PING\n", [[b"PING"]]),
        (b"PING\r\n" + SET + b"ECHO  hi \r\n", [[b"PING"], [b"SET", b"k", b"hello"], [b"ECHO", b"hi"]]),
        (SET + b"PING\r\n" + SET, [[b"SET", b"k", b"hello"], [b"PING"], [b"SET", b"k", b"hello"]]),
        (b"\r\n\n  \r\nPING\r\n", [[b"PING"]]),
        (b"*0\r\n*-1\r\n*-10\r\n" + SET, [[b"SET", b"k", b"hello"]]),
        (SET + b"*0\r\n" + SET, [[b"SET", b"k", b"hello"]] * 2),
        (b"*1\r\n$4\r\nPINGXYPING\r\n", [[b"PING"], [b"PING"]]),
        (b"SET k \"a\\x41\\n\\\"\\q\" 'it\\'s\\n'\r\n", [[b"SET", b"k", b'aA\n"q', b"it's\\n"]]),
    ],
)
def test_commands_come_out_in_order(kind, feed, data, commands):
    parser = kind()
    assert feed(parser, data) == commands
    assert parser.error is None
    assert parser.buffered == 0


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize("feed", [lambda parser, data: parser.feed(data), fed_by_byte], ids=["whole", "by byte"])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n+PING\r\n", "expected '$', got '+'"),
        (b"*1\r\n=8\r\ntxt:PING\r\n", "expected '$', got '='"),
        (b"*1\r\n*1\r\n$1\r\na\r\n", "expected '$', got '*'"),
        (b"*1\r\n_\r\n", "expected '$', got '_'"),
        (b"*1\r\n~1\r\n$1\r\na\r\n", "expected '$', got '~'"),
        (b"*2\r\n$1\r\na\r\n\xff", "expected '$', got '\udcff'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$01\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$+1\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$ 1\r\na\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$99999999999999999999999\r\n", "invalid bulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*1\rX$4\r\nPING\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*4294967295\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b'SET k "a\r\n', "unbalanced quotes in request"),
        (b"SET k 'a\r\n", "unbalanced quotes in request"),
        (b'SET k "a"b\r\n', "unbalanced quotes in request"),
        (b"SET k 'a'b\r\n", "unbalanced quotes in request"),
        (b'SET k "a\\\r\n', "unbalanced quotes in request"),
    ],
)
def test_a_broken_stream_answers_what_came_before_and_then_nothing(kind, feed, data, text):
    parser = kind()
    assert feed(parser, SET + data + SET) == [[b"SET", b"k", b"hello"]]
    assert str(parser.error) == f"ERR Protocol error: {text}"
    assert parser.feed(SET) == []
    assert parser.buffered == 0


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        (b"", "too big inline request"),
        (b"*", "too big mbulk count string"),
        (b"*1\r\n$", "too big bulk count string"),
    ],
)
@pytest.mark.parametrize("ending", [b"", b"\r\n"])
def test_lines_are_bounded_whether_they_end_or_not(kind, prefix, text, ending):
    whole = kind()
    whole.feed(prefix + b"1" * 65537 + ending)
    assert str(whole.error) == f"ERR Protocol error: {text}"
    split = kind()
    for _ in range(66):
        split.feed(prefix + b"1" * 1000)
        prefix = b""
        if split.error:
            break
        assert split.buffered <= 65536 + 4
    assert str(split.error) == f"ERR Protocol error: {text}"


@pytest.mark.parametrize("kind", PARSERS)
def test_a_line_of_exactly_the_limit_is_taken(kind):
    words = b"ECHO " + b"x" * (65536 - 6)
    assert fed_by_byte(kind(), words + b"\r\n") == [[b"ECHO", b"x" * (65536 - 6)]]
    assert fed_by_byte(kind(), words + b"y\n") == [[b"ECHO", b"x" * (65536 - 6) + b"y"]]
    assert kind().feed(words + b"y\r\n") == []


def test_aligned_means_the_bytes_are_the_commands():
    parser = RequestParser()
    for data, aligned in [
        (SET, True),
        (SET * 100, True),
        (encode_command([b"SET", b"k", b"=5\r\n*9999\r\n~9999\r\n*9999"]), True),
        (SET[:5], False),
        (SET[5:], False),
        (SET + SET[:7], False),
        (SET[7:], False),
        (SET, True),
        (b"PING\r\n", False),
        (SET + b"\r\n", False),
        (b"*0\r\n", False),
        (b"*1\r\n$4\r\nPINGXY", False),
        (SET, True),
        (b"*1\r\n+PING\r\n", False),
        (SET, False),
    ]:
        parser.feed(data)
        assert parser.aligned is aligned, data


def test_types_that_hiredis_would_pass_as_bytes_are_refused_even_where_lengths_add_up():
    # Simple strings are shorter than the bulk strings they look like, verbatim ones longer, and a tail may fill up.
    for data in [
        b"*2\r\n+ab\r\n=6\r\nabc:de\r\n",
        b"*1\r\n+a\r\n$5\r\n",
        b"*2\r\n+a\r\n+aaaaaaaaaa\r\n$9\r\n$\r\n",
        b"~1\r\n$1\r\na\r\n",
        b">1\r\n$1\r\na\r\n",
        b"|1\r\n$1\r\na\r\n$1\r\nb\r\n",
    ]:
        parser, reference = RequestParser(), ReferenceParser()
        assert parser.feed(data) == reference.feed(data)
        assert str(parser.error) == str(reference.error)
        assert not parser.aligned


def test_no_memory_is_taken_on_the_word_of_the_peer():
    import tracemalloc

    tracemalloc.start()
    try:
        for data in [
            b"*1048576\r\n",
            b"*1\r\n$536870912\r\n",
            b"*999999\r\n*999999\r\n",
            b"*1\r\n~999999999\r\n",
            b"*4294967295\r\n",
        ]:
            parser = RequestParser()
            parser.feed(SET)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            parser.feed(data)
            assert tracemalloc.get_traced_memory()[1] - before < 16_384, data
    finally:
        tracemalloc.stop()


def test_a_large_value_in_pieces_takes_at_most_twice_its_size():
    import tracemalloc

    size, piece = 8 * 1024 * 1024, b"x" * 65536
    tracemalloc.start()
    try:
        parser = RequestParser()
        parser.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % size)
        for _ in range(size // len(piece)):
            assert parser.feed(piece) == []
        assert parser.buffered == size + len(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388608\r\n")
        [command] = parser.feed(b"\r\n")
        assert command == [b"SET", b"k", b"x" * size]
        assert tracemalloc.get_traced_memory()[1] < 3.3 * size  # the value compared with above is the third copy
    finally:
        tracemalloc.stop()


def test_the_query_buffer_is_bounded():
    parser = RequestParser(Limits(query_buffer=1000))
    parser.feed(b"*2\r\n$3\r\nGET\r\n$5000\r\n" + b"x" * 900)
    assert parser.error is None
    parser.feed(b"x" * 100)
    assert str(parser.error) == "ERR Protocol error: query buffer limit exceeded"
    assert parser.buffered == 0


@pytest.mark.parametrize("kind", PARSERS)
def test_before_auth_the_limits_are_tight(kind):
    limits = Limits(unauthenticated=True)
    for data, text in [
        (b"*11\r\n", "unauthenticated multibulk length"),
        (b"*1\r\n$16385\r\n", "unauthenticated bulk length"),
    ]:
        parser = kind(limits)
        parser.feed(data)
        assert str(parser.error) == f"ERR Protocol error: {text}"
    parser = kind(limits)
    assert parser.feed(encode_command([b"x" * 16384] * 10)) == [[b"x" * 16384] * 10]


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize("long", [[b"MSET"] + [b"a"] * 20, [b"SET", b"k", b"v" * 20_000]])
def test_what_is_pipelined_behind_auth_waits_for_it(kind, long):
    parser = kind(Limits(unauthenticated=True))
    auth = [b"AUTH", b"secret"]
    data = encode_commands([auth, long, [b"PING"]])
    assert parser.feed(data) == [auth]
    assert parser.error is not None
    assert parser.feed(SET) == []
    assert parser.buffered > 0
    parser.authenticated()
    assert parser.error is None
    assert parser.feed(b"") == [long, [b"PING"], [b"SET", b"k", b"hello"]]
    assert parser.feed(encode_command(long)) == [long]
    assert parser.buffered == 0


@pytest.mark.parametrize("kind", PARSERS)
def test_the_limits_before_auth_come_back(kind):
    parser = kind(Limits(unauthenticated=True, query_buffer=1 << 20))
    parser.authenticated()
    long = [b"SET", b"k", b"v" * 20_000]
    assert parser.feed(encode_command(long)) == [long]
    parser.unauthenticated()
    assert parser.limits.query_buffer == 1 << 20
    assert parser.feed(SET + encode_command(long)) == [[b"SET", b"k", b"hello"]]
    assert str(parser.error) == "ERR Protocol error: unauthenticated bulk length"
    parser.authenticated()
    assert parser.feed(b"") == [long]


def test_what_waits_for_auth_is_bounded_and_dropped_when_the_stream_breaks():
    parser = RequestParser(Limits(unauthenticated=True, query_buffer=100))
    parser.feed(b"*11\r\n")
    parser.feed(b"x" * 200)
    parser.authenticated()
    assert str(parser.error) == "ERR Protocol error: query buffer limit exceeded"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b" a\tb ", [b"a", b"b"]),
        (b"a\vb", [b"a\vb"]),
        (b"\va", [b"a"]),
        (b'""', [b""]),
        (b"''", [b""]),
        (b'foo"bar" baz', [b"foobar", b"baz"]),
        (b'"\\x00\\xff\\xg1"', [b"\x00\xffxg1"]),
        (b'"\\n\\r\\t\\b\\a\\\\"', [b"\n\r\t\b\a\\"]),
        (b"'\\n\\''", [b"\\n'"]),
        (b'a\\"b"', [b"a\\b"]),
    ],
)
def test_inline_words(line, words):
    assert split_inline(line) == words


def test_parse_commands_takes_whole_commands_only():
    assert parse_commands(b"") == []
    assert parse_commands(SET * 2) == [[b"SET", b"k", b"hello"]] * 2
    for data in [SET[:-1], SET + b"PING\r\n", b"*1\r\n+PING\r\n"]:
        with pytest.raises(ProtocolError):
            parse_commands(data)
