"""`kdsweep suggest SWEEP --gpu-hours H`: what to train next, as a search space that `run` takes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.arguments import RECIPE, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.query import budget_options

if TYPE_CHECKING:
    from orchestrator.answers.shown import Suggested

NUMBERS = ("params", "seed", "GPU-hours", "gain, BPM")


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option(
    "--gpu-hours",
    required=True,
    type=float,
    help="Compute to spend, GPU-hours (slot-hours if the sweep ran on CPUs).",
)
@budget_options
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Search space to write.  [default: SWEEP/suggested.yaml]",
)
@RECIPE
@click.option("--json", "as_json", is_flag=True, help="Print the suggestion as JSON.")
def suggest(
    sweep: str,
    gpu_hours: float,
    out: Path | None,
    recipe: str | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Suggest points to train next, ranked by the reduction in expected regret of the query per GPU-hour."""
    from orchestrator.api import open_sweep

    found = open_sweep(sweep).suggest(gpu_hours, out, recipe=recipe, **limits)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, allow_nan=False))
    else:
        _print(found)
    echo(f"{found.file} written; run\n  {found.command}\nthen refit the laws with kdsweep fit", err=True)
    if found.untrained:
        echo(
            f"points of the sweep that are not trained: {found.untrained}. This trains them, too; with "
            "--answer, only what answers a question",
            err=True,
        )


def _print(found: "Suggested") -> None:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.answers.ask import expectation
    from orchestrator.answers.shown import PICK, pick_row
    from orchestrator.words import escaped

    table = Table(title=escaped(expectation(found.as_dict())))
    for name in PICK:
        table.add_column(name, justify="right" if name in NUMBERS else "left")
    for pick in found.picks:
        table.add_row(*map(escaped, pick_row(pick)))
    console = Console(markup=False)
    (console if console.is_terminal else Console(width=140, markup=False)).print(table)
