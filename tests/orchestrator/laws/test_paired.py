"""Paired comparisons: what the mean is, that chance is not taken for an effect, and that effects are seen."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.laws.paired import Effect, effect, holm, needed

PEOPLE = (10, 8, 25)  # subjects of three data sets


def table(generator, people=PEOPLE, cells=4, folds=5, true=0.0, runs=0.03, own=0.1, noise=0.1):
    """Differences of ln error, (subjects, cells), and data sets: people and noise are heavy-tailed (t, 3).

    runs, own, noise: standard deviations of a pair of runs, of a subject, and of both together.
    """
    n, columns = sum(people), cells * folds
    strata = np.repeat([f"D{k}" for k in range(len(people))], people)

    def heavy(*shape):
        return generator.standard_t(3, shape) / np.sqrt(3)

    values = true + own * heavy(n, 1) + runs * generator.standard_normal((1, columns))
    values += noise * heavy(n, columns)
    fold_of_subject = np.concatenate([generator.permutation(np.arange(k) % folds) for k in people])
    values[fold_of_subject[:, None] != np.repeat(np.arange(folds), cells)] = np.nan
    return values, strata


def many(sweeps=200, **how):
    """Share of simulated sweeps that find an effect at 0.05, and of those whose interval holds the truth."""
    generator = np.random.default_rng(1)
    found, held = [], []
    for k in range(sweeps):
        e = effect(*table(generator, **how), rng=k)
        low, high = e.interval()
        found.append(e.p() < 0.05)
        held.append(low <= how.get("true", 0.0) <= high)
    return np.mean(found), np.mean(held)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"runs": 0.06},
        {"folds": 1, "people": (10, 8)},
        {"folds": 1, "people": (10, 8), "runs": 0.06},
        {"cells": 1},
        {"people": (2, 12), "folds": 1, "cells": 6},
    ],
)
def test_chance_is_seldom_taken_for_an_effect(how):
    found, held = many(**how)
    assert found <= 0.07  # at level 0.05
    assert 0.84 <= held <= 0.97  # of a 90 % interval


def test_an_effect_of_five_percent_is_seen_in_seven_of_ten_sweeps():
    found, held = many(true=-0.05)
    assert found >= 0.6
    assert held >= 0.84


def test_naming_runs_of_one_pair_as_one_effect_would_find_what_is_not_there():
    """Why cells count: one luckily trained pair looks like an effect to a bootstrap over subjects alone."""
    generator = np.random.default_rng(0)
    chance = [table(generator, people=(40,), cells=3, folds=1, runs=0.06, own=0.02) for _ in range(100)]
    alone = [stats.ttest_1samp(values.mean(1), 0.0).pvalue < 0.05 for values, _ in chance]
    paired = [effect(values, strata).p() < 0.05 for values, strata in chance]
    assert np.mean(alone) > 0.3
    assert np.mean(paired) <= 0.08


def test_subjects_count_alike_in_a_data_set_and_data_sets_count_alike():
    values = np.array([[1.0, 3.0], [5.0, np.nan], [10.0, 10.0]])
    strata = np.array(["A", "A", "B"])
    assert effect(values, strata).mean == pytest.approx(((2 + 5) / 2 + 10) / 2)
    weighted = effect(values, strata, weights={"A": 3.0, "B": 1.0}).mean
    assert weighted == pytest.approx(0.75 * 3.5 + 0.25 * 10)
    assert effect(np.full((3, 2), np.nan), strata) is None


def test_two_sides_give_the_difference_of_their_means():
    values = np.array([[1.0, 3.0, 10.0], [2.0, 2.0, 20.0], [7.0, np.nan, np.nan]])
    sides = np.array([1, 1, -1])
    assert effect(values, np.array(["A"] * 3), sides).mean == pytest.approx((2 - 10 + 2 - 20) / 2)


def test_holm_multiplies_by_what_is_left_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []


def test_twice_the_effect_takes_a_quarter_of_the_subjects():
    one, two = (Effect(mean, 0.1, 10.0, np.zeros(1)) for mean in (0.1, 0.2))
    assert needed(one) == pytest.approx(4 * needed(two))
    assert needed(one) == pytest.approx(7.85, abs=0.01)  # (1.96 + 0.84) ** 2
    assert needed(Effect(0.0, 0.1, 10.0, np.zeros(1))) is None
