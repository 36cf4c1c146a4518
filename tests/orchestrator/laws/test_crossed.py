"""Simulated sweeps over people: their design, and that their truth is what many people average to."""

import numpy as np

from orchestrator.laws.crossed import CrossedSweep


def test_every_subject_is_tested_in_one_fold_by_every_configuration() -> None:
    sweep = CrossedSweep(1, widths=(4, 8), arms=2, seeds=1, folds=3, subjects=12)
    results = sweep.results()
    assert len({r["id"] for r in results}) == len(results) == 2 * 2 * 3
    seen: dict[str, set[int]] = {}
    for r in results:
        for name in r["subjects"]:
            seen.setdefault(name, set()).add(r["fold"])
        mean = np.mean([s["abs_sum"] / s["windows"] for s in r["subjects"].values()])
        assert np.isclose(mean, r["mae_bpm"])
    assert len(seen) == 12
    assert all(len(folds) == 1 for folds in seen.values())


def test_the_truth_is_the_mean_over_many_people() -> None:
    sweep = CrossedSweep(2, arms=2, widths=(4, 16))
    many = np.mean([np.exp(sweep.new_run(sweep.params(), k, people=200)) for k in range(100)], 0)
    np.testing.assert_allclose(np.log(many), sweep.curve(sweep.params()), atol=0.02)


def test_larger_students_overfit_where_the_truth_says_so() -> None:
    curve = CrossedSweep(0, "overfit", widths=(4, 8, 16, 32, 64)).curve(np.geomspace(1e3, 1e6, 9)).mean(0)
    assert curve.argmin() < 8
    assert curve[-1] > curve.min() + 0.1
