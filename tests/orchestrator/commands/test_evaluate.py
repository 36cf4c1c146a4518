"""`kdsweep evaluate`: the figures are those of the model on those windows, cut as the sweep's own."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from kd.errors import InputError
from kd.models.architectures import build
from kd.models.sizes import size
from kd.shipped.tracker import Tracker
from kd.signals.baselines import fft_peak
from kd.signals.preprocess import Preprocess
from kd.signals.synthetic import Synthetic, recordings
from kd.signals.windows import make_windows
from orchestrator.commands import main as cli
from orchestrator.edge.evaluate import evaluate_point, find_trained
from orchestrator.store.store import Store

SPACE = """
data:
  options: {subjects: 6, minutes: 1}
  preprocess: {fs: 32, window_s: 6}
task: {min_bpm: 60, classes: 90}
"""
SHAPE = {"channels": 1, "samples": 192, "classes": 90}
POINTS = {  # id -> role, arch, depth, width, mae_bpm
    "aa01": ("teacher", "resnet1d", 2, 4, 3.0),
    "ab01": ("student", "resnet1d", 1, 3, 9.0),
    "ab02": ("student", "mlp", 1, 6, 7.0),
}


def write_point(store, id, role, arch, depth, width, mae):
    torch.manual_seed(int(id, 16))
    model = build(arch, depth, width, **SHAPE)
    model.fc.weight.data *= 20  # far from saying the same of every window
    store.folder(id).mkdir(parents=True)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, store.folder(id) / "model.safetensors")
    result = {
        **{"id": id, "role": role, "arch": arch, "depth": depth, "width": width, "init": "random"},
        **{
            "strategy": "scratch",
            "strategy_args": {},
            "teacher": None,
            "seed": 0,
            "mae_bpm": mae,
            "train_seconds": 1.0,
        },
        "params": size(arch, depth, width, **SHAPE).params,
        "train_seconds": 1.0,
        "mae_by_subject": {"synthetic/s004": mae},
    }
    store.write_result(id, result)
    return model.eval()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep directory with three trained points, and one that isn't."""
    folder = tmp_path_factory.mktemp("sweeps") / "small"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    store = Store(folder)
    models = {id: write_point(store, id, *point) for id, point in POINTS.items()}
    store.folder("abcd").mkdir()
    return folder, models


