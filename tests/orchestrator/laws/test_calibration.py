"""Simulation-based calibration, a quick cell: `tests/benchmarks/calibration.py` runs the full set."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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
