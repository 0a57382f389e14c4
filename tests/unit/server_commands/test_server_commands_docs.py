"""docs/commands.md comes from the table of commands; so does HELP, and every command that is declared is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.commands.registry import TABLE, Command, all_commands
from raftkv.server.commands.docs import load_all, render
from raftkv.server.commands.introspection import is_container, subcommands, with_subcommands

DOCUMENT = Path(__file__).parents[3] / "docs" / "commands.md"

EXAMPLE = Command(
    name="EXAMPLE", function=lambda *_: None, arity=2, flags=frozenset(), keys=(0, 0, 0), group="string", since="1.0.0",
    summary="Do <this> | that.", syntax="key [A | B]", complexity="O(1)",
)  # fmt: skip


def test_a_row_is_escaped():
    row = render([EXAMPLE]).splitlines()[-1]
    assert row == r"| EXAMPLE key [A \| B] | Do &lt;this> \| that. | O(1) | 1.0.0 |"


def test_every_command_and_subcommand_is_in_the_document():
    text = render(load_all())
    for one in with_subcommands(all_commands()):
        if not is_container(one):
            assert f"\n| {one.full_name}" in text


def test_the_committed_document_is_up_to_date():
    assert DOCUMENT.read_text(encoding="utf-8") == render(load_all()), "run python -m raftkv.server.commands.docs"


@pytest.mark.parametrize("name", ["CLIENT", "CLUSTER", "COMMAND", "CONFIG", "SENTINEL", "SLOWLOG", "LATENCY", "ACL"])
def test_help_shows_syntax_and_summary_of_every_subcommand(server, name):
    lines = server.line(f"{name} HELP")
    for sub in subcommands(TABLE[name.encode()]):
        at = lines.index(f"{sub.name} {sub.syntax}".rstrip())
        assert lines[at + 1] == "    " + sub.summary


def test_there_is_no_debug():
    assert b"DEBUG" not in TABLE
