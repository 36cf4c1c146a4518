"""Errors by subject, against the plain sums; and training that stops by another criterion than windows."""

import dataclasses
import json

import numpy as np
import pytest

from kd.errors import InputError
from kd.signals.windows import WindowSet
from kd.training import compiled
from kd.training.recipe import STOP_ON, Recipe, Spec
from kd.training.train import Run
from kd.training.validation import BySubject
from orchestrator.store.metric import error_of


def windows_of(counts: dict[str, int], rng) -> WindowSet:
    """So many windows of each subject, in any order, with labels and without content."""
    owner = rng.permutation(np.repeat(list(counts), list(counts.values())))
    bpm = rng.uniform(40, 180, len(owner)).astype(np.float32)
    dataset = np.array([str(o).partition("/")[0] for o in owner])
    return WindowSet(np.zeros((len(owner), 1, 1), np.float32), bpm, owner, dataset)


COUNTS = {"A/1": 50, "A/2": 3, "A/10": 17, "B/1": 8, "C/x": 1, "C/y": 30}


@pytest.fixture
def predicted():
    """Windows and a prediction of their BPM; a few errors are 5 BPM exactly."""
    rng = np.random.default_rng(5)
    windows = windows_of(COUNTS, rng)
    guess = windows.bpm + rng.normal(0, 6, len(windows)).astype(np.float32)
    windows.bpm[:9], guess[:9] = 80, 85
    return windows, guess


def test_what_a_result_says_of_each_subject(predicted):
    windows, guess = predicted
    found = BySubject(windows).figures(guess)
    assert list(found) == sorted(COUNTS)
    for name, count in COUNTS.items():
        error = [
            abs(float(g) - float(b))
            for g, b, s in zip(guess, windows.bpm, windows.subject, strict=True)
            if s == name
        ]
        assert found[name] == {
            "windows": count,
            "abs_sum": pytest.approx(sum(error)),
            "sq_sum": pytest.approx(sum(e * e for e in error)),
            "within_5": sum(e <= 5 for e in error),
        }
    assert json.loads(json.dumps(found)) == found


def test_criteria_to_stop_on(predicted):
    windows, guess = predicted
    error = np.abs(guess.astype(float) - windows.bpm)
    of = {name: error[windows.subject == name].mean() for name in COUNTS}
    by_dataset = [np.mean([of[n] for n in COUNTS if n[0] == d]) for d in "ABC"]
    ordered = sorted(of.values())
    expected = {
        "by-window": error.mean(),
        "by-subject": np.mean(by_dataset),
        "p90-subject": (ordered[4] + ordered[5]) / 2,  # 0.9 of the way from the first of six to the last
    }
    assert set(expected) == set(STOP_ON)
    assert len({round(v, 6) for v in expected.values()}) == 3
    for stop_on, mae in expected.items():
        figures = BySubject(windows).criterion(guess, stop_on)
        assert figures["mae_bpm"] == pytest.approx(mae)
        assert figures["within_5_bpm"] == (error <= 5).mean()
        guess_nan = np.where(np.arange(len(guess)) == 4, np.nan, guess)
        assert np.isnan(BySubject(windows).criterion(guess_nan, stop_on)["mae_bpm"])


def test_early_stopping_weighs_data_sets_as_the_metric_does(predicted):
    windows, guess = predicted
    by = BySubject(windows)
    result = {"mae_bpm": 0.0, "subjects": by.figures(guess)}
    for weights in ({}, {"A": 3.0, "B": 0.0, "C": 0.5}, {"A": 2.0, "elsewhere": 5.0}):
        found = by.criterion(guess, "by-subject", weights)["mae_bpm"]
        assert found == pytest.approx(error_of(result, "by-subject", weights))
    alike = by.criterion(guess, "by-subject")
    assert by.criterion(guess, "by-subject", {"A": 3.0}) != alike
    assert by.criterion(guess, "by-subject", {"elsewhere": 5.0}) == alike
    for other in ("by-window", "p90-subject"):
        assert by.criterion(guess, other, {"A": 3.0}) == by.criterion(guess, other)


def test_training_stops_by_the_weights_of_its_recipe(small_data, tmp_path):
    half = np.arange(len(small_data.val)) % 2 == 0
    val = dataclasses.replace(
        small_data.val,
        bpm=np.where(half, 209, 60).astype(np.float32),
        subject=np.where(half, "A/1", "B/1"),
        dataset=np.where(half, "A", "B"),
    )
    data = dataclasses.replace(small_data, val=val)
    runs = []
    for name in "AB":
        recipe = Recipe(max_epochs=3, batch_size=32, lr=5e-3, stop_on="by-subject", stop_weights={name: 1.0})
        spec = Spec(id=name, role="student", arch="mlp", depth=1, width=8, recipe=recipe)
        runs.append(Run(spec, data, tmp_path / name))
        assert hash(recipe) == hash(dataclasses.replace(recipe, stop_weights={}))
    rows = [run.step() for run in runs]
    error = np.abs(runs[0].stack.predict(runs[0]._val_x).numpy()[0] - val.bpm)
    assert [row["val_mae_bpm"] for row in rows] == pytest.approx([error[half].mean(), error[~half].mean()])


def test_a_recipe_without_a_criterion_is_one_by_window():
    before = dataclasses.asdict(Recipe())
    assert (before.pop("stop_on"), before.pop("stop_weights")) == ("by-window", {})
    assert Recipe(**before) == Recipe()
    with pytest.raises(InputError, match="stop_on is 'by-people': use by-window, by-subject"):
        Recipe(stop_on="by-people")


@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_the_epoch_that_is_kept_is_the_best_by_the_criterion(small_data, tmp_path, engine):
    """One subject has most of the validation windows and is far off: by window only it would count."""
    library = compiled.library() if engine == "fused" else None
    names = np.unique(small_data.val.subject)
    few = np.flatnonzero(small_data.val.subject == names[1])[:3]
    kept = np.concatenate([np.flatnonzero(small_data.val.subject == names[0]), few])
    val = small_data.val.take(kept)
    val.bpm[:] = np.where(val.subject == names[0], 209, 60)
    data = dataclasses.replace(small_data, val=val)
    seen = {}
    for stop_on in STOP_ON:
        recipe = Recipe(max_epochs=6, batch_size=32, lr=5e-3, stop_on=stop_on)
        spec = Spec(id="s", role="student", arch="mlp", depth=1, width=8, recipe=recipe)
        run = Run(spec, data, tmp_path / stop_on, engine=library)
        expected = []
        while run.step() is not None:
            bpm = run.stack.predict(run._val_x).numpy()[0]
            expected.append(BySubject(val).criterion(bpm, stop_on)["mae_bpm"])
        rows = [json.loads(r) for r in (tmp_path / stop_on / "history.jsonl").read_text().splitlines()]
        assert [r["val_mae_bpm"] for r in rows] == pytest.approx(expected)
        result = run.finish()
        assert result["engine"] == engine
        assert result["val_mae_bpm"] == min(expected) == expected[result["best_epoch"] - 1]
        seen[stop_on] = result["best_epoch"]
        total = {key: sum(s[key] for s in result["subjects"].values()) for key in ("windows", "abs_sum")}
        assert total["windows"] == len(data.test)
        assert total["abs_sum"] / total["windows"] == pytest.approx(result["mae_bpm"])
        for subject, mae in result["mae_by_subject"].items():
            sums = result["subjects"][subject]
            assert sums["abs_sum"] / sums["windows"] == pytest.approx(mae)
    assert len(set(seen.values())) > 1, "the criteria agree: nothing was tested"
