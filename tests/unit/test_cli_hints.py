from __future__ import annotations

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from raftkv.cli.hints import CommandCompleter, describe, hint_for, split_syntax
from raftkv.commands.registry import TABLE


def complete(text: str) -> list[str]:
    return [one.text for one in CommandCompleter().get_completions(Document(text), CompleteEvent())]


def test_names_complete_in_the_case_that_is_typed():
    assert {"get", "getdel", "getex", "getrange", "getset"} >= set(complete("getd")) == {"getdel"}
    assert "GETDEL" in complete("GET")
    assert complete("nosuchcommand") == []


def test_every_command_of_the_table_completes():
    complete("x")  # loads the table
    for command in {one.name for one in TABLE.values()}:
        assert command in complete(command[:-1]), command


def test_sub_commands_and_options_complete():
    assert "SETNAME" in complete("CLIENT SETN")
    assert "XX" in complete("set k v X")
    assert complete("get k ") == []
    assert "SET" in complete("help SE")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("key value [NX | XX] [GET]", ["key", "value", "[NX | XX]", "[GET]"]), ("[a [b ...]] c", ["[a [b ...]]", "c"]), ("", [])],
)  # fmt: skip
def test_syntax_is_split_at_the_top(text: str, parts: list[str]):
    assert split_syntax(text) == parts


def test_hints_shrink_as_arguments_are_typed():
    whole = hint_for("set ")
    assert whole.startswith("key value [")
    assert hint_for("set k ") == whole.removeprefix("key ")
    assert hint_for("SET k v ") == whole.removeprefix("key value ")
    assert "NX" in hint_for("set k v ")
    assert "NX" not in hint_for("set k v NX ")
    assert hint_for("get 'a b' ") == ""
    assert hint_for("get 'a b") == ""
    assert hint_for("nosuchcommand ") == ""
    assert hint_for("") == ""


def test_help_describes_one_or_lists_all():
    assert describe(["get"]).startswith("GET key\n")
    assert "sub-commands:" in describe(["client"])
    assert "string: " in describe([])
    assert "no command NOPE" in describe(["nope"])
