"""The smallest student for an error to reach."""

from typing import Any

import numpy as np
import pytest

from kd.errors import InputError
from orchestrator.answers.candidates import Budget
from orchestrator.answers.smallest import smallest
from orchestrator.laws.document import make_document
from orchestrator.laws.simulate import FakeSweep

SWEEP = FakeSweep(
    archs=("resnet1d",), widths=(4, 6, 8, 12, 16, 24, 32), strategies=("scratch", "dkd"), seeds=2
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document("fake", SWEEP.results(0), {})


def test_the_smallest_that_reaches_it(document: dict[str, Any]) -> None:
    """The truth of the student found is near the error asked for, on the safe side."""
    wanted = float(SWEEP.mean("resnet1d", "dkd", "T1", np.array([12_000.0]))[0])
    result = smallest(document, wanted, 0.8)
    best = result["best"]
    truth = float(SWEEP.mean("resnet1d", "dkd", "T1", np.array([float(best["params"])]))[0])
    assert result["verdict"] == "ok"
    assert best["strategy"] == "dkd"
    assert wanted * 0.9 < truth < wanted
    assert 0.8 <= best["p_reaches"] < 0.95
    assert result["runner_up"]["strategy"] == "scratch"
    assert result["runner_up"]["params"] > best["params"]


def test_more_confidence_or_less_error_costs_size(document: dict[str, Any]) -> None:
    wanted = float(SWEEP.mean("resnet1d", "dkd", "T1", np.array([12_000.0]))[0])
    params = [smallest(document, wanted, q)["best"]["params"] for q in (0.5, 0.8, 0.95)]
    assert params == sorted(params)
    assert params[0] < params[-1]
    assert smallest(document, wanted * 1.05, 0.8)["best"]["params"] < params[1]


def test_other_limits_hold_too(document: dict[str, Any]) -> None:
    wanted = float(SWEEP.mean("resnet1d", "dkd", "T1", np.array([12_000.0]))[0])
    params = smallest(document, wanted, 0.8)["best"]["params"]
    result = smallest(document, wanted, 0.8, Budget(max_params=params - 1))
    assert result["verdict"] == "refuse"
    assert "train larger students" in result["why"]


def test_an_error_nobody_reaches_is_refused(document: dict[str, Any]) -> None:
    result = smallest(document, 0.5, 0.8)
    assert (result["verdict"], result["best"]) == ("refuse", None)
    assert "allow more error" in result["why"]


@pytest.mark.parametrize(("error", "confidence"), [(0, 0.8), (-1, 0.8), (5, 0), (5, 1), (5, 80)])
def test_bad_questions_are_errors(document: dict[str, Any], error: float, confidence: float) -> None:
    with pytest.raises(InputError, match=r"--max-mae|--confidence"):
        smallest(document, error, confidence)


def test_latency_that_was_not_measured_names_the_command(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="kdsweep profile"):
        smallest(document, 6, 0.8, Budget(max_latency_ms=3))
