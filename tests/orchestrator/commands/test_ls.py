"""`kdsweep ls`: every sweep in a directory with its counts, also one that can't be read."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.commands import main as cli
from orchestrator.commands.ls import ago
from orchestrator.run.sweeps import overview, sweeps_in
from orchestrator.space.plan import Plan
from orchestrator.store.metric import error_of


@pytest.fixture
def sweeps(tiny_sweep, fitted_sweep, tmp_path):
    folder = tmp_path / "sweeps"
    shutil.copytree(tiny_sweep, folder / "tiny")
    shutil.copytree(fitted_sweep, folder / "fitted")
    (folder / "broken").mkdir()
    (folder / "broken" / "space.yaml").write_text("name: broken\n")
    (folder / "broken" / "plan.json").write_text("{")
    (folder / ".cache").mkdir()
    return folder


def test_counts_best_and_activity(sweeps):
    found = {sweep["sweep"]: sweep for sweep in sweeps_in(sweeps)}
    assert set(found) == {"tiny", "fitted", "broken"}
    tiny, fitted, broken = found["tiny"], found["fitted"], found["broken"]
    assert (tiny["state"], tiny["done"], tiny["failed"], tiny["total"]) == ("done", 6, 0, 6)
    results = [json.loads(p.read_text()) for p in (sweeps / "tiny" / "points").glob("*/result.json")]
    assert tiny["best"]["error_bpm"] == min(map(error_of, results))
    assert (fitted["done"], fitted["failed"], fitted["blocked"], fitted["total"]) == (0, 1, 1, 3)
    assert broken["state"] == "unreadable"
    assert "plan.json" in broken["why"]
    assert tiny["last_activity"] > "2026"


def test_the_plan_of_a_sweep_that_ended_well_is_not_read(sweeps, monkeypatch):
    folder = sweeps / "tiny"
    before = overview(folder)
    beat = {"state": "SUCCEEDED", "time": 1.0, "host": "h", "pid": 1, "total": 6, "done": 6}
    (folder / "progress.json").write_text(json.dumps(beat))
    read = []
    monkeypatch.setattr(Plan, "load", lambda path, load=Plan.load: read.append(path) or load(path))
    assert overview(folder) | {"last_activity": None} == before | {"last_activity": None}
    assert not read
    point = next((folder / "points").iterdir())
    (point / "result.json").rename(point / "result.json.broken")  # as `kdsweep retry` does
    assert (overview(folder)["done"], overview(folder)["state"]) == (5, "stopped")
    (point / "result.json.broken").rename(point / "result.json")
    os.utime(folder / "plan.json", (2e9, 2e9))  # planned anew since
    del read[:]
    assert overview(folder)["total"] == 6
    assert read


def test_the_latest_active_comes_first(sweeps):
    (sweeps / "tiny" / "ledger.jsonl").touch()
    future = datetime.now(UTC).timestamp() + 100
    os.utime(sweeps / "tiny" / "ledger.jsonl", (future, future))
    assert next(iter(sweeps_in(sweeps)))["sweep"] == "tiny"


def test_people_and_programs_read_the_same(sweeps, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = CliRunner().invoke(cli.cli, ["ls", str(sweeps), "--json"])
    assert json.loads(run.stdout) == sweeps_in(sweeps)
    text = CliRunner().invoke(cli.cli, ["ls", str(sweeps)]).stdout
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    row = next(line.split() for line in text.splitlines() if line.startswith("tiny"))
    assert row[:5] == ["tiny", "done", "6", "0", "6"]


def test_a_sweep_itself_and_no_directory(sweeps):
    assert [s["sweep"] for s in sweeps_in(sweeps / "tiny")] == ["tiny"]
    with pytest.raises(InputError, match="no such directory"):
        sweeps_in(sweeps / "nowhere")
    assert overview(sweeps / "tiny") == sweeps_in(sweeps / "tiny")[0]


def test_a_sweep_without_a_plan_has_no_total(sweeps):
    (sweeps / "tiny" / "plan.json").unlink()
    found = overview(sweeps / "tiny")
    assert (found["state"], found["done"], found["total"]) == ("no plan", 6, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s ago"), (119, "119 s ago"), (600, "10 min ago"), (7300, "2 h ago")]
)
def test_how_long_ago(seconds, text):
    assert ago((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == text
