"""A tracker is fitted on training and validation windows, and measured in the order of time."""

import dataclasses
import itertools

import numpy as np
import pytest

from kd.files import read_json
from kd.shipped.tracker import Tracker, moves, probabilities
from kd.signals.windows import WindowSet
from kd.training import tracking
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run

RNG = np.random.default_rng(0)
CONFIG = {"level": 0.9, "temperature": 1.0, "weight": 0.5, "belief_temperature": 1.5, "unsure_above_bpm": 9.0}
CONFIG |= {"change": tracking.changes(np.array([1.0, -2.0, 0.5])), "jump": 1e-4}


def walk(recordings=6, windows=120, wrong=0.3, scale=1.0, seed=0):
    """Rates that wander, and logits of them that are somewhere else `wrong` of the time."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 1.0, (recordings, windows))
    bpm = np.clip(rng.uniform(70, 140, (recordings, 1)) + steps.cumsum(1), 35, 200).ravel()
    n = len(bpm)
    shown = np.where(rng.random(n) < wrong, rng.uniform(40, 200, n), bpm + rng.normal(0, 2, n))
    z = -0.5 * ((np.arange(30, 210) - shown[:, None]) / 2) ** 2
    logits = scale * np.log((1 - wrong) * np.exp(z) / 5 + wrong / 180)
    who = np.repeat([f"A/{k}" for k in range(recordings)], windows)
    set_ = WindowSet(
        np.zeros((n, 1, 8), np.float32),
        bpm.astype(np.float32),
        who,
        np.full(n, "A"),
        np.repeat(np.arange(recordings, dtype=np.int32), windows),
        np.tile(2.0 * np.arange(windows), recordings),
    )
    return set_, logits.astype(np.float32)


def test_runs_end_at_gaps_and_recordings():
    windows, _ = walk(recordings=2, windows=6)
    keep = np.array([0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    assert windows.stride_s == 2.0
    assert [list(run) for run in windows.take(keep).runs()] == [[0, 1], [2, 3, 4], [5, 6, 7, 8, 9, 10]]
    mixed = windows.take(np.array([8, 1, 0, 7, 2]))
    assert [list(run) for run in mixed.runs()] == [[2, 1, 4], [3, 0]]
    copies = dataclasses.replace(windows, recording=np.full(12, -1, np.int32))
    assert copies.runs() == []
    assert dataclasses.replace(windows, recording=None).runs() == []


def test_changes_are_probabilities_alike_up_and_down():
    change = np.array(tracking.changes(np.array([0.0, 0.0, 1.0, 2.5, np.nan])))
    assert change.sum() == pytest.approx(1, abs=1e-6)
    assert change == pytest.approx(change[::-1])
    middle = len(change) // 2
    scale = 2 * 0.875
    tail = np.exp(-np.abs(np.arange(-middle, middle + 1)) / scale)
    assert change[middle] == pytest.approx(0.9 * 0.5 + 0.1 / tail.sum(), rel=1e-4)
    assert change[middle + 2] == pytest.approx(0.9 * 0.0625 + 0.1 * np.exp(-2 / scale) / tail.sum(), rel=1e-4)
    assert len(tracking.changes(np.full(9, 80.0))) == 2 * tracking.MOST_REACH + 1
    assert np.sum(tracking.changes(np.zeros(0))) == pytest.approx(1, abs=1e-6)


def test_runs_are_filtered_as_the_tracker_does_online_and_gaps_reset_it():
    windows, logits = walk(recordings=3, windows=20)
    keep = np.delete(np.arange(60), [7, 8, 33])
    windows, logits = windows.take(keep), logits[keep]
    p, runs = probabilities(logits, 1.0), windows.runs()
    assert [len(run) for run in runs] == [7, 11, 13, 6, 20]
    together = tracking.filtered(p, runs, 0.5, moves(CONFIG, 180))
    for run in runs:
        online = Tracker(CONFIG, 30, 180)
        for at in run:
            online.update(logits[at])
            assert together[at] == pytest.approx(online.belief, rel=1e-4, abs=1e-9)
        assert together[run[0]] == pytest.approx(p[run[0]])


def test_smoothing_is_the_sum_over_all_paths():
    p = RNG.dirichlet(np.ones(4), 5).astype(np.float32)
    m = moves({"change": [0.2, 0.6, 0.2], "jump": 0.05}, 4)
    wanted = np.zeros((5, 4))
    for path in itertools.product(range(4), repeat=5):
        chance = p[0, path[0]]
        for n, (i, j) in enumerate(itertools.pairwise(path), 1):
            chance *= m[i, j] * p[n, j] ** 0.5
        wanted[np.arange(5), path] += chance
    runs = [np.arange(5)]
    found = tracking.smoothed(tracking.filtered(p, runs, 0.5, m), p, runs, 0.5, m)
    assert found == pytest.approx(wanted / wanted.sum(1, keepdims=True), rel=1e-4)


def test_a_tracker_beats_single_windows_and_knows_how_sure_it_is():
    train, _ = walk(seed=1)
    val, val_logits = walk(seed=2, wrong=0.05, scale=2.0)
    test, logits = walk(seed=3, wrong=0.05, scale=2.0)
    config = tracking.fit(train, val, val_logits, 30)
    assert config["temperature"] == pytest.approx(2.0, rel=0.15)  # logits are twice what they should be
    found = tracking.measure(config, test, logits, 30)
    assert found["tracked"]["mae_bpm"] < 0.8 * found["window"]["mae_bpm"]
    assert np.abs(found["bpm"] - test.bpm).mean() == pytest.approx(found["tracked"]["mae_bpm"])
    assert np.abs(found["smoothed_bpm"] - test.bpm).mean() < found["tracked"]["mae_bpm"]
    for which in ("window", "tracked"):
        assert found[which]["coverage_90"] == pytest.approx(0.9, abs=0.06)
        risk = np.array(found[which]["risk"])
        assert risk[-1] == pytest.approx([1, found[which]["mae_bpm"]], abs=1e-3)
        assert risk[10, 1] < risk[-1, 1]
        assert sum(row[2] for row in found[which]["within_5"]) == len(test)
        for said, seen, windows in found[which]["within_5"]:
            assert abs(said - seen) < 0.1 + 1.5 / np.sqrt(windows)
    assert found["tracked"]["mae_bpm_sure"] < found["tracked"]["mae_bpm"]
    assert 0 < found["tracked"]["unsure"] < 0.5


def test_the_step_response_shows_what_smoothing_costs():
    test, logits = walk(recordings=12, seed=4)
    runs, bpm = test.runs(), test.bpm
    late = {}
    for weight in (0.01, 0.2, 1.0):
        found = tracking.step_response(CONFIG | {"weight": weight}, logits, runs, bpm, 30, 2.0)
        late[weight] = found["step_63_s"], found["step_5_bpm_s"]
    assert late[0.01] == (None, None)
    assert 2 <= late[1.0][0] < late[0.2][0]
    assert late[1.0][1] < late[0.2][1]
    assert found["done"][0][0] == 0
    assert found["done"][-1][1] == pytest.approx(1, abs=0.05)
    alone = tracking.step_response(CONFIG | {"jump": 1.0, "weight": 1.0}, logits, runs, bpm, 30, 2.0)
    assert (alone["step_63_s"], alone["step_5_bpm_s"]) == (0, 0)  # without a memory it follows at once
    assert tracking.step_response(CONFIG, logits, [np.arange(9)], bpm, 30, 2.0) is None
    assert tracking.step_response(CONFIG, logits[:, :50], runs, bpm, 30, 2.0) is None


def test_a_finished_point_has_both_figures_and_keeps_its_tracker(small_data, tmp_path):
    spec = Spec("x", "student", "resnet1d", 2, 4, recipe=Recipe(max_epochs=2))
    run = Run(spec, small_data, tmp_path / "x")
    while run.step():
        pass
    result = run.finish()
    assert set(result["mae_by_subject_tracked"]) == set(result["mae_by_subject"])
    kept = read_json(tmp_path / "x" / tracking.FILE)
    assert kept["tracked"]["mae_bpm"] == pytest.approx(result["mae_bpm_tracked"])
    assert kept["tracker"]["weight"] in tracking.WEIGHTS
    assert result["coverage_90"] == kept["window"]["coverage_90"]
    assert result["step_63_s"] == kept["step"]["step_63_s"]

    timeless = dataclasses.replace(small_data, val=dataclasses.replace(small_data.val, recording=None))
    other = Run(spec, timeless, tmp_path / "y")
    while other.step():
        pass
    found = other.finish()
    assert found["mae_bpm"] == result["mae_bpm"]
    assert "mae_bpm_tracked" not in found
    assert not (tmp_path / "y" / tracking.FILE).exists()
