"""`kdsweep check SWEEP`: what is damaged in a sweep's directory; --repair mends it."""

import json

import click

from kd.errors import InputError
from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.run.alone import alone
from orchestrator.store import check as checking
from orchestrator.store.find import sweep_folder
from orchestrator.store.store import Store
from orchestrator.words import quoted


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option("--repair", is_flag=True, help="Mend what is found; damaged files are kept as NAME.broken.")
@click.option("--json", "as_json", is_flag=True, help="Print what is found as JSON.")
@click.pass_context
def check(context: click.Context, sweep: str, repair: bool, as_json: bool) -> None:
    """Check the files of SWEEP: results, models, checkpoints, histories, the ledger, what kills left behind.

    With --repair, points whose result or model is damaged count as not trained, and the next run trains them;
    missing lines of the ledger and the sweep's own MLflow database are written again from the results; what
    killed runs of yours left on this host is ended and removed. Exit code 1: something is still damaged.
    """
    store = Store(sweep_folder(sweep))
    with alone(store, dry_run=not repair, look_only=not repair):
        found = checking.check(store)
        if repair:
            checking.repair(store, found)
        notes = [*_notes(store, repair), *_left_on_this_host(repair), *_left_on_nodes(store)]
    rows = [{"path": str(f.path), "what": f.what, "repair": f.how, "repaired": repair} for f in found]
    if as_json:
        click.echo(json.dumps({"found": rows, "notes": notes}, indent=1))
    else:
        for finding in found:
            echo(_told(finding, repair))
        for note in notes:
            echo(f"note: {note}")
        echo(_summary(len(found), repair, store))
    if found and not repair:
        context.exit(1)


def _told(finding: checking.Finding, repaired: bool) -> str:
    what = finding.what if str(finding.path) in finding.what else f"{finding.path}: {finding.what}"
    done = {
        checking.AGAIN: "is trained again by the next run",
        checking.ASIDE: "set aside",
        checking.REMOVE: "removed",
        checking.LINES: "set aside, sound lines kept",
        checking.ACCOUNT: "written from the results",
    }[finding.how]
    return f"{what}: {done}" if repaired else what


def _summary(n: int, repaired: bool, store: Store) -> str:
    if not n:
        return "sound"
    things = f"{n} thing{'s' * (n > 1)}"
    return (
        f"{things} repaired"
        if repaired
        else f"{things} found: mend with kdsweep check {quoted(store.path)} --repair"
    )


def _left_on_this_host(repair: bool) -> list[str]:
    """What killed runs left outside the sweep: Ray's processes and directories."""
    from orchestrator.run.run_directory import remove_dead

    what = "left by a run that was killed" + (": removed" if repair else "; --repair removes it")
    return [f"{path}: {what}" for path in remove_dead(dry_run=not repair)]


def _left_on_nodes(store: Store) -> list[str]:
    """What killed jobs left on the nodes of a cluster; while the sweep runs, its own jobs may be using it."""
    from orchestrator.run.status import is_running
    from slurm.node_directory import recorded

    folders = [] if is_running(store.progress()) else sorted(store.path.glob("slurm/*"))
    return [
        f"{left['host']}:{left['path']}: left over if job {left['job']} has ended: your next job there "
        f"removes it, or: srun -w {left['host']} rm -rf {quoted(left['path'])} {quoted(left['record'])}"
        for folder in folders
        for left in recorded(folder)
    ]


def _notes(store: Store, repair: bool) -> list[str]:
    """What is not damaged, but good to know; repair: MLflow is written again where it lacks results."""
    from orchestrator.space.plan import Plan
    from orchestrator.tracking.writer import default_uri, in_sync, sync

    notes = []
    try:
        plan = Plan.load(store.path / "plan.json")
        planned = {p.id for p in plan.points}
        if strange := sorted(set(store.ids()) - planned):
            notes.append(f"{len(strange)} points are not in the plan: {', '.join(strange[:5])}")
        uri = default_uri(store)
        if (store.path / "mlflow.json").exists() and not in_sync(store, uri):
            if repair:
                status = "FINISHED" if planned <= store.done() else "KILLED"
                notes.append(f"MLflow: {sync(store, plan, uri, status=status)} runs written")
            else:
                notes.append(f"MLflow in {store.path} lacks results: kdsweep sync {quoted(store.path)}")
    except InputError as error:
        notes.append(str(error))
    return notes
