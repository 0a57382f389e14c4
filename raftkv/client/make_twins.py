"""Derives ``twins.pyi``, the types of the asyncio and pipeline methods, from the blocking ones.

Run it after changing a command's method: ``python -m raftkv.client.make_twins``.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raftkv.client.commands import Commands
from raftkv.client.commands.caller import Caller

TARGET: Final = Path(__file__).with_name("twins.pyi")
_HEAD: Final = """\
# Derived from raftkv/client/commands by raftkv/client/make_twins.py; a test compares.
# One line a method; they are read in commands/.
# fmt: off
import builtins
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, Self

from raftkv.client.commands.caller import T
from raftkv.client.commands.lists import End
from raftkv.client.commands.zranges import Aggregate
from raftkv.client.words import Shape, Word
"""
_CALL: Final = "    def _call(self, *words: Word, shape: Shape | None = None) -> Any: ..."


def render() -> str:
    """The text of ``twins.pyi``."""
    methods = list(_methods())
    awaited = [f"    async def {name}({arguments}) -> {result}: ..." for name, arguments, result in methods]
    queued = [f"    def {name}({arguments}) -> Self: ..." for name, arguments, _ in methods]
    return "\n".join([
        _HEAD,
        "class AsyncCommands(Generic[T]):", _CALL, *awaited, "",
        "class PipelineCommands(Generic[T]):", _CALL, *queued, "",
    ])  # fmt: skip


def _methods() -> Iterator[tuple[str, str, str]]:
    """(name, arguments, result type) of every public method, group by group."""
    for group in Commands.__mro__:
        if not issubclass(group, Caller) or group in {Commands, Caller}:
            continue
        for node in ast.parse(inspect.getsource(group)).body[0].body:  # type: ignore[attr-defined]  # a class has a body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert node.returns is not None
                yield node.name, _plain(ast.unparse(node.args)), _plain(ast.unparse(node.returns))


def _plain(text: str) -> str:
    """Double quotes, and no type that the method of the same name would hide."""
    return re.sub(r"\bset\[", "builtins.set[", text.replace("'", '"'))


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
