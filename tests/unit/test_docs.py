"""The documentation against the repository: links and anchors lead somewhere, and what is named is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for folder in ("docs", "benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.md")),
    ]
)
FENCE: Final = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK: Final = re.compile(r"\]\((?P<target>[^)\s]+)\)")
CODE: Final = re.compile(r"`(?P<code>[^`\n]+)`")
SOURCE_FILE: Final = re.compile(r"(?:[\w.-]+/)*[\w-]+\.(?:py|txt|toml)")
SOURCES: Final = [
    *(f"/{path.name}" for path in ROOT.glob("*.*")),
    *(
        f"/{path.relative_to(ROOT).as_posix()}"
        for folder in ("raftkv", "persistence", "chaos", "tests", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.*")
    ),
]
TOUR: Final = ROOT / "docs" / "architecture" / "tour.md"

COLUMNS_MAX: Final = 120
PLACEHOLDERS: Final = frozenset({"NAME.txt"})


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives the headings of a page: lower case, punctuation dropped, spaces as hyphens."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number, one = 0, slug
        while one in found:
            number += 1
            one = f"{slug}-{number}"
        found.add(one)
    return found


def broken_links(page: Path) -> Iterator[str]:
    for found in LINK.finditer(prose(page)):
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            continue  # the network is not asked
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            yield f"{page.name}: {target}: there is no such file"
        elif anchor and anchor not in anchors(path):
            yield f"{page.name}: {target}: no heading has this anchor"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_and_their_anchors_resolve(page: Path):
    assert not list(broken_links(page))


def test_a_broken_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, three\n[a](page.md#one-two-three) [b](#nowhere) [c](gone.md) [d](https://x.y/z)\n```\n[e](f)\n```\n"
    )
    assert list(broken_links(page)) == [
        "page.md: #nowhere: no heading has this anchor",
        "page.md: gone.md: there is no such file",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_source_files_that_a_page_names_exist(page: Path):
    named = {found["code"] for found in CODE.finditer(prose(page))} - PLACEHOLDERS
    files = {name for name in named if SOURCE_FILE.fullmatch(name)}
    assert [name for name in sorted(files) if not any(path.endswith("/" + name) for path in SOURCES)] == []


def test_the_tour_names_every_package():
    text = TOUR.read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "raftkv").glob("*/__init__.py")]
    assert len(packages) >= 9
    folders = [f"{name}/" for name in (*packages, "persistence", "chaos", "tests", "benchmarks", "examples", "docs")]
    folders += [f"{path.parent.name}/" for path in (ROOT / "chaos").glob("*/__init__.py")]
    modules = [path.name for path in (ROOT / "raftkv").glob("*.py") if not path.name.startswith("__")]
    assert [name for name in (*folders, *modules) if name not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_is_wrapped(page: Path):
    lines = prose(page).splitlines()
    wide = [line for line in lines if len(line) > COLUMNS_MAX and " " in line.strip() and not line.startswith("|")]
    assert not wide, f"{page.name}: lines of more than {COLUMNS_MAX} columns"
