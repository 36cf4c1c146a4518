"""`kdsweep logs SWEEP`: why points failed, or what one point printed."""

import json
from typing import Any

import click

from kd.errors import InputError
from orchestrator.store.find import sweep_folder
from orchestrator.store.store import Store


@click.command()
@click.argument("sweep")
@click.argument("point", required=False)
@click.option("--failed", is_flag=True, help="Every failed point: error, traceback, last log lines.")
@click.option("--job", help="Output of a Slurm job, by the id that kdsweep status shows.")
@click.option("-n", "--lines", default=20, show_default=True, help="Lines to show from the end of each log.")
@click.option("--json", "as_json", is_flag=True, help="Print the errors as JSON.")
def logs(sweep: str, point: str | None, failed: bool, job: str | None, lines: int, as_json: bool) -> None:
    """Show why points of SWEEP failed (--failed), or the history of one POINT (an id or a unique prefix)."""
    store = Store(sweep_folder(sweep))
    if job:
        from orchestrator.run.submission import output_of

        text = output_of(store.path, job).read_text(errors="replace")
        click.echo("\n".join(text.splitlines()[-lines:]))
        return
    errors = store.errors()
    if point:
        id = find_point(store, point)
        if id not in errors:
            _history(store, id, lines)
            return
        errors = {id: errors[id]}
    if as_json:
        click.echo(json.dumps(errors))
        return
    if not errors:
        click.echo("no point has failed")
    for id, error in errors.items():
        _tell(store, id, error, lines, whole=failed or point is not None)


def find_point(store: Store, point: str) -> str:
    """The id that starts with `point`. Raises InputError when none or several do."""
    points = store.path / "points"
    found = sorted(f.name for f in points.iterdir() if f.name.startswith(point)) if points.is_dir() else []
    if len(found) != 1:
        what = f"ambiguous id, it matches {', '.join(found[:5])}" if found else "no such point"
        raise InputError(f"{store.path}: {point!r}: {what}; see kdsweep plan for the ids")
    return found[0]


def _tell(store: Store, id: str, error: dict[str, Any], lines: int, whole: bool) -> None:
    epoch = f" in epoch {error['epoch']}" if error.get("epoch") is not None else ""
    click.echo(f"{id}  {error['type']}{epoch}, tried {error.get('failures', 1)} times: {error['message']}")
    if whole:
        log = store.folder(id) / "log.txt"
        text = log.read_text(errors="replace") if log.exists() else error.get("traceback", "")
        click.echo("".join(f"    {line}\n" for line in text.splitlines()[-lines:]))


def _history(store: Store, id: str, lines: int) -> None:
    history = store.folder(id) / "history.jsonl"
    if not history.exists():
        click.echo(f"{id} has not trained an epoch yet")
        return
    for row in map(json.loads, history.read_text().splitlines()[-lines:]):
        click.echo(
            f"epoch {row['epoch']:4}  loss {row['train_loss']:9.4f}  "
            f"validation {row['val_mae_bpm']:7.3f} BPM  lr {row['lr']:.2e}  {row['train_seconds']:8.1f} s"
        )
