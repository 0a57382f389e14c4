"""Files of every format version that there ever was stay readable, and today's program still writes the newest as it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import persistence.backup
import persistence.directory
import persistence.entries
import persistence.segment
import persistence.snapshot_file
import raftkv.machine.batch
import raftkv.machine.image
import raftkv.store.dump
from persistence.files import OsFiles
from persistence.snapshots import SnapshotContent
from persistence.wal import Log
from raftkv.offline.entries import explain
from tests.golden import write

GOLDEN = Path(write.__file__).parent
NAMES = sorted(one.name for one in GOLDEN.iterdir() if (GOLDEN / f"{one.name}.expected").exists())
NEWEST = dict(write.current())


def copied(name: str, tmp_path: Path) -> Path:
    copy = tmp_path / name
    shutil.copytree(GOLDEN / name, copy) if (GOLDEN / name).is_dir() else shutil.copy(GOLDEN / name, copy)
    return copy


def read(path: Path) -> Any:
    return json.loads(json.dumps(write.READERS[path.name.partition("-")[0]](path)))


def expected(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.expected").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_an_old_file_is_read_as_ever(name, tmp_path):
    assert read(copied(name, tmp_path)) == expected(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("log-")])
def test_an_old_log_is_gone_on_with(name, tmp_path):
    with Log.open(str(copied(name, tmp_path))) as log:
        assert (log.first_index, log.last_index, log.last_term) == (4, 13, 5)
        assert (log.hard_state.term, log.hard_state.voted_for) == (5, "n2")
        rows = {row["index"]: row for row in expected(name) if row["kind"] == "entry"}  # the last of each index counts
        for payload, index, term in log.entries(4, 10):
            assert {"term": term, **explain(payload, index)}.items() <= rows[index].items()
        log.append(14, 5, b"\x01")
        log.sync()


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("log-{}", persistence.segment.FORMAT_VERSION),
        ("snapshot-{}-state-*", persistence.snapshot_file.FORMAT_VERSION),
        ("snapshot-*-state-{}", raftkv.machine.image.VERSION),
        ("identity-{}", persistence.directory.FORMAT_VERSION),
        ("backup-{}", persistence.backup.FORMAT_VERSION),
        ("entries-{}", persistence.entries.FORMAT_VERSION),
    ],
)
def test_there_is_a_file_of_each_version(kind, version):
    for number in range(1, version + 1):
        assert list(GOLDEN.glob(kind.format(number))), f"{kind.format(number)}: python -m tests.golden.write, before the version changes again"  # fmt: skip


def test_no_version_inside_other_files_was_raised_unnoticed():
    # Both stand in every golden log and snapshot. Raise one: write golden files under a name that says so, keep the old.
    assert (raftkv.machine.batch.VERSION, raftkv.store.dump.VERSION) == (1, 1)


def test_every_file_has_its_content_beside_it():
    files = {
        one.name for one in GOLDEN.iterdir() if one.suffix not in {".py", ".expected"} and one.name != "__pycache__"
    }
    assert files == set(NAMES)
    assert set(NEWEST) <= set(NAMES)


@pytest.mark.parametrize("name", NEWEST)
def test_what_is_written_today_is_the_same(name, tmp_path):
    """A layout that changes needs a new version. Compressed bytes may differ with the library, what is in them may not."""
    made = tmp_path / name
    NEWEST[name](made)
    if name in {"log-1", "log-2", "identity-1", "identity-1-log", "identity-1-moving", "identity-1-without-disk"}:
        assert image(made) == image(GOLDEN / name)
    if name.startswith("snapshot-"):
        assert content(made) == content(GOLDEN / name)
    assert read(made) == expected(name)


def image(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in ([path] if path.is_file() else path.iterdir())}


def content(path: Path) -> bytes:
    return b"".join(SnapshotContent(OsFiles().open_read(str(path))))
