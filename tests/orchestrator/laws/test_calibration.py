"""Simulation-based calibration, a quick cell: `tests/benchmarks/calibration.py` runs the full set."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from orchestrator.laws.holdout import Holdout, conformal_factor
from orchestrator.laws.record import calibration_record, clopper_pearson

SWEEPS = 10  # of each family


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
    spec = importlib.util.spec_from_file_location("calibration", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_interval_holds_as_many_new_runs_as_it_says(calibration: ModuleType) -> None:
    """Truths inside and outside the family together: hits of the 90 % interval lie in the binomial band."""
    cells = [calibration.Cell(family, 0.03) for family in calibration.FAMILIES]
    out = np.array(
        [calibration.simulate(cell, seed) for cell in cells for seed in range(SWEEPS)], dtype=float
    )
    low, high = calibration.band(len(out))
    hits = out[..., 3].sum(0)  # at 2, 4 and 8 times the largest size
    assert ((low <= hits) & (hits <= high)).all(), hits
    assert out[:, 0, 1].mean() < 0.15  # and not by being wide: half-width of ln error at 2 times
    assert (np.diff(out[..., 1].mean(0)) > 0).all()


def test_the_band_tells_90_from_70_percent(calibration: ModuleType) -> None:
    assert calibration.band(200) == (171, 188)
    assert calibration.band(100) == (84, 95)
    low, high = calibration.band(40)
    rng = np.random.default_rng(0)
    assert np.mean([low <= n <= high for n in rng.binomial(40, 0.9, 2000)]) > 0.94
    assert np.mean([low <= n <= high for n in rng.binomial(40, 0.7, 2000)]) < 0.15


def test_limits_of_a_share_are_clopper_and_pearsons() -> None:
    """Values of Clopper and Pearson's table (1934): 0 of 10 and 9 of 10 at 95 %."""
    assert clopper_pearson(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert clopper_pearson(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)


def test_no_record_says_so() -> None:
    record = calibration_record([[], []], 1.0)
    assert record["trials"] == []
    assert "unchecked" in record["text"]


def trials(*errors: float, left_out: int = 1) -> list[list[Holdout]]:
    """A curve a trial, whose predicted standard deviation is 1: inside the 90 % interval up to 1.645."""
    return [[Holdout(left_out, 0.7, error, 1.0, {})] for error in errors]


def factor(*errors: float, together: bool = False) -> float:
    records = trials(*errors)
    return conformal_factor(records, ["all" if together else str(i) for i in range(len(records))])


def test_misses_widen_and_a_few_hits_never_narrow() -> None:
    assert factor() == 1.0
    assert factor(0.1, -0.2, 0.1, 0.3) == 1.0
    assert factor(0.1, 0.1, 2.0, -2.2) > 1.05  # 2 of 4 inside
    nine_of_thirteen = (*[0.8] * 9, *[2.2] * 4)
    assert factor(*nine_of_thirteen, together=True) > 1.02
    assert factor(*nine_of_thirteen) > factor(*nine_of_thirteen, together=True)
    assert factor(*[9.0] * 40) < 3.0


def test_every_trial_counts() -> None:
    """The nearer trial too: the last of each curve alone said nothing of it."""
    near, far = trials(2.5, 2.5, 2.5), trials(0.5, 0.5, 0.5, left_out=2)
    both = [a + b for a, b in zip(near, far, strict=True)]
    assert conformal_factor(both, list("abc")) > conformal_factor(far, list("abc")) == 1.0


def test_many_trials_may_narrow() -> None:
    rng = np.random.default_rng(0)
    assert factor(*rng.normal(0, 0.5, 60)) < 0.9
    assert factor(*rng.normal(0, 1.0, 200)) == pytest.approx(1.0, abs=0.07)


def test_the_record_says_on_which_side_predictions_were() -> None:
    record = calibration_record(trials(0.05, 0.04, 0.06, -0.01), 1.0)
    assert record["trials"][0]["bias_ln"] == pytest.approx(0.035)
    assert record["trials"][0]["too_low"] == 3
    assert "predictions of the largest size were 3.6% too low on average (3 of 4 arms)" in record["text"]
    assert "too high on average (2 of 2 arms)" in calibration_record(trials(-0.1, -0.2), 1.0)["text"]
