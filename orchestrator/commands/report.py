"""`kdsweep report SWEEP`: one self-contained HTML file, from laws.json and the store."""

import json
from pathlib import Path

import click

from orchestrator.commands.arguments import RECIPE, SWEEP
from orchestrator.commands.echo import echo
from orchestrator.store.find import sweep_folder


@click.command()
@click.argument("sweep", type=SWEEP)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: SWEEP/report.html."
)
@click.option("--device", help="Device for latency; required if the sweep was profiled on several.")
@RECIPE
@click.option(
    "--mlflow/--no-mlflow",
    default=None,
    help="Log report and figures to the sweep's parent run.  [default: if SWEEP/mlflow.db exists]",
)
@click.option("--tracking-uri", help="MLflow server to log to; implies --mlflow.  [default: SWEEP/mlflow.db]")
@click.option("--json", "as_json", is_flag=True, help="Print the path and the headline as JSON.")
def report(
    sweep: str,
    output: Path | None,
    device: str | None,
    recipe: str | None,
    mlflow: bool | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Write the report of SWEEP: one self-contained HTML file that needs no network.

    It shows the results of `kdsweep fit`: run that first, and again when more points are done.
    """
    from orchestrator.report.write import write_report

    said = write_report(sweep_folder(sweep), output, device, mlflow, tracking_uri, recipe)
    for warning in said.pop("warnings"):
        echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(said, indent=2))
        return
    echo(said["answer"])
    echo(f"{said['report']} written ({said['bytes'] / 1e6:.2f} MB)", err=True)
    if said["mlflow_run"]:
        echo(f"logged to MLflow run {said['mlflow_run']}, artifacts report/", err=True)
