"""The report and its figures as artifacts of the sweep's parent run. mlflow is imported where it is used."""

import json
import logging
import os
import tempfile
from pathlib import Path

from kd.errors import InputError
from orchestrator.report.page import sheets
from orchestrator.report.sweep import Sweep

FOLDER = "report"  # of the artifacts


def log(sweep: Sweep, html: str, uri: str) -> str:
    """Write report.html and the figures to the parent run, over those of an earlier call; the run's id.

    Raises InputError when the sweep is not on that server yet.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = _parent(client, sweep.folder)
    if run is None:
        raise InputError(
            f"{sweep.folder} is not in MLflow at {_shown(uri)} yet: run `kdsweep sync {sweep.folder}` first, "
            f"or give --no-mlflow"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {"report.html": html.encode(), **sheets(sweep)}.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run, folder, FOLDER)
    return run


def _parent(client: "object", folder: Path) -> str | None:
    """The run that has the sweep's tag and no point's."""
    from mlflow import MlflowClient

    from orchestrator.tracking.tags import POINT, SWEEP

    assert isinstance(client, MlflowClient)
    try:
        sweep = json.loads((folder / "mlflow.json").read_text())["sweep"]
    except (FileNotFoundError, KeyError):
        return None
    experiments = [e.experiment_id for e in client.search_experiments()]
    token = None
    while experiments:
        page = client.search_runs(
            experiments,
            f"tags.`{SWEEP}` = '{sweep}'",
            max_results=1000,
            order_by=["start_time"],
            page_token=token,
        )
        for run in page:
            if POINT not in run.data.tags:
                return str(run.info.run_id)
        token = page.token
        if not token:
            break
    return None


def _shown(uri: str) -> str:
    """A tracking URI without the password it may hold."""
    return uri.split("@")[-1]
