"""`kdsweep profile`: which students, what is measured, and that what was measured is kept."""

import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands.profile import law_text, profile
from orchestrator.edge import mcu
from orchestrator.edge.latency import read_profile
from orchestrator.edge.profile import calmest, choose, front, profile_points, spread, untrained
from orchestrator.store.store import Store


def run_of(id: str, params: int, mae: float, **changes) -> dict:
    return {
        **{"id": id, "role": "student", "arch": "mlp", "depth": 1, "width": params, "init": "random"},
        **{"strategy": "scratch", "strategy_args": {}, "teacher": None, "seed": 0, "params": params},
        **{"macs": 10 * params, "mae_bpm": mae, "val_mae_bpm": mae, "activation_bytes": 4 * params},
        **changes,
    }


RUNS = [
    run_of("a1", 100, 9.0),
    run_of("b1", 200, 9.5),  # larger and worse than a
    run_of("c1", 300, 6.0, seed=0, val_mae_bpm=7.0),
    run_of("c2", 300, 8.0, seed=1, val_mae_bpm=5.0),
    run_of("d1", 400, 6.9),
    run_of("e1", 500, 7.1, macs=50),  # the cheapest in MACs
    run_of("t1", 900, 1.0, role="teacher"),
]


def test_the_front_is_of_means_and_its_seed_chosen_without_test_errors():
    students = [r for r in RUNS if r["role"] == "student"]
    assert [r["id"] for r in front(students, "params")] == ["a1", "c2", "d1"]
    assert [r["id"] for r in front(students, "macs")] == ["e1", "c2", "d1"]


def test_words_ids_and_budgets_choose_students():
    assert choose(RUNS, ["front"], {}) == ["a1", "c2", "d1", "e1"]
    assert choose(RUNS, ["all"], {"params": 300}) == ["a1", "b1", "c1", "c2"]
    assert choose(RUNS, ["b", "d1"], {}) == ["b1", "d1"]
    assert choose(RUNS, ["law"], {}) == ["a1", "b1", "c1", "d1", "e1"]
    with pytest.raises(InputError, match="no point"):
        choose(RUNS, ["t1"], {})
    with pytest.raises(InputError, match=r"the smallest values are \{'params': 100\}"):
        choose(RUNS, ["all"], {"params": 50})
    with pytest.raises(InputError, match="run the sweep first"):
        choose(RUNS[-1:], ["all"], {})


def test_shapes_for_the_law_reach_from_the_smallest_to_the_largest():
    many = [run_of(f"x{i:02}", 100 + i, 5.0) for i in range(40)]
    found = spread([*many, *many])
    assert len(found) == 8
    assert (found[0]["id"], found[-1]["id"]) == ("x00", "x39")


def test_the_law_gets_untrained_shapes_where_few_are_trained():
    few = [run_of(f"x{w}", 1, 5.0, width=w, depth=d) for w, d in ((4, 2), (8, 2), (16, 3))]
    shapes = untrained(few)
    assert len(shapes) == len(set(shapes)) == 8 - 3
    assert not {(4, 2), (8, 2), (16, 3)} & {(w, d) for _, d, w in shapes}
    assert {d for _, d, _ in shapes} == {2, 3}
    assert max(w for _, _, w in shapes) == 32
    assert untrained([run_of(f"x{w}", 1, 5.0, width=w) for w in range(1, 9)]) == []


def test_a_disturbed_timing_is_taken_again():
    timings = iter([(1.0, 2.0), (1.0, 1.1), (1.0, 1.0)])
    once = calmest(lambda: {"latency_ms": dict(zip(("min", "median"), next(timings), strict=True))})
    assert once == {"latency_ms": {"min": 1.0, "median": 1.1}, "tries": 2}
    always = calmest(lambda: {"latency_ms": {"min": 1.0, "median": 3.0}})
    assert always["tries"] == 3


def invoke(*arguments: str):
    return CliRunner().invoke(profile, arguments, catch_exceptions=False)


def test_profile_measures_once_and_writes_what_query_needs(tiny_sweep, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [edge]")
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_sweep, folder)
    ids = choose(Store(folder).results(), ["all"], {})
    dry = invoke(str(folder), "--points", "all", "--dry-run")
    assert dry.stdout.split() == ids
    assert not (folder / "profile.json").exists()
    shutil.rmtree(tmp_path / ".cache", ignore_errors=True)
    said = invoke(str(folder), "--points", ids[0], "--points", ids[-1], "--runs", "20")
    assert said.exit_code == 0
    document = json.loads((folder / "profile.json").read_text())
    (key,) = document["devices"]
    assert document["devices"][key]["cpu"]
    for id in (ids[0], ids[-1]):
        record = document["points"][id]["devices"][key]
        result = Store(folder).result(id)
        assert record["verified_windows"] >= min(1000, record["held_out_windows"])
        assert record["logit_error"] < 1e-4
        assert record["torch"]["mae_bpm"] == pytest.approx(result["mae_bpm"], abs=1e-6)
        assert record["fp32"]["mae_bpm"] == pytest.approx(result["mae_bpm"], abs=1e-3)
        assert record["fp32"]["drift_bpm"]["max"] < 1e-2
        assert 0 < record["int8"]["drift_bpm"]["mean"] < 5
        for runtime in ("torch", "fp32", "int8"):
            assert record[runtime]["file_bytes"] > 0
            assert 0 < record[runtime]["latency_ms"]["min"] <= record[runtime]["latency_ms"]["p95"]
    assert "no latency law: 1 shapes measured" in said.stdout
    again = invoke(str(folder), "--points", ids[0], "--json")
    assert "already measured on this device" in again.stderr
    assert json.loads(again.stdout)["points"] == document["points"]


