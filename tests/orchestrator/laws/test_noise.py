"""Components of noise, from results to what was put in."""

import numpy as np
import pytest

from orchestrator.laws.crossed import CrossedSweep
from orchestrator.laws.noise import Noise, components

ASSUMED = Noise(*[9.0] * 11)


def found(**settings):
    """Root mean square of the components of several simulated sweeps, and which were measured."""
    some = [components(CrossedSweep(k, **settings).results(), ASSUMED) for k in range(12)]
    values = {n: float(np.sqrt(np.mean([getattr(noise, n) ** 2 for noise, _ in some]))) for n in some[0][1]}
    return values, some[0][1]


def test_what_was_put_in_is_found():
    values, measured = found(arms=8, subjects=40, noise=0.05, interaction=0.1, deviation=0.02, tilt=0.03)
    # a run's seed, and what its 8 subjects make of it
    assert values["run"] == pytest.approx((0.05**2 + 0.1**2 / 8) ** 0.5, rel=0.12)
    assert values["likes"] == pytest.approx(0.1, rel=0.25)
    assert values["own"] == pytest.approx(0.02 / 2**0.5, rel=0.35)
    assert values["offsets"] == pytest.approx(0.05, rel=0.3)
    assert values["slopes"] == pytest.approx(0.03, rel=0.3)
    assert "architectures" not in measured


def test_without_seeds_folds_tell_of_runs():
    values, _ = found(arms=6, seeds=1, noise=0.06, interaction=0.0, deviation=0.0)
    assert values["run"] == pytest.approx(0.06, rel=0.12)
    assert values["likes"] < 0.06


def test_one_split_and_one_seed_cannot_tell_of_runs():
    _, measured = found(arms=4, seeds=1, folds=1, subjects=18)
    assert measured == (
        "common",
        "people",
        "offsets",
        "slopes",
        "level_bpm",
        "level_params",
        "exponent",
    )


def test_errors_fall_with_size_as_they_do():
    sweep = CrossedSweep(3, arms=4, noise=0.0, deviation=0.0, interaction=0.0)
    noise, _ = components(sweep.results(), ASSUMED)
    sizes = sweep.params()
    truth = np.exp(sweep.curve(sizes)).mean(0)
    assert noise.level(sizes[2]) == pytest.approx(truth[2], rel=0.15)
    assert noise.level(sizes[-1]) == pytest.approx(truth[-1], rel=0.25)
    assert noise.exponent > 0


def test_what_results_cannot_tell_is_assumed():
    noise, measured = components([], ASSUMED)
    assert noise == ASSUMED
    assert measured == ()
