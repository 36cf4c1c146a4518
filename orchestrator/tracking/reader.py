"""Where results come from: a sweep directory, or MLflow. Knows the store and the tags, nothing of fitting."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd.errors import InputError
from orchestrator.store.metric import Headline, headline, headline_in
from orchestrator.store.parts import many_objects
from orchestrator.store.store import OLD_NAMES, Store
from orchestrator.tracking.client import connect, experiment_id, plain, shown, told
from orchestrator.tracking.database import make_whole, sqlite_file
from orchestrator.tracking.tags import BY_METRIC, FINAL, METRIC, POINT, SPACE, SWEEP


@dataclass(frozen=True)
class Source:
    """What a fit needs. results: result.json dicts, in the order of their ids; space: its YAML documents."""

    name: str
    results: list[dict[str, Any]]
    space: str
    headline: Headline = field(default_factory=Headline)


@many_objects()
def from_folder(folder: Path) -> Source:
    """The results of a sweep directory."""
    from orchestrator.space.spaces import documents

    space = documents(folder)
    if not space:
        raise InputError(
            f"{folder / 'space.yaml'} does not exist: run the search space into this directory again"
        )
    results = sorted(Store(folder).results(), key=lambda r: r["id"])
    return Source(folder.resolve().name, results, space, headline(folder))


def model_shape(space: Path) -> dict[str, int]:
    """Samples and classes of a space's models, as `sizes.size` takes them; results tell the channels."""
    from orchestrator.space.schema import load_space

    data = load_space(space).data_config()
    return {"samples": round(data.preprocess.fs * data.preprocess.window_s), "classes": data.classes}


def model_input(space: Path) -> dict[str, Any]:
    """How a space's windows are made, as far as a device's work depends on it; results tell the channels."""
    from orchestrator.space.schema import load_space

    p = load_space(space).data_config().preprocess
    made = {"fs": p.fs, "stride_s": p.stride_s, "normalise": p.normalise}
    made |= {"axes": p.axes} if p.axes else {}
    return {**made, "sections": p.order, "channels": 1, "channels_are": p.channels}


def from_mlflow(uri: str, experiment: str, sweep_id: str | None = None) -> Source:
    """The results of a sweep that MLflow shows, as the directory would give them.

    sweep_id: which one, when an experiment holds several. Raises InputError when there is no such experiment
    or it holds no sweep, or several.
    """
    path = sqlite_file(uri)
    if path and not path.is_file():  # MLflow would make one
        raise InputError(f"--tracking-uri: {path} does not exist: give the database that the sweep is in")
    with told(uri):
        make_whole(uri, "", private=False)
        return _from_mlflow(connect(uri), uri, experiment, sweep_id)


def _from_mlflow(client: Any, uri: str, experiment: str, sweep_id: str | None) -> Source:
    found = experiment_id(client, uri, experiment)
    if found is None:
        names = ", ".join(sorted(e.name for e in client.search_experiments())) or "none"
        raise InputError(
            f"--experiment {experiment}: {shown(uri)} has no such experiment; it has {plain(names)}"
        )
    if sweep_id and not re.fullmatch(r"[\w-]+", sweep_id):
        raise InputError(f"--sweep-id {sweep_id!r} is no id: leave the option out, and the ids are listed")
    where = f"tags.`{SWEEP}` = '{sweep_id}'" if sweep_id else ""
    runs = [run for run in _all_runs(client, found, where) if SWEEP in run.data.tags]
    ids = sorted({run.data.tags[SWEEP] for run in runs})
    if not ids:
        wanted = f" {sweep_id}" if sweep_id else ""
        raise InputError(f"experiment {experiment} holds no sweep{wanted}: write one with `kdsweep sync`")
    if len(ids) > 1:
        raise InputError(
            f"experiment {experiment} holds {len(ids)} sweeps: choose one with --sweep-id, "
            f"of {plain(', '.join(ids))}"
        )
    parent = next((run for run in runs if POINT not in run.data.tags), None)
    tags = parent.data.tags if parent else {}
    space = "".join(tags[key] for key in sorted(tags, key=_number) if key.startswith(f"{SPACE}."))
    if not space:
        raise InputError(
            f"experiment {experiment}: its parent run has no search space: track the sweep again "
            f"with `kdsweep sync`"
        )
    results = [_result(r) for r in runs if POINT in r.data.tags and r.info.status == "FINISHED"]
    try:
        judge = headline_in(json.loads(tags.get(METRIC, "{}")))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InputError(
            f"experiment {experiment}: the tag {METRIC} of its parent run names no metric: track the sweep "
            "again with `kdsweep sync`"
        ) from None
    return Source(experiment, sorted(results, key=lambda r: r["id"]), space, judge)


def _all_runs(client: Any, experiment_id: str, where: str) -> list[Any]:
    runs, token = [], None
    while True:
        page = client.search_runs([experiment_id], where, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _number(key: str) -> tuple[int, str]:
    last = key.rpartition(".")[2]
    return (int(last) if last.isdigit() else -1, key)


WHOLE = {"params", "macs", "activation_bytes", "weight_bytes", "epochs"}
FROM_PARAMS = {"depth": int, "width": int, "fold": int, "seed": int, "recipe_version": int}


def _result(run: Any) -> dict[str, Any]:
    """A child run as its result.json was. Everybody may write to a server: what can't be one is refused."""
    try:
        result = _unchecked(run)
        if not re.fullmatch(r"[0-9a-f]+", result["id"]) or not isinstance(result["mae_bpm"], float):
            raise ValueError(f"id {result['id']!r}")
        return result
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        why = plain(f"{type(error).__name__}: {error}")
        raise InputError(
            f"run {run.info.run_id} in MLflow is no result of kdsweep ({why}): "
            f"delete it there, and run `kdsweep sync` on the sweep's directory"
        ) from None


def _unchecked(run: Any) -> dict[str, Any]:
    names = {shown: key for key, shown in FINAL.items()}
    figures = {k: v for k, v in run.data.metrics.items() if k not in FINAL}
    result: dict[str, Any] = {names.get(k, k): int(v) if k in WHOLE else v for k, v in figures.items()}
    result |= {"teacher": None, "teacher_group": None, "fold": None, "strategy_args": {}, "recipe": {}}
    for key, text in run.data.params.items():
        group, dot, name = key.partition(".")
        if dot and group == "strategy":
            result["strategy_args"][name] = json.loads(text)
        elif dot:
            result.setdefault(group, {})[name] = text
        else:
            result[OLD_NAMES.get(key, key)] = FROM_PARAMS.get(key, str)(text)
    result.pop("error_bpm", None)  # follows from what is measured, and the metric
    if text := run.data.tags.get(BY_METRIC):
        result["by_metric"] = json.loads(text)
    tags = {"git_commit": "mlflow.source.git.commit", "finished_at": "kdsweep.finished_at"}
    return result | {key: run.data.tags[tag] for key, tag in tags.items() if tag in run.data.tags}
