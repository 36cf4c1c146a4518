"""The report's section of the tracker: there where results have one, and only there."""

import dataclasses
import json

import pytest

from orchestrator.report.page import render, sheets
from orchestrator.report.sweep import Sweep
from orchestrator.report.tracked import judged, panels, table
from orchestrator.store.metric import Headline

CURVES = {"within_5": [[0.3, 0.4, 10], [0.9, 0.8, 90]], "risk": [[0.5, 1.0], [1.0, 2.0]]}
KEPT = {
    "tracker": {},
    "window": CURVES,
    "tracked": CURVES | {"unsure": 0.2},
    "step": {
        "step_63_s": 2.0,
        "step_5_bpm_s": None,
        "pieces": 9,
        "done": [[0.0, -0.1], [2.0, 0.7], [4.0, 1]],
    },
}


@pytest.fixture
def sweep(fitted_sweep, tmp_path):
    """The fitted sweep, its students tracked at nine tenths of their error."""
    found = Sweep.read(fitted_sweep)
    judge, results = Headline("by-window"), []
    for r in found.results:
        more = {"mae_bpm_tracked": 0.9 * r["mae_bpm"], "step_63_s": 2.0, "coverage_90_tracked": 0.88}
        results.append(judge.both(r | more if r["role"] == "student" else r))
    found = dataclasses.replace(found, results=results, folder=tmp_path)
    best = judged(found)[0][2]["id"]
    (tmp_path / "points" / best).mkdir(parents=True)
    (tmp_path / "points" / best / "tracker.json").write_text(json.dumps(KEPT))
    return found


def test_the_section_shows_both_errors_and_what_smoothing_costs(sweep):
    page = render(sweep)
    assert 'id="tracker"' in page
    assert "by -10% in the median" in page
    assert "63 % of it in 2 s and is within 5 BPM in longer than was looked at" in page
    assert "hold 88% of the test windows" in page
    for title in (
        "Chance of 5 BPM or less",
        "Error of the windows it is surest of",
        "After a step of 40 BPM",
    ):
        assert title in page
    assert len(table(sweep).rows[0]) == len(table(sweep).columns)
    assert b"After a step" in sheets(sweep)["tracker.svg"]


def test_without_curves_errors_are_shown_all_the_same(sweep):
    (path,) = sweep.folder.glob("points/*/tracker.json")
    for damage in ("{}", "["):
        path.write_text(damage)
        assert len(panels(sweep)) == 1
    assert b"tracked" in sheets(sweep)["tracker.svg"]


def test_results_of_earlier_versions_have_no_such_section(fitted_sweep):
    found = Sweep.read(fitted_sweep)
    assert 'id="tracker"' not in render(found)
    assert "tracker.svg" not in sheets(found)
