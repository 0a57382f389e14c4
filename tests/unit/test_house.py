"""The rules of the house, read from the source: layers, lengths, paths, documentation, reasons.

Each rule is a function from a source file to its breaches, ``path:line: rule``; a test plants every kind of breach
once, so that a rule that no longer finds anything is noticed.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON_ROOTS: Final = ("raftkv", "persistence", "chaos", "tests", "benchmarks", "examples")
FILE_LINES_MAX: Final = 600
FUNCTION_LINES_MAX: Final = 70

MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "raftkv.errors": frozenset(),
    "raftkv.clock": frozenset(),
    "raftkv.config": frozenset({"errors", "config_values", "config_conflicts"}),
    "raftkv.config_conflicts": frozenset({"config", "config_values"}),
    "raftkv.config_values": frozenset({"errors"}),
    "raftkv.replicator": frozenset({"errors"}),
    "raftkv.protocol": frozenset({"errors"}),
    "raftkv.store": frozenset({"errors", "protocol"}),
    "raftkv.commands": frozenset({"errors", "protocol", "store"}),
    "raftkv.machine": frozenset({"errors", "protocol", "store", "commands"}),
    "raftkv.consensus": frozenset({"errors", "clock", "config_values", "replicator"}),
    "raftkv.server": frozenset(
        {
            "errors",
            "clock",
            "config",
            "config_values",
            "replicator",
            "protocol",
            "store",
            "commands",
            "machine",
            "consensus",
        }
    ),
    "raftkv.offline": frozenset({"errors", "protocol", "store", "commands", "machine", "consensus"}),
    "raftkv.client": frozenset({"errors", "protocol"}),
    "raftkv.cli": frozenset(
        {"errors", "clock", "config", "config_values", "protocol", "commands", "server", "client", "offline"}
    ),
    "persistence": frozenset(),
}
"""Layer to the parts of raftkv that it may import (itself always). Outside of raftkv only persistence is bound."""

TYPES_ONLY: Final = frozenset({("raftkv.config_conflicts", "config")})
"""Imports that point up, for annotations: never while the program runs."""

ONLY_IN: Final[dict[str, tuple[str, ...]]] = {
    "pysyncobj": ("raftkv.consensus", "chaos.sim.stock", "tests"),
    "asyncio": ("raftkv.server", "raftkv.client", "raftkv.cli", "raftkv.consensus", "chaos", "tests", "examples"),
    "uvloop": ("raftkv.server", "raftkv.client", "raftkv.cli", "chaos", "tests"),
    "aiohttp": ("raftkv.server", "raftkv.cli", "chaos", "tests"),
    "prometheus_client": ("raftkv.server", "tests"),
    "persistence": (
        "persistence",
        "raftkv.consensus",
        "raftkv.server",
        "raftkv.machine",
        "raftkv.offline",
        "chaos",
        "tests",
        "benchmarks",
    ),
    "chaos": ("chaos", "raftkv.cli", "tests", "benchmarks"),
    "tests": ("tests",),
    "benchmarks": ("benchmarks", "tests"),
    "pickle": (),
}
"""Module to the only places that may import it."""

PURE: Final = ("raftkv.protocol", "raftkv.store", "raftkv.commands", "raftkv.machine")
IMPURE_MODULES: Final = frozenset(
    {"time", "datetime", "secrets", "uuid", "os", "socket", "subprocess", "threading", "select", "selectors"}
)
"""What pure layers may not import: clock, network, randomness and files are passed in. Of ``random`` only the
class ``Random``, to be seeded from the log."""

_MACHINE_ROOTS: Final = ("wo" + "rk", "ro" + "ot", r"home/\w+", "Us" + "ers", "tmp" + "/v")
MACHINE_PATH: Final = re.compile(rf"(?<![\w./-])/(?:{'|'.join(_MACHINE_ROOTS)})/[\w.]")
NOQA: Final = re.compile(r"#\s*(?:ruff:\s*)?noqa\b(?P<rest>.*)")
TYPE_IGNORE: Final = re.compile(r"#\s*type:\s*ignore\b(?P<rest>.*)")
PRAGMA: Final = re.compile(r"#\s*pragma:(?P<rest>.*)")


class Source(NamedTuple):
    """One Python file."""

    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


Rule = Callable[[Source], Iterator[str]]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, also inside functions and for types only."""
    package = source.module if source.path.endswith("__init__.py") else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def layers(source: Source) -> Iterator[str]:
    layer = next((one for one in MAY_IMPORT if within(source.module, one)), None)
    if layer is None:
        return
    for line, name in imports(source):
        if not within(name, "raftkv") or within(name, layer):
            continue
        part = name.split(".")[1] if "." in name else ""
        if part not in MAY_IMPORT[layer] and part not in {"", "__version__"}:
            allowed = ", ".join(sorted(MAY_IMPORT[layer])) or "nothing of raftkv"
            yield f"{source.path}:{line}: {layer} imports {name}; imports point down, it may import {allowed}"


