"""`kdsweep suggest SWEEP --gpu-hours H`: what to train next, as a search space that `run` takes."""

import json
import shlex
from pathlib import Path
from typing import Any

import click

from orchestrator.commands.query import budget_options
from orchestrator.store.find import sweep_folder

NUMBERS = ("params", "seed", "GPU-hours", "gain, BPM")


@click.command()
@click.argument("sweep")
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
@click.option("--seed", default=0, show_default=True, help="Seed of the simulations.")
@click.option("--json", "as_json", is_flag=True, help="Print the suggestion as JSON.")
def suggest(sweep: str, gpu_hours: float, out: Path | None, seed: int, as_json: bool, **limits: Any) -> None:
    """Suggest points to train next, ranked by the reduction in expected regret of the query per GPU-hour."""
    from kd.files import write_atomically
    from orchestrator.answers.candidates import Budget
    from orchestrator.answers.next_space import describe, gpu_share, next_space, text
    from orchestrator.answers.suggest import suggest as choose
    from orchestrator.laws.document import read_document
    from orchestrator.space.schema import load_space

    folder = sweep_folder(sweep)
    budget = Budget(**limits)
    document = read_document(folder / "laws.json", budget.device)
    space = load_space(folder / "space.yaml")
    share = gpu_share(space, document["made"]["device"])
    suggestion = choose(document, budget, gpu_hours / share, rng=seed)
    file = out or folder / "suggested.yaml"
    command = f"kdsweep run {shlex.quote(str(file))} --out {shlex.quote(str(folder))}"
    said = describe(document, suggestion, share)
    head = f"{command}\nabout {said['cost_gpu_hours']:.3g} GPU-hours; {_expectation(said)}"
    content = text(next_space(space, document, suggestion), head)
    write_atomically(file, lambda path: path.write_text(content))
    if as_json:
        asked = {"sweep": document["sweep"], "gpu_hours": gpu_hours, "budget": budget.given}
        click.echo(json.dumps(asked | said | {"file": str(file)}, indent=2, allow_nan=False))
    else:
        _print(said)
    click.echo(f"{file} written; run\n  {command}\nthen refit the laws with kdsweep fit", err=True)


def _expectation(said: dict[str, Any]) -> str:
    return (
        f"expected regret {said['regret_bpm']:.3f} BPM before, {said['regret_after_bpm']:.3f} after "
        f"{len(said['picks'])} points"
    )


def _print(said: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_expectation(said))
    for name in ("student", "params", "strategy", "teacher", "seed", "GPU-hours", "gain, BPM", "why"):
        table.add_column(
            name, justify="right" if name in ("params", "seed", "GPU-hours", "gain, BPM") else "left"
        )
    for p in said["picks"]:
        init = "" if p["init"] == "random" else f", {p['init']}"
        table.add_row(
            f"{p['arch']}-{p['depth']}x{p['width']}{init}",
            f"{p['params']:,}",
            p["label"],
            p["teacher"] or "-",
            str(p["seed"]),
            f"{p['gpu_hours']:.3g}",
            f"{p['gain_bpm']:.4f}",
            p["why"],
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
