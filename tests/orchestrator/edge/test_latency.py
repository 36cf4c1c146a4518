"""The latency law, its doubt, and what a budget on latency, arena or int8 makes of it. No torch."""

import json
import math
from copy import deepcopy

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kd.errors import InputError
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget
from orchestrator.commands.query import query
from orchestrator.edge.latency import (
    SURE,
    attach,
    coefficients_of,
    empty_profile,
    fit_latency,
    fit_laws,
    p_within,
    predict_ms,
    read_profile,
    sure_factor,
    with_costs,
)
from orchestrator.laws.document import make_document
from orchestrator.laws.simulate import FakeSweep

SHAPES = [(1e5, 3), (3e5, 5), (2e6, 5), (8e5, 9), (5e6, 9), (1e7, 17), (4e4, 3)]
TRUE = (0.01, 2e-8, 0.002)
SWEEP = FakeSweep(widths=(4, 6, 8, 12, 16, 32), strategies=("scratch",), seeds=2)


def ms(macs: float, layers: float, precision: str = "fp32") -> float:
    return float(predict_ms(TRUE, np.array([[macs, layers]]))[0]) * (2 if precision == "int8" else 1)


@pytest.fixture(scope="module")
def fitted() -> dict:
    return make_document("fake", SWEEP.results(0), {})


@pytest.fixture
def document(fitted: dict) -> dict:
    return deepcopy(fitted)


def profile_of(document: dict, *, every: int = 1, arena: bool = False) -> dict:
    """As `kdsweep profile` writes it, for every n-th trained shape, with latencies that follow the law."""
    profile = empty_profile() | {"devices": {"cpu-1": {"cpu": "CPU one", "flags": []}}}
    for arm in document["arms"]:
        columns = document["architectures"][arm["arch"]]["configurations"]
        for run in arm["runs"][::every]:
            shape = (run["depth"], run["width"])
            row = list(zip(columns["depth"], columns["width"], strict=True)).index(shape)
            macs, layers = columns["macs"][row], columns["layers"][row]
            record = {
                p: {"latency_ms": {"median": ms(macs, layers, p)}, "mae_bpm": 6.0, "drift_bpm": {"mean": 0.1}}
                for p in ("fp32", "int8")
            }
            point = {
                "arch": arm["arch"],
                "depth": shape[0],
                "width": shape[1],
                "macs": macs,
                "layers": layers,
            }
            profile["points"][run["id"]] = point | {"devices": {"cpu-1": record}}
            if arena:
                mcu = {p: {"flash_bytes": 77_000, "arena_bytes": 999_000} for p in ("fp32", "int8")}
                profile["points"][run["id"]]["mcu"] = mcu
    profile["latency_laws"] = fit_laws(profile)
    return profile


def test_a_law_without_noise_is_found_and_knows_that_it_is_sure():
    law = fit_latency(SHAPES, [ms(*s) for s in SHAPES])
    assert coefficients_of(law) == pytest.approx(TRUE, rel=1e-6)
    assert law["sigma_ln"] < 1e-6
    assert len(law["left_out_ln"]) == len(SHAPES)


def test_the_doubt_is_the_error_on_shapes_left_out():
    noise = np.exp(0.2 * np.random.default_rng(0).standard_normal(len(SHAPES)))
    y = [ms(*s) * n for s, n in zip(SHAPES, noise, strict=True)]
    law = fit_latency(SHAPES, y)
    assert 0.1 < law["sigma_ln"] < 0.5
    others = fit_latency(SHAPES[1:], y[1:])
    left_out = math.log(y[0] / predict_ms(coefficients_of(others), np.array(SHAPES[:1], float))[0])
    assert law["left_out_ln"][0] == pytest.approx(left_out, abs=1e-4)


def test_coefficients_are_never_negative_and_few_shapes_make_no_law():
    law = fit_latency(SHAPES, [5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 6.0])  # the more work, the faster
    assert min(coefficients_of(law)) >= 0
    assert "4 shapes measured, 5 are needed" in fit_latency(SHAPES[:4], [1, 2, 3, 4])["why"]


@given(st.floats(1e-3, 1e3), st.floats(0.01, 1.0), st.floats(0.01, 100))
def test_p_feasible_rises_with_the_limit(median, sigma, ratio):
    sure = median * sure_factor(sigma)
    assert p_within(median, sure, sure) == pytest.approx(SURE)
    assert p_within(median, sure, median) == pytest.approx(0.5)
    assert p_within(median, sure, median * ratio) <= p_within(median, sure, median * ratio * 1.1) + 1e-12
    assert p_within(median, median, median * 1.001) == 1  # measured
    assert p_within(median, median, median * 0.999) == 0


