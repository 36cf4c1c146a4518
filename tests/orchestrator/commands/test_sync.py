"""`kdsweep sync` when MLflow is away or the sweep is a copy, and the command that `kdsweep run` prints."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kd.signals.prepare import Data
from kd.signals.windows import Dropped, WindowSet
from orchestrator.commands.fit import _source
from orchestrator.commands.main import main
from orchestrator.commands.run import _tell
from orchestrator.run.outcome import SweepResult
from orchestrator.space.planning import make_plan
from orchestrator.space.schema import SearchSpace
from orchestrator.store.store import Store
from orchestrator.tracking.memory import sweep_id

AWAY = "http://127.0.0.1:9"
SPACE = {
    "name": "synced",
    "teachers": [{"arch": "mlp", "depth": 2, "width": 8}],
    "students": [{"arch": "mlp", "depth": 2, "width": [4]}],
    "strategies": {"scratch": None},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    names = np.array(["a"] * 10)
    side = WindowSet(np.zeros((10, 1, 200), np.float32), np.zeros(10, np.float32), names, names)
    plan = make_plan(SearchSpace.model_validate(SPACE), Data(side, side, side, "f", Dropped(), 30, 180))
    folder = tmp_path / "a b"
    folder.mkdir()
    plan.save(folder / "plan.json")
    (folder / "space.yaml").write_text(json.dumps(SPACE), encoding="utf-8")
    return folder


def code_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["kdsweep", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_server_that_is_away_is_one_line_and_exit_code_75(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert code_of(monkeypatch, "sync", sweep, "--tracking-uri", AWAY) == 75
    out, err = capfd.readouterr()
    assert err.startswith(f"error: MLflow at {AWAY} is away (")
    assert (out, err.count("\n")) == ("", 1)


def test_a_copy_is_asked_about_before_the_server_is(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep_id(Store(sweep), AWAY, private=False, say=print)
    copy = Path(shutil.copytree(sweep, sweep.with_name("c d")))
    assert code_of(monkeypatch, "sync", copy, "--tracking-uri", AWAY) == 2
    assert f"kdsweep sync '{copy}' --tracking-uri {AWAY} --copy fork" in capfd.readouterr().err
    assert code_of(monkeypatch, "sync", copy, "--tracking-uri", AWAY, "--copy", "fork") == 75


@pytest.mark.parametrize(
    ("uri", "option"),
    [
        (None, ""),
        (AWAY, f" --tracking-uri {AWAY}"),
        ("http://me:pw@h", ' --tracking-uri "$MLFLOW_TRACKING_URI"'),
    ],
)
def test_the_command_that_mends_it_carries_its_options_and_no_password(
    sweep: Path, capfd: pytest.CaptureFixture[str], uri: str | None, option: str
) -> None:
    plan = SimpleNamespace(points=[])
    opened = SimpleNamespace(plan=plan, store=Store(sweep), data=SimpleNamespace(source="x"))
    _tell(opened, SweepResult(1, 0, 0, tracking_error="away"), uri)
    said = capfd.readouterr().err
    assert f"MLflow is incomplete (away): kdsweep sync '{sweep}'{option}\n" in said
    assert "pw" not in said


def test_an_experiments_name_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.commands.fit.from_mlflow", lambda *_: None)
    for name in ("../../x", "/etc", "..", "a/b", "plain"):
        folder = _source(None, AWAY, name, None)[1]
        assert folder.parent == Path("sweeps")
        assert folder.name
