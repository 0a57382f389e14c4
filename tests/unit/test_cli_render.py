from __future__ import annotations

import json

import pytest

from raftkv.cli.render import is_text, render
from raftkv.cli.resp import ErrorText, Map, Members, Number, Status, Text, Value

NESTED: Value = [b"a", [1, [None, Status("OK")]], []]
FIELDS = Map(((b"role", b"leader"), (b"term", 3)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Status("OK"), "OK\n"),
        (b'a"\x00', '"a\\"\\x00"\n'),
        (5, "(integer) 5\n"),
        (None, "(nil)\n"),
        (True, "(true)\n"),
        (Number("1.5"), "(double) 1.5\n"),
        (ErrorText("ERR x"), "(error) ERR x\n"),
        ([], "(empty array)\n"),
        (Members(), "(empty set)\n"),
        (Map(()), "(empty hash)\n"),
        (NESTED, '1) "a"\n2) 1) (integer) 1\n   2) 1) (nil)\n      2) OK\n3) (empty array)\n'),
        (FIELDS, '1# "role" => "leader"\n2# "term" => (integer) 3\n'),
        (Text(b"line\n"), "line\n"),
        (list(range(10)), "".join(f"{n + 1:>2}) (integer) {n}\n" for n in range(10))),
    ],
)
def test_pretty_is_what_redis_cli_shows_on_a_terminal(value: Value, shown: str):
    assert render(value, "pretty").decode() == shown


def test_text_for_people_is_not_quoted():
    assert is_text([b"info", b"server"])
    assert is_text([b"cluster", b"NODES"])
    assert not is_text([b"cluster", b"slots"])
    assert not is_text([])
    assert render(b"# Server\r\n", "pretty", text=True) == b"# Server\r\n"


def test_raw_keeps_bytes():
    assert render([b"\xff\x00", None, 1], "raw") == b"\xff\x00\n\n1\n"
    assert render(b"line\n", "raw") == b"line\n"
    assert render(ErrorText("ERR x"), "raw") == b"ERR x\n"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (NESTED, ["a", [1, [None, "OK"]], []]),
        (FIELDS, {"role": "leader", "term": 3}),
        (Map(((1, b"x"), ([b"k"], b"y"))), {"1": "x", '["k"]': "y"}),
        (ErrorText("ERR x"), {"error": "ERR x"}),
        (b"\xff", "\\xff"),
        (Number("1.5"), 1.5),
        (Number("inf"), "inf"),
        (True, True),
    ],
)
def test_json_is_json(value: Value, plain: object):
    assert json.loads(render(value, "json")) == plain


def test_a_table_has_a_row_for_each_field_item_or_map():
    def rows(value: Value) -> list[list[str]]:
        lines = render(value, "table").decode().splitlines()
        return [line.split() for line in lines if line.strip() and "─" not in line]

    assert rows(FIELDS) == [["field", "value"], ["role", "leader"], ["term", "3"]]
    assert rows([b"x", None]) == [["#", "value"], ["1", "x"], ["2", "(nil)"]]
    assert rows([FIELDS, Map(((b"id", b"n2"),))]) == [["role", "term", "id"], ["leader", "3"], ["n2"]]
    assert rows([[1, 2], [3]]) == [["1", "2"], ["3"]]
    assert rows(7) == [["value"], ["7"]]


def test_colours_only_when_asked():
    assert b"\x1b" not in render(ErrorText("ERR x"), "pretty")
    assert b"\x1b[31m" in render(ErrorText("ERR x"), "pretty", color=True)
