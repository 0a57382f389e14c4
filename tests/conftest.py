"""How the tests are spread over the workers of pytest-xdist."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling


class ClustersByFile(LoadScopeScheduling):
    """A file of tests that start processes goes to one worker, which shares a cluster among them; all others go one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::", maxsplit=1)[0] if nodeid.startswith("tests/integration/") else nodeid


def pytest_xdist_make_scheduler(config: Any, log: Any) -> ClustersByFile:
    return ClustersByFile(config, log)
