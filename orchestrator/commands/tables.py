"""A table as wide as there is room: whole cells, fewer columns. Knows text, nothing of sweeps."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.words import escaped

if TYPE_CHECKING:
    from rich.console import Console
WIDE = 150  # columns where there is no terminal, and COLUMNS doesn't say
GAP = 2  # blanks between two columns


@dataclass(frozen=True)
class Column:
    """A column of a table. needed: 0 = always shown; of others, the highest number is left out first."""

    name: str
    cells: Sequence[str]
    needed: int = 0
    right: bool = False

    @property
    def width(self) -> int:
        """Of its widest cell."""
        from rich.cells import cell_len

        return max(map(cell_len, (self.name, *self.cells)))


def console() -> "Console":
    """Where commands print tables: as wide as the terminal, or as COLUMNS says, or WIDE."""
    from rich.console import Console

    made = Console(highlight=False, markup=False)
    return (
        made
        if made.is_terminal or "COLUMNS" in os.environ
        else Console(width=WIDE, highlight=False, markup=False)
    )


def show(console: "Console", columns: Sequence[Column]) -> list[str]:
    """Print a table of the columns that fit, no cell cut; the names of those left out."""
    from rich.table import Table
    from rich.text import Text

    columns = [replace(c, cells=[escaped(cell) for cell in c.cells]) for c in columns]
    shown = list(columns)
    while _width(shown) > console.width and any(c.needed for c in shown):
        shown.remove(max(shown, key=lambda c: c.needed))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True)
    for c in shown:
        table.add_column(Text(c.name), justify="right" if c.right else "left", no_wrap=True)
    for row in zip(*(c.cells for c in shown), strict=True):
        table.add_row(*map(Text, row))
    before, console.width = console.width, max(console.width, _width(shown))  # rather wrapped than cut
    console.print(table)
    console.width = before
    return [c.name for c in columns if c not in shown]


def _width(columns: Sequence[Column]) -> int:
    return sum(c.width for c in columns) + GAP * (len(columns) - 1)


def print_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print rows of text. numbers: columns set right. spare: columns that may be left out, in this order."""
    show(
        console(),
        [
            Column(
                name,
                [row[k] for row in rows],
                needed=len(spare) - spare.index(name) if name in spare else 0,
                right=name in numbers,
            )
            for k, name in enumerate(names)
        ],
    )
