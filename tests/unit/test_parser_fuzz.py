"""The fast parser and the reference are one: on any bytes, cut anywhere, they answer the same."""

from __future__ import annotations

import itertools

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.protocol.encoder import encode_commands
from raftkv.protocol.parser import Limits, ReferenceParser, RequestParser

TOKENS = [
    b"*0\r\n", b"*1\r\n", b"*2\r\n", b"*3\r\n", b"*-1\r\n", b"*1048577\r\n", b"*12\r\n", b"*9999\r\n", b"~1\r\n", b">1\r\n", b"%1\r\n", b"|1\r\n",
    b"$0\r\n\r\n", b"$1\r\na\r\n", b"$3\r\nSET\r\n", b"$2\r\n\r\n\r\n", b"$1\r\naXY", b"$-1\r\n", b"$20000\r\n", b"$5\r\n", b"$", b"*",
    b"+a\r\n", b":7\r\n", b"-e\r\n", b"_\r\n", b",1\r\n", b"#t\r\n", b"(1\r\n", b"=5\r\ntxt:a\r\n", b"!1\r\na\r\n",
    b"PING\r\n", b"PING a\n", b'"a b" \'c\'\r\n', b'"', b"'", b"\r\n", b"\r", b"\n", b"\\x41", b"\0", b" ",
]  # fmt: skip

streams = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3), max_size=30).map(b"".join),
    st.lists(st.lists(st.binary(max_size=80), min_size=1, max_size=4), max_size=20).map(encode_commands),
    st.tuples(
        st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=6).map(encode_commands),
        st.lists(st.sampled_from(TOKENS), max_size=4).map(b"".join),
    ).map(b"".join),
)
limits = st.sampled_from(
    [Limits(), Limits(unauthenticated=True), Limits(arguments=3, bulk=8, line=16, query_buffer=64)]
)


def pieces_of(data, cuts):
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(bounds)]


def compare(data, cuts, limit):
    fast, reference = RequestParser(limit), ReferenceParser(limit)
    for piece in pieces_of(data, cuts):
        held = reference.buffered
        commands = fast.feed(piece)
        assert commands == reference.feed(piece)
        assert str(fast.error) == str(reference.error)
        assert fast.buffered == reference.buffered <= max(limit.query_buffer, held)
        exact = not held and encode_commands(commands) == piece and fast.error is None
        assert exact or not fast.aligned
        assert fast.aligned == exact or limit != Limits()
        if fast.aligned:
            again = hiredis.Reader()
            again.feed(piece)
            assert [again.gets() for _ in commands] == commands
            assert again.gets() is False


@settings(max_examples=600)
@given(streams, st.lists(st.integers(0, 2**16), max_size=8), limits)
def test_fast_and_reference_parser_are_one(data, cuts, limit):
    compare(data, cuts, limit)


@pytest.mark.soak
@settings(max_examples=100_000, deadline=None)
@given(streams, st.lists(st.integers(0, 2**16), max_size=8), limits)
def test_fast_and_reference_parser_are_one_for_minutes(data, cuts, limit):
    compare(data, cuts, limit)


@settings(max_examples=300)
@given(streams, st.lists(st.integers(0, 2**16), max_size=8))
def test_cuts_do_not_matter(data, cuts):
    whole, cut = RequestParser(), RequestParser()
    expected = whole.feed(data)
    found = [command for piece in pieces_of(data, cuts) for command in cut.feed(piece)]
    assert found == expected
    assert str(whole.error) == str(cut.error)


@given(streams, st.lists(st.integers(0, 2**16), max_size=8))
def test_lifting_the_limits_of_the_unauthenticated_loses_nothing(data, cuts):
    free, held = RequestParser(), RequestParser(Limits(unauthenticated=True))
    expected = free.feed(data)
    found = []
    for piece in pieces_of(data, cuts):
        found += held.feed(piece)
    held.authenticated()
    found += held.feed(b"")
    assert found == expected
    assert str(held.error) == str(free.error)
