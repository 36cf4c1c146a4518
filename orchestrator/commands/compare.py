"""`kdsweep compare SWEEP SWEEP`: the points two sweeps have in common, and how their errors differ."""

import json
from typing import Any

import click

from orchestrator.api import open_sweep
from orchestrator.commands.arguments import SWEEP
from orchestrator.commands.echo import echo
from orchestrator.words import model_name

NAMES = ("model", "init", "strategy", "teacher", "seed", "params", "first", "second", "difference")


@click.command()
@click.argument("first", type=SWEEP)
@click.argument("second", type=SWEEP)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with the points only one has.")
def compare(first: str, second: str, as_json: bool) -> None:
    """Compare the points that both sweeps trained: test MAE of each, and the difference SECOND - FIRST.

    Two points are the same by role, architecture, depth, width, init, strategy and its arguments, the
    teacher's shape, and seed; recipe and data may differ.
    """
    found = open_sweep(first).compare(open_sweep(second))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    _print(found)


def _print(found: dict[str, Any]) -> None:
    from orchestrator.commands.tables import print_table

    if found["both"]:
        rows = sorted(found["both"], key=lambda row: row["difference_bpm"])
        print_table(
            NAMES,
            [_cells(row) for row in rows],
            numbers=("seed", "params", "first", "second", "difference"),
            spare=("init", "params", "seed", "teacher"),
        )
    echo(summary(found))
    if not found["same_data"]:
        echo("the sweeps were trained on different data: errors differ for that reason, too", err=True)


def summary(found: dict[str, Any]) -> str:
    """One line: how many points, and by how much they differ."""
    only = f"only the first has {len(found['only_first'])}, only the second {len(found['only_second'])}"
    n = len(found["both"])
    if not n:
        return f"no point in common; {only}"
    return (
        f"{n} point{'s' * (n > 1)} in common: the second differs by {found['mean_difference_bpm']:+.3f} BPM "
        f"on average (median {found['median_difference_bpm']:+.3f}) and is better in "
        f"{found['second_better']} of {n}; {only}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    from orchestrator.laws.arms import strategy_label

    params, mae = row["params"], row["mae_bpm"]
    return [
        model_name(row["arch"], row["depth"], row["width"]),
        row["init"],
        "teacher" if row["role"] == "teacher" else strategy_label(row["strategy"], row["strategy_args"]),
        row["teacher"] or "",
        str(row["seed"]),
        f"{params[0]:,}" if params[0] == params[1] else f"{params[0]:,} and {params[1]:,}",
        *(f"{error:.2f}" for error in mae),
        f"{row['difference_bpm']:+.2f}",
    ]
