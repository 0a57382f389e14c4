"""``python -m raftkv`` is ``raftkv``."""

from __future__ import annotations

from raftkv.cli.main import main

main()
