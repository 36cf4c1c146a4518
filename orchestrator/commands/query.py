"""`kdsweep query SWEEP`: the best student for a budget, or the smallest for an error; reads laws.json."""

import json
from collections.abc import Callable
from typing import Any

import click

from orchestrator.commands.arguments import RECIPE, SWEEP, TRACKED

POSITIVE = click.FloatRange(min=0, min_open=True)


def budget_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that limit a student."""
    for option in reversed(
        (
            click.option("--max-params", type=POSITIVE, help="Parameters."),
            click.option(
                "--max-memory-kb",
                type=POSITIVE,
                help="kB: tensor arena where measured, else activation peak of one window.",
            ),
            click.option(
                "--max-flash-kb", type=POSITIVE, help="kB: .tflite file where measured, else weights."
            ),
            click.option(
                "--max-latency-ms", type=POSITIVE, help="Milliseconds per window; run kdsweep profile first."
            ),
            click.option(
                "--max-instructions",
                type=POSITIVE,
                help="Instructions per window of the C, on a processor: --device m4.",
            ),
            click.option(
                "--max-uj",
                type=POSITIVE,
                help="Microjoules per heart rate of the C, on a chip: --device nrf52840.",
            ),
            click.option("--max-macs", type=POSITIVE, help="Multiply-adds per window."),
            click.option(
                "--precision",
                type=click.Choice(["fp32", "int8"]),
                default="fp32",
                show_default=True,
                help="Precision that the limits on memory, flash, latency, instructions and energy apply to.",
            ),
            click.option(
                "--device",
                help="One that the sweep was profiled on; or a microcontroller: m4, m4@64MHz, a name of the "
                "device table, or a YAML file (docs/firmware.md).",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("sweep", type=SWEEP)
@budget_options
@click.option("--max-mae", type=POSITIVE, help="BPM; find the smallest student with this error or less.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --max-mae: probability that a new run reaches it.  [default: 0.8]",
)
@RECIPE
@TRACKED
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def query(
    sweep: str,
    max_mae: float | None,
    confidence: float | None,
    recipe: str | None,
    tracked: bool | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Find the best student of SWEEP within a budget, trained or not, and predict its error."""
    from orchestrator.api import open_sweep

    found = open_sweep(sweep).query(max_mae, confidence, recipe=recipe, tracked=tracked, **limits)
    click.echo(json.dumps(found.as_dict(), indent=2, allow_nan=False) if as_json else repr(found))
