"""The headline error: by subject, by window, or of the worst tenth of subjects."""

import json

import numpy as np
import pytest

from kd.errors import InputError
from orchestrator.store.metric import METRICS, Headline, by_metric, error_of, headline, mae_by_subject

MAE = {"A/1": 2.0, "A/2": 4.0, "B/1": 9.0}
WINDOWS = {"A/1": 10, "A/2": 10, "B/1": 1}


@pytest.fixture
def result(whole_result):
    subjects = {
        name: {"windows": n, "abs_sum": n * MAE[name], "sq_sum": n * MAE[name] ** 2, "within_5": 0}
        for name, n in WINDOWS.items()
    }
    return whole_result("a", mae_bpm=69 / 21, subjects=subjects)


def test_subjects_count_alike_within_a_data_set_and_data_sets_among_each_other(result) -> None:
    assert error_of(result) == pytest.approx((3.0 + 9.0) / 2)
    assert error_of(result, "by-window") == pytest.approx(69 / 21)
    assert error_of(result, "p90-subject") == pytest.approx(np.percentile([2.0, 4.0, 9.0], 90))


def test_data_sets_are_weighted(result) -> None:
    assert error_of(result, weights={"A": 3, "B": 1}) == pytest.approx((3 * 3.0 + 9.0) / 4)
    assert error_of(result, weights={"A": 1, "C": 5}) == pytest.approx(3.0)
    with pytest.raises(InputError, match="metric_weights name none of the tested data sets A, B"):
        error_of(result, weights={"C": 1})


def test_results_of_earlier_versions_have_only_means_by_subject(whole_result) -> None:
    assert error_of(whole_result("a", mae_by_subject=MAE)) == pytest.approx(6.0)
    assert error_of(whole_result("a", mae_bpm=3.5)) == 3.5


def test_the_plan_says_which_metric_a_sweep_has(tmp_path) -> None:
    assert headline(tmp_path) == Headline("by-window")
    for content, said in (
        ({}, "mean over windows"),
        ({"metric": "p90-subject"}, "90th percentile of subjects"),
        ({"metric": "by-subject", "metric_weights": {"A": 2}}, "mean over subjects (weights: A 2)"),
    ):
        (tmp_path / "plan.json").write_text(json.dumps(content))
        assert str(headline(tmp_path)) == said
    (tmp_path / "plan.json").write_text(json.dumps({"metric": "worst"}))
    with pytest.raises(InputError, match=r"plan\.json: not a plan .*metric is 'worst'"):
        headline(tmp_path)


TRACKED = {"A/1": 1.0, "A/2": 2.0, "B/1": 4.5}


def test_either_error_can_be_asked_for(result) -> None:
    both = result | {"mae_bpm_tracked": 1.7, "mae_by_subject_tracked": TRACKED}
    assert error_of(both) == error_of(result)
    assert error_of(both, "tracked-by-subject") == pytest.approx((1.5 + 4.5) / 2)
    assert error_of(both, "tracked-by-subject", {"A": 1}) == pytest.approx(1.5)
    assert error_of(both, "tracked-by-window") == 1.7
    assert error_of(both, "tracked-p90-subject") == pytest.approx(np.percentile([1.0, 2.0, 4.5], 90))
    few = {"id": "a", "mae_bpm": 69 / 21, "by_metric": by_metric(both)}  # as big sweeps keep it
    for metric in METRICS:
        assert error_of(few, metric) == error_of(both, metric)


def test_a_result_judged_by_its_tracked_error_has_no_other(result) -> None:
    both = result | {"mae_bpm_tracked": 1.7, "mae_by_subject_tracked": TRACKED}
    judge = Headline("by-subject", {"A": 1}).with_tracker(True)
    assert str(judge) == "mean over subjects, tracked (weights: A 1)"
    assert (judge.over, judge.tracked, judge.with_tracker(None)) == ("by-subject", True, judge)
    assert judge.with_tracker(False) == Headline("by-subject", {"A": 1})
    assert mae_by_subject(judge.judged(both)) == TRACKED
    assert judge.judged(both)["mae_bpm"] == 1.5
    assert mae_by_subject(judge.with_tracker(False).judged(both)) == MAE


def test_results_of_earlier_versions_have_no_tracked_error(result) -> None:
    assert Headline("by-subject").if_tracked(result) is None
    with pytest.raises(InputError, match=r"point a has no error with a tracker.*kdsweep retry"):
        error_of(result, "tracked-by-subject")
