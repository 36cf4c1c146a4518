"""`kdsweep show`: everything of one point, trained, failed or planned."""

import json

import pytest
from click.testing import CliRunner

from kd.errors import InputError
from orchestrator.api import open_sweep
from orchestrator.commands import main as cli
from orchestrator.commands.show import BARS, in_words, sparkline
from orchestrator.store.metric import error_of
from orchestrator.store.store import Store


def test_a_trained_point(tiny_sweep):
    id = min(Store(tiny_sweep).done())
    result = Store(tiny_sweep).result(id)
    run = CliRunner().invoke(cli.cli, ["show", str(tiny_sweep), id[:6], "--json"])
    found = json.loads(run.stdout)
    assert (found["point"], found["state"], found["result"]) == (id, "done", result)
    assert found["history"] == Store(tiny_sweep).history(id)
    assert found["files"]["result.json"] == (Store(tiny_sweep).folder(id) / "result.json").stat().st_size
    text = CliRunner().invoke(cli.cli, ["show", str(tiny_sweep), id[:6]]).stdout
    assert f"point {id} of tiny: done" in text
    assert f"{result['params']:,} parameters" in text
    assert (
        f"{error_of(result):.2f} BPM (mean over subjects); over windows MAE {result['mae_bpm']:.2f}" in text
    )
    assert "model.safetensors" in text
    for subject, mae in result["mae_by_subject"].items():
        assert any(subject in line and f"{mae:.2f}" in line for line in text.splitlines())


def test_a_failed_a_blocked_and_an_open_point(fitted_sweep):
    sweep = open_sweep(fitted_sweep)
    failed, blocked, left = (sweep.point(id) for id in ("bad", "block", "open"))
    assert (failed["state"], failed["students"]) == ("failed", ["blocked"])
    assert "Diverged" in in_words(failed)
    assert (blocked["state"], blocked["teacher"]["point"]) == ("open", "bad")
    assert (left["state"], left["result"], left["files"]) == ("open", None, {})
    assert "parameters" in in_words(left)
    with pytest.raises(InputError, match="no point 'zzz'"):
        sweep.point("zzz")


def test_the_teacher_is_shown_with_its_error(tmp_path, whole_result):
    store = Store(tmp_path)
    shape = {"arch": "mlp", "depth": 2, "width": 8, "params": 900}
    store.write_result("aa", whole_result("aa", **shape, mae_bpm=3.25))
    store.write_result("bb", whole_result("bb", **shape, mae_bpm=4.5, teacher="aa"))
    found = open_sweep(tmp_path).point("b")
    assert found["teacher"] == {"point": "aa", **shape, "mae_bpm": 3.25}
    assert open_sweep(tmp_path).point("a")["teacher"] is None


def test_a_sparkline_falls_with_the_curve():
    assert sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == BARS[::-1]
    assert sparkline([5.0, 5.0]) == BARS[0] * 2
    long = sparkline([1 / n for n in range(1, 1000)])
    assert len(long) == 60
    assert long[0] == BARS[-1]
    assert long[-1] == BARS[0]
