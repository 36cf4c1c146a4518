"""`kdsweep compare`: points are matched by what they are, not by id."""

import json
import shutil

import pytest
from click.testing import CliRunner

from orchestrator.answers.compare import compare
from orchestrator.commands import main as cli
from orchestrator.commands.compare import summary
from orchestrator.store.store import Store


def result(id, mae, **more):
    return {
        **{"id": id, "role": "student", "arch": "mlp", "depth": 1, "width": 4, "init": "random"},
        **{"strategy": "scratch", "strategy_args": {}, "teacher": None, "seed": 0, "params": 100},
        **{"mae_bpm": mae, "data_fingerprint": "d", **more},
    }


def sweep(folder, *results):
    store = Store(folder)
    for r in results:
        store.write_result(r["id"], {"train_seconds": 1.0} | r)
    return store


def test_points_are_matched_by_what_they_are(tmp_path):
    teacher = {"role": "teacher", "arch": "resnet1d", "depth": 2, "width": 8}
    first = sweep(
        tmp_path / "a",
        result("a1", 5.0),
        result("a2", 7.0, strategy="soft", strategy_args={"temperature": 4.0}, teacher="a9"),
        result("a3", 4.0, width=8),
        result("a9", 3.0, **teacher),
    )
    second = sweep(
        tmp_path / "b",
        result("b1", 4.5, recipe={"lr": 1.0}),
        result("b2", 8.0, strategy="soft", strategy_args={"temperature": 4.0}, teacher="b9"),
        result("b3", 4.0, seed=1),
        result("b9", 3.0, **teacher),
    )
    found = compare(first, second)
    pairs = {tuple(map(tuple, row["points"])): row["difference_bpm"] for row in found["both"]}
    assert pairs == {(("a1",), ("b1",)): -0.5, (("a2",), ("b2",)): 1.0, (("a9",), ("b9",)): 0.0}
    assert [row["points"] for row in found["only_first"]] == [["a3"]]
    assert [row["points"] for row in found["only_second"]] == [["b3"]]
    assert found["mean_difference_bpm"] == pytest.approx(0.1667, abs=1e-4)
    assert (found["median_difference_bpm"], found["second_better"]) == (0.0, 1)
    assert found["same_data"]
    taught = next(row for row in found["both"] if row["strategy"] == "soft")
    assert taught["teacher"] == "resnet1d 2x8"
    assert taught["strategy_args"]["temperature"] == 4.0


def test_points_that_look_alike_are_averaged(tmp_path):
    first = sweep(tmp_path / "a", result("a1", 5.0), result("a2", 6.0, recipe={"lr": 0.1}))
    found = compare(first, sweep(tmp_path / "b", result("b1", 5.5, data_fingerprint="other")))
    assert found["both"][0]["mae_bpm"] == [5.5, 5.5]
    assert found["both"][0]["points"] == [["a1", "a2"], ["b1"]]
    assert not found["same_data"]


def test_no_point_in_common(tmp_path):
    found = compare(sweep(tmp_path / "a", result("a", 1.0)), sweep(tmp_path / "b", result("b", 1.0, seed=3)))
    assert found["mean_difference_bpm"] is None
    assert summary(found) == "no point in common; only the first has 1, only the second 1"


def test_the_command(tiny_sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    other = tmp_path / "other"
    shutil.copytree(tiny_sweep, other)
    first = min(Store(tiny_sweep).done())
    shutil.rmtree(other / "points" / first)
    run = CliRunner().invoke(cli.cli, ["compare", str(tiny_sweep), str(other)])
    lines = run.stdout.splitlines()
    assert len(lines) == 1 + 5 + 1
    assert all(len(line.rstrip()) <= 80 for line in lines[:-1])
    assert "5 points in common" in lines[-1]
    assert "only the first has 1" in run.stdout
    shown = json.loads(CliRunner().invoke(cli.cli, ["compare", str(tiny_sweep), str(other), "--json"]).stdout)
    assert [row["points"] for row in shown["only_first"]] == [[first]]
