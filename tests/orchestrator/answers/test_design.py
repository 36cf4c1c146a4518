"""What a design can answer, before it is trained."""

from dataclasses import replace

import numpy as np
import pytest

from kd.errors import InputError
from orchestrator.answers.design import (
    TYPICAL,
    Design,
    Family,
    cheapest,
    largest_within,
    predict,
    proposals,
    question,
)

SHAPE = {"channels": 1, "samples": 200, "classes": 180}
LOW, HIGH = float(np.log(1000)), float(np.log(30000))
FAMILY = Family("resnet1d", 5, LOW, HIGH, HIGH, ((LOW, 10.0), (HIGH, 100.0)))
OTHER = replace(FAMILY, arch="mlp")


def test_more_folds_seeds_and_sizes_name_the_best_more_often():
    p = [predict(Design(f, 1, 6, 40), [FAMILY, OTHER], TYPICAL)["p_right"] for f in (1, 2, 5, 10)]
    assert p == sorted(p)
    assert p[-1] > p[0] + 0.05
    p = [predict(Design(5, s, 6, 40), [FAMILY, OTHER], TYPICAL)["p_right"] for s in (1, 2, 3)]
    assert p == sorted(p)
    assert p[-1] > p[0]
    p = [predict(Design(5, 1, n, 40), [FAMILY, OTHER], TYPICAL)["p_right"] for n in (3, 6, 10)]
    assert p == sorted(p)
    assert p[-1] > p[0]


def test_more_people_narrow_the_interval_for_new_people_only_so_far():
    wide = [predict(Design(5, 1, 6, n), [FAMILY], TYPICAL)["interval_people_bpm"] for n in (10, 40, 1000)]
    assert wide == sorted(wide, reverse=True)
    # 20 wearers differ, however many were tested
    assert wide[-1] > TYPICAL.level(np.exp(HIGH)) * 1.6 * TYPICAL.people / 20**0.5


def test_without_noise_the_best_is_always_named():
    quiet = replace(TYPICAL, run=1e-9, own=0.0, common=0.0, likes=0.0)
    told = predict(Design(1, 1, 4, 20), [FAMILY], quiet)
    assert told["p_right"] == told["p_within"] == 1.0
    assert told["regret_bpm"] == 0.0


def test_with_nothing_but_noise_the_best_is_a_guess():
    loud = replace(TYPICAL, run=5.0)
    told = predict(Design(1, 1, 4, 20), [FAMILY], loud)
    assert told["p_right"] == pytest.approx(1 / 5, abs=0.03)


def test_arms_that_do_not_differ_cost_no_regret():
    alike = replace(TYPICAL, offsets=1e-6, slopes=1e-6)
    told = predict(Design(1, 1, 4, 20), [FAMILY], alike)
    assert told["regret_bpm"] < 1e-3
    assert told["p_within"] == 1.0


def test_the_cheapest_design_that_reaches_a_target_is_proposed():
    rows = proposals([FAMILY, OTHER], TYPICAL, 300.0, 40.0)
    assert [r["cost_s"] for r in rows] == sorted(r["cost_s"] for r in rows)
    target = sorted(r["p_right"] for r in rows)[len(rows) // 2]
    chosen = cheapest(rows, target)
    assert chosen["p_right"] >= target
    assert all(r["p_right"] < target for r in rows if r["cost_s"] < chosen["cost_s"])
    assert cheapest(rows, 1.01) is None


def test_the_cost_of_the_grid_itself_is_that_of_its_points():
    sizes = np.linspace(LOW, HIGH, 3)
    seconds = (10.0, 20.0, 60.0)
    family = replace(FAMILY, cost_s=tuple(zip(sizes, seconds, strict=True)))
    assert family.cost(3) == pytest.approx(90.0)


def test_questions():
    assert question("max-params=60000").given == {"max_params": 60000.0}
    both = question("max_params=6e4, max-memory-kb=40 precision=int8")
    assert both.given == {"max_params": 60000.0, "max_memory_kb": 40.0}
    assert both.precision == "int8"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no limit"),
        ("max-params", "key=value"),
        ("max-size=3", "max-params"),
        ("max-params=many", "'many' is not a number"),
        ("max-params=-3", "above 0"),
        ("max-params=nan", "above 0"),
        ("max-latency-ms=3", "latency isn't known before"),
    ],
)
def test_bad_questions(text, says):
    with pytest.raises(InputError, match=says):
        question(text)


def test_the_largest_student_within_a_budget():
    asked = largest_within(question("max-params=20000"), "resnet1d", [4], [1664, 29244], SHAPE)
    assert 18000 < np.exp(asked) <= 20000
    assert largest_within(question("max-params=20"), "resnet1d", [4], [1664, 29244], SHAPE) is None
    # never farther than laws are asked
    asked = largest_within(question("max-params=1e9"), "resnet1d", [4], [1664, 29244], SHAPE)
    assert np.exp(asked) <= 4 * 29244
