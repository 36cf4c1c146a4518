"""`kdsweep sync SWEEP`: write the store to MLflow, any number of times."""

from pathlib import Path

import click

from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.run.status import is_running
from orchestrator.space.plan import Plan
from orchestrator.store.find import sweep_folder
from orchestrator.store.store import Store


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option("--tracking-uri", help="MLflow server.  [default: sqlite in the sweep directory]")
@click.option(
    "--copy",
    type=click.Choice(["fork", "same"]),
    help="What a copied SWEEP is: a sweep of its own, or the one it was copied from.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be written where, and stop.")
def sync(sweep: str, tracking_uri: str | None, copy: str | None, dry_run: bool) -> None:
    """Write the results of SWEEP to MLflow: one parent run, one child run per point, no duplicates."""
    from orchestrator.tracking.writer import default_uri, in_sync
    from orchestrator.tracking.writer import sync as replay

    folder = sweep_folder(sweep)
    store = Store(Path(folder))
    plan = Plan.load(folder / "plan.json")
    uri = tracking_uri or default_uri(store)
    done = len(store.done() & {p.id for p in plan.points})
    if dry_run:
        known = "already there" if in_sync(store, uri) else "to be compared, and written where missing"
        echo(f"{done} points done, {len(store.errors())} failed: {known}")
        return
    status = (
        "FINISHED" if done == len(plan.points) else "RUNNING" if is_running(store.progress()) else "KILLED"
    )
    written = replay(store, plan, uri, status=status, copy=copy)
    echo(f"{written} runs written; {done} of {len(plan.points)} points done")
