"""The list of what is used of pysyncobj beside its documented interface is complete, and is checked at the start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftkv.consensus import seams
from raftkv.errors import InvariantError

LISTS = ("OVERRIDDEN", "CALLED", "REPLACED", "READ", "OF_THE_TRANSPORT")


def test_every_private_name_of_the_engine_that_is_used_is_listed_and_every_listed_one_is_used():
    folder = Path(seams.__file__).parent
    listed = {name for one in LISTS for name in getattr(seams, one)}
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path.name != "seams.py")
    used = set(re.findall(r"\b_SyncObj__\w+", text)) | {name for name in listed if re.search(rf"\b{name}\b", text)}
    assert used == listed


@pytest.mark.parametrize("where", LISTS)
def test_a_name_that_has_gone_stops_the_start(monkeypatch: pytest.MonkeyPatch, where: str):
    monkeypatch.setattr(seams, where, {**getattr(seams, where), "_gone": "of another version"})
    with pytest.raises(InvariantError, match="lacks _gone"):
        seams.check()


def test_another_version_stops_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seams, "VERSION", "0.3.18")
    with pytest.raises(InvariantError, match=r"install pysyncobj==0\.3\.17"):
        seams.check()
