"""A table that fits: where the terminal is narrow, columns are left out instead of cells being cut."""

from collections.abc import Collection, Sequence


def print_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print rows of text. numbers: columns set right. spare: columns that may be left out, in this order.

    Cells are never cut or broken, and are text: no markup. Off a terminal, 80 columns or $COLUMNS count, too.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    width = [max(len(name), *(len(row[k]) for row in rows), 0) for k, name in enumerate(names)]
    kept = list(range(len(names)))
    for name in spare:
        if _wide(width, kept) <= console.width:
            break
        kept.remove(names.index(name))
    if _wide(width, kept) > console.width:  # the terminal breaks the line; no id is cut
        console = Console(highlight=False, width=_wide(width, kept))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for k in kept:
        right = "right" if names[k] in numbers else "left"
        table.add_column(names[k], justify=right, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(row[k]) for k in kept))
    console.print(table)


def _wide(width: Sequence[int], kept: Sequence[int]) -> int:
    return sum(width[k] for k in kept) + 2 * max(len(kept) - 1, 0)
