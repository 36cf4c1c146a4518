"""`kdsweep refit SWEEP [POINT]`: the chosen student, trained on all subjects."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import click

from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.query import budget_options
from orchestrator.store.find import sweep_folder
from orchestrator.words import escaped


@click.command()
@click.argument("sweep", type=SWEEP)
@click.argument("point", type=POINT, required=False)
@budget_options
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the student.  [default: the point's]")
@click.option("--dry-run", is_flag=True, help="Only say what would be trained.")
@click.option("--json", "as_json", is_flag=True, help="Print its record as JSON.")
def refit(
    sweep: str, point: str | None, seed: int | None, dry_run: bool, as_json: bool, **limits: Any
) -> None:
    """Train POINT of SWEEP, or the student that `kdsweep query` selects, on all subjects, with its teacher.

    It is trained for the epochs that the folds found best, and its error is the folds' estimate. `kdsweep
    export` ships it. Interrupted, the same command goes on.
    """
    from orchestrator.commands.export import best_for
    from orchestrator.edge.export import point_of
    from orchestrator.edge.refit import refit_point
    from orchestrator.store.refits import said_of
    from orchestrator.store.store import Store

    folder = sweep_folder(sweep)
    store = Store(folder)
    chosen = point_of(store, point) if point else best_for(folder, store, limits)

    with epochs_shown(sys.stderr) as (say, tick):
        made = refit_point(folder, chosen["id"], seed, dry_run=dry_run, say=say, tick=tick)
    if as_json:
        click.echo(json.dumps(made, allow_nan=False))
        return
    what = f"{made['arch']} {made['depth']}x{made['width']}, {made['strategy']}, {made['epochs']} epochs"
    echo(f"{made['id']}: {what} ({made['epochs_by']})")
    echo(f"{'would be ' if dry_run else ''}{said_of(made)}")


@contextlib.contextmanager
def epochs_shown(stream: TextIO) -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """What writes a line, and what shows a model's epochs: a bar each on a terminal, else first and last."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":

        def tick(id: str, epoch: int, epochs: int) -> None:
            if epoch in (0, epochs):
                echo(f"{id}: epoch {epoch} of {epochs}", err=True)

        yield lambda line: echo(line, err=True), tick
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(file=stream, markup=False, highlight=False)
    columns = "{task.description}", BarColumn(), TextColumn("epoch {task.completed:.0f} of {task.total:.0f}")
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def bar(id: str, epoch: int, epochs: int) -> None:
            if id not in tasks:
                tasks[id] = bars.add_task(id, total=epochs)
            bars.update(tasks[id], completed=epoch, refresh=True)

        yield lambda line: bars.console.print(escaped(line), soft_wrap=True), bar
