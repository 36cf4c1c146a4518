"""`kdsweep claims SWEEP`: claims about distillation, paired over people, sizes, folds and seeds."""

import json
from typing import Any

import click

from kd.errors import InputError
from orchestrator.api import open_sweep
from orchestrator.commands.arguments import RECIPE, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.words import quoted

NAMES = ("claim", "effect %", "effect BPM", "p (Holm)", "verdict", "subjects", "runs", "why", "source")
DEVICE_NAMES = ("data set", "students", "sizes", "subjects", "new BPM", "known BPM", "cost BPM", "cost %")


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option(
    "--new-device",
    is_flag=True,
    help="What a new device costs: SWEEP left one data set out at a time (data.split.scheme lodo).",
)
@click.option(
    "--against", type=SWEEP, help="With --new-device: a sweep that trained on all of the data sets."
)
@RECIPE
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def claims(sweep: str, new_device: bool, against: str | None, recipe: str | None, as_json: bool) -> None:
    """Compare what SWEEP trained in pairs, and judge the paper's claims and general ones.

    Effect: by how much the first's error is lower, with its 90 % interval for new people and new runs.
    """
    if against and not new_device:
        raise InputError("--against is for --new-device: add it")
    opened = open_sweep(sweep)
    if new_device:
        found = opened.new_device(open_sweep(against) if against else None, recipe=recipe)
    else:
        found = opened.claims(recipe=recipe)
    if as_json:
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    elif new_device:
        _print_devices(found)
    else:
        _print(found, sweep)
    for note in found["notes"]:
        echo(f"note: {note}", err=True)


def _print(found: dict[str, Any], sweep: str) -> None:
    from orchestrator.commands.tables import print_table

    if not found["claims"]:
        echo(f"nothing to compare: no two students of {sweep} differ in strategy or teacher alone")
        echo(f"`kdsweep plan {quoted(sweep)}` shows what it trains", err=True)
        return
    print_table(
        NAMES,
        [_cells(row) for row in found["claims"]],
        numbers=("effect %", "effect BPM", "p (Holm)", "subjects", "runs"),
        spare=("source", "why", "runs", "effect BPM"),
    )
    echo(
        f"effect: by how much the first's error is lower [{found['level']:.0%} interval]; verdicts at "
        f"{found['alpha']:g}, by Holm over all claims; equivalent: the interval lies within "
        f"{found['least_percent']:g} %",
        err=True,
    )


def _cells(row: dict[str, Any]) -> list[str]:
    p = row["p_holm"]
    return [
        row["text"],
        span(row["effect_percent"], "+.1f"),
        span(row["effect_bpm"], "+.2f"),
        "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
        row["verdict"],
        str(row["n"]["subjects"]),
        str(row["n"]["cells"]),
        row["why"],
        row["source"],
    ]


def span(interval: dict[str, float] | None, form: str) -> str:
    """Median and interval; a dash where there is none."""
    if interval is None:
        return "–"
    median, low, high = (format(interval[key], form) for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def _print_devices(found: dict[str, Any]) -> None:
    from orchestrator.commands.tables import print_table

    rows = [
        [
            row["dataset"],
            row["arm"],
            str(row["sizes"]),
            str(row["subjects"]),
            f"{row['new_bpm']:.2f}",
            "–" if row["known_bpm"] is None else f"{row['known_bpm']:.2f}",
            span(row["cost_bpm"], "+.2f"),
            span(row["cost_percent"], "+.1f"),
        ]
        for row in found["devices"]
    ]
    print_table(DEVICE_NAMES, rows, numbers=DEVICE_NAMES[2:], spare=("sizes", "cost %"))
    echo(found["text"])
