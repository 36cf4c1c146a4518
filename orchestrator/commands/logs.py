"""`kdsweep logs SWEEP`: why points failed, or what a point or a job printed; --follow stays while it runs."""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from kd.errors import InputError
from orchestrator.commands.arguments import POINT, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.commands.hosted import Hosted
from orchestrator.run.status import is_running
from orchestrator.store.find import find_point, sweep_folder
from orchestrator.store.store import PRETRAINED, Store
from orchestrator.words import model_name

POLL_S = 1.0  # between two looks with --follow; workers report every 2 s


@click.command(cls=Hosted)
@click.argument("sweep", type=SWEEP)
@click.argument("point", type=POINT, required=False)
@click.option("--failed", is_flag=True, help="Every failed point: error, traceback, last log lines.")
@click.option("--job", help="Output of a Slurm job, by the id that kdsweep status shows.")
@click.option("-n", "--lines", default=20, show_default=True, help="Lines to show from the end of each log.")
@click.option("-f", "--follow", is_flag=True, help="Keep printing what is new while the sweep runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the errors as JSON.")
def logs(
    sweep: str, point: str | None, failed: bool, job: str | None, lines: int, follow: bool, as_json: bool
) -> None:
    """Show why points of SWEEP failed (--failed), or the history of one POINT (an id or a unique prefix).

    With --follow: points as they finish or fail, the epochs of POINT, or what the job prints.
    """
    if follow and as_json:
        raise click.UsageError("--follow prints text: leave out --json, or ask kdsweep status --watch --json")
    store = Store(sweep_folder(sweep))
    if job:
        from orchestrator.run.jobs import output_of

        path = output_of(store.path, job)
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1] if follow else text
        _print(whole.decode(errors="replace").splitlines()[-lines:])
        _print(_short_of_memory(whole.decode(errors="replace")))
        if follow:
            from orchestrator.run.jobs import Jobs

            jobs = Jobs(store.path)
            _follow(_appended(path, text.rfind(b"\n") + 1), lambda: _job_runs(store, job, jobs()))
        return
    id = find_point(store.ids(), point, str(store.path)) if point else None
    if follow:
        news = _epochs(store, id, lines) if id else _events(store, lines, failed)
        _follow(news, lambda: is_running(store.progress()) and not (id and store.is_done(id)))
        return
    errors = store.errors()
    if id:
        if id not in errors:
            _history(store, id, lines)
            return
        errors = {id: errors[id]}
    if as_json:
        click.echo(json.dumps(errors))
        return
    if not errors:
        echo("no point has failed")
        _print(_jobs_end(store, lines))
    for id, error in errors.items():
        _print(_told(store, id, error, lines, whole=failed or point is not None))


def _print(lines: list[str]) -> None:
    for line in lines:
        echo(line)


def _jobs_end(store: Store, lines: int) -> list[str]:
    """Why the chain of a sweep's Slurm jobs stopped before all was done, and what the last job printed."""
    from orchestrator.run.submission import latest
    from slurm.chain import read_links

    here = latest(store.path)
    if here is None or is_running(store.progress()):
        return []
    links = read_links(here)
    if links and links[-1]["verdict"] == "done":
        return []
    said = [f"the last job ended: {links[-1]['why'] or 'without a word'}"] if links else []
    outputs = sorted(here.glob("*.out"), key=lambda path: path.stat().st_mtime)
    for path in outputs[-1:]:
        text = path.read_text(encoding="utf-8", errors="replace")
        said += [f"the end of {path}:", *(f"    {line}" for line in text.splitlines()[-lines:])]
        said += _short_of_memory(text)
    return said


def _short_of_memory(output: str) -> list[str]:
    """What to do, if Slurm has ended processes of a job for want of memory."""
    from slurm.states import OUT_OF_MEMORY, ran_out_of_memory

    return [f"Slurm says that this job ran {OUT_OF_MEMORY}"] if ran_out_of_memory(output) else []


def _told(store: Store, id: str, error: dict[str, Any], lines: int, whole: bool) -> list[str]:
    """A failure in words; whole: with the last lines of its log."""
    epoch = f" in epoch {error['epoch']}" if error.get("epoch") is not None else ""
    said = [f"{id}  {error['type']}{epoch}, tried {error.get('failures', 1)} times: {error['message']}"]
    if whole:
        log = store.folder(id) / "log.txt"
        text = (
            log.read_text(encoding="utf-8", errors="replace") if log.exists() else error.get("traceback", "")
        )
        said += [*(f"    {line}" for line in text.splitlines()[-lines:]), ""]
    return said


