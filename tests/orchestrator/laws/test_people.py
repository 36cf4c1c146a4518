"""New people, where the truth is known: by the mean over people, and by the percentile asked for."""

import numpy as np
import pytest

from orchestrator.laws.crossed import CrossedSweep
from orchestrator.laws.document import make_document
from orchestrator.laws.packing import unpack
from orchestrator.laws.people import new_people
from orchestrator.store.metric import Headline, error_of

SPREAD = 0.5  # of people, in ln error


def run_of(errors, sets):
    names = [f"D{d}/s{k}" for k, d in enumerate(sets)]
    subjects = {n: {"windows": 10, "abs_sum": 10 * e} for n, e in zip(names, errors, strict=True)}
    return {"mae_bpm": float(np.mean(errors)), "subjects": subjects}


@pytest.mark.parametrize("metric", ["by-subject", "p90-subject"])
def test_the_interval_for_new_people_is_of_the_metric_that_was_asked(metric):
    """400 people tell what 20 new ones may have."""
    rng = np.random.default_rng(0)
    run = run_of(np.exp(SPREAD * rng.standard_normal(400)), rng.integers(2, size=400))
    said = np.log([error_of(run, metric)])
    (people,) = new_people([[run]], [said], np.random.default_rng(1), 2000, metric=metric)
    found = np.quantile(people.sample, [0.05, 0.5, 0.95])
    fresh = np.exp(SPREAD * rng.standard_normal((20_000, 20)))
    truth = fresh.mean(1) if metric == "by-subject" else np.percentile(fresh, 90, axis=1)
    assert found == pytest.approx(np.quantile(np.log(truth) - said, [0.05, 0.5, 0.95]), abs=0.08)
    assert people.shift.mean() == pytest.approx(0, abs=0.02)
    assert np.ptp(people.shift) < np.ptp(people.sample)


def test_in_a_percentile_every_subject_counts_alike():
    """90 good subjects of one data set, 10 bad ones of another: the bad are a tenth, not half."""
    errors, sets = np.array([1.0] * 90 + [10.0] * 10), np.array([0] * 90 + [1] * 10)
    run = run_of(errors, sets)
    rng = np.random.default_rng(0)
    (people,) = new_people([[run]], [np.zeros(1)], rng, 500, metric="p90-subject")
    assert np.interp(0.85, np.linspace(0.005, 0.995, 100), people.wearers) == pytest.approx(0)
    assert 0.05 < (people.sample > np.log(5)).mean() < 0.6  # 3 bad ones or more of 20


def test_laws_of_a_percentile_have_its_interval():
    sweep = CrossedSweep(rng=0, arms=1)
    for metric in ("by-subject", "p90-subject"):
        made = make_document("crossed", sweep.results(), {}, headline=Headline(metric))
        sample = unpack(made["arms"][0]["people"]["sample"])
        assert abs(np.median(sample)) < 0.15, metric  # the mean over people is a third below the percentile
