"""`kdsweep retry SWEEP [POINT ...]`: failed points count as not trained yet, and the next run trains them."""

import shlex
from pathlib import Path

import click

from kd.errors import InputError
from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.run import submission
from orchestrator.run.alone import alone
from orchestrator.store.check import CHECKPOINT, checkpoint_is_sound, damage_of, train_again
from orchestrator.store.find import find_point, sweep_folder
from orchestrator.store.store import ERROR, Store
from orchestrator.words import quoted

TRIES = ", and tries failed points again by itself"


@click.command(cls=Hosted)
@click.argument("sweep", type=SWEEP)
@click.argument("points", type=POINT, nargs=-1, metavar="[POINT]...")
@click.option("--failed", is_flag=True, help="All points that failed; so it is when no POINT is named.")
@click.option("--from-start", is_flag=True, help="Remove sound checkpoints, too: train from the first epoch.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def retry(sweep: str, points: tuple[str, ...], failed: bool, from_start: bool, dry_run: bool) -> None:
    """Make failed points of SWEEP trainable again: all of them, or each POINT (an id, or its beginning).

    So are points whose result cannot be read, and each POINT whose model is damaged or missing.
    Removes their errors and logs, and checkpoints that cannot be read: with those every run would fail again.
    From other checkpoints training goes on. Nothing is trained now: the last line says which command does it.
    """
    if points and failed:
        raise click.UsageError("name points, or say --failed, not both")
    store = Store(sweep_folder(sweep))
    with alone(store, dry_run, also=TRIES):
        for _ in store.results():  # reading them finds those that are damaged
            pass
        errors = store.failures()
        chosen = [_failed(store, point, set(errors)) for point in points] if points else list(errors)
        for id in dict.fromkeys(chosen):
            how = _forget(store, id, from_start, dry_run)
            echo(f"{id}  {'would be' if dry_run else 'is'} tried again {how}")
    if not chosen:
        echo("no point has failed")
    elif not dry_run:
        echo(f"go on with: {_command(store.path)}", err=True)


def _failed(store: Store, point: str, failed: set[str]) -> str:
    id = find_point(store.ids(), point, str(store.path))
    if id not in failed and not (store.is_done(id) and damage_of(store, id)):
        what = "it is trained" if store.is_done(id) else "kdsweep run trains it in its turn"
        raise InputError(f"{store.path}: point {id} has not failed: {what}")
    return id


def _forget(store: Store, id: str, from_start: bool, dry_run: bool) -> str:
    """Remove what keeps a point from being trained; how it will be trained. The error goes last."""
    folder, gone = store.folder(id), ["log.txt"]
    checkpoint = folder / CHECKPOINT
    if store.is_done(id):
        how = "from the first epoch; its result or model is damaged, and kept as NAME.broken"
        if not dry_run:
            train_again(folder)
    elif not checkpoint.exists():
        how = "from the first epoch"
    elif from_start:
        gone, how = [*gone, CHECKPOINT], "from the first epoch; its checkpoint is not used"
    elif not checkpoint_is_sound(folder):
        gone, how = [*gone, CHECKPOINT], "from the first epoch; its checkpoint is damaged"
    else:
        how = "from its checkpoint"
    if not dry_run:
        for name in (*gone, ERROR):
            (folder / name).unlink(missing_ok=True)
    return how


def _command(folder: Path) -> str:
    """What trains the points: a job where the sweep was submitted to Slurm, else a run."""
    here, where = submission.latest(folder), quoted(folder)
    if here is None:
        return f"kdsweep run {where}"
    return f"kdsweep submit {where} --site {shlex.quote(submission.Record.load(here).site)}"
