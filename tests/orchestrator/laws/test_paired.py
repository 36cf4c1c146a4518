"""Paired comparisons: what the mean is, that chance is not taken for an effect, and that effects are seen."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from orchestrator.laws.paired import Effect, effect, holm, needed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from claims_validity import ALIKE, DESIGNS, table, validity


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("runs", [0.03, 0.06])
def test_chance_is_seldom_taken_for_an_effect(name, runs):
    found, held, _ = validity(120, runs=runs, **DESIGNS[name])
    assert found <= 0.07  # at level 0.05
    assert 0.84 <= held <= 0.98  # of a 90 % interval


def test_an_effect_of_five_percent_is_seen_in_seven_of_ten_sweeps():
    found, held, _ = validity(100, true=-0.05, people=(10, 8, 25), cells=4, folds=5)
    assert found >= 0.6
    assert held >= 0.84


def test_equivalence_is_found_where_it_is_and_seldom_at_the_edge():
    assert validity(60, **ALIKE)[2] >= 0.5
    assert validity(60, true=-np.log1p(0.01), **ALIKE)[2] <= 0.12
    assert validity(60, true=-0.05, **ALIKE)[::2] == (1, 0)


def test_naming_runs_of_one_pair_as_one_effect_would_find_what_is_not_there():
    """Why cells count: one luckily trained pair looks like an effect to a bootstrap over subjects alone."""
    generator = np.random.default_rng(0)
    chance = [table(generator, (40,), cells=3, folds=1, runs=0.06, own=0.02) for _ in range(100)]
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
