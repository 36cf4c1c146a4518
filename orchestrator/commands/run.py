"""`kdsweep run SPACE`: the whole sweep, here or on a Ray cluster given by address."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kd.errors import InputError
from orchestrator.space.resolve import Opened, open_space

if TYPE_CHECKING:
    from orchestrator.run.driver import SweepResult
    from orchestrator.run.progress import Display


@click.command()
@click.argument("space")
@click.argument("overrides", nargs=-1)
@click.option("--out", help="The sweep directory.  [default: sweeps/<name of the space>]")
@click.option("--address", help="IP:PORT of a running Ray cluster; RAY_AUTH_MODE must be set.")
@click.option(
    "--slots", type=click.IntRange(min=1), help="Maximum number of slots; each trains one pack of points."
)
@click.option("--no-dashboard", is_flag=True, help="Don't start the Ray dashboard.")
@click.option("--tracking-uri", help="MLflow server.  [default: sqlite in the sweep directory]")
@click.option("--checkpoint-every", default=30.0, show_default=True, help="Seconds between checkpoints.")
@click.option("--dry-run", is_flag=True, help="Show what would run, as `kdsweep plan` does.")
def run(
    space: str,
    overrides: Sequence[str],
    out: str | None,
    address: str | None,
    slots: int | None,
    no_dashboard: bool,
    tracking_uri: str | None,
    checkpoint_every: float,
    dry_run: bool,
) -> None:
    """Train all points of SPACE that are not done yet. Safe to kill at any time: run it again to resume.

    OVERRIDES change single values: training.max_epochs=5, students.0.width=[4,8].
    """
    from orchestrator.run.progress import Display

    display = Display()
    try:
        opened = open_space(space, overrides, out, display.say)
        if dry_run:
            from orchestrator.commands.plan import print_plan

            print_plan(opened, None)
            return
        _run(opened, address, slots, not no_dashboard, tracking_uri, checkpoint_every, display)
    finally:
        display.close()


def _run(
    opened: Opened,
    address: str | None,
    slots: int | None,
    dashboard: bool,
    tracking_uri: str | None,
    checkpoint_every: float,
    display: "Display",
) -> None:
    from orchestrator.run.driver import Busy, Options, run_sweep

    for why in opened.plan.refused:
        display.say(f"refused: {why}")
    opened.save_space()
    options = Options(
        address=address,
        slots=slots,
        dashboard=dashboard,
        tracking_uri=tracking_uri,
        max_failures=opened.space.resources.max_failures,
        checkpoint_every_s=checkpoint_every,
        command=shlex.join(["kdsweep", *sys.argv[1:]]),
    )
    try:
        result = run_sweep(
            opened.plan, opened.data, opened.store, opened.cache_dir, opened.slot, options, display
        )
    except Busy as busy:
        raise InputError(f"{busy}; wait for it, or follow it with `kdsweep status --watch`") from None
    display.close()
    _tell(opened, result, options.tracking_uri)
    sys.exit(result.exit_code)


def _tell(opened: Opened, result: "SweepResult", tracking_uri: str | None) -> None:
    """The table of results on stdout, the summary on stderr."""
    from rich.console import Console

    from orchestrator.commands.plan import WIDE
    from orchestrator.run.progress import table_of_results
    from orchestrator.tracking.writer import default_uri
    from orchestrator.words import duration

    ids = {p.id for p in opened.plan.points}
    results = [r for r in opened.store.results() if r["id"] in ids]
    if results:
        console = Console()
        console = console if console.is_terminal else Console(width=WIDE)
        console.print(table_of_results(results))
    if opened.data.source == "synthetic":
        click.echo(
            "The data are synthetic: these errors rank methods; they don't predict errors on real wrists."
        )

    def say(text: str) -> None:
        click.echo(text, err=True)

    path = opened.store.path
    if result.already_done == result.total:
        say(f"{result.total} of {result.total} already done")
    else:
        say(f"{result.done} of {result.total} done, {result.already_done} of them before")
    if result.train_seconds and result.efficiency:
        say(
            f"wall {duration(result.wall_s)}, training {duration(result.train_seconds)}, "
            f"{result.slots} slots, scheduling efficiency {result.efficiency:.2f}"
        )
    if result.startup_s:
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.startup_s.items())
        say(f"to the first training step: {parts}")
    if result.failed:
        say(f"{len(result.failed)} failed, {len(result.blocked)} blocked: kdsweep logs {path} --failed")
    if result.error:
        say(f"error: {result.error}")
    if result.stopped_by:
        say(f"stopped by {result.stopped_by.name}; run the same command again to resume")
    if result.tracking_error:
        say(f"MLflow is incomplete ({result.tracking_error}): kdsweep sync {path}")
    say(f"MLflow:  mlflow ui --backend-store-uri {shlex.quote(tracking_uri or default_uri(opened.store))}")
    if result.done:
        say(f"next:    kdsweep fit {path}; kdsweep query {path} --max-params 20000; kdsweep report {path}")
