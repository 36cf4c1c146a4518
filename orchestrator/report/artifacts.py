"""The report and its figures as artifacts of the sweep's parent run. mlflow is imported where it is used."""

import tempfile
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.report.page import sheets
from orchestrator.report.sweep import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking.client import as_option, connect, shown, told
from orchestrator.tracking.database import make_whole, sqlite_file
from orchestrator.tracking.memory import recall, sweep_id
from orchestrator.tracking.tags import POINT, SWEEP
from orchestrator.tracking.writer import artifacts_uri, default_uri, warn
from orchestrator.words import quoted

FOLDER = "report"  # of the artifacts


def log(sweep: Sweep, html: str, uri: str) -> str:
    """Write report.html and the figures to the parent run, over those of an earlier call; the run's id.

    Raises InputError when the sweep is not on that server yet, or for trouble with it.
    """
    with told(uri):
        return _log(sweep, html, uri)


def _log(sweep: Sweep, html: str, uri: str) -> str:
    store = Store(sweep.folder)
    own, path = default_uri(store), sqlite_file(uri)
    run = None
    if recall(store).get("sweep") and (path is None or path.is_file()):  # MLflow would make the file
        id = sweep_id(store, uri, private=uri == own, say=warn)
        make_whole(uri, artifacts_uri(store), private=uri == own)
        client = connect(uri)
        run = _parent(client, id)
    if run is None:
        option = "" if uri == own else f" --tracking-uri {as_option(uri)}"
        raise InputError(
            f"{sweep.folder} is not in MLflow at {shown(uri)} yet: run "
            f"`kdsweep sync {quoted(sweep.folder)}{option}` first, or give --no-mlflow"
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {"report.html": html.encode(), **sheets(sweep)}.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run, folder, FOLDER)
    return run


def _parent(client: Any, sweep: str) -> str | None:
    """The run that has the sweep's tag and no point's."""
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
