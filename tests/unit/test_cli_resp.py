from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.cli.resp import (
    DEPTH_MAX,
    LINE_MAX,
    ErrorText,
    Map,
    Members,
    Number,
    Parser,
    Push,
    Status,
    Text,
    encode,
    quote,
    split_line,
)  # fmt: skip
from raftkv.errors import ProtocolError

WIRE = [
    (b"+OK\r\n", Status("OK")),
    (b"-ERR no such key\r\n", ErrorText("ERR no such key")),
    (b":-42\r\n", -42),
    (b"$3\r\na\r\n\r\n", b"a\r\n"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"_\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n$-1\r\n*1\r\n+x\r\n", [1, None, [Status("x")]]),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",3.14\r\n", Number("3.14")),
    (b"(12345678901234567890123\r\n", Number("12345678901234567890123")),
    (b"=7\r\ntxt:abc\r\n", Text(b"abc")),
    (b"!5\r\nERR x\r\n", ErrorText("ERR x")),
    (b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", Map(((Status("a"), 1), (Status("b"), 2)))),
    (b"~2\r\n:1\r\n:2\r\n", Members([1, 2])),
    (b">1\r\n+message\r\n", Push([Status("message")])),
    (b"|1\r\n+ttl\r\n:5\r\n:7\r\n", 7),
]


@pytest.mark.parametrize(("wire", "value"), WIRE)
def test_a_reply_keeps_its_type(wire: bytes, value: object):
    parser = Parser()
    parser.feed(wire)
    found = parser.next_reply()
    assert found == (value,)
    assert type(found[0]) is type(value)
    assert parser.next_reply() is None


@given(st.data())
def test_replies_do_not_depend_on_how_the_bytes_are_cut(data: st.DataObject):
    chosen = data.draw(st.lists(st.sampled_from(WIRE), max_size=6))
    stream = b"".join(wire for wire, _ in chosen)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser, found = Parser(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        parser.feed(stream[start:end])
        while (reply := parser.next_reply()) is not None:
            found.append(reply[0])
    assert found == [value for _, value in chosen]


@pytest.mark.parametrize("wire", [b"HTTP/1.1 200 OK\r\n", b"$abc\r\n", b"\r\n", b":\r\n"])
def test_what_is_no_reply_is_an_error(wire: bytes):
    parser = Parser()
    parser.feed(wire)
    with pytest.raises(ProtocolError):
        parser.next_reply()


def test_a_line_without_end_and_endless_nesting_are_errors():
    parser = Parser()
    parser.feed(b"+" + b"x" * (LINE_MAX + 1))
    with pytest.raises(ProtocolError, match="no end"):
        parser.next_reply()
    parser = Parser()
    parser.feed(b"*1\r\n" * (DEPTH_MAX + 1))
    with pytest.raises(ProtocolError, match="too deep"):
        parser.next_reply()


def test_a_command_is_an_array_of_bulk_strings():
    assert encode(["SET", b"\x00", 7]) == b"*3\r\n$3\r\nSET\r\n$1\r\n\x00\r\n$1\r\n7\r\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("set a b", [b"set", b"a", b"b"]),
        ("  set\ta  ", [b"set", b"a"]),
        ('set "a b" c', [b"set", b"a b", b"c"]),
        (r'set "\x00\n\"" x', [b"set", b'\x00\n"', b"x"]),
        (r"set 'it\'s \n' x", [b"set", b"it's \\n", b"x"]),
        (r'set "\xzz"', [b"set", b"xzz"]),
        (r"set a\b", [b"set", b"a\\b"]),
        ('set "" x', [b"set", b"", b"x"]),
        ("set é", [b"set", "é".encode()]),
        ("", []),
    ],
)
def test_a_line_is_split_as_redis_cli_splits_it(line: str, words: list[bytes]):
    assert split_line(line) == words


@pytest.mark.parametrize("line", ['set "a', "set 'a", 'set "a"b'])
def test_quotes_must_match(line: str):
    with pytest.raises(ValueError, match=r"quote|closed"):
        split_line(line)


@given(st.lists(st.binary()))
def test_quoted_words_are_read_back(words: list[bytes]):
    assert split_line(" ".join(map(quote, words))) == words
