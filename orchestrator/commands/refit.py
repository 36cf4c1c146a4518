"""`kdsweep refit SWEEP [POINT]`: the chosen student, trained on all subjects."""

import json
from typing import Any

import click

from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.query import budget_options
from orchestrator.store.find import sweep_folder


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
    import sys

    from orchestrator.commands.export import best_for
    from orchestrator.edge.export import point_of
    from orchestrator.edge.refit import refit_point
    from orchestrator.store.refits import said_of
    from orchestrator.store.store import Store

    folder = sweep_folder(sweep)
    store = Store(folder)
    chosen = point_of(store, point) if point else best_for(folder, store, limits)

    def tick(id: str, epoch: int, epochs: int) -> None:
        if sys.stderr.isatty():
            filled = 30 * epoch // epochs
            bar = f"\r{id} [{'#' * filled}{' ' * (30 - filled)}] epoch {epoch} of {epochs}"
            sys.stderr.write(bar + "\n" * (epoch == epochs))
            sys.stderr.flush()
        elif epoch in (0, epochs):
            echo(f"{id}: epoch {epoch} of {epochs}", err=True)

    made = refit_point(
        folder, chosen["id"], seed, dry_run=dry_run, say=lambda line: echo(line, err=True), tick=tick
    )
    if as_json:
        click.echo(json.dumps(made, allow_nan=False))
        return
    what = f"{made['arch']} {made['depth']}x{made['width']}, {made['strategy']}, {made['epochs']} epochs"
    echo(f"{made['id']}: {what} ({made['epochs_by']})")
    echo(f"{'would be ' if dry_run else ''}{said_of(made)}")
