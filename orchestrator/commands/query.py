"""`kdsweep query SWEEP`: the best student for a budget, or the smallest for an error; reads laws.json."""

import json
from collections.abc import Callable
from typing import Any

import click

from kd.errors import InputError
from orchestrator.laws.arms import strategy_label
from orchestrator.store.find import sweep_folder

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
            click.option("--max-macs", type=POSITIVE, help="Multiply-adds per window."),
            click.option(
                "--precision",
                type=click.Choice(["fp32", "int8"]),
                default="fp32",
                show_default=True,
                help="Precision that the limits on memory, flash and latency apply to.",
            ),
            click.option(
                "--device", help="Device for the latency limit, one that the sweep was profiled on."
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("sweep")
@budget_options
@click.option("--max-mae", type=POSITIVE, help="BPM; find the smallest student with this error or less.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="With --max-mae: probability that a new run reaches it.  [default: 0.8]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def query(sweep: str, max_mae: float | None, confidence: float | None, as_json: bool, **limits: Any) -> None:
    """Find the best student of SWEEP within a budget, trained or not, and predict its error."""
    from orchestrator.answers.best import answer
    from orchestrator.answers.candidates import Budget
    from orchestrator.answers.smallest import smallest
    from orchestrator.edge.latency import with_costs
    from orchestrator.laws.document import read_document

    if confidence is not None and max_mae is None:
        raise InputError("--confidence needs --max-mae: add a target error, for example --max-mae 6")
    budget = Budget(**limits)
    document = read_document(sweep_folder(sweep) / "laws.json", budget.device)
    if max_mae is None:
        result = answer(document, budget)
    else:
        result = smallest(document, max_mae, confidence or 0.8, budget)
    result = with_costs(document, budget, result)
    click.echo(json.dumps(result, indent=2, allow_nan=False) if as_json else in_words(result))


def in_words(result: dict[str, Any]) -> str:
    """The answer as text."""
    if result["verdict"] == "refuse":
        return f"refused: {result['why']}"
    best = result["best"]
    lines = [f"best      {student(best)}", f"          {_where(best)}"]
    if "p_reaches" in best:
        lines.append(f"          reaches {result['budget']['max_mae']:g} BPM with P {best['p_reaches']:.2f}")
    else:
        lines.append(
            f"          P(best) {best['p_best']:.2f}, "
            f"P(within 0.1 BPM of the best) {best['p_within_0.1_bpm']:.2f}"
        )
    lines += [f"cost      {line}" for line in _costs(result)]
    if result["runner_up"]:
        lines.append(f"runner-up {student(result['runner_up'])}")
    if result["binding"]:
        lines.append(f"budget    {result['binding']['text']}")
    reach = result["extrapolation"]
    lines.append(
        f"range     measured from {reach['smallest_measured']:,} to {reach['largest_measured']:,} params; "
        + ("inside" if reach["distance"] == 1 else f"extrapolation factor {reach['distance']:g}")
    )
    lines.append(f"coverage  {result['calibration']['text']}")
    lines += [f"note      {note}" for note in result["why"].split("; ") if note]
    lines += [f"excluded  {arm['arm']}: {arm['why']}" for arm in result.get("left_out", [])]
    return "\n".join(lines)


def _costs(result: dict[str, Any]) -> list[str]:
    """Cost of the best student, and whether each figure is measured or computed."""
    cost = result["best"]["cost"]
    lines = [
        f"{result['precision']}: flash {cost['flash_bytes'] / 1000:.1f} kB ({cost['flash_is']}), "
        f"memory {cost['memory_bytes'] / 1000:.1f} kB ({cost['memory_is']})"
    ]
    if "latency_ms" in cost:
        text = f"{cost['latency_ms']:.3f} ms on {result['device']}, {cost['latency_is']}"
        if "max_latency_ms" in result["budget"]:
            text += f"; meets the limit with P {result['best']['p_feasible']:.2f}"
        lines.append(text)
    if int8 := result["int8"]:
        lines.append(
            f"errors are for float32; int8 changed them by {int8['mae_change_mean_bpm']:+.3f} BPM "
            f"on average, {int8['mae_change_most_bpm']:+.3f} at most, on {int8['points']} students"
        )
    return lines


def student(s: dict[str, Any]) -> str:
    """One student in a line."""
    mae = s["mae_bpm"]
    teacher = f" from teacher {s['teacher']}" if s["teacher"] else ""
    init = f", {s['init']}" if s["init"] != "random" else ""
    return (
        f"{s['arch']} depth {s['depth']} width {s['width']} ({s['params']:,} parameters{init}), "
        f"{strategy_label(s['strategy'], s['strategy_args'])}{teacher}: {mae['median']:.2f} BPM "
        f"[{mae['low']:.2f}, {mae['high']:.2f}] for {mae['level']:.0%} of new runs"
    )


def _where(s: dict[str, Any]) -> str:
    if s["trained"]:
        return f"trained: point {s['point']}, measured {s['measured_mae_bpm']:.2f} BPM"
    return "not trained yet"
