"""A sweep whose teacher sees an accelerometer, some students, too: trained, exported, refitted, evaluated."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from kd.recordings import ACC
from kd.signals.prepare import load_recordings
from orchestrator.api import open_sweep
from orchestrator.commands.evaluate import evaluate
from orchestrator.commands.export import export
from orchestrator.commands.refit import refit
from orchestrator.edge.seen import preprocess_for, windows_for
from orchestrator.run.worker import PackTrainer, Setup
from orchestrator.space.packs import Pack
from orchestrator.space.resolve import cache_of, open_space
from orchestrator.store.store import Store

pytest.importorskip("onnxscript", reason="needs the extra [edge]")
SPACE = """
name: both
data:
  options: {subjects: 7, minutes: 1.5, fs: 32}
  preprocess: {channels: {ppg: mean, acc: xyz}, acc_band_hz: [0.4, 6]}
teachers:
  - {arch: mlp, depth: 1, width: 6}
students:
  - {arch: mlp, depth: 1, width: 3, channels: ppg}
  - {arch: resnet1d, depth: 1, width: 2}
strategies: {soft: {}}
training: {max_epochs: 2, batch_size: 64}
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The sweep's directory."""
    folder = tmp_path_factory.mktemp("sweeps") / "both"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    opened = open_space(str(folder), [], None)
    opened.plan.save(folder / "plan.json")
    setup = Setup(
        sweep_dir=str(folder),
        pace_dir=str(folder.parent),
        cache_dir=str(cache_of(folder)),
        data=opened.data,
        threads=1,
        gpu=False,
        slice_s=60.0,
        checkpoint_every_s=60.0,
        git_commit=None,
    )
    trainer, points = PackTrainer(setup), opened.plan.points
    for pack in (points[:1], points[1:]):  # students of one pack, which see different sensors
        trainer.take(Pack.of(pack, {points[0].id: 2}))
        while trainer.ids:
            assert "failed" not in {event["kind"] for event in trainer.advance(60.0)["events"]}
    return folder


@pytest.fixture(scope="module")
def results(sweep):
    """The teacher, which sees all, the student that sees the PPG, and the one that sees all."""
    found = {(r["role"], r["arch"]): r for r in Store(sweep).results()}
    return found["teacher", "mlp"], found["student", "mlp"], found["student", "resnet1d"]


def invoke(command, *words):
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_results_say_what_was_seen_and_how_it_was_scaled(sweep, results) -> None:
    teacher, ppg, both = results
    assert teacher["params"] == 4 * 200 * 6 + 2 * 6 + 6 * 180 + 180
    assert ppg["params"] == 200 * 3 + 2 * 3 + 3 * 180 + 180
    assert "acc_scale" not in ppg
    assert ppg["recipe"]["channels"] == "ppg"
    scale = open_space(str(sweep), [], None).windows.acc_scale
    assert teacher["acc_scale"] == both["acc_scale"] == scale


def test_what_is_shipped_reproduces_both_students(sweep, results, tmp_path) -> None:
    _, ppg, both = results
    for result, channels, more in ((ppg, 1, []), (both, 4, ["--c"])):
        out = tmp_path / result["id"]
        said = invoke(export, str(sweep), result["id"], "-o", str(out), "--json", *more)
        assert said["mae_bpm"] == pytest.approx(result["mae_bpm"], abs=1e-3)
        assert said["mae_bpm_streaming"] < 60
        config = json.loads((out / "preprocess.json").read_text())
        assert config["input"]["shape"] == ["batch", channels, 200]
        assert ("acc" in config) == (channels == 4)
        for file in ("kdsweep_model.h", "README.md"):
            assert ("accelerometer" in (out / file).read_text()) == (channels == 4)
        assert config["test"]["windows"] == len(open_space(str(sweep), [], None).windows.test)
        with np.load(out / "test_recordings.npz") as archive:
            assert any(name.endswith("/acc") for name in archive)


def test_a_refitted_student_has_a_scale_of_its_own(sweep, results, tmp_path) -> None:
    again = tmp_path / "both"
    shutil.copytree(sweep, again)
    made = invoke(refit, str(again), results[2]["id"], "--json")
    assert made["acc_scale"] != results[2]["acc_scale"]
    data = open_space(str(sweep), [], None).windows
    mine = windows_for(data, made)
    np.testing.assert_allclose(
        mine.test.x[:, 1:] * made["acc_scale"], data.test.x[:, 1:] * data.acc_scale, rtol=1e-5, atol=1e-6
    )
    said = invoke(export, str(again), results[2]["id"], "-o", str(tmp_path / "out"), "--json")
    assert said["point"] == made["id"]  # and its error is the model's own: `same_as_sweep`


def test_other_recordings_are_seen_as_the_sweeps_own(sweep, results, tmp_path) -> None:
    _, ppg, both = results
    opened = open_space(str(sweep), [], None)
    from kd.edge.export import write_recordings

    write_recordings(tmp_path / "r.npz", load_recordings(opened.data), {})
    for result in (ppg, both):
        model, preprocessing = open_sweep(sweep).model(result["id"])
        windows = preprocessing(tmp_path / "r.npz")
        mine = windows_for(opened.windows, result)
        tested = windows.take(np.isin(windows.subject, mine.test.subject))
        np.testing.assert_allclose(tested.x, mine.test.x, atol=1e-5)
        in_memory = preprocessing(load_recordings(opened.data))
        np.testing.assert_allclose(in_memory.x, windows.x, atol=1e-5)
        said = invoke(evaluate, str(sweep), result["id"], "--data", str(tmp_path / "r.npz"), "--json")
        assert len(said["by_subject"]) == 7
        assert model.fc.out_features == 180
        assert said["baselines"]["fft_peak"]["mae_bpm"] < 60
    without = [r for r in load_recordings(opened.data) if not r.sensors.pop(ACC, None) or True]
    assert open_sweep(sweep).model(ppg["id"])[1](without).x.shape[1] == 1
    with pytest.raises(InputError, match="have no accelerometer"):
        open_sweep(sweep).model(both["id"])[1](without)
    with pytest.raises(InputError, match="sees the accelerometer alone"):
        preprocess_for(opened.data.preprocess, {"id": "x", "recipe": {"channels": "acc"}})
