"""At 80 columns tables and status show whole ids and names, in fewer columns; lists have every point."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.commands.plan import plan
from orchestrator.commands.run import print_results
from orchestrator.commands.status import in_words, status
from orchestrator.commands.tables import Column, console, show
from orchestrator.store.metric import Headline
from orchestrator.store.store import Store

SPACE = """
name: narrow
data: {options: {subjects: 9, minutes: 2}}
teachers: {arch: resnet1d, depth: 12, width: [16, 32]}
students: {arch: [resnet1d, mlp], depth: 2, width: [4, 128], init: [random, pruned_taylor]}
strategies: {scratch: , dkd: {beta: [1, 2], temperature: 3}}
seeds: [0, 1]
"""


def call(command, *args: object) -> str:
    out = CliRunner().invoke(command, [str(a) for a in args], catch_exceptions=False)
    assert out.exit_code in (0, 3, 75), out.output  # the last two are of `status`
    return out.stdout


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow") / "narrow"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    return folder


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
def test_plan_has_whole_ids_and_fits(space: Path, columns: int, monkeypatch) -> None:
    points = json.loads(call(plan, space, "--json"))["points"]
    assert len(points) > 20
    monkeypatch.setenv("COLUMNS", str(columns))
    text = call(plan, space, "--all")
    assert "…" not in text
    assert all(len(line) <= columns for line in text.splitlines())
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    for p in points:
        said = lines[p["id"]]
        assert said[1] == ("teacher" if p["role"] == "teacher" else p["strategy"])
        assert said[2] == f"{p['arch']}-{p['depth']}x{p['width']}"
        assert f"{p['params']:,}" in said
    left_out = re.search(r"left out at \d+ columns: ([^;]*);", text.replace("\n", " "))
    header = text.splitlines()[0]
    names = [name.strip() for name in left_out[1].split(",")] if left_out else []
    assert not [name for name in names if re.search(rf"(^|  ){re.escape(name)}($|  )", header)]
    assert bool(names) == (columns < 200)


def test_plan_keeps_its_width_where_there_is_no_terminal(space: Path, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "waits for" in call(plan, space)


def test_a_table_is_wider_rather_than_cut(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    long = "x" * 30
    assert show(console(), [Column("id", [long]), Column("b", ["y"], 1), Column("c", ["[z]"])]) == ["b"]
    assert capsys.readouterr().out.splitlines()[1].split() == [long, "[z]"]


@pytest.fixture
def partly(tiny_sweep: Path, tmp_path: Path) -> Path:
    """`tiny_sweep` with one of its points failed, its reason long and hostile to terminals."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_sweep, folder)
    store = Store(folder)
    id = min(store.done())
    (store.folder(id) / "result.json").unlink()
    store.write_error(id, {"id": id, "type": "RuntimeError", "message": "\x1b[2J" + "long " * 50})
    return folder


def test_status_lists_every_point(partly: Path, monkeypatch) -> None:
    found = json.loads(call(status, partly, "--json"))
    points = found["points"]
    keys = {
        "id",
        "role",
        "arch",
        "depth",
        "width",
        "strategy",
        "fold",
        "seed",
        "state",
        "mae_bpm",
        "error_bpm",
        "tracked_bpm",
    }
    assert all(set(p) == keys for p in points)
    assert len(points) == found["total"] == 6
    assert sorted(p["state"] for p in points) == ["done"] * 5 + ["failed"]
    assert all((p["mae_bpm"] is None) == (p["state"] == "failed") for p in points)
    monkeypatch.setenv("COLUMNS", "80")
    text = call(status, partly, "--all")
    assert all(len(line) <= 80 for line in text.splitlines() if str(partly) not in line), text
    assert "\x1b" not in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    for p in points:
        assert rows[p["id"]][1:3] == [p["strategy"], f"{p['arch']}-{p['depth']}x{p['width']}"]
        assert p["state"] in rows[p["id"]]
    assert points[0]["id"] not in call(status, partly).splitlines()[0]


def test_states_of_points_that_wait_run_or_are_blocked(fitted_sweep: Path, tmp_path: Path) -> None:
    found = json.loads(call(status, fitted_sweep, "--json"))
    states = {p["id"]: p["state"] for p in found["points"]}
    assert states == {"bad": "failed", "blocked": "blocked", "open": "left"}
    assert found["left"] == found["blocked"] == found["failed"] == 1


def test_the_best_are_told_at_80_columns(partly: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = json.loads(call(status, partly, "--json"))
    text = in_words(found)
    assert found["best"]
    for best in found["best"].values():
        assert any(best["point"] in line and best["model"] in line for line in text.splitlines())


def test_a_large_running_sweep_is_told_in_80_columns(partly: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    now = json.loads(call(status, partly, "--json"))
    now |= {"sweep": "quickstart", "state": "running", "total": 12345, "done": 6000, "failed": 12}
    now |= {"blocked": 345, "left": 5988, "slots": 128, "host": "gpu-node-0123", "rate_per_h": 9000.0}
    now |= {"eta_s": 4321.0, "running": [{"point": "ab" * 6, "epoch": 3, "max_epochs": 30}]}
    kinds = ("teacher", "scratch", "hard", "soft", "dkd", "feature")
    now["used_by"] = {kind: {"gpu_hours": 123.456, "slot_hours": 500.0} for kind in kinds}
    text = in_words(now)
    assert all(len(line) <= 80 for line in text.splitlines() if str(partly) not in line), text
    assert "6000/12345 done, 12 failed, 345 blocked, 5988 left" in text
    assert f"tracked, BPM: scratch {now['best']['scratch']['tracked_bpm']:.2f}" in text
    assert all(f"{kind} 123.456" in text for kind in kinds)


def test_results_of_a_run_are_whole_and_a_cut_list_names_the_command_that_has_all(
    partly: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    results = [r | {"width": 1024, "params": 12345678, "teacher": r["id"]} for r in Store(partly).results()]
    print_results(results, partly, Headline(), most=2)
    *rows, metric, last = capsys.readouterr().out.splitlines()
    assert metric == "error: mean over windows; RMSE and within 5 BPM: over windows"
    assert last == f"3 more: kdsweep status {partly} --all"
    assert len(rows) == 3
    assert all(len(row) <= 80 and "…" not in row for row in rows)
    assert {row.split()[0] for row in rows[1:]} < {r["id"] for r in results}
    assert all("12,345,678" in row for row in rows[1:])
