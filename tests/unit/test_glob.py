from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.commands.glob import PATTERN_BYTES_MAX, compile_glob, literal
from raftkv.errors import CommandError


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (b"h?llo", [b"hello", b"h\nllo", b"h\xffllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeeello", b"h*llo"], [b"hell", b"xhllo"]),
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"h[ae]llo"]),
        (b"h[^e]llo", [b"hallo", b"h^llo"], [b"hello"]),
        (b"h[a-c]x", [b"hax", b"hcx"], [b"hdx", b"h-x"]),
        (b"h[c-a]x", [b"hax", b"hbx"], [b"hdx"]),
        (b"a\\*b", [b"a*b"], [b"axb", b"a\\*b"]),
        (b"[a\\]]", [b"a", b"]"], [b"\\", b"b"]),
        (b"[a-]", [b"a", b"^", b"]"], [b"b", b"-"]),
        (b"[abc", [b"a", b"c"], [b"[abc", b"d"]),
        (b"[^", [b"x"], [b"", b"xx"]),
        (b"[", [], [b"[", b""]),
        (b"[]", [], [b"]", b"[]"]),
        (b"[^]", [b"x", b"]"], [b""]),
        (b"a\\", [b"a\\"], [b"a"]),
        (b"", [b""], [b"a"]),
        (b"*", [b"a", b"abc"], []),
        (b"**a**b**", [b"ab", b"xaxbx"], [b"ba", b"a"]),
        (b"a*a", [b"aa", b"aba"], [b"a", b"ab"]),
        (b"*ab*abc", [b"ababc", b"abxabc"], [b"abc", b"xabc"]),
        (b"[.^$*+]", [b".", b"$", b"+", b"^"], [b"a"]),
        (b"a.b", [b"a.b"], [b"axb"]),
        (b"\x00*\xff", [b"\x00\xff", b"\x00x\xff"], [b"\x00"]),
        (b"**", [b"a"], [b""]),
        (b"[\xfe-\x01]", [b"\xfe", b"\xff", b"\x00", b"\x01"], [b"\x02", b"\xfd", b"\x80"]),
        (b"[a-\x80]", [b"\x80", b"\xff", b"\x00", b"a"], [b"b"]),
        (b"[^\x80-\xff]", [b"a", b"\x7f"], [b"\x80", b"\xff"]),
        (b"[\\-^]", [b"-", b"^"], [b"]", b"\\"]),
    ],
)
def test_patterns_match_as_in_redis(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    matches = compile_glob(pattern)
    assert [text for text in matching if not matches(text)] == []
    assert [text for text in others if matches(text)] == []


def test_case_may_be_ignored() -> None:
    assert compile_glob(b"MAX*[a-c]", ignore_case=True)(b"maxmemoryB")
    assert not compile_glob(b"MAX*")(b"maxmemory")


def test_a_literal_has_no_special_byte() -> None:
    assert literal(b"user:1")
    assert not any(map(literal, (b"a*", b"a?", b"[a]", b"\\a")))


@given(
    st.lists(st.sampled_from([b"*", b"?", b"a", b"b", b"[ab]", b"[^a]"]), max_size=8).map(b"".join),
    st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=8).map(b"".join),
)
def test_the_matcher_agrees_with_a_regular_expression(pattern: bytes, text: bytes) -> None:
    expected = re.fullmatch(pattern.replace(b"*", b".*").replace(b"?", b"."), text, re.DOTALL) is not None
    assert compile_glob(pattern)(text) is expected


def test_a_hostile_pattern_costs_no_exponential_time() -> None:
    matches = compile_glob(b"a*" * 60 + b"b")
    started = time.perf_counter()
    assert not matches(b"a" * 20_000)
    assert time.perf_counter() - started < 2


def test_a_pattern_is_no_longer_than_its_limit() -> None:
    assert compile_glob(b"a" * PATTERN_BYTES_MAX)(b"a" * PATTERN_BYTES_MAX)
    with pytest.raises(CommandError, match=f"^ERR pattern is longer than {PATTERN_BYTES_MAX} bytes$"):
        compile_glob(b"?" * (PATTERN_BYTES_MAX + 1))
