"""The best student for a budget: what is chosen, what is said of it, and when nothing may be said."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import LIMITS, NEAR_BPM, Budget, evaluate, within_reach
from orchestrator.commands.query import query
from orchestrator.laws.document import make_document
from orchestrator.laws.packing import unpack
from orchestrator.laws.simulate import FakeSweep

SWEEP = FakeSweep(widths=(4, 6, 8, 12, 16, 24, 32), strategies=("scratch", "dkd"), seeds=2)
KEYS = {
    "sweep",
    "budget",
    "verdict",
    "why",
    "best",
    "runner_up",
    "extrapolation",
    "binding",
    "calibration",
    "memory",
}
STUDENT_KEYS = {
    "arch",
    "depth",
    "width",
    "init",
    "strategy",
    "strategy_args",
    "teacher",
    "params",
    "trained",
    "point",
    "mae_bpm",
    "p_best",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document("fake", SWEEP.results(0), {})


@pytest.fixture
def sweep(document: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "points").mkdir()
    (tmp_path / "laws.json").write_text(json.dumps(document))
    return tmp_path


def ask(sweep: Path, *options: str) -> dict[str, Any]:
    outcome = CliRunner().invoke(query, [str(sweep), *options, "--json"], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return dict(json.loads(outcome.stdout))


def test_the_answer_has_its_keys(sweep: Path) -> None:
    result = ask(sweep, "--max-params", "20000")
    assert set(result) >= KEYS
    for student in (result["best"], result["runner_up"]):
        assert set(student) >= STUDENT_KEYS
        assert set(student["mae_bpm"]) == {"median", "low", "high", "level"}
        assert student["mae_bpm"]["low"] <= student["mae_bpm"]["median"] <= student["mae_bpm"]["high"]
    assert result["verdict"] == "ok"
    assert result["budget"] == {"max_params": 20000}
    assert set(ask(sweep, "--max-mae", "7")) >= KEYS
    assert set(ask(sweep, "--max-params", "1")) >= KEYS


def test_the_best_is_the_truth_best_within_the_budget(document: dict[str, Any]) -> None:
    result = answer(document, Budget(max_params=20_000))
    best = result["best"]
    assert (best["arch"], best["strategy"]) == ("resnet1d", "dkd")
    assert best["params"] <= 20_000
    truth = float(SWEEP.mean("resnet1d", "dkd", "T1", np.array([float(best["params"])]))[0])
    assert best["mae_bpm"]["low"] < truth < best["mae_bpm"]["high"]
    assert result["runner_up"]["strategy"] != "dkd" or result["runner_up"]["arch"] != "resnet1d"
    assert best["p_best"] > result["runner_up"]["p_best"]
    assert result["extrapolation"]["distance"] == 1.0


@pytest.mark.parametrize(
    ("name", "limit"),
    [("max_params", 9_000), ("max_memory_kb", 12), ("max_flash_kb", 50), ("max_macs", 400_000)],
)
def test_every_limit_is_kept(document: dict[str, Any], name: str, limit: float) -> None:
    column, unit, _ = LIMITS[name]
    assert answer(document, Budget(**{name: limit}))["best"][column] <= limit * unit


def test_p_best_is_a_share_of_joint_draws(document: dict[str, Any]) -> None:
    """P(best) and P(within 0.1 BPM) of the answer, counted again over every student one by one."""
    budget = Budget(max_params=9_000)
    best = answer(document, budget)["best"]
    least, own = np.full(400, np.inf), None
    for j, arm in enumerate(document["arms"]):
        columns = document["architectures"][arm["arch"]]["configurations"]
        rows = np.flatnonzero((np.array(columns["params"]) <= 9_000) & within_reach(document, j))
        mae = np.exp(evaluate(document, np.full(len(rows), j), rows).draws)
        least = np.minimum(least, mae.min(1))
        if (arm["arch"], arm["strategy"]) == (best["arch"], best["strategy"]):
            own = mae[:, [columns["width"][k] == best["width"] for k in rows]][:, 0]
    assert own is not None
    assert best["p_within_0.1_bpm"] == pytest.approx((own <= least + NEAR_BPM).mean(), abs=1e-4)
    if not best["trained"]:
        assert best["p_best"] == pytest.approx((own <= least + 1e-12).mean(), abs=1e-4)
    assert best["p_feasible"] == 1.0


def test_a_trained_leader_as_good_as_the_predicted_one_is_preferred(document: dict[str, Any]) -> None:
    largest = max(r["params"] for a in document["arms"] if a["arch"] == "resnet1d" for r in a["runs"])
    result = answer(document, Budget(max_params=largest * 1.12))
    assert result["best"]["trained"]
    assert result["best"]["params"] == largest
    runs = {r["id"]: r for a in document["arms"] for r in a["runs"]}
    assert result["best"]["measured_mae_bpm"] == round(runs[result["best"]["point"]]["mae_bpm"], 4)
    assert "already trained and as good" in result["why"]


def test_an_untrained_student_that_is_better_is_named(document: dict[str, Any]) -> None:
    widths = [r["params"] for a in document["arms"] if a["arch"] == "resnet1d" for r in a["runs"]]
    small = sorted(set(widths))[:2]
    result = answer(document, Budget(max_params=small[1] - 1))
    assert not result["best"]["trained"]
    assert result["best"]["point"] is None
    assert small[0] < result["best"]["params"] < small[1]


def test_what_10_percent_more_buys(document: dict[str, Any]) -> None:
    result = answer(document, Budget(max_params=20_000, max_macs=1e9))
    more = answer(document, Budget(max_params=22_000, max_macs=1e9))
    assert result["binding"]["budget"] == "max_params"
    gain = result["binding"]["gain_bpm"]
    assert 0 < gain["low"] <= gain["median"] <= gain["high"]
    apart = result["best"]["mae_bpm"]["median"] - more["best"]["mae_bpm"]["median"]
    assert gain["median"] == pytest.approx(apart, abs=0.02)


def test_no_limit_is_an_error(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least one limit"):
        answer(document, Budget())


def test_a_quantity_that_was_not_measured_names_the_command(document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="kdsweep profile fake"):
        answer(document, Budget(max_latency_ms=5))


def test_far_beyond_the_data_is_refused_and_near_it_is_loud(document: dict[str, Any]) -> None:
    largest = max(a["largest"] for a in document["arms"])
    refused = answer(document, Budget(max_params=largest * 20))
    assert refused["verdict"] == "refuse"
    assert refused["best"] is None
    assert "train larger students" in refused["why"]
    loud = answer(document, Budget(max_params=largest * 6))
    assert loud["verdict"] == "ok"
    assert "WARNING" in loud["why"]
    assert loud["extrapolation"]["distance"] > 4
    quiet = answer(document, Budget(max_params=largest * 3))
    assert "WARNING" not in quiet["why"]
    wide = loud["best"]["mae_bpm"], quiet["best"]["mae_bpm"]
    assert wide[0]["high"] / wide[0]["low"] > wide[1]["high"] / wide[1]["low"]


def test_nothing_fits_a_tiny_budget(document: dict[str, Any]) -> None:
    result = answer(document, Budget(max_params=10))
    assert result["verdict"] == "refuse"
    assert "train smaller students" in result["why"]


def test_an_exponent_that_still_rises_is_no_ground_for_extrapolation() -> None:
    """An onset inside the range: sizes that were measured may be asked for, larger ones not."""
    onset = replace(
        SWEEP, archs=("mlp",), widths=(4, 8, 16, 32, 64, 128, 256), strategies=("scratch",), noise=0.01,
        truth=lambda n: 10 / (1 + (n / 1e5) ** 1.5),
    )  # fmt: skip
    document = make_document("onset", onset.results(0), {})
    (arm,) = document["arms"]
    assert (arm["verdict"], arm["reach"]) == ("refuse", 1.0)
    assert answer(document, Budget(max_params=arm["largest"]))["verdict"] == "ok"
    result = answer(document, Budget(max_params=arm["largest"] * 2))
    assert result["verdict"] == "refuse"
    assert "train sizes beyond" in result["why"]


def test_the_calibration_record_is_behind_the_answer(document: dict[str, Any]) -> None:
    record = answer(document, Budget(max_params=20_000))["calibration"]
    assert [t["left_out"] for t in record["trials"]] == [1, 2]
    for trial in record["trials"]:
        assert trial["groups"] == len(document["arms"])
        assert trial["low"] <= trial["hits"] / trial["groups"] <= trial["high"]
    assert "too few to tell 80% from 90%" in record["text"]


def test_intervals_are_of_a_new_run_and_wider_than_of_the_mean(document: dict[str, Any]) -> None:
    best = answer(document, Budget(max_params=20_000))["best"]
    arm = next(a for a in document["arms"] if (a["arch"], a["strategy"]) == ("resnet1d", "dkd"))
    knots = np.exp(document["architectures"]["resnet1d"]["knots_ln_params"])
    near = int(np.abs(np.log(knots / best["params"])).argmin())
    low, high = np.quantile(np.exp(unpack(arm["draws"])[:, near]), [0.05, 0.95])
    assert best["mae_bpm"]["high"] - best["mae_bpm"]["low"] > high - low


QUERY_ALONE = """
import sys
from orchestrator.commands.main import main
sys.argv = ["kdsweep", "query", sys.argv[1], "--max-params", "20000", "--json"]
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "ray", "mlflow", "matplotlib"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""


def test_query_imports_nothing_heavy(sweep: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUERY_ALONE, str(sweep)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["verdict"] == "ok"
    assert done.stderr.strip() == "[]"


def test_the_words_say_what_the_json_says(sweep: Path) -> None:
    words = CliRunner().invoke(query, [str(sweep), "--max-params", "20000"], catch_exceptions=False).stdout
    best = ask(sweep, "--max-params", "20000")["best"]
    assert f"{best['params']:,} parameters" in words
    assert f"{best['mae_bpm']['median']:.2f} BPM" in words
    for part in ("runner-up", "is binding", "coverage"):
        assert part in words
    refused = CliRunner().invoke(query, [str(sweep), "--max-params", "3"], catch_exceptions=False).stdout
    assert refused.startswith("refused: no student")
