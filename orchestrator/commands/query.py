"""`kdsweep query SWEEP`: the best student for a budget, from laws.json alone."""

import json
from typing import Any

import click

from orchestrator.laws.source import sweep_folder


@click.command()
@click.argument("sweep")
@click.option("--max-params", type=click.FloatRange(min=0, min_open=True), help="Parameters.")
@click.option("--max-memory-kb", type=click.FloatRange(min=0, min_open=True), help="Peak activations, kB.")
@click.option("--max-flash-kb", type=click.FloatRange(min=0, min_open=True), help="Weights, kB.")
@click.option("--max-latency-ms", type=click.FloatRange(min=0, min_open=True), help="Milliseconds a window.")
@click.option("--max-macs", type=click.FloatRange(min=0, min_open=True), help="Multiply-adds a window.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def query(sweep: str, as_json: bool, **limits: Any) -> None:
    """The best student of SWEEP within a budget, trained or not, with how wrong it will be."""
    from orchestrator.budget import Budget, answer
    from orchestrator.laws.document import read_document

    document = read_document(sweep_folder(sweep) / "laws.json")
    result = answer(document, Budget(**limits))
    click.echo(json.dumps(result, indent=2) if as_json else sentence(result))


def sentence(result: dict[str, Any]) -> str:
    """The answer in words."""
    if result["verdict"] == "refuse":
        return f"refused: {result['why']}"
    best, mae = result["best"], result["best"]["mae_bpm"]
    lines = [
        f"{best['arch']} depth {best['depth']} width {best['width']} ({best['params']:,} parameters), "
        f"{best['strategy']}{' from ' + best['teacher'] if best['teacher'] else ''}: "
        f"{mae['median']:.2f} BPM [{mae['low']:.2f}, {mae['high']:.2f}] for a new run",
        f"trained as point {best['point']}" if best["trained"] else "not trained yet",
    ]
    if result["why"]:
        lines.append(result["why"])
    return "\n".join(lines)