def _history(store: Store, id: str, lines: int) -> None:
    rows = [*store.pretraining(id), *store.history(id)]
    if not rows:
        echo(f"{id} has not trained an epoch yet")
        return
    _print([_epoch(row) for row in rows[-lines:]])


def _epoch(row: dict[str, Any]) -> str:
    nan = math.nan  # for what a row lacks
    if PRETRAINED in row:
        said = f"pre-training {row['epoch']:4}  loss {row[PRETRAINED]:9.4f}"
        return f"{said}  lr {row['lr']:.2e}  {row['train_seconds']:8.1f} s"
    loss, val, lr = ((nan if row.get(k) is None else row[k]) for k in ("train_loss", "val_mae_bpm", "lr"))
    return (
        f"epoch {row['epoch']:4}  loss {loss:9.4f}  "
        f"validation {val:7.3f} BPM  lr {lr:.2e}  {row['train_seconds']:8.1f} s"
    )


def _follow(news: Iterator[list[str]], runs: Callable[[], bool]) -> None:
    """Print what is new while something runs; what came just before its end is printed, too."""
    while True:
        more = runs()
        _print(next(news))
        if not more:
            echo("nothing runs any more", err=True)
            return
        time.sleep(POLL_S)


def _job_runs(store: Store, job: str, jobs: list[dict[str, Any]]) -> bool:
    """Whether a job waits or runs, as Slurm says; while Slurm doesn't answer, whether the sweep runs."""
    active = {row["id"]: row["active"] for row in jobs}.get(job, False)
    return is_running(store.progress()) if active is None else bool(active)


def _appended(path: Path, size: int) -> Iterator[list[str]]:
    """Whole lines added to a file since it had `size` bytes, each time they are asked for."""
    rest = b""
    while True:
        try:
            with path.open("rb") as file:
                file.seek(size)
                new = file.read()
        except FileNotFoundError:
            new = b""
        size += len(new)
        *whole, rest = (rest + new).split(b"\n")
        yield [line.decode(errors="replace") for line in whole]


def _epochs(store: Store, id: str, lines: int) -> Iterator[list[str]]:
    """The last epochs of a point, then each as it is finished; at last its failure, if it fails.

    The file is read whole each time: a point that goes on from its checkpoint writes it anew, shorter.
    """
    last, failed = None, None
    while True:
        rows = store.history(id)
        new = rows[-lines:] if last is None else [row for row in rows if row["epoch"] > last]
        said = [_epoch(row) for row in new]
        last = rows[-1]["epoch"] if rows else 0
        error = store.errors().get(id)
        if error != failed and error:
            said += _told(store, id, error, lines, whole=True)
        failed = error
        yield said


def _events(store: Store, lines: int, failed: bool) -> Iterator[list[str]]:
    """The failures there are, then each point that fails; failed: failures only, with logs."""
    ledger = store.path / "ledger.jsonl"
    news = _appended(ledger, ledger.stat().st_size if ledger.exists() else 0)
    told = store.errors()
    yield [line for id, error in told.items() for line in _told(store, id, error, lines, failed)]
    for added in news:
        said: list[str] = []
        for line in added:
            try:
                event = json.loads(line)
            except ValueError:  # cut short by a full disk
                continue
            if not isinstance(event, dict) or not isinstance(id := event.get("id"), str):
                continue
            if event.get("event") == "point" and not failed:
                said.append(_done(store, id))
            elif (
                event.get("event") == "failed" and (error := store.errors().get(id)) and error != told.get(id)
            ):
                told[id] = error
                said += _told(store, id, error, lines, failed)
        yield said


def _done(store: Store, id: str) -> str:
    try:
        r = store.result(id)
    except (InputError, FileNotFoundError) as error:
        return f"{id}  done, but its result can't be read: {error}"
    kind = "teacher" if r["role"] == "teacher" else r["strategy"]
    model = model_name(r["arch"], r["depth"], r["width"])
    return f"{id}  done: {kind} {model}, {r['mae_bpm']:.2f} BPM after {r.get('epochs', '?')} epochs"
