"""MLflow as a view of the store: replayed any number of times, one run a point, whatever was cut short."""

import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

sys.path.insert(0, str(Path(__file__).parent))  # the helper beside this file

from stored import EPOCHS, finish, plan, runs_of

from kd.errors import InputError, Unavailable
from orchestrator.store.metric import Headline, error_of
from orchestrator.store.store import Store
from orchestrator.tracking.live import LiveTracker
from orchestrator.tracking.reader import from_mlflow
from orchestrator.tracking.tags import LOGGED, POINT, STATE, SWEEP
from orchestrator.tracking.writer import Tracker, default_uri, in_sync, sync


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
    assert run.data.metrics["error_bpm"] == 4.0
    assert run.data.tags["kdsweep.metric"] == "mean over subjects"
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


def test_a_paused_point_is_a_run_that_goes_on(tmp_path: Path) -> None:
    store, made = Store(tmp_path / "tracked"), plan()
    store.path.mkdir()
    id, uri = finish(store, made, 0), default_uri(store)
    result, folder = store.result(id), store.folder(id)
    rows = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "result.json").unlink()
    for epoch in (1, 2):
        (folder / "history.jsonl").write_text("".join(rows[:epoch]))
        store.write_pause(
            id, {"epoch": epoch, "max_epochs": 3, "val_mae_bpm": 9.0 - epoch, "train_seconds": epoch}
        )
        assert sync(store, made, uri, status="FAILED") == 1
        assert sync(store, made, uri, status="FAILED") == 0
        client = MlflowClient(tracking_uri=uri)
        waits = runs_of(client, made)[1][id]
        assert waits.info.status == "SCHEDULED"
        assert (waits.data.tags[STATE], waits.data.tags[LOGGED]) == ("paused", str(epoch))
        assert len(client.get_metric_history(waits.info.run_id, "val_mae_bpm")) == epoch
    (folder / "history.jsonl").write_text("".join(rows))
    store.write_result(id, result)
    assert sync(store, made, uri, status="FINISHED") == 1
    assert sync(store, made, uri, status="FINISHED") == 0
    done = runs_of(client, made)[1][id]
    assert (done.info.run_id, done.info.status) == (waits.info.run_id, "FINISHED")
    assert done.data.tags[STATE] == "done"
    curve = client.get_metric_history(done.info.run_id, "val_mae_bpm")
    assert sorted((m.step, m.value) for m in curve) == [(1, 8.0), (2, 7.0), (3, 6.0)]


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


def test_trouble_with_mlflow_is_said_while_training_and_tried_again(tmp_path: Path) -> None:
    store, made = Store(tmp_path / "tracked"), plan()
    store.path.mkdir()
    place, said = tmp_path / "place", []
    place.write_text("not a folder")
    uri = f"sqlite:///{place / 'mlflow.db'}"
    live = LiveTracker(store, made, uri, said.append, pause_s=0.1)
    live.start()
    live.ended(finish(store, made, 0))
    wait_for(lambda: len(said) == 1)
    assert re.fullmatch(r".*place.*; training goes on, and MLflow is tried again", said[0])
    time.sleep(0.5)
    assert len(said) == 1, "once"
    place.unlink()
    wait_for(lambda: len(said) == 2)
    assert said[1] == "MLflow shows this sweep again"
    live.ended(finish(store, made, 1))
    assert live.close("FINISHED", {})
    assert len(runs_of(MlflowClient(tracking_uri=uri), made)[1]) == 2


def test_a_server_that_stays_away_is_kept_and_raised_nowhere(tmp_path: Path) -> None:
    store, made, said = Store(tmp_path / "tracked"), plan(), []
    store.path.mkdir()
    live = LiveTracker(store, made, "http://127.0.0.1:9", said.append)
    live.start()
    live.ended(finish(store, made, 0))
    wait_for(lambda: len(said) == 1)
    assert not live.close("FINISHED", {})
    assert isinstance(live.error, Unavailable)
    assert store.is_done(made.points[0].id)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_deleted_experiment_is_told_with_what_to_do(tracked) -> None:
    store, made, client, _ = tracked
    number = client.get_experiment_by_name(made.name).experiment_id
    client.delete_experiment(number)
    for call in (
        lambda: sync(store, made, default_uri(store), status="FINISHED"),
        lambda: from_mlflow(default_uri(store), made.name),
    ):
        with pytest.raises(InputError, match=f"was deleted .* experiments restore --experiment-id {number}"):
            call()
    client.restore_experiment(number)
    assert sync(store, made, default_uri(store), status="FINISHED") == 0


def test_two_runs_of_one_point_become_one(tracked) -> None:
    store, made, client, _ = tracked
    parent, children = runs_of(client, made)
    run = children[made.points[0].id]
    twin = client.create_run(run.info.experiment_id, tags=run.data.tags)  # a request that was sent again
    client.create_run(run.info.experiment_id, tags=parent.data.tags)
    assert sync(store, made, default_uri(store), status="FINISHED") == 0
    parent, after = runs_of(client, made)
    assert after[made.points[0].id].info.run_id == run.info.run_id != twin.info.run_id
    assert {r.data.tags["mlflow.parentRunId"] for r in after.values()} == {parent.info.run_id}


