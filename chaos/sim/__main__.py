"""``python -m chaos.sim`` is ``raftkv sim``."""

from __future__ import annotations

import sys

from raftkv.cli.main import main

sys.argv.insert(1, "sim")
main()