def test_an_unprofiled_sweep_refuses_latency_and_answers_int8_sizes(document):
    attach(document, empty_profile())
    with pytest.raises(InputError, match=r"no latency was measured.*kdsweep profile fake"):
        answer(document, Budget(max_latency_ms=1))
    full, small = (answer(document, Budget(max_flash_kb=30, precision=p)) for p in ("fp32", "int8"))
    assert small["best"]["params"] > full["best"]["params"]  # int8 weights take less than half
    assert full["best"]["weight_bytes"] <= 30_000 < small["best"]["weight_bytes"]
    costed = with_costs(document, Budget(max_flash_kb=30, precision="int8"), small)
    cost = costed["best"]["cost"]
    assert cost["flash_bytes"] <= 30_000
    assert cost["flash_is"] == "the weights, computed"
    assert cost["memory_bytes"] == small["best"]["activation_bytes"] // 4
    assert "latency_ms" not in cost


def test_a_latency_budget_admits_what_keeps_it_with_p_and_measured_students_win(document):
    profile = profile_of(document)
    for i, point in enumerate(profile["points"].values()):  # some noise, so that predictions are in doubt
        point["devices"]["cpu-1"]["fp32"]["latency_ms"]["median"] *= 1.1 if i // 2 % 2 else 0.9
    profile["latency_laws"] = fit_laws(profile)
    attach(document, profile)
    columns = document["architectures"]["resnet1d"]["configurations"]
    measured = {(p["depth"], p["width"]) for p in profile["points"].values() if p["arch"] == "resnet1d"}
    budget = Budget(max_latency_ms=sorted(v for v in columns["latency_ms_fp32"] if v)[30])
    result = with_costs(document, budget, answer(document, budget))
    best = result["best"]
    assert 0 < best["p_feasible"] <= 1
    assert best["p_feasible"] >= SURE - 1e-3
    for i, shape in enumerate(zip(columns["depth"], columns["width"], strict=True)):
        sure, median = columns["latency_ms_fp32"][i], columns["latency_median_ms_fp32"][i]
        assert (sure == median) == (shape in measured)


def test_precision_and_device_choose_the_latency(document):
    profile = profile_of(document)
    profile["devices"]["cpu-2"] = {"cpu": "CPU two", "flags": []}
    two = attach(deepcopy(document), profile)
    with pytest.raises(InputError, match="Add --device and one of cpu-1, cpu-2"):
        answer(two, Budget(max_latency_ms=1))
    with pytest.raises(InputError, match="profiled on cpu-1, cpu-2"):
        attach(document, profile, "cpu-3")
    with pytest.raises(InputError, match="too few students were measured on cpu-2"):
        answer(attach(deepcopy(document), profile, "cpu-2"), Budget(max_latency_ms=1))
    attach(document, profile, "cpu-1")
    columns = document["architectures"]["mlp"]["configurations"]
    np.testing.assert_allclose(
        np.array(columns["latency_ms_int8"]), 2 * np.array(columns["latency_ms_fp32"]), rtol=1e-3
    )


def test_a_measured_arena_takes_the_place_of_the_activation_peak(document):
    profile = profile_of(document, every=4, arena=True)
    attach(document, profile)
    columns = document["architectures"]["resnet1d"]["configurations"]
    shapes = {(p["depth"], p["width"]) for p in profile["points"].values() if p["arch"] == "resnet1d"}
    for i, shape in enumerate(zip(columns["depth"], columns["width"], strict=True)):
        wanted = 999_000 if shape in shapes else columns["activation_bytes"][i]
        assert columns["memory_bytes_fp32"][i] == wanted
    result = answer(document, Budget(max_memory_kb=100))
    assert (result["best"]["depth"], result["best"]["width"]) not in shapes
    assert "arena where measured" in result["memory"]


def test_query_says_what_is_measured_and_what_is_not(document, tmp_path):
    (tmp_path / "points").mkdir()
    (tmp_path / "laws.json").write_text(json.dumps(document))
    (tmp_path / "profile.json").write_text(json.dumps(profile_of(document)))
    run = CliRunner().invoke(query, [str(tmp_path), "--max-latency-ms", "0.5"], catch_exceptions=False)
    assert run.exit_code == 0
    assert "meets the limit with P" in run.output
    assert "on cpu-1" in run.output
    run = CliRunner().invoke(
        query,
        [str(tmp_path), "--max-flash-kb", "30", "--precision", "int8", "--json"],
        catch_exceptions=False,
    )
    result = json.loads(run.stdout)
    assert result["precision"] == "int8"
    assert result["int8"]["points"] > 0
    assert result["best"]["cost"]["flash_bytes"] <= 30_000


def test_a_damaged_profile_is_named(tmp_path):
    (tmp_path / "profile.json").write_text("{")
    with pytest.raises(InputError, match=r"profile\.json is not JSON"):
        read_profile(tmp_path)
    (tmp_path / "profile.json").write_text('{"schema": "other/1"}')
    with pytest.raises(InputError, match="has schema 'other/1'"):
        read_profile(tmp_path)
