"""laws.json: what it holds, that it comes back whole, and what it makes of poor sweeps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kd.errors import InputError
from kd.models.sizes import size
from orchestrator.answers.best import answer
from orchestrator.answers.candidates import Budget, within_reach
from orchestrator.edge.latency import attach, empty_profile
from orchestrator.laws.arms import canonical, group_arms
from orchestrator.laws.document import make_document, read_document
from orchestrator.laws.packing import STEP, pack, unpack
from orchestrator.laws.simulate import FakeSweep
from orchestrator.store.metric import Headline

SMALL = FakeSweep(archs=("resnet1d",), widths=(4, 8, 16, 32), strategies=("scratch", "soft", "dkd"), seeds=1)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return make_document("small", SMALL.results(0), {})


def test_comes_back_whole(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "laws.json"
    path.write_text(json.dumps(document, allow_nan=False))
    again = read_document(path)
    assert again == attach(json.loads(path.read_text()), empty_profile())
    assert {key: again[key] for key in document if key != "architectures"} == {
        key: document[key] for key in document if key != "architectures"
    }
    assert answer(again, Budget(max_params=20_000)) == answer(document, Budget(max_params=20_000))


def test_what_was_fitted_is_told(document: dict[str, Any]) -> None:
    arm = next(a for a in document["arms"] if a["strategy"] == "scratch")
    by = {f["name"]: f for f in arm["forms"]}
    assert {"log_exponential", "exponential", "bounded_power", "shifted_power", "sigmoid"} == set(by)
    assert not by["exponential"]["in_ensemble"]
    assert "of the two exponentials" in document["prefers"]["text"]
    assert document["made"]["results"] == len(SMALL.results(0))


def test_the_same_results_give_the_same_laws(document: dict[str, Any]) -> None:
    again = make_document("small", SMALL.results(0)[::-1], {})
    for one in (again, document):
        one["made"].pop("at", None)
    assert again == document


def test_packing_is_exact_to_half_a_step() -> None:
    values = np.random.default_rng(0).normal(1.5, 0.8, (7, 5))
    assert np.abs(unpack(json.loads(json.dumps(pack(values)))) - values).max() <= STEP / 2 + 1e-12


@pytest.mark.parametrize(
    ("content", "why"), [(None, "kdsweep fit"), ("{", "not JSON"), ('{"schema": "kdsweep-laws/0"}', "schema")]
)
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path, content: str | None, why: str) -> None:
    if content is not None:
        (tmp_path / "laws.json").write_text(content)
    with pytest.raises(InputError, match=why) as caught:
        read_document(tmp_path / "laws.json")
    assert "kdsweep fit" in str(caught.value)


def test_no_student_is_an_error() -> None:
    teacher = [r for r in SMALL.results(0) if r["role"] == "teacher"]
    with pytest.raises(InputError, match="no finished student"):
        make_document("small", teacher, {})


def test_an_arm_with_two_sizes_refuses_and_the_others_answer() -> None:
    results = [
        r for r in SMALL.results(0) if r["role"] == "teacher" or r["strategy"] != "dkd" or r["width"] <= 8
    ]
    document = make_document("small", results, {})
    arm = next(a for a in document["arms"] if a["strategy"] == "dkd")
    assert (arm["verdict"], arm["reach"]) == ("refuse", 0.0)
    assert "train at least 1 more" in arm["why"]
    assert "draws" not in arm
    result = answer(document, Budget(max_params=20_000))
    assert result["verdict"] == "ok"
    assert result["best"]["strategy"] == "soft"
    assert [a["arm"] for a in result["left_out"]] == [arm["key"]]


def test_a_sweep_of_two_sizes_refuses_every_question() -> None:
    results = [r for r in SMALL.results(0) if r["width"] in (4, 8) or r["role"] == "teacher"]
    result = answer(make_document("small", results, {}), Budget(max_params=20_000))
    assert result["verdict"] == "refuse"
    assert "train at least 1 more" in result["why"]
    assert result["best"] is None


def test_few_sizes_and_one_seed_still_answer_sensibly(document: dict[str, Any]) -> None:
    truth = float(SMALL.mean("resnet1d", "dkd", "T1", np.array([20_000.0]))[0])
    best = answer(document, Budget(max_params=20_000))["best"]
    assert best["mae_bpm"]["low"] < truth < best["mae_bpm"]["high"]
    assert best["mae_bpm"]["high"] / best["mae_bpm"]["low"] < 1.5
    assert best["mae_bpm"]["median"] == pytest.approx(truth, rel=0.08)


def test_every_width_and_depth_between_the_swept_ones_is_considered() -> None:
    sweep = replace(SMALL, depths={"resnet1d": (4, 6)}, strategies=("scratch",))
    columns = make_document("two depths", sweep.results(0), {})["architectures"]["resnet1d"]["configurations"]
    assert set(columns["depth"]) == {4, 5, 6}
    widths = sorted(w for d, w in zip(columns["depth"], columns["width"], strict=True) if d == 5)
    assert widths == list(range(widths[0], widths[-1] + 1))
    for j in range(0, len(columns["params"]), 17):
        exact = size("resnet1d", columns["depth"][j], columns["width"][j])
        assert columns["params"][j] == exact.params
        assert columns["weight_bytes"][j] == 4 * exact.params
        assert columns["macs"][j] == exact.macs


def test_the_channels_follow_from_the_recorded_sizes() -> None:
    results = [r for r in SMALL.results(0) if r["strategy"] == "scratch" or r["role"] == "teacher"]
    for r in results:
        r["params"] = size(r["arch"], r["depth"], r["width"], channels=3, classes=90).params
    columns = make_document("wrist", results, {"samples": 200, "classes": 90})["architectures"]["resnet1d"]
    shapes = columns["configurations"]
    row = list(zip(shapes["depth"], shapes["width"], strict=True)).index((4, 11))
    assert shapes["params"][row] == size("resnet1d", 4, 11, channels=3, classes=90).params


def test_draws_are_paired_across_strategies(document: dict[str, Any]) -> None:
    """What two arms share moves them together: their difference is surer than two laws on their own."""
    draws = {a["strategy"]: unpack(a["draws"])[:, 24] for a in document["arms"]}
    apart = float(np.std(draws["soft"] - draws["dkd"]))
    alone = float(np.hypot(draws["soft"].std(), draws["dkd"].std()))
    assert apart < alone


def test_mixed_versions_of_torch_are_named_and_stay() -> None:
    results = SMALL.results(0)
    for r in results:
        r |= {"versions": {"torch": "2.12" if r["width"] == 32 else "2.13"}, "device": "cpu"}
    document = make_document("mixed", results, {})
    assert document["made"]["mixed"] == [
        "trained with torch 2.12 (3 students), 2.13 (9): small differences between these may come from that"
    ]
    assert document["notes"] == document["made"]["mixed"]
    assert max(run["width"] for arm in document["arms"] for run in arm["runs"]) == 32


def two_recipes() -> list[dict[str, Any]]:
    """The widest three of twelve students were trained last, with another recipe."""
    results = SMALL.results(0)
    for r in results:
        late = r["width"] == 32
        r["recipe"] = {"lr": 0.001 if late else 0.003, "max_epochs": 30}
        r["finished_at"] = "2026-01-02T00:00:00+00:00" if late else "2026-01-01T00:00:00+00:00"
    return results


def widest(document: dict[str, Any]) -> tuple[int, int]:
    """Least and greatest width that the laws know."""
    widths = [run["width"] for arm in document["arms"] for run in arm["runs"]]
    return min(widths), max(widths)


def test_the_largest_group_trained_alike_is_fitted_and_the_rest_named() -> None:
    document = make_document("edited", two_recipes(), {})
    (note,) = document["notes"]
    assert "3 of 12 students were trained on other data or with another recipe" in note
    assert "3 with lr=0.001" in note
    assert widest(document)[1] == 16
    assert document["group"]["students"] == 9
    assert [other["differs"] for other in document["group"]["others"]] == [{"lr": "0.001"}]


def test_a_recipe_is_chosen_by_its_value_or_its_hash() -> None:
    results = two_recipes()
    handle = make_document("edited", results, {})["group"]["others"][0]["hash"]
    for wanted in ("lr=1e-3", handle):
        chosen = make_document("edited", results, {}, recipe=wanted)
        assert widest(chosen) == (32, 32)
        assert chosen["group"]["hash"] == handle
    for wanted, why in {"lr=1": "no group", "max_epochs=30": "2 groups", "lr": "no group"}.items():
        with pytest.raises(InputError, match=f"--recipe {wanted}: {why}.*9 with lr=0.003 .*3 with lr=0.001"):
            make_document("edited", results, {}, recipe=wanted)


def test_of_groups_equally_large_the_newest_is_fitted() -> None:
    results = [r for r in two_recipes() if r["role"] == "teacher" or r["width"] in (16, 32)]
    assert widest(make_document("edited", results, {})) == (32, 32)


def test_laws_of_another_recipe_are_not_taken_for_the_one_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "laws.json"
    file.write_text(json.dumps(make_document("edited", two_recipes(), {})))
    assert read_document(file, recipe="lr=0.003")["group"]["students"] == 9
    with pytest.raises(InputError, match=r"run `kdsweep fit .* --recipe lr=0.001` first"):
        read_document(file, recipe="lr=0.001")
    with pytest.raises(InputError, match=r"no such group.*9 with lr=0.003.*3 with lr=0.001"):
        read_document(file, recipe="lr=7")


def test_a_pruned_student_is_no_larger_than_its_teacher() -> None:
    results = SMALL.results(0)
    for r in results:
        if r["role"] == "student":
            r["init"], r["teacher"] = "pruned", "T1"
        else:
            r["depth"], r["width"] = 4, 40
    document = make_document("pruned", results, {})
    columns = document["architectures"]["resnet1d"]["configurations"]
    inside = within_reach(document, 0)
    assert max(np.array(columns["width"])[inside]) == 39
    assert max(columns["width"]) > 40


def test_equal_arguments_are_one_arm() -> None:
    results = SMALL.results(0)
    soft = [r for r in results if r["role"] == "student" and r["strategy"] == "soft"]
    soft[0]["strategy_args"] = {"temperature": 4}
    soft[1]["strategy_args"] = {"weight": 0.5, "temperature": 4.0, "ce": 0.5}
    arms = group_arms(results)
    assert [a.key for a in arms] == ["resnet1d dkd from T1", "resnet1d scratch", "resnet1d soft from T1"]
    soft[2]["strategy_args"] = {"temperature": 2.0}
    assert "resnet1d soft temperature=2.0 from T1" in {a.key for a in group_arms(results)}
    assert canonical("dkd", {"window": 0.0}) == canonical("dkd", {})


def in_folds(folds: int = 3) -> list[dict]:
    """A sweep in folds: in each other data, another teacher, and harder people."""
    found = []
    for fold in range(folds):
        sweep = FakeSweep(widths=(4, 8, 16, 32), strategies=("scratch", "soft"), archs=("resnet1d",), seeds=1)
        for r in sweep.results(fold):
            more = {
                "id": f"{r['id']}f{fold}",
                "fold": fold,
                "data_fingerprint": f"f{fold}",
                "data_group": "all",
            }
            if r.get("teacher"):
                more |= {"teacher": f"{r['teacher']}f{fold}", "teacher_group": "T"}
            mae = r["mae_bpm"] * (1 + fold / 10)
            by = {"A/1": mae, "A/2": mae + 2}
            found.append(r | more | {"mae_bpm": mae, "mae_by_subject": by})
    return found


def test_folds_are_repeated_runs_of_one_arm_judged_by_the_metric() -> None:
    results = in_folds()
    document = make_document("folds", results, {}, headline=Headline("by-subject"))
    assert (document["metric"], document["group"]["others"]) == ("by-subject", [])
    assert {(a["strategy"], a["teacher"]) for a in document["arms"]} == {("scratch", None), ("soft", "T")}
    assert all(len(arm["runs"]) == 4 * 3 for arm in document["arms"])
    mae = {r["id"]: r["mae_bpm"] for r in results}
    for arm in document["arms"]:
        assert {run["fold"] for run in arm["runs"]} == {0, 1, 2}
        assert all(run["mae_bpm"] == pytest.approx(mae[run["id"]] + 1) for run in arm["runs"])
    assert {document["teacher_points"][key]["params"] for key in ("T", "T1f0")} == {
        document["teacher_points"]["T"]["params"]
    }
    assert not [note for note in document["notes"] if "folds" in note]
    assert document["made"]["results_digest"] != make_document("folds", results, {})["made"]["results_digest"]


def test_sizes_that_lack_a_fold_are_named() -> None:
    results = [r for r in in_folds() if not (r["role"] == "student" and r["width"] == 8 and r["fold"] == 2)]
    (note,) = [note for note in make_document("folds", results, {})["notes"] if "folds" in note]
    assert note.startswith("2 of 8 sizes are not trained in all 3 folds, so their errors are of other people")
    assert "resnet1d scratch 4x8 (fold 2)" in note