def test_untrained_shapes_make_a_law(tiny_sweep, tmp_path, small_data):
    pytest.importorskip("onnxscript", reason="needs the extra [edge]")
    shapes = [("mlp", 1, width) for width in (4, 8, 16, 32, 64)]
    document = profile_points(Store(tmp_path), [], small_data, runs=20, shapes=shapes)
    (laws,) = document["latency_laws"].values()
    assert laws["mlp"]["fp32"]["shapes"] == 5
    assert laws["mlp"]["int8"]["sigma_ln"] > 0
    assert document == json.loads((tmp_path / "profile.json").read_text())


@pytest.mark.parametrize("points", [["law"], ["front"]])
def test_the_arena_of_points_that_were_not_timed_is_recorded(tiny_sweep, tmp_path, monkeypatch, points):
    """--points law --mcu: the front's arena, whichever points the law took."""
    from orchestrator.space.resolve import open_space

    folder = tmp_path / "tiny"
    shutil.copytree(tiny_sweep, folder)
    store = Store(folder)
    ids = choose(list(store.results()), points, {})
    sizes = {"flash_bytes": 77, "arena_bytes": 99, "mae_bpm": 6.0, "drift_bpm": {"mean": 0.1}}
    monkeypatch.setattr(mcu, "environment", lambda *_: None)
    monkeypatch.setattr(
        mcu,
        "measure_mcu",
        lambda _, result, *__: {"fp32": sizes, "int8": sizes, "model_sha256": result["id"]},
    )
    data = open_space(str(folder), [], None).prepared
    mcu.profile_mcu(store, ids, data, tmp_path, lambda _: None)
    recorded = read_profile(folder)["points"]
    assert set(recorded) == set(ids)
    assert all(point["mcu"]["int8"]["arena_bytes"] == 99 for point in recorded.values())


@pytest.mark.parametrize("budget", ["params=5", "max_params", "max_params=many"])
def test_a_bad_budget_is_named(tiny_sweep, budget):
    with pytest.raises(InputError, match="--budget"):
        invoke(str(tiny_sweep), "--budget", budget)


def test_a_law_is_told_in_words():
    law = {"fixed_ms": 0.01, "per_mac_ms": 2e-8, "per_layer_ms": 0.002, "sigma_ln": 0.1, "shapes": 7}
    assert law_text(law | {"left_out_ln": [0.1, -0.2]}) == (
        "0.0100 ms + 0.0200 ms per million MACs + 0.0020 ms per layer; leave-one-out error "
        "10 %, at most 20 % (7 shapes)"
    )


def test_somebody_elses_environment_is_used_or_refused_but_never_changed(tmp_path):
    mine = tmp_path / "mine"
    (mine / "bin").mkdir(parents=True)
    (mine / "bin" / "python").symlink_to(sys.executable)  # has no runtime for microcontrollers
    before = sorted(mine.rglob("*"))
    with pytest.raises(InputError, match=r"mine lacks .*litert_torch, .*tflite_micro: install .*--mcu-env"):
        mcu.environment(mine, print)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").touch()
    with pytest.raises(InputError, match="lacks torch, "):
        mcu.environment(tmp_path / "notes", print)
    assert sorted(mine.rglob("*")) == before
    assert (tmp_path / "notes" / "thesis.tex").exists()


def test_the_mcu_environment_is_ready_or_says_why_not(tmp_path, monkeypatch):
    wanted = mcu.requirements()
    assert any(r.startswith("litert-torch") for r in wanted)
    assert any(r.startswith("tflite-micro") for r in wanted)
    ready = tmp_path / "ready-one"
    (ready / "bin").mkdir(parents=True)
    (ready / "ready").touch()
    assert mcu.environment(ready, print) == ready / "bin" / "python"
    monkeypatch.setattr(sys, "executable", "/bin/false")  # no environment can be made with this
    said: list[str] = []
    with pytest.raises(InputError, match=r"can't be installed here.*\n.*--mcu-env"):
        mcu.environment(tmp_path / "new", said.append)
    assert not (tmp_path / "new").exists()
    assert "2 GB" in said[0]