@pytest.fixture(scope="module")
def wrists(tmp_path_factory):
    """Recordings of two data sets, that nobody was trained on."""
    made = recordings(Synthetic(subjects=4, minutes=1, seed=77))
    made = [replace(r, dataset="AB"[k // 2], subject=f"w{k}") for k, r in enumerate(made)]
    made[1].hr[2] = np.nan
    return write(tmp_path_factory.mktemp("data") / "wrists.npz", made), made


def write(path, made):
    meta = [{"name": r.name, "dataset": r.dataset, "subject": r.subject, "fs": r.fs} for r in made]
    arrays = {f"{r.name}/{key}": getattr(r, key) for r in made for key in ("ppg", "hr")}
    np.savez(path, meta_json=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return path


def test_the_figures_are_those_of_the_model_on_those_windows(sweep, wrists):
    folder, models = sweep
    path, made = wrists
    found = evaluate_point(folder, "ab01", path)
    windows, dropped = make_windows(made, Preprocess(fs=32, window_s=6), bpm_range=(60, 149))
    with torch.inference_mode():
        shares = models["ab01"](torch.from_numpy(windows.x))[0].softmax(1).double().numpy()
    error = shares @ np.arange(60, 150) - windows.bpm
    assert found["windows"] == len(windows) > 80
    assert found["mae_bpm"] == pytest.approx(np.abs(error).mean(), abs=1e-4)
    assert found["rmse_bpm"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)
    assert found["within_5_bpm"] == pytest.approx((np.abs(error) <= 5).mean(), abs=1e-9)
    argmax = 60 + shares.argmax(1) - windows.bpm
    assert found["mae_bpm_argmax"] == pytest.approx(np.abs(argmax).mean(), abs=1e-4)
    assert found["dropped"] == dropped.by_reason
    assert set(dropped.by_reason) == {"no label (NaN)", "label outside the classes"}
    for key, groups in (("by_subject", windows.subject), ("by_dataset", windows.dataset)):
        assert list(found[key]) == sorted(set(groups))
        for name, figures in found[key].items():
            assert figures["windows"] == (groups == name).sum()
            assert figures["mae_bpm"] == pytest.approx(np.abs(error[groups == name]).mean(), abs=1e-4)
    assert (found["sweep"], found["point"], found["test_mae_bpm"]) == ("small", "ab01", 9.0)
    assert found["subjects_of_the_sweep"] == []


def test_its_tracker_goes_through_every_recording_by_itself(sweep, wrists, tmp_path):
    folder, models = sweep
    assert evaluate_point(folder, "ab01", wrists[0])["tracked"] is None  # of an earlier version
    shutil.copytree(folder, tmp_path / "small")
    config = {"level": 0.9, "temperature": 2.0, "weight": 0.5, "belief_temperature": 1.5, "jump": 1e-4}
    config |= {"unsure_above_bpm": 12.0, "change": [0.25, 0.5, 0.25]}
    (tmp_path / "small" / "points" / "ab01" / "tracker.json").write_text(json.dumps({"tracker": config}))
    found = evaluate_point(tmp_path / "small", "ab01", wrists[0])["tracked"]
    windows, _ = make_windows(wrists[1], Preprocess(fs=32, window_s=6), bpm_range=(60, 149))
    with torch.inference_mode():
        logits = models["ab01"](torch.from_numpy(windows.x))[0].numpy()
    tracker, before, said = Tracker(config, 60, 90), (None, 0.0), []
    for row, *at in zip(logits, windows.recording, windows.start_s, strict=True):
        if at[0] != before[0] or at[1] > before[1] + 2.5:
            tracker.reset()
        said.append(tracker.update(row))
        before = at
    error = np.abs([e.bpm for e in said] - windows.bpm)
    unsure = np.array([e.unsure for e in said])
    assert found["mae_bpm"] == pytest.approx(error.mean(), abs=1e-3)
    assert found["unsure"] == pytest.approx(unsure.mean(), abs=0.02)


def test_baselines_are_of_the_same_windows(sweep, wrists):
    found = evaluate_point(sweep[0], "ab01", wrists[0])
    windows, _ = make_windows(wrists[1], Preprocess(fs=32, window_s=6), bpm_range=(60, 149))
    peak = np.abs(fft_peak(windows.x, 32.0) - windows.bpm)
    constant = np.abs(np.median(windows.bpm) - windows.bpm)
    assert found["baselines"]["fft_peak"]["mae_bpm"] == pytest.approx(peak.mean(), abs=1e-4)
    assert found["baselines"]["constant"]["mae_bpm"] == pytest.approx(constant.mean(), abs=1e-4)
    assert found["baselines"]["constant"]["bpm"] == pytest.approx(np.median(windows.bpm))
    a = windows.dataset == "A"
    assert found["by_dataset"]["A"]["baselines"]["fft_peak"]["mae_bpm"] == pytest.approx(
        peak[a].mean(), abs=1e-4
    )


def test_a_point_by_id_by_its_beginning_and_the_best(sweep):
    store = Store(sweep[0])
    assert find_trained(store, "ab02") == "ab02"
    assert find_trained(store, "aa") == "aa01"
    assert find_trained(store, "best") == "ab02", "the student of least error, whatever the teacher's"
    with pytest.raises(InputError, match="2 points start with 'ab': ab01, ab02"):
        find_trained(store, "ab")
    for unknown in ("zz", "abcd"):
        with pytest.raises(InputError, match=f"no point '{unknown}'"):
            find_trained(store, unknown)


def test_an_id_that_begins_another_is_itself(tmp_path, whole_result):
    store = Store(tmp_path)
    for id in ("aa", "aab"):
        store.write_result(id, whole_result(id, role="teacher", mae_bpm=1.0, params=1))
    assert find_trained(store, "aa") == "aa"
    assert find_trained(store, "best") == "aa", "teachers, where there is no student"
    with pytest.raises(InputError, match="no point is trained yet"):
        find_trained(Store(tmp_path / "empty"), "best")


def test_people_and_programs_read_the_same(sweep, wrists):
    command = ["evaluate", str(sweep[0]), "best", "--data", str(wrists[0])]
    run = CliRunner().invoke(cli.cli, [*command, "--json"])
    assert run.exit_code == 0
    found = json.loads(run.stdout)
    assert found == json.loads(json.dumps(evaluate_point(sweep[0], "ab02", wrists[0])))
    text = CliRunner().invoke(cli.cli, command).stdout
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert rows["all"][1:3] == [str(found["windows"]), f"{found['mae_bpm']:.2f}"]
    assert rows["A"][5] == f"{found['by_dataset']['A']['baselines']['fft_peak']['mae_bpm']:.2f}"
    assert "point ab02: mlp depth 1 width 6" in text
    assert all(f"{f['mae_bpm']:.2f}  {name}" in text for name, f in found["by_subject"].items())
    assert "1 no label (NaN)" in text


def test_the_sweeps_own_recordings_are_said_to_be(sweep, tmp_path):
    own = write(tmp_path / "own.npz", recordings(Synthetic(subjects=6, minutes=1)))
    run = CliRunner().invoke(cli.cli, ["evaluate", str(sweep[0]), "best", "--data", str(own), "--json"])
    assert json.loads(run.stdout)["subjects_of_the_sweep"] == ["synthetic/s004"]
    assert "these are its own recordings" in run.stderr


def test_nothing_to_evaluate_on_is_refused(sweep, tmp_path):
    flat = recordings(Synthetic(subjects=1, minutes=1))[0]
    path = write(tmp_path / "flat.npz", [replace(flat, ppg=np.ones_like(flat.ppg))])
    with pytest.raises(InputError, match=r"no usable window .*flat signal"):
        evaluate_point(sweep[0], "best", path)


def test_recordings_of_another_number_of_channels_are_refused(sweep, wrists, tmp_path):
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "points").symlink_to(sweep[0] / "points")
    (folder / "space.yaml").write_text(SPACE.replace("fs: 32", "fs: 32, channels: all"))
    assert evaluate_point(folder, "ab01", wrists[0])["windows"] > 0
    two = [replace(r, ppg=np.concatenate([r.ppg, r.ppg])) for r in wrists[1]]
    with pytest.raises(InputError, match=r"point ab01 .* 2 channel"):
        evaluate_point(folder, "ab01", write(tmp_path / "two.npz", two))


def test_a_lost_model_is_named(sweep, wrists, tmp_path):
    store = Store(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    store.write_result("ab01", Store(sweep[0]).result("ab01"))
    with pytest.raises(InputError, match=r"ab01.model\.safetensors is missing.*kdsweep retry"):
        evaluate_point(tmp_path, "ab01", wrists[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosweep", "best", "--data", "."], "no sweep at nosweep"),
        (["SWEEP", "best", "--data", "nowhere"], "nowhere: no such file or folder"),
        (["SWEEP", "best", "--data", "."], "no known recordings here"),
        (["SWEEP", "zz", "--data", "."], "no point 'zz'"),
        (["SWEEP", "best"], "Missing option '--data'"),
    ],
)
def test_what_a_user_gets_wrong_is_a_usage_error(sweep, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    arguments = [str(sweep[0]) if a == "SWEEP" else a for a in arguments]
    monkeypatch.setattr(sys, "argv", ["kdsweep", "evaluate", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err
