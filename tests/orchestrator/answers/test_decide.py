"""When the evidence can't decide, what is named instead, and what is said of it."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.answers.shown import in_words
from orchestrator.answers.suggest import to_decide
from orchestrator.laws.crossed import CrossedSweep
from orchestrator.laws.document import make_document
from orchestrator.laws.packing import pack, unpack
from orchestrator.laws.simulate import FakeSweep

SWEEP = FakeSweep(
    archs=("resnet1d",), widths=(4, 6, 8, 12, 16, 24, 32), strategies=("scratch", "dkd"), seeds=1
)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    return make_document("fake", SWEEP.results(0), {})


@pytest.fixture
def document(fitted: dict[str, Any]) -> dict[str, Any]:
    return deepcopy(fitted)


def arm(document: dict[str, Any], strategy: str) -> dict[str, Any]:
    return next(a for a in document["arms"] if a["strategy"] == strategy)


def largest(document: dict[str, Any]) -> float:
    return float(max(a["largest"] for a in document["arms"]))


def test_arms_that_cannot_be_told_apart_are_not_decided(document: dict[str, Any]) -> None:
    """Errors that may be anything between 1 and 7 BPM at 4 times the largest size."""
    dice = np.random.default_rng(0)
    for a in document["arms"]:
        draws = unpack(a["draws"])
        a["draws"] = pack(draws + 1.5 * dice.standard_normal((len(draws), 1)))
    result = answer(document, Budget(max_params=largest(document) * 4))
    assert not result["decided"]
    assert result["why"].startswith("cannot decide between ")
    assert "(P(best) 0." in result["why"]
    assert len(result["contenders"]) == 2
    assert result["best"]["trained"]
    assert result["best"]["point"] == result["measured"]["point"]
    assert result["binding"] is None
    assert to_decide(document, Budget(max_params=largest(document) * 4))


def test_a_clear_winner_is_decided_and_the_measured_one_is_named_too(document: dict[str, Any]) -> None:
    result = answer(document, Budget(max_params=largest(document)))
    assert result["decided"]
    assert result["best"]["strategy"] == "dkd"
    runs = {r["id"]: r["mae_bpm"] for a in document["arms"] for r in a["runs"]}
    measured = result["measured"]
    assert measured["error"] == pytest.approx(runs[measured["point"]], abs=1e-4)
    assert (measured["n_runs"], measured["n_folds"]) == (1, 1)


def test_a_weak_law_does_not_win_by_itself(document: dict[str, Any]) -> None:
    arm(document, "dkd").update(verdict="weak", why="not determined by 4 sizes: train 2 more")
    result = answer(document, Budget(max_params=largest(document) * 3))
    assert (result["verdict"], result["decided"]) == ("ok", False)
    assert "train 2 more" in result["why"]
    assert result["best"]["trained"]


def test_why_a_law_is_weak_stays_one_sentence(document: dict[str, Any]) -> None:
    arm(document, "dkd").update(verdict="weak", why="provisional: 4 sizes; train 2 more")
    result = answer(document, Budget(max_params=largest(document) * 3)) | {"train": ["mlp scratch"]}
    cost = {"flash_bytes": 1, "flash_is": "computed", "memory_bytes": 1, "memory_is": "computed"}
    result["best"] |= {"cost": cost}
    words = in_words(result | {"precision": "fp32", "device": None, "int8": None}).splitlines()
    assert "is weak (provisional: 4 sizes, train 2 more); train mlp scratch (kdsweep suggest)" in words[0]
    assert not [line for line in words if line.startswith("note") and "2 more" in line]


def test_where_errors_rise_nothing_beyond_the_data_is_named(document: dict[str, Any]) -> None:
    for a in document["arms"]:
        a["rises"] = True
    result = answer(document, Budget(max_params=largest(document) * 20))
    assert result["verdict"] == "ok"
    assert result["extrapolation"]["distance"] == 1


def test_where_errors_rise_the_size_that_measured_best_is_named() -> None:
    """Laws fall; ranked by them the largest student was named, .8 BPM worse than one half its size."""
    sweep = CrossedSweep(7008, "overfit", arms=4, seeds=1)
    document = make_document("rises", sweep.results(), {})
    assert all(a["rises"] for a in document["arms"])
    sizes, best = sweep.params(), answer(document, Budget(max_params=1e5))["best"]
    truth = np.exp(sweep.curve(sizes)).min(0)
    assert truth[-1] > truth.min() + 0.5
    assert truth[list(sizes).index(best["params"])] < truth.min() + 0.1


def test_what_to_train_is_of_arms_that_may_be_best(document: dict[str, Any]) -> None:
    far = arm(document, "scratch")
    far["draws"], far["median"] = pack(unpack(far["draws"]) + 2.0), pack(unpack(far["median"]) + 2.0)
    for r in far["runs"]:
        r["mae_bpm"] *= 8
    told = to_decide(document, Budget(max_params=largest(document)))
    assert told
    assert not [name for name in told if "scratch" in name]


def test_a_measured_winner_without_a_law_is_named(document: dict[str, Any]) -> None:
    other = arm(document, "scratch")
    other.update(reach=0.0, verdict="refuse", why="only 1 size")
    for key in ("draws", "median", "noise"):
        del other[key]
    other["runs"] = [r | {"mae_bpm": 2.0} for r in other["runs"][-1:]]
    result = answer(document, Budget(max_params=largest(document)))
    assert result["best"]["strategy"] == "scratch"
    assert result["best"]["mae_bpm"]["median"] == 2.0
    assert result["measured"]["error"] == 2.0


def test_of_equal_errors_the_smallest_is_named() -> None:
    same = replace(SWEEP, strategies=("scratch",), noise=0.0, truth=lambda n: 0 * n + 6.0)
    document = make_document("same", same.results(0), {})
    result = answer(document, Budget(max_params=largest(document)))
    assert result["best"]["params"] <= document["arms"][0]["smallest"]


def test_a_runner_up_with_a_lower_median_is_explained(document: dict[str, Any]) -> None:
    for a in document["arms"]:
        shift = -0.5 if a["strategy"] == "scratch" else 0.0
        a["median"] = pack(unpack(a["median"]) + shift)
        a["draws"] = pack(unpack(a["draws"]) + shift)
        a.pop("run")  # as if fitted apart: those are ranked by another curve than is shown
    result = answer(document, Budget(max_params=largest(document)))
    best, other = result["best"]["mae_bpm"]["median"], result["runner_up"]["mae_bpm"]["median"]
    assert other < best
    assert f"the runner-up's median is {best - other:.2f} BPM lower" in result["why"]


def test_the_mean_over_folds_is_the_evidence(document: dict[str, Any]) -> None:
    errors = {}
    for a in document["arms"]:
        errors |= {r["id"]: r["mae_bpm"] for r in a["runs"]}
        a["runs"] = [
            r | {"fold": fold, "mae_bpm": r["mae_bpm"] + fold, "id": f"{r['id']}-{fold}"}
            for r in a["runs"]
            for fold in (0, 1)
        ]
    measured = answer(document, Budget(max_params=largest(document)))["measured"]
    assert (measured["n_runs"], measured["n_folds"]) == (2, 2)
    assert measured["error"] == pytest.approx(errors[measured["point"][:-2]] + 0.5, abs=1e-3)


def test_both_intervals_are_told_apart(document: dict[str, Any]) -> None:
    n = len(document["architectures"]["resnet1d"]["knots_ln_params"])
    for a in document["arms"]:
        known = {
            k: pack(np.full(n, np.log(v))) for k, v in (("low", 3.0), ("high", 9.0), ("p90_wearer", 7.0))
        }
        a["people"] = {"n_people": 20, "shift": pack(np.zeros(400)), **known}
    document["metric"] = "by-subject"
    result = answer(document, Budget(max_params=largest(document)))
    people = result["intervals"]["people"]
    assert people["p90_wearer_bpm"] == pytest.approx(7, rel=1e-3)
    assert result["intervals"]["run"] == [result["best"]["mae_bpm"][end] for end in ("low", "high")]
    cost = {"flash_bytes": 1, "flash_is": "", "memory_bytes": 1, "memory_is": ""}
    result["best"]["cost"] = cost
    words = in_words(result | {"precision": "fp32", "device": None, "int8": None})
    assert "BPM (mean over subjects) [3.00 to 9.00], 90% for new people like these (20 wearers)" in words
    assert "another training run, these people: " in words
    assert "1 wearer in 10 has more than 7.0 BPM" in words
