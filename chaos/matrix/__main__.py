"""``python -m chaos.matrix`` is ``raftkv matrix``."""

from __future__ import annotations

import typer

from chaos.matrix.command import matrix

if __name__ == "__main__":
    typer.run(matrix)
