"""Completion and argument hints, derived from the command table."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Final

from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import to_formatted_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput

from raftkv.cli.resp import split_line
from raftkv.commands import registry

if TYPE_CHECKING:
    from raftkv.commands.registry import Command

LOCAL: Final = {
    "HELP": "[command] -- describe a command, or list all",
    "EXIT": "-- leave",
    "CLEAR": "-- clear the screen",
}
"""What the prompt answers itself."""

_KEYWORD: Final = re.compile(r"(?<![\w-])[A-Z][A-Z0-9-]+(?![\w-])")


@cache
def load_table() -> list[Command]:
    """Every declared command by name, after importing the modules that declare them."""
    for package_name in ("raftkv.commands", "raftkv.server.commands"):
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(package.__path__, package_name + "."):
            importlib.import_module(module.name)
    return registry.all_commands()


def find(words: list[str]) -> tuple[Command, int] | None:
    """The command or sub-command that ``words`` begin with, and how many words its name takes."""
    load_table()
    command = registry.TABLE.get(words[0].upper().encode()) if words else None
    if command is None:
        return None
    if command.subcommands and len(words) > 1:
        sub = command.subcommands.get(words[1].upper().encode())
        if sub is not None:
            return sub, 2
    return command, 1


def split_syntax(syntax: str) -> list[str]:
    """``"key value [NX | XX] [GET]"`` to ``["key", "value", "[NX | XX]", "[GET]"]``."""
    parts: list[str] = []
    depth, current = 0, ""
    for char in syntax:
        depth += (char in "[<") - (char in "]>")
        if char == " " and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part for part in [*parts, current] if part]


def remaining(command: Command, given: list[str]) -> str:
    """What may still follow after the arguments ``given``: required ones in order, then the options not yet used."""
    parts = split_syntax(command.syntax)
    for word in given:
        keyword = word.upper()
        used = next((part for part in parts if part[0] == "[" and keyword in _KEYWORD.findall(part)), None)
        if used is not None:
            parts.remove(used)
        elif parts and parts[0][0] != "[":
            parts.pop(0)
    return " ".join(parts)


def words_of(text: str) -> list[str]:
    """The words typed so far; an open quote counts as a word."""
    for closing in ("", '"', "'"):
        try:
            return [word.decode("utf-8", "replace") for word in split_line(text + closing)]
        except ValueError:
            continue
    return text.split()


def hint_for(text: str) -> str:
    """Arguments that may follow ``text``; empty while the command's name is not complete."""
    if not text.strip():
        return ""
    words = words_of(text)
    found = find(words)
    if found is None:
        return LOCAL.get(words[0].upper(), "") if len(words) == 1 else ""
    command, taken = found
    if not text.endswith(" ") and len(words) == taken and command.subcommands:
        return ""
    return remaining(command, words[taken:])


class CommandCompleter(Completer):
    """Names, sub-commands and keywords of options, in the case that the user types."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002 -- prompt_toolkit's signature
        text = document.text_before_cursor
        words = words_of(text)
        current = "" if not text or text[-1].isspace() else words.pop()
        for name, meaning in self._choices(words):
            if name.startswith(current.upper()) and name != current.upper():
                shown = name.lower() if current.islower() else name
                yield Completion(shown, start_position=-len(current), display_meta=meaning)

    @staticmethod
    def _choices(words: list[str]) -> list[tuple[str, str]]:
        if not words or (len(words) == 1 and words[0].upper() == "HELP"):
            names = [(one.name, one.summary) for one in load_table()]
            return names if words else [*names, *LOCAL.items()]
        found = find(words)
        if found is None:
            return []
        command, taken = found
        if command.subcommands and len(words) == 1:
            subs = {one.name: one.summary for one in command.subcommands.values()}
            return sorted(subs.items())
        left = remaining(command, words[taken:])
        return [(keyword, "") for keyword in dict.fromkeys(_KEYWORD.findall(left))]


class HintProcessor(Processor):
    """Shows what may follow, in grey, behind the cursor's line."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        document = transformation_input.document
        fragments = transformation_input.fragments
        last_line = transformation_input.lineno == document.line_count - 1
        if get_app().is_done or not last_line or not document.is_cursor_at_the_end:
            return Transformation(fragments)  # an accepted line stays on the screen as it was typed
        hint = hint_for(document.text)
        space = "" if document.text.endswith(" ") or not hint else " "
        return Transformation([*fragments, *to_formatted_text([("class:hint", space + hint)])])


def describe(words: list[str]) -> str:
    """The answer to ``help``: all groups, or one command."""
    if not words:
        groups: dict[str, list[str]] = {}
        for one in load_table():
            groups.setdefault(one.group, []).append(one.name)
        return "\n".join(f"{group}: {' '.join(names)}" for group, names in sorted(groups.items()))
    found = find(words)
    if found is None:
        return f"no command {' '.join(words).upper()}; `help` lists all"
    command, _ = found
    lines = [
        f"{command.full_name} {command.syntax}".rstrip(),
        f"  {command.summary}",
        f"  group {command.group}, since {command.since}, {command.complexity}",
    ]
    subs = sorted({one.name for one in command.subcommands.values()})
    if subs:
        lines.append(f"  sub-commands: {' '.join(subs)}")
    return "\n".join(lines)
