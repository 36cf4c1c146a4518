"""Claims judged from simulated sweeps of people, sizes, folds and seeds, where the truth is known."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.answers.claims import claims
from orchestrator.answers.new_device import new_device
from orchestrator.commands.claims import claims as command
from orchestrator.laws.simulate import FakeSweep
from orchestrator.store.metric import mae_by_subject
from orchestrator.store.store import Store

FAKE = FakeSweep(widths=(4, 8, 16, 32), seeds=2)


def simulated(
    fake=FAKE, people: Sequence[int] = (12, 25, 23), folds=5, own=0.03, noise=0.05, lodo=False, rng=0
):
    """Results of a simulated sweep with every subject's error, kfold or leaving one data set out."""
    generator = np.random.default_rng(rng)
    names = [f"D{d}/s{k:02}" for d, n in enumerate(people) for k in range(n)]
    level = dict(zip(names, np.exp(0.3 * generator.standard_normal(len(names))), strict=True))
    likes = {
        (n, s, a): own * generator.standard_t(3) / np.sqrt(3)
        for n in names
        for s in fake.strategies
        for a in fake.archs
    }
    results = []
    for fold in range(len(people) if lodo else folds):
        mine = [n for i, n in enumerate(names) if (int(n[1]) if lodo else i % folds) == fold]
        for r in fake.results(100 * rng + fold):
            more = {
                "id": f"{r['id']}-{fold}",
                "fold": fold,
                "data_group": "all",
                "data_fingerprint": f"F{fold}",
            }
            if r["role"] == "student":
                mae = {
                    n: r["mae_bpm"]
                    * level[n]
                    * np.exp(likes[n, r["strategy"], r["arch"]] + noise * generator.standard_normal())
                    for n in mine
                }
                more["subjects"] = {
                    n: {"windows": 50, "abs_sum": 50 * e, "sq_sum": 60 * e**2, "within_5": 30}
                    for n, e in mae.items()
                }
            if r["teacher"]:
                more |= {"teacher": f"{r['teacher']}-{fold}", "teacher_group": r["teacher"]}
            results.append(r | more)
    return results


def by_id(found):
    return {row["id"]: row for row in found["claims"]}


@pytest.fixture(scope="module")
def results():
    return simulated()


def test_true_claims_are_supported_with_their_size(results):
    found = by_id(claims(results))
    for id, gain in (("dkd-scratch", 8.0), ("soft-scratch", 5.0), ("dkd-hard", 100 * (1 - 0.92 / 0.99))):
        row = found[id]
        assert row["verdict"] == "supported", id
        assert row["effect_percent"]["low"] <= gain <= row["effect_percent"]["high"], id
        assert row["effect_bpm"]["median"] > 0
        assert row["p"] <= row["p_holm"] < 0.05
    n = found["dkd-scratch"]["n"]
    assert n == {"subjects": 60, "datasets": 3, "sizes": 8, "folds": 5, "seeds": 2, "cells": 80, "pairs": 80}
    assert found["distilled"]["n"]["pairs"] == 4 * 80


def test_a_claim_is_contradicted_where_the_opposite_holds(results):
    worse = FakeSweep(widths=FAKE.widths, seeds=2, gains={"hard": 1.1, "dkd": 1.05, "soft": 0.9})
    found = by_id(claims(simulated(worse)))
    assert found["hard-scratch"]["verdict"] == found["dkd-soft"]["verdict"] == "contradicted"
    assert found["hard-scratch"]["effect_percent"]["high"] < 0


def test_what_makes_no_difference_stays_undecided_and_says_what_it_takes():
    none = FakeSweep(widths=FAKE.widths, seeds=2, gains={})
    for row in claims(simulated(none, own=0.1, rng=3))["claims"]:
        assert row["verdict"] == "undecided", row["id"]
        if row["p"] is not None:
            assert row["why"].startswith("so small an effect takes about")
            assert row["needed"]["subjects"] >= row["n"]["subjects"]


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.998, "equivalent"), (1.0, "equivalent"), (0.97, "supported")]
)
def test_an_effect_too_small_to_matter_is_none(gain, verdict):
    """20 seeds and people who hardly differ: 0.2 % is found beyond doubt, and is called equivalent."""
    fake = FakeSweep(widths=FAKE.widths, seeds=20, archs=("mlp",), strategies=("scratch", "hard"))
    fake = dataclasses.replace(fake, gains={"hard": gain}, noise=0.001)
    found = claims(simulated(fake, own=0.002, noise=0.002))
    row = by_id(found)["hard-scratch"]
    assert found["least_percent"] == 1.0
    assert row["verdict"] == verdict
    assert (row["p_holm"] < 0.05) == (gain < 1)
    assert row["needed"] is None
    assert ("too small to matter" in row["why"]) == (verdict == "equivalent")


def test_architectures_are_compared_by_what_both_gain():
    results = simulated(FakeSweep(widths=FAKE.widths, seeds=2))
    for r in results:
        if r["arch"] == "mlp" and r["strategy"] != "scratch":
            r["subjects"] = {n: s | {"abs_sum": 1.08 * s["abs_sum"]} for n, s in r["subjects"].items()}
    row = by_id(claims(results))["resnet-mlp"]
    assert row["verdict"] == "supported"
    assert row["effect_percent"]["low"] <= 100 * (1 - 1 / 1.08) <= row["effect_percent"]["high"]
    results = [r for r in results if r["arch"] != "mlp"]
    row = by_id(claims(results))["resnet-mlp"]
    assert (row["verdict"], row["n"]["subjects"]) == ("undecided", 0)


