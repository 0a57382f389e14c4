"""Golden scripts: a schedule that somebody thought out, played on the production code, and what came of it.

    python -m chaos.sim.script FILE...            play, and show where the outcome is another than the file says
    python -m chaos.sim.script --rewrite FILE...  write the outcome into the files
    python -m chaos.sim.script --verbs            what a script may say

A script is text. Lines that begin with ``#`` are for its reader. A block is one or more commands, a line ``----``, and
the outcome, up to an empty line::

    campaign n1
    deliver n1->n2
    ----
    n1 -> n2 pre-vote term 2 last 5/1
    n1 => n2 pre-vote term 2 last 5/1
      n2 -> n1 pre-vote-granted term 2

``n1 -> n2`` is a message that n1 sends, ``n1 => n2`` one that arrives; what follows from an arrival stands below it,
further in. Other lines tell the new state of a node, an answer to a client, or ``VIOLATION`` with the safety property
(:mod:`chaos.sim.checks`) that no longer holds. ``5/1`` is the log's entry 5, of term 1.

Nothing moves by itself. A message is under way until the script delivers or drops it; clocks stand until ``advance``
(or a verb that says so) moves them. A disk completes each sync at once, unless it is stalled. The first entry of each
log is the engine's own, 1/0. After the ``cluster`` nobody leads.

Verbs that choose messages (``deliver``, ``drop``, ``hold``, ``duplicate``) take, in any order, a direction (``n1->n2``;
``n1,n3->*``), a kind (``append-entries``, ``vote``), ``nth=2`` for the second of those that fit, or ``last``. Without
any of these they mean all. A held message is meant only if the word ``held`` is there. To mean none is an error.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chaos.sim.verbs import VERBS, Arguments, Script, ScriptError
from chaos.sim.world import pinned

RULE: Final = "----"
NOTE_LINES: Final = 60
"""With an error: so much of what was played before."""


@dataclass(slots=True)
class Block:
    """``text`` is what stands before it: comments and empty lines."""

    text: list[str]
    commands: list[str]
    outcome: list[str]
    line: int


def parse(text: str) -> tuple[list[Block], list[str]]:
    """Blocks, and the lines after the last one."""
    blocks: list[Block] = []
    before: list[str] = []
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            before.append(line)
            continue
        blocks.append(Block(before, [line], [], number))
        before = []
        if _until(lines, blocks[-1].commands, RULE):
            _until(lines, blocks[-1].outcome, "")
    return blocks, before


def _until(lines: Iterator[tuple[int, str]], into: list[str], end: str) -> bool:
    """Take lines up to ``end``; False when an empty line comes first."""
    for _, line in lines:
        if line in (end, ""):
            return line == end
        into.append(line)
    return False


def play(script: Script, block: Block) -> list[str]:
    """The outcome of a block's commands. Raises ScriptError."""
    lines: list[str] = []
    for command in block.commands:
        if len(block.commands) > 1:
            lines.append(f"> {command}")
        name, *rest = command.split()
        function = VERBS.get(name)
        if function is None:
            raise ScriptError(f"line {block.line}: no verb {name!r}; there are {', '.join(sorted(VERBS))}")
        options = dict(word.split("=", 1) for word in rest if "=" in word)
        arguments = Arguments([word for word in rest if "=" not in word], options)
        try:
            printed = function(script, arguments)
        except (ScriptError, ValueError, KeyError, IndexError) as error:
            raise ScriptError(f"line {block.line}: {command}: {error}") from error
        lines += (script.stage.report() if printed is None else printed) or ["(nothing)"]
    return lines


def prepared(stack: ExitStack) -> Script:
    """A script that has not begun; ``stack`` puts back what it changes."""
    stack.enter_context(pinned())
    return Script(stack)


def played(text: str) -> str:
    """The script with the outcome that it has now. Raises ScriptError."""
    blocks, rest = parse(text)
    lines: list[str] = []
    with ExitStack() as stack:
        script = prepared(stack)
        for block in blocks:
            try:
                lines += [*block.text, *block.commands, RULE, *play(script, block), ""]
            except ScriptError as error:
                error.add_note("\n".join(lines[-NOTE_LINES:]))
                raise
    return "\n".join([*lines[:-1], "", *rest]).rstrip("\n") + "\n"


def difference(path: Path) -> str:
    """What the script's outcome has other than its file says; empty when nothing. Raises ScriptError."""
    text = path.read_text(encoding="utf-8")
    now = played(text)
    return "\n".join(difflib.unified_diff(text.splitlines(), now.splitlines(), str(path), "played now", lineterm=""))


def main(argv: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim.script", description="Plays golden scripts.")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rewrite", action="store_true", help="write the outcome into the files")
    parser.add_argument("--verbs", action="store_true", help="what a script may say")
    options = parser.parse_args(argv)
    if options.verbs:
        print("\n".join(inspect.cleandoc(function.__doc__ or "") for function in VERBS.values()))
    changed = 0
    for path in options.files:
        try:
            found = difference(path)
            if options.rewrite:
                path.write_text(played(path.read_text(encoding="utf-8")), encoding="utf-8")
        except ScriptError as error:
            found = "\n".join([*error.__notes__, f"{path}: {error}"])
        changed += bool(found)
        print(found or f"{path}: as written")
    return int(bool(changed) and not options.rewrite)


if __name__ == "__main__":
    sys.exit(main())
