"""MLflow as a view of the store: replayed any number of times, one run a point, whatever was cut short."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from kd.signals.prepare import Data
from kd.signals.windows import Dropped, WindowSet
from orchestrator.space.plan import Plan, make_plan
from orchestrator.space.schema import SearchSpace
from orchestrator.store.store import Store
from orchestrator.tracking.writer import LiveTracker, Tracker, default_uri, in_sync, sync

SPACE = {
    "name": "tracked",
    "teachers": [{"arch": "resnet1d", "depth": 2, "width": 8}],
    "students": [{"arch": "mlp", "depth": 2, "width": [4, 8]}],
    "strategies": {"scratch": None, "soft": {"temperature": 2}},
}
EPOCHS = 3


def plan() -> Plan:
    names = np.array(["a"] * 10)
    side = WindowSet(np.zeros((10, 1, 200), np.float32), np.zeros(10, np.float32), names, names)
    return make_plan(SearchSpace.model_validate(SPACE), Data(side, side, side, "f", Dropped(), 30, 180))


def finish(store: Store, plan: Plan, index: int, mae: float = 5.0, at: str = "12:00:00") -> str:
    point = plan.points[index]
    folder = store.folder(point.id)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"epoch": e, "train_loss": 1.0 / e, "val_mae_bpm": 9.0 - e, "lr": 1e-3, "train_seconds": float(e)}
        for e in range(1, EPOCHS + 1)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store.write_result(
        point.id,
        {
            **asdict(point),
            "mae_bpm": mae,
            "val_mae_bpm": 6.0,
            "train_seconds": 3.5,
            "params": point.params,
            "mae_by_subject": {"a/1": mae},
            "git_commit": "c0ffee",
            "finished_at": f"2026-01-01T{at}+00:00",
        },
    )
    return point.id


def runs_of(client, plan: Plan):
    experiment = client.get_experiment_by_name(plan.name)
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    children = {r.data.tags["kdsweep.point"]: r for r in runs if "kdsweep.point" in r.data.tags}
    assert len(children) == sum("kdsweep.point" in r.data.tags for r in runs), "two runs for one point"
    (parent,) = [r for r in runs if "kdsweep.point" not in r.data.tags]
    return parent, children


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A store with two finished points and a failed one, synced once."""
    store, made = Store(tmp_path_factory.mktemp("sweep") / "tracked"), plan()
    store.path.mkdir()
    finish(store, made, 0)
    finish(store, made, 1)
    failed = made.points[2].id
    error = {"id": failed, "type": "Diverged", "message": "NaN", "finished_at": "2026-01-01T12:00:01+00:00"}
    store.write_error(failed, error)
    written = sync(store, made, default_uri(store), status="FAILED", summary={"points_done": 2})
    return store, made, Tracker(store, made, default_uri(store)).client, written


def test_a_run_holds_params_curve_figures_and_tags(tracked) -> None:
    _, made, client, written = tracked
    assert written == 3
    parent, children = runs_of(client, made)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["points_done"] == 2
    point = made.points[1]
    run = children[point.id]
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert run.data.params["width"] == str(point.width)
    assert run.data.params["recipe.lr"] == str(point.recipe["lr"])
    assert run.data.metrics["mae_bpm"] == 5.0
    assert run.data.metrics["best_val_mae_bpm"] == 6.0
    curve = client.get_metric_history(run.info.run_id, "val_mae_bpm")
    assert [(m.step, m.value) for m in sorted(curve, key=lambda m: m.step)] == [(1, 8.0), (2, 7.0), (3, 6.0)]
    bad = children[made.points[2].id]
    assert bad.info.status == "FAILED"
    assert bad.data.tags["kdsweep.error"] == "Diverged: NaN"


def test_a_replay_writes_nothing_and_mends_what_was_cut_short(tracked) -> None:
    store, made, client, _ = tracked
    uri = default_uri(store)
    assert sync(store, made, uri, status="FAILED") == 0
    assert in_sync(store, uri)
    _, children = runs_of(client, made)
    run = children[made.points[0].id].info.run_id
    client.update_run(run, status="RUNNING")  # as a kill between create and terminate leaves it
    assert sync(store, made, uri, status="FAILED") == 1
    again = runs_of(client, made)[1][made.points[0].id]
    assert (again.info.run_id, again.info.status) == (run, "FINISHED")
    assert len(client.get_metric_history(run, "val_mae_bpm")) == EPOCHS


def test_live_writing_goes_on_in_the_same_runs(tracked) -> None:
    store, made, client, _ = tracked
    before = runs_of(client, made)[1]
    mended = finish(store, made, 2, at="12:05:00")  # failed before
    live = LiveTracker(store, made, default_uri(store))
    live.start()
    live.ended(mended)
    live.ended(finish(store, made, 3, at="12:06:00"))
    assert live.close("FINISHED", {"points_done": 4.0})
    parent, after = runs_of(client, made)
    assert parent.info.status == "FINISHED"
    assert len(after) == 4
    assert after[mended].info.run_id == before[mended].info.run_id
    assert {r.info.status for r in after.values()} == {"FINISHED"}


def test_trouble_with_the_server_is_kept_and_raised_nowhere(tmp_path: Path) -> None:
    store, made = Store(tmp_path / "tracked"), plan()
    store.path.mkdir()
    (tmp_path / "file").write_text("not a folder")
    live = LiveTracker(store, made, f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")
    live.start()
    live.ended(finish(store, made, 0))
    assert not live.close("FINISHED", {})
    assert live.error is not None
    assert store.is_done(made.points[0].id)