def test_dkd_meets_soft_at_the_weight_of_its_own_and_published_settings_speak_for_a_strategy(results):
    heavy = [
        r | {"id": f"{r['id']}w", "strategy_args": {"ce": 1, "weight": 8, "temperature": 4}}
        for r in results
        if r["role"] == "student" and r["strategy"] == "soft"
    ]
    before, after = by_id(claims(results)), by_id(claims([*results, *heavy]))
    assert before["dkd-soft-matched"]["effect_percent"] is None
    assert after["dkd-soft-matched"]["n"]["pairs"] == 80
    assert after["dkd-soft-matched"]["verdict"] == "supported"
    assert after["soft-scratch"]["p"] == before["soft-scratch"]["p"]


def test_students_of_a_larger_teacher_are_paired_with_those_of_a_smaller_one():
    results = simulated(FakeSweep(widths=FAKE.widths, seeds=2, teachers=("small", "large")))
    for r in results:
        if r["role"] == "teacher":
            r["params"] = 1000 if r["id"].startswith("small") else 9000
        elif r.get("teacher_group") == "large":
            r["subjects"] = {n: s | {"abs_sum": 0.9 * s["abs_sum"]} for n, s in r["subjects"].items()}
    row = by_id(claims(results))["teacher"]
    assert row["verdict"] == "supported"
    assert row["effect_percent"]["low"] <= 10 <= row["effect_percent"]["high"]


def test_results_of_before_have_errors_by_subject_without_windows(results):
    old = [
        {k: v for k, v in r.items() if k not in ("fold", "data_group", "teacher_group", "subjects")}
        | {"mae_by_subject": mae_by_subject(r), "data_fingerprint": "one", "teacher": r.get("teacher_group")}
        for r in results
        if r["fold"] == 0
    ]
    new = [r for r in results if r["fold"] == 0]
    assert by_id(claims(old))["dkd-hard"] == by_id(claims(new))["dkd-hard"]


def test_few_people_or_one_pair_of_runs_decide_nothing(results):
    one = [r for r in results if r["fold"] == 0 and r["seed"] == 0 and r.get("width") == 8]
    for row in claims(one)["claims"]:
        assert row["verdict"] == "undecided"
        assert row["p"] is None
    assert "6 subjects and 3 pairs" in by_id(claims(one))["dkd-scratch"]["why"]


def test_a_sweep_without_pairs_makes_no_claims(results):
    assert claims([r for r in results if r["strategy"] == "scratch"])["claims"] == []


@pytest.mark.parametrize("weights", [None, {"D0": 1.0, "D1": 0.0, "D2": 0.0}])
def test_data_sets_are_weighted_as_the_space_says(results, weights):
    results = json.loads(json.dumps(results))
    for r in results:
        if r.get("strategy") == "hard":
            for name, s in r["subjects"].items():
                s["abs_sum"] *= 2 if name.startswith("D0") else 1
    effect = by_id(claims(results, weights=weights))["hard-scratch"]["effect_percent"]["median"]
    ln2 = np.log(2) * (1 if weights else 1 / 3)
    assert effect == pytest.approx(100 * (1 - 0.99 * np.exp(ln2)), abs=4)


def written(folder, results):
    store = Store(folder)
    for r in results:
        store.write_result(r["id"], r)
    (folder / "space.yaml").write_text("name: s\n")
    return str(folder)


def test_the_command_prints_a_table_and_json(tmp_path, results):
    results = [r for r in results if r["seed"] == 0 and r["width"] in (8, 32)]
    sweep = written(tmp_path / "s", results)
    said = CliRunner().invoke(command, [sweep], catch_exceptions=False)
    assert said.exit_code == 0
    assert "dkd beats scratch" in said.output
    assert "supported" in said.output
    found = json.loads(CliRunner().invoke(command, [sweep, "--json"], catch_exceptions=False).stdout)
    assert by_id(found)["dkd-scratch"] == by_id(claims(results))["dkd-scratch"]
    with pytest.raises(InputError, match="--new-device"):
        CliRunner().invoke(command, [sweep, "--against", sweep], catch_exceptions=False)


def test_a_new_device_costs_what_its_students_lose(tmp_path, results):
    away = simulated(lodo=True)
    for r in away:
        for name, s in r.get("subjects", {}).items():
            s["abs_sum"] *= 1.5 if name.startswith("D1") else 1.0
    found = new_device(away, results)
    rows = {(row["dataset"], row["arm"]): row for row in found["devices"]}
    assert len(rows) == 3 * 2 * 5
    for (name, _), row in rows.items():
        cost = 50 if name == "D1" else 0
        assert row["cost_percent"]["median"] == pytest.approx(cost, abs=6)
        assert row["new_bpm"] - row["known_bpm"] == pytest.approx(row["cost_bpm"]["median"], abs=1e-3)
    assert rows["D1", "mlp dkd"]["subjects"] == 25
    assert all(row["cost_bpm"] is None for row in new_device(away)["devices"])
    few = [[r for r in rs if r["seed"] == 0 and r["width"] in (8, 32)] for rs in (away, results)]
    first, second = (written(tmp_path / name, rs) for name, rs in zip(("lodo", "kfold"), few, strict=True))
    said = CliRunner().invoke(command, [first, "--new-device", "--against", second], catch_exceptions=False)
    assert said.exit_code == 0
    assert "as a new device, D0:" in said.output


def test_a_sweep_that_left_nothing_out_says_how_to(results):
    with pytest.raises(InputError, match=r"data\.split\.scheme=lodo"):
        new_device(results)
    with pytest.raises(InputError, match=r"data\.split\.scheme=kfold"):
        new_device(simulated(lodo=True), [r | {"seed": 9} for r in results])