def owners(source: Source) -> Iterator[str]:
    for line, name in imports(source):
        places = ONLY_IN.get(name.split(".")[0])
        if places is not None and not any(within(source.module, place) for place in places):
            yield f"{source.path}:{line}: {name} is imported in {', '.join(places) or 'no place'} only"


def purity(source: Source) -> Iterator[str]:
    if not any(within(source.module, layer) for layer in PURE):
        return
    for line, name in imports(source):
        top = name.split(".")[0]
        if top in IMPURE_MODULES or (top == "random" and name != "random.Random"):
            yield f"{source.path}:{line}: a pure layer imports {name}; time, randomness and I/O are passed in"


def lengths(source: Source) -> Iterator[str]:
    count = source.text.count("\n")
    if count > FILE_LINES_MAX:
        yield f"{source.path}:{count}: a file has at most {FILE_LINES_MAX} lines"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES_MAX:
                yield f"{source.path}:{node.lineno}: {node.name} has {size} lines, at most {FUNCTION_LINES_MAX}"


def paths(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if MACHINE_PATH.search(line):
            yield f"{source.path}:{number}: a path of one machine"


def reasons(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        for pattern, form in (
            (NOQA, r":\s*[A-Z]+[0-9]+(?:\s*,\s*[A-Z]+[0-9]+)*\s+--\s+\S"),
            (TYPE_IGNORE, r"\[[\w, -]+\]\s*#\s*\S"),  # mypy takes nothing but a comment behind it
            (PRAGMA, r".*--\s+\S"),
        ):
            found = pattern.search(line)
            if found and not re.match(form, found["rest"]):
                yield f"{source.path}:{number}: a lint exception names its code and its reason: noqa: S311 -- why, type: ignore[misc]  # why"


RULES: Final[tuple[Rule, ...]] = (layers, owners, purity, lengths, paths, reasons)


def python_files() -> list[Source]:
    found = []
    for root in PYTHON_ROOTS:
        for path in sorted((ROOT / root).rglob("*.py")):
            relative = path.relative_to(ROOT).as_posix()
            if "/." not in relative:
                found.append(Source(relative, path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_file_breaks_the_rule(rule: Rule):
    # This file plants breaches below, as text; only what it shares with the others is asked of it.
    own = Path(__file__).relative_to(ROOT).as_posix()
    sources = [one for one in python_files() if one.path != own or rule is lengths]
    assert len(sources) > 10
    breaches = [breach for source in sources for breach in rule(source)]
    assert not breaches, "\n" + "\n".join(breaches)


def test_every_part_of_raftkv_has_a_row():
    parts = {source.module.split(".")[1] for source in python_files() if source.module.startswith("raftkv.")}
    assert {f"raftkv.{part}" for part in parts - {"__main__"}} == set(MAY_IMPORT) - {"persistence"}


def test_the_rows_point_down():
    below = {
        layer: {f"raftkv.{part}" for part in parts if (layer, part) not in TYPES_ONLY}
        for layer, parts in MAY_IMPORT.items()
    }
    while below:
        lowest = {layer for layer, parts in below.items() if not parts & below.keys()}
        assert lowest, f"the rows of MAY_IMPORT make a circle of {', '.join(sorted(below))}"
        below = {layer: parts for layer, parts in below.items() if layer not in lowest}


PLANTED: Final[list[tuple[Rule, str, str, str]]] = [
    (layers, "raftkv/store/x.py", "from raftkv.server.state import Client", "x.py:1: raftkv.store imports raftkv.serv"),
    (layers, "raftkv/store/x.py", "from ..server import state", "imports raftkv.server.state"),
    (layers, "raftkv/consensus/x.py", "def f():\n    import raftkv.commands", "x.py:2: raftkv.consensus imports"),
    (layers, "raftkv/client/x.py", "from raftkv.store import slots", "it may import errors, protocol"),
    (layers, "persistence/wal.py", "from raftkv.errors import InvariantError", "nothing of raftkv"),
    (
        owners,
        "raftkv/server/x.py",
        "import pysyncobj.node",
        "pysyncobj.node is imported in raftkv.consensus, chaos.sim.stock",
    ),
    (owners, "persistence/wal.py", "import asyncio", "asyncio is imported in"),
    (owners, "raftkv/client/x.py", "import pickle", "no place"),
    (owners, "raftkv/server/x.py", "from chaos import disk", "chaos.disk is imported in"),
    (purity, "raftkv/commands/x.py", "import time", "imports time"),
    (purity, "raftkv/machine/x.py", "from random import randrange", "imports random.randrange"),
    (lengths, "raftkv/x.py", "x = 1\n" * (FILE_LINES_MAX + 1), "at most 600 lines"),
    (lengths, "raftkv/x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX, "f has 71 lines"),
    (paths, "raftkv/x.py", "x = '/ro" + "ot/data'", "x.py:1: a path of one machine"),
    (reasons, "raftkv/x.py", "x = 1  # no" + "qa", "x.py:1: a lint exception"),
    (reasons, "raftkv/x.py", "x = 1  # no" + "qa: S311", "x.py:1: a lint exception"),
    (reasons, "raftkv/x.py", "x = 1  # type: " + "ignore[misc]", "x.py:1: a lint exception"),
]


@pytest.mark.parametrize(("rule", "path", "text", "message"), PLANTED)
def test_a_planted_breach_is_found(rule: Rule, path: str, text: str, message: str):
    found = list(rule(Source(path, text)))
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (layers, "raftkv/server/x.py", "from raftkv.commands import registry"),
        (layers, "raftkv/cli/main.py", "import raftkv\nfrom raftkv.client import RaftKV"),
        (purity, "raftkv/commands/x.py", "from random import Random"),
        (reasons, "raftkv/x.py", "x = 1  # no" + "qa: S311, S101 -- must be reproducible"),
        (reasons, "raftkv/x.py", "x = 1  # type: " + "ignore[misc]  # untyped library"),
    ],
)
def test_what_is_allowed_passes(rule: Rule, path: str, text: str):
    assert list(rule(Source(path, text))) == []


def test_every_ignored_rule_of_the_linter_has_its_reason():
    inside, breaches, seen = False, [], 0
    for number, line in enumerate((ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("["):
            inside = line.startswith("[tool.ruff.lint")
        if inside and re.match(r'\s+"[A-Z]+[0-9]*",', line):
            seen += 1
            if not re.search(r"#\s*\S", line):
                breaches.append(f"pyproject.toml:{number}: an ignored rule carries its reason in a comment")
    assert seen > 20
    assert not breaches, "\n".join(breaches)


def test_no_machine_path_outside_python():
    suffixes = {".md", ".toml", ".sh", ".yml", ".yaml", ".c", ".go", ""}
    skipped = {"data", "build", "node_modules"}
    breaches: list[str] = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in {".ci", ".editorconfig", ".gitignore"} for part in parts)
        if hidden or parts[0] in skipped or "out" in parts or path.suffix not in suffixes or not path.is_file():
            continue
        breaches += paths(Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8", errors="replace")))
    assert not breaches, "\n".join(breaches)


def load_commands() -> list[str]:
    """Full names of every declared command, after importing every module that declares some."""
    from raftkv.commands import registry

    for package_name in ("raftkv.commands", "raftkv.server"):
        package = importlib.import_module(package_name)
        for module in pkgutil.walk_packages(package.__path__, package_name + "."):
            importlib.import_module(module.name)
    names = []
    for one in registry.all_commands():
        names.append(one.full_name)
        names += sorted({sub.full_name for sub in one.subcommands.values()})
    return names


def test_every_command_is_documented():
    page = ROOT / "docs" / "commands.md"
    text = page.read_text(encoding="utf-8")
    missing = [name for name in load_commands() if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text)]
    assert not missing, f"docs/commands.md:1: every command is documented; missing: {', '.join(missing)}"


def test_every_setting_is_documented():
    from raftkv.config import SETTINGS

    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for setting in SETTINGS.values():
        missing = [name for name in (setting.name, setting.flag, setting.env) if f"`{name}`" not in text]
        assert not missing, f"docs/configuration.md:1: every setting is documented; missing: {', '.join(missing)}"