def test_two_writers_know_of_one_another(tracked) -> None:
    store, made, _, _ = tracked
    first = Tracker(store, made, default_uri(store))
    second = Tracker(store, made, default_uri(store))
    id = finish(store, made, 0, at="12:30:00")  # trained again
    assert (first.write([id]), second.write([id])) == (1, 0)


def test_first_syncs_at_once_make_one_of_everything(tmp_path: Path) -> None:
    store, made = Store(tmp_path / "tracked"), plan()
    store.path.mkdir()
    for index in range(2):
        finish(store, made, index)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                sync(store, made, default_uri(store), status="FINISHED")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(runs_of(MlflowClient(tracking_uri=default_uri(store)), made)[1]) == 2


def test_a_moved_sweep_takes_its_artifacts_along_and_a_fork_its_runs(tracked, tmp_path: Path) -> None:
    store, made, _, _ = tracked
    copy = Store(Path(shutil.copytree(store.path, tmp_path / "copy")))
    uri, here = default_uri(copy), (copy.path / "mlartifacts").as_uri()
    assert sync(copy, made, uri, status="FINISHED", copy="fork") == 0
    client = MlflowClient(tracking_uri=uri)
    parent, children = runs_of(client, made)
    assert client.get_experiment_by_name(made.name).artifact_location == here
    assert all(r.info.artifact_uri.startswith(f"{here}/") for r in (parent, *children.values()))
    assert client.get_experiment("0").artifact_location.startswith(here)


def test_what_is_no_result_of_ours_is_refused(tracked) -> None:
    store, made, client, _ = tracked
    experiment = client.get_experiment_by_name(made.name).experiment_id
    for params in ({"id": "../../etc"}, {"id": "abc", "depth": "two"}, {"id": "abc", "strategy.x": "{"}):
        run = client.create_run(experiment, tags={SWEEP: "theirs", POINT: "abc"}).info.run_id
        parent = client.create_run(
            experiment, tags={SWEEP: "theirs", "kdsweep.space.0": "name: x"}
        ).info.run_id
        client.log_metric(run, "mae_bpm", 5.0)
        for key, value in params.items():
            client.log_param(run, key, value)
        client.set_terminated(run)
        with pytest.raises(InputError, match=f"run {run} in MLflow is no result of kdsweep"):
            from_mlflow(default_uri(store), made.name, "theirs")
        client.delete_run(run)
        client.delete_run(parent)


def test_nothing_is_written_to_stdout(tracked, capfd: pytest.CaptureFixture[str]) -> None:
    store, made, _, _ = tracked
    sync(store, made, default_uri(store), status="FINISHED")
    assert capfd.readouterr().out == ""


def test_a_broken_database_is_made_again_from_the_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, made = Store(tmp_path / "tracked"), plan()
    store.path.mkdir()
    finish(store, made, 0)
    uri = default_uri(store)
    assert sync(store, made, uri, status="KILLED") == 1
    database = store.path / "mlflow.db"
    database.write_bytes(database.read_bytes()[:4096])  # the file that this process has open, too
    os.utime(database, (0, 0))
    assert sync(store, made, uri, status="KILLED") == 1
    assert "mlflow.db was broken: moved to mlflow.db.broken-1, and made again" in capfd.readouterr().err
    client = MlflowClient(tracking_uri=uri)
    assert list(runs_of(client, made)[1]) == [made.points[0].id]
    database.unlink()
    assert not in_sync(store, uri)


def test_another_metric_is_shown_for_all_and_mlflow_alone_tells_every_metric(tracked) -> None:
    store, made, client, _ = tracked
    uri = default_uri(store)
    (store.path / "space.yaml").write_text("students: {arch: mlp, depth: 1, width: 4}\n")
    worst = replace(made, headline=Headline("p90-subject"))
    assert sync(store, worst, uri, status="FAILED") == sum(store.is_done(p.id) for p in made.points)
    assert sync(store, worst, uri, status="FAILED") == 0
    run = runs_of(client, made)[1][made.points[0].id]
    assert run.data.metrics["error_bpm"] == pytest.approx(4.8)
    found = from_mlflow(uri, made.name)
    assert found.headline == Headline("p90-subject")
    (result,) = [r for r in found.results if r["id"] == made.points[0].id]
    assert [error_of(result, name) for name in ("by-subject", "by-window")] == [4.0, 5.0]
    assert found.headline(result) == pytest.approx(4.8)


def test_a_fold_and_its_groups_are_params_and_come_back(tmp_path) -> None:
    store, made = Store(tmp_path / "tracked"), plan()
    points = [replace(p, fold=1, data_group="all", teacher_group=p.teacher and "both") for p in made.points]
    made = replace(made, points=points)
    store.path.mkdir()
    (store.path / "space.yaml").write_text("students: {arch: mlp, depth: 1, width: 4}\n")
    finish(store, made, len(points) - 1)
    sync(store, made, default_uri(store), status="FAILED")
    (result,) = from_mlflow(default_uri(store), made.name).results
    assert (result["fold"], result["data_group"], result["teacher_group"]) == (1, "all", "both")
