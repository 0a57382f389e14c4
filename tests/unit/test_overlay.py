"""A layer over a file system reads as if it had changed what is below, and changes nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chaos.disk import Disk
from persistence.overlay import OverlayFiles


def image(disk: Disk) -> dict[str, bytes]:
    return {name: bytes(inode.content) for name, inode in disk.names.items()}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "cut", "create", "rename", "unlink"]), st.integers(0, 40), st.binary(max_size=20)
        ),
        max_size=12,
    )
)
def test_an_overlay_reads_as_if_it_had_changed_what_is_below(actions):
    below, twin = Disk(), Disk()
    for disk in (below, twin):
        disk.make_dir("/d")
        disk.open("/d/a", create=True).pwrite([b"0123456789" * 3], 0)
    before = image(below)
    layer = OverlayFiles(below)
    for kind, number, data in actions:
        for files in (layer, twin):
            try:
                if kind == "write":
                    files.open("/d/a").pwrite([data], number)
                elif kind == "cut":
                    files.open("/d/a").truncate(number)
                elif kind == "create":
                    files.open(f"/d/{'ab'[number % 2]}", create=True).append(data)
                elif kind == "rename":
                    files.rename("/d/a", "/d/b")
                else:
                    files.unlink("/d/b")
            except (FileNotFoundError, KeyError):
                assert not files.exists("/d/b" if kind == "unlink" else "/d/a")
        assert layer.listdir("/d") == twin.listdir("/d")
        for name in twin.listdir("/d"):
            real, seen = twin.open_read(f"/d/{name}"), layer.open_read(f"/d/{name}")
            assert seen.size() == real.size()
            assert seen.pread(100, 0) == real.pread(100, 0)
            assert seen.pread(7, number) == real.pread(7, number)
    layer.close()
    assert image(below) == before
