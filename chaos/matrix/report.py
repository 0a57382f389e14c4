"""The matrix as a table: a row for each failpoint of each scenario, a column for each kind of fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from chaos.matrix.cells import Cell, cells, play, rehearse
from chaos.matrix.faults import COLUMNS, FAULTS
from chaos.matrix.scenarios import SCENARIOS

SIGNS: Final = {"survived": "ok", "refused": "refused", "LOST": "LOST"}
NOT_APPLICABLE: Final = "-"
LOSSES_SHOWN: Final = 20
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


@dataclass(slots=True)
class Matrix:
    """All cells that were played, and where the product was met."""

    played: list[Cell] = field(default_factory=list)
    places: set[tuple[str, int, str]] = field(default_factory=set)
    """(file, line, operation) of all calls of all rehearsals."""

    @property
    def lost(self) -> list[Cell]:
        """What must not be."""
        return [one for one in self.played if one.outcome == "LOST"]

    @property
    def lives(self) -> int:
        """How often files were opened again and judged."""
        return sum(one.lives for one in self.played)

    def rows(self) -> list[tuple[str, str, dict[str, str]]]:
        """(scenario, failpoint, sign by column), in the order of the lives."""
        outcomes: dict[tuple[str, str], dict[str, Counter[str]]] = {}
        for cell in self.played:
            row = outcomes.setdefault((cell.scenario, cell.point.name), {})
            row.setdefault(cell.fault.column, Counter())[cell.outcome] += 1
        return [
            (*key, {column: _sign(row.get(column, Counter())) for column in COLUMNS}) for key, row in outcomes.items()
        ]


def _sign(outcomes: Counter[str]) -> str:
    worst = next((one for one in ("LOST", "refused", "survived") if outcomes[one]), None)
    return SIGNS[worst] if worst else NOT_APPLICABLE


def run(names: Sequence[str], *, full: bool, jobs: int = 1, call: int | None = None) -> Matrix:
    """Play the cells of these scenarios (of one ``call``); the result is the same for any number of ``jobs``."""
    matrix = Matrix()
    work: list[tuple[Cell, bool]] = []
    for name in names:
        points = rehearse(name, SCENARIOS[name])
        matrix.places |= {one.site for one in points}
        chosen = [one for one in points if call in (None, one.number)]
        work += [(cell, full) for cell in cells(name, chosen, FAULTS, full=full)]
    if jobs == 1:
        matrix.played = [play_one(one) for one in work]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            matrix.played = list(pool.map(play_one, work, chunksize=16))
    return matrix


def play_one(work: tuple[Cell, bool]) -> Cell:
    """For a process of a pool."""
    cell, full = work
    return play(cell, SCENARIOS[cell.scenario], full=full)


def table(matrix: Matrix) -> str:
    """In Markdown."""
    lines = [f"| scenario | failpoint | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    before = ""
    for scenario, point, signs in matrix.rows():
        shown = "" if scenario == before else scenario
        before = scenario
        lines.append(f"| {shown} | {point} | {' | '.join(signs.values())} |")
    return "\n".join(lines)


def with_table(text: str, matrix: Matrix) -> str:
    """The document ``text`` with this table between its marks."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:begin]}\n{table(matrix)}\n{text[end:]}"


def summary(matrix: Matrix) -> str:
    """A line, and what was lost."""
    outcomes = Counter(one.outcome for one in matrix.played)
    points = {(one.scenario, one.point.number) for one in matrix.played}
    text = (
        f"{len(points)} file operations with {len(matrix.rows())} names, {len(matrix.played)} cells, {matrix.lives} recoveries "
        f"judged: {outcomes['survived']} survived, {outcomes['refused']} refused, {outcomes['LOST']} lost"
    )
    return "\n".join([text, *losses(matrix.lost)])


def losses(lost: Iterable[Cell]) -> list[str]:
    """Each with the command that plays it again."""
    shown = [
        f"LOST {one}: {one.reason}\n  raftkv matrix --scenario {one.scenario} --call {one.point.number}" for one in lost
    ]
    return shown[:LOSSES_SHOWN] + [f"... and {len(shown) - LOSSES_SHOWN} more"] * (len(shown) > LOSSES_SHOWN)
