"""From a sweep's directory to its report on disk, and in MLflow where the sweep is tracked there."""

from pathlib import Path
from typing import Any

from kd.errors import InputError
from kd.files import write_text
from orchestrator.report.page import render
from orchestrator.report.sweep import Sweep
from orchestrator.report.words import summary
from orchestrator.words import quoted


def write_report(
    folder: Path,
    output: Path | None = None,
    device: str | None = None,
    mlflow: bool | None = None,
    tracking_uri: str | None = None,
    recipe: str | None = None,
) -> dict[str, Any]:
    """Write the report; what `kdsweep report --json` prints, with the `warnings` that go with it.

    output: default report.html in the sweep's directory. device: whose latency. mlflow: log it to the sweep's
    parent run; None = if mlflow.db exists, and a failure is a warning then. tracking_uri implies mlflow.
    recipe: that the laws must be of.
    Raises InputError when laws.json is missing.
    """
    found = Sweep.read(folder, device, recipe)
    html = render(found)
    path = output or folder / "report.html"
    write_text(path, html)
    run, warnings = None, []
    if tracking_uri or (mlflow if mlflow is not None else (folder / "mlflow.db").exists()):
        from orchestrator.report.artifacts import log
        from orchestrator.store.store import Store
        from orchestrator.tracking.writer import default_uri

        try:
            run = log(found, html, tracking_uri or default_uri(Store(folder)))
        except InputError as error:
            if mlflow or tracking_uri:
                raise
            warnings.append(f"not logged: {error}")  # nobody asked for it
    if found.stale:
        warnings.append(f"results changed since laws.json was fitted: run `kdsweep fit {quoted(folder)}`")
    return {
        "report": str(path),
        "bytes": len(html.encode()),
        "answer": summary(found),
        "group": found.document.get("group"),
        "synthetic": found.synthetic,
        "stale": found.stale,
        "failed": len(found.errors),
        "blocked": len(found.blocked),
        "mlflow_run": run,
        "warnings": warnings,
    }
