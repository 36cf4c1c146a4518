"""`kdsweep report SWEEP`: one self-contained HTML file, from laws.json and the store."""

import json
from pathlib import Path

import click

from kd.errors import InputError
from orchestrator.store.find import sweep_folder


@click.command()
@click.argument("sweep")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: SWEEP/report.html."
)
@click.option("--device", help="Device for latency; required if the sweep was profiled on several.")
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
    mlflow: bool | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Write the report of SWEEP: one self-contained HTML file that needs no network.

    It shows the results of `kdsweep fit`: run that first, and again when more points are done.
    """
    from kd.files import write_atomically
    from orchestrator.report.page import render
    from orchestrator.report.sweep import Sweep
    from orchestrator.report.words import summary

    folder = sweep_folder(sweep)
    found = Sweep.read(folder, device)
    html = render(found)
    path = output or folder / "report.html"
    write_atomically(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))
    run = None
    if tracking_uri or (mlflow if mlflow is not None else (folder / "mlflow.db").exists()):
        from orchestrator.report.artifacts import log
        from orchestrator.store.store import Store
        from orchestrator.tracking.writer import default_uri

        try:
            run = log(found, html, tracking_uri or default_uri(Store(folder)))
        except InputError as error:
            if mlflow or tracking_uri:
                raise
            click.echo(f"warning: not logged: {error}", err=True)  # nobody asked for it
    if found.stale:
        click.echo(
            f"warning: results changed since laws.json was fitted: run `kdsweep fit {sweep}`",
            err=True,
        )
    if as_json:
        said = {
            "report": str(path),
            "bytes": len(html.encode()),
            "answer": summary(found),
            "synthetic": found.synthetic,
            "stale": found.stale,
            "failed": len(found.errors),
            "blocked": len(found.blocked),
            "mlflow_run": run,
        }
        click.echo(json.dumps(said, indent=2))
    else:
        click.echo(summary(found))
        click.echo(f"{path} written ({len(html.encode()) / 1e6:.2f} MB)", err=True)
        if run:
            click.echo(f"logged to MLflow run {run}, artifacts report/", err=True)
