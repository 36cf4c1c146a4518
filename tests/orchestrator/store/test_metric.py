"""The headline error: by subject, by window, or of the worst tenth of subjects."""

import json

import numpy as np
import pytest

from kd.errors import InputError
from orchestrator.store.metric import Headline, error_of, headline

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
