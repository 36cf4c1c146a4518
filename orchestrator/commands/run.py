"""`kdsweep run SPACE`: the whole sweep, here or on a Ray cluster given by address."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.arguments import SPACE, question_options
from orchestrator.commands.echo import echo
from orchestrator.space.resolve import Opened, open_space
from orchestrator.store.metric import Headline
from orchestrator.words import model_name, quoted

if TYPE_CHECKING:
    from orchestrator.run.outcome import SweepResult


@click.command()
@click.argument("space", type=SPACE)
@click.argument("overrides", nargs=-1)
@click.option("--out", help="The sweep directory.  [default: sweeps/<name of the space>]")
@click.option("--address", help="IP:PORT of a running Ray cluster; RAY_AUTH_MODE must be set.")
@click.option(
    "--slots", type=click.IntRange(min=1), help="Maximum number of slots; each trains one pack of points."
)
@click.option("--no-dashboard", is_flag=True, help="Don't start the Ray dashboard.")
@click.option("--tracking-uri", help="MLflow server.  [default: sqlite in the sweep directory]")
@click.option("--checkpoint-every", default=30.0, show_default=True, help="Seconds between checkpoints.")
@question_options
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
    answer: str | None,
    until_regret: float | None,
    gpu_hours: float | None,
    dry_run: bool,
) -> None:
    """Train all points of SPACE that are not done yet. Safe to kill at any time: run it again to resume.

    OVERRIDES change single values: training.max_epochs=5, students.0.width=[4,8].
    """
    from orchestrator.answers.asked import asked
    from orchestrator.run.progress import Display

    question = asked(answer, until_regret, gpu_hours)
    display = Display()
    try:
        opened = open_space(space, overrides, out, display.say)
        if dry_run:
            from orchestrator.commands.plan import print_plan

            print_plan(opened, None)
            return
        from orchestrator.run.start import train
        from orchestrator.tracking.client import shown

        result = train(
            opened,
            display,
            address=address,
            slots=slots,
            dashboard=not no_dashboard,
            tracking_uri=tracking_uri,
            checkpoint_every_s=checkpoint_every,
            asked=question,
            command=shlex.join(["kdsweep", *(shown(argument) for argument in sys.argv[1:])]),
        )
    finally:
        display.close()
    _tell(opened, result, tracking_uri)
    sys.exit(result.exit_code)


def _tell(opened: Opened, result: "SweepResult", tracking_uri: str | None) -> None:
    """The table of results on stdout, the summary on stderr."""
    from orchestrator.space.spaces import space_files
    from orchestrator.tracking.client import as_option, shown
    from orchestrator.tracking.writer import default_uri
    from orchestrator.words import duration

    ids = {p.id for p in opened.plan.points}
    results = [r for r in opened.store.results() if r["id"] in ids]
    if results:
        print_results(results, opened.store.path, opened.plan.headline)
    if opened.data.source == "synthetic":
        echo("The data are synthetic: these errors rank methods; they don't predict errors on real wrists.")

    def say(text: str) -> None:
        echo(text, err=True)

    path = opened.store.path
    at = quoted(path)
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
        say(f"{len(result.failed)} failed, {len(result.blocked)} blocked: kdsweep logs {at} --failed")
        if len(space_files(path)) > 1:
            say(f"a space whose points are not wanted any more: remove its file in {quoted(path / 'spaces')}")
    if result.answer:
        say(f"answer:  {result.answer}")
    if result.error:
        say(f"error: {result.error}")
    if result.stopped_by:
        say(f"stopped by {result.stopped_by.name}; run the same command again to resume")
    if result.tracking_error:
        option = f" --tracking-uri {as_option(tracking_uri)}" if tracking_uri else ""
        say(f"MLflow is incomplete ({result.tracking_error}): kdsweep sync {at}{option}")
    uri = tracking_uri or default_uri(opened.store)
    served = uri.startswith("http")
    say(f"MLflow:  {shown(uri) if served else f'mlflow ui --backend-store-uri {as_option(uri)}'}")
    if result.done:
        say(f"next:    kdsweep fit {at}; kdsweep query {at} --max-params 20000; kdsweep report {at}")


def print_results(
    results: Sequence[Mapping[str, Any]], sweep: Path, headline: Headline, most: int = 60
) -> None:
    """The table that a finished run of a sweep prints: teachers, then students by size and error."""
    from orchestrator.commands.tables import Column, console, show

    names = {r["id"]: model_name(r["arch"], r["depth"], r["width"], "{} {}x{}") for r in results}
    ordered = sorted(results, key=lambda r: (r["role"] != "teacher", r["params"], headline(r)))
    rows = ordered[:most]
    folds = ["" if r.get("fold") is None else str(r["fold"]) for r in rows]
    teachers = [r.get("teacher") or "" for r in rows]
    found = [headline.if_tracked(r) for r in rows]
    tracked = ["" if error is None else f"{error:.2f}" for error in found]
    show(
        console(),
        [
            Column("", [r["id"] for r in rows]),
            Column("strategy", ["teacher" if r["role"] == "teacher" else r["strategy"] for r in rows]),
            Column("architecture", [names[r["id"]] for r in rows]),
            Column("teacher", [names.get(teacher, teacher) for teacher in teachers], 1),
            *([Column("fold", folds, right=True)] if any(folds) else []),
            Column("params", [f"{r['params']:,}" for r in rows], right=True),
            Column("error BPM", [f"{headline(r):.2f}" for r in rows], right=True),
            *([Column("tracked", tracked, 2, right=True)] if any(tracked) else []),
            Column("RMSE", [f"{r['rmse_bpm']:.2f}" for r in rows], 3, right=True),
            Column("within 5", [f"{100 * r['within_5_bpm']:.0f} %" for r in rows], 2, right=True),
            Column("train s", [f"{r['train_seconds']:.1f}" for r in rows], 4, right=True),
        ],
    )
    echo(f"error: {headline}; RMSE and within 5 BPM: over windows")
    if len(ordered) > most:
        echo(f"{len(ordered) - most} more: kdsweep status {quoted(sweep)} --all")
