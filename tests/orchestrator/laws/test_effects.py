"""What the laws say of each other: crossovers, gains over scratch, soft against DKD. The truths are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.laws.arms import group_arms
from orchestrator.laws.document import make_document
from orchestrator.laws.matched import distillation_weight
from orchestrator.laws.simulate import FakeSweep

# dkd is better below 2e4 parameters, soft above; both better than scratch
CROSSING = FakeSweep(
    archs=("resnet1d",),
    widths=(4, 6, 8, 12, 16, 24, 32, 48),
    strategies=("scratch", "soft", "dkd"),
    gains={"soft": 0.9, "dkd": 0.9},
    tilts={"dkd": 0.05},
    noise=0.01,
)
ARCHS = FakeSweep(widths=(4, 8, 16, 32), strategies=("scratch", "soft"), gains={"soft": 0.9}, noise=0.01)


@pytest.fixture(scope="module")
def crossing() -> dict[str, Any]:
    return make_document("crossing", CROSSING.results(0), {})


def between(document: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    found = [c for c in document["crossovers"] if {a, b} == {c["a"].split()[1], c["b"].split()[1]}]
    assert len(found) == 1
    return dict(found[0])


def test_finds_where_two_strategies_cross(crossing: dict[str, Any]) -> None:
    found = between(crossing, "dkd", "soft")
    assert found["a"].split()[1] == "dkd"
    assert found["crossing"]["low"] < 2e4 < found["crossing"]["high"]
    assert found["crossing"]["high"] / found["crossing"]["low"] < 4
    assert found["p_a_better_at_smallest"] > 0.95
    assert found["p_a_better_at_largest"] < 0.05
    assert "dkd beats soft below" in found["text"]
    assert found["text"].endswith("parameters")


def test_claims_no_crossover_where_there_is_none(crossing: dict[str, Any]) -> None:
    found = between(crossing, "soft", "scratch")
    assert found["crossing"] is None
    assert found["text"] == "resnet1d: soft beats scratch at every measured size"


def test_equal_strategies_are_not_told_apart() -> None:
    same = replace(CROSSING, strategies=("soft", "hard"), gains={}, tilts={}, noise=0.02)
    for seed in range(3):
        (found,) = make_document("same", same.results(seed), {})["crossovers"]
        assert found["crossing"] is None
        assert "no crossover established" in found["text"]


def test_gains_over_scratch_by_size(crossing: dict[str, Any]) -> None:
    soft = next(g for g in crossing["gains"]["arms"] if g["strategy"] == "soft")
    assert soft["mean"]["low"] < 0.1 < soft["mean"]["high"]
    assert soft["mean"]["high"] - soft["mean"]["low"] < 0.05
    assert soft["p_better"] > 0.99
    assert all(row["low"] < 0.1 < row["high"] for row in soft["by_size"])
    assert [row["params"] for row in soft["by_size"]] == sorted(row["params"] for row in soft["by_size"])
    dkd = [
        row["median"]
        for row in next(g for g in crossing["gains"]["arms"] if g["strategy"] == "dkd")["by_size"]
    ]
    assert dkd[0] > dkd[-1] + 0.05
    assert not [g for g in crossing["gains"]["arms"] if g["strategy"] == "scratch"]


def test_says_which_architecture_gains_more() -> None:
    results = ARCHS.results(0)
    (same,) = make_document("archs", results, {})["gains"]["architectures"]
    assert "no difference established" in same["text"]
    for r in results:
        if r["arch"] == "mlp" and r.get("strategy") == "soft":
            r["mae_bpm"] /= 0.9  # distillation gains an MLP nothing
    (found,) = make_document("archs", results, {})["gains"]["architectures"]
    assert found["text"].startswith("resnet1d gains more from distillation than mlp")
    assert found["difference"]["low"] < 0.1 < found["difference"]["high"]


def with_args(rows: list[tuple[str, dict[str, float], float]], seed: int = 0) -> list[dict[str, Any]]:
    """Students of several settings, (strategy, arguments, factor on the error) each."""
    out: list[dict[str, Any]] = []
    for n, (strategy, args, factor) in enumerate(rows):
        sweep = replace(CROSSING, strategies=(strategy,), gains={strategy: factor}, tilts={})
        out += [
            {**r, "strategy_args": args, "id": f"{r['id']}-{n}"}
            for r in sweep.results(seed + n)
            if r["role"] == "student"
        ]
    return [*out, *(r for r in CROSSING.results(0) if r["role"] == "teacher")]


def test_matched_weights_are_reported_apart_from_the_published_ones() -> None:
    """A DKD that is only louder: at the published weights it wins, at equal weight it does not."""
    heavy = {"ce": 1.0, "weight": 8.0, "temperature": 4.0}
    results = with_args([("soft", {}, 0.95), ("soft", heavy, 0.88), ("dkd", {}, 0.88)])
    found = make_document("louder", results, {})["soft_against_dkd"]
    (published,), (matched,) = found["as_published"], found["matched"]
    assert (published["soft_weight"], published["dkd_weight"]) == (1.0, 8.0)
    assert published["p_dkd_better"] > 0.95
    assert published["gain"]["low"] < 1 - 0.88 / 0.95 < published["gain"]["high"]
    assert matched["soft"] == "resnet1d soft ce=1.0 weight=8.0 from T1"
    assert matched["p_dkd_better"] < 0.95
    assert abs(matched["gain"]["median"]) < 0.015 < 0.05 < published["gain"]["median"]
    assert "as published" in found["text"]
    assert "at matched weight and temperature: dkd is better in 0" in found["text"]


def test_without_a_match_it_says_what_to_train() -> None:
    results = with_args(
        [("soft", {}, 0.95), ("soft", {"ce": 1, "weight": 8, "temperature": 2}, 0.9), ("dkd", {}, 0.88)]
    )
    found = make_document("unmatched", results, {})["soft_against_dkd"]
    assert found["matched"] == []
    assert "add the strategy soft with {ce: 1, weight: 8, temperature: 4}" in found["text"]


def test_weights_are_relative_to_the_labels() -> None:
    arms = {a.key: distillation_weight(a) for a in group_arms(with_args([
        ("soft", {}, 1.0), ("soft", {"ce": 0.1, "weight": 0.9}, 1.0), ("soft", {"ce": 0.0}, 1.0),
        ("dkd", {"ce": 2.0}, 1.0), ("hard", {}, 1.0),
    ]))}  # fmt: skip
    assert sorted(round(w, 6) for w in arms.values() if w is not None) == [1.0, 4.0, 9.0]
    assert sum(w is None for w in arms.values()) == 2


def test_a_grid_of_arguments_speaks_by_its_published_and_its_best_setting() -> None:
    results = with_args([
        ("scratch", {}, 1.0), ("soft", {}, 0.95), ("soft", {"temperature": 2.0}, 0.8),
        ("soft", {"temperature": 8.0}, 0.97),
    ])  # fmt: skip
    document = make_document("grid", results, {})
    said = {c["a"] + " | " + c["b"] for c in document["crossovers"]}
    assert len(said) == 2
    assert not any("temperature=8.0" in pair for pair in said)
    assert any("temperature=2.0" in pair for pair in said)
    numbers = [g["mean"]["median"] for g in document["gains"]["arms"]]
    assert len(numbers) == 3
    assert max(numbers) == pytest.approx(0.2, abs=0.03)
    assert np.isfinite(numbers).all()
