"""What commands say of brought teachers: the index of windows, the plan, wrong uses, reports, cards."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from kd.signals.prepare import DataConfig, prepare
from orchestrator.commands import main as cli
from orchestrator.edge import model_card
from orchestrator.report import page
from orchestrator.space.schema import load_space, space_text
from orchestrator.words import UNSEEN, model_name

SPACE = """\
name: s
data: {options: {subjects: 6, minutes: 1}}
teachers:
  - TEACHER
students: {arch: mlp, depth: 1, width: 4}
strategies: {soft: {}, feature: {}, hard: {}}
"""


def space(folder: Path, teacher: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(SPACE.replace("TEACHER", teacher))
    return path


def call(*words: object) -> str:
    """What a command says, on one line: where it wraps depends on the length of the paths in it."""
    result = CliRunner().invoke(cli.cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_index_of_windows_is_written_before_its_outputs_are_there_and_the_plan_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    path = space(tmp_path, "{name: ready, outputs: ready, params: 5800000}")
    (tmp_path / "ready").mkdir()
    said = call("data", "windows", path, "-o", "ready/windows.parquet")
    index = pd.read_parquet("ready/windows.parquet")
    assert f"{len(index):,} windows in ready/windows.parquet" in said
    assert list(index["window"]) == list(range(len(index)))
    assert (index["end_s"] - index["start_s"] == 8).all()
    assert index["subject"].nunique() == 6
    np.save("ready/logits.npy", np.zeros((len(index), 180), np.float32))
    said = call("plan", path)
    assert "brought: ready (outputs), 5,800,000 parameters, unknown MACs; its pass over all windows" in said
    assert UNSEEN[:40] in said
    assert "refused: feature from teacher ready: it gives no features" in said


def test_the_plan_says_whose_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "port.py").write_text(
        "class A:\n"
        "    fs = 25\n"
        "    window_s = 10\n"
        "    def load(self, weights): pass\n"
        "    def outputs(self, x): return x[:, 0, :180]\n"
    )
    said = call("plan", space(tmp_path, "{name: a, port: 'port.py:A'}"))
    assert "6 windows dropped for all: a teacher's longer window reaches outside the recording" in said
    assert f"the code of {tmp_path}/port.py runs" in said


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("{name: a, onnx: x.onnx, outputs: y}", "it is onnx and outputs: give one of onnx, port"),
        ("{name: a, onnx: x.onnx}", "an ONNX file doesn't say what it takes: give input"),
        ("{name: a, sweep: x}", "sweep and point go together"),
        ("{name: a, port: x.py}", "port is FILE.py:CLASS"),
        ("{name: mlp, outputs: x}", "mlp is an architecture: choose another name"),
        ("{name: a, outputs: x, input: {fs: 3}}", "input is not for outputs"),
        ("{name: a, outputs: x, output: bpm, bins: {min_bpm: 3}}", "bins are those of logits"),
        ("{name: a, outputs: x, precision: bfloat16}", "precision is that of a port's pass"),
        ("{name: a, outputs: x, finetune: {}}", "finetune is for a port with output: embedding"),
        ("{name: a, outputs: x, witdh_bpm: 3}", "unknown key; did you mean width_bpm?"),
        (
            "{name: a, outputs: x, output: logit}",
            "Input should be 'logits', 'bpm', 'gaussian' or 'embedding'",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense_is_told_with_its_line(
    tmp_path: Path, teacher: str, said: str
) -> None:
    path = space(tmp_path, teacher)
    with pytest.raises(InputError) as told:
        load_space(path)
    assert said in str(told.value)
    assert f"{path}:4: teachers.0" in str(told.value)


def test_files_and_members_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.space.resolve import space_of

    monkeypatch.chdir(tmp_path)
    onnx = "{name: a, onnx: x.onnx, input: {fs: 25, window_s: 8}}"
    for teacher, said in (
        (onnx, r"teacher a: .*x.onnx: no such file"),
        ("{name: a, port: 'x.py:A'}", r"x.py: no such port"),
        (
            "{name: a, mean: [b, resnet1d-8x32]}",
            r"mean: no teacher 'b': brought are none, and none is",
        ),
    ):
        with pytest.raises(InputError, match=said):
            space_of(str(space(tmp_path, teacher)), (), None)


def test_a_space_with_brought_teachers_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = space(tmp_path, "{name: a, onnx: x, input: {fs: 25, window_s: 8}, bins: {min_bpm: 20}}")
    read = load_space(path)
    path.write_text(space_text(read))
    assert load_space(path) == read


def test_report_and_card_say_what_cannot_be_known(tmp_path: Path) -> None:
    brought = {"kind": "onnx", "same_split": False}
    teacher = {"id": "t", "arch": "mine", "depth": 1, "width": 1, "params": 0, "mae_bpm": 3.0}
    results = [{**teacher, "role": "teacher", "brought": brought}, {"id": "s", "role": "student"}]
    sweep = SimpleNamespace(results=results, teacher=lambda id: "mine")
    assert page._brought(sweep) == [f"mine: {UNSEEN}."]
    results[0]["brought"] = brought | {"same_split": True}
    assert page._brought(sweep) == []

    windows = prepare(DataConfig(options={"subjects": 6, "minutes": 1}), tmp_path)
    store = SimpleNamespace(result=lambda id: {**teacher, "brought": brought})
    opened = SimpleNamespace(windows=windows, store=store, data=SimpleNamespace(source="synthetic"))
    student = {"strategy": "soft", "strategy_args": {}, "init": "random", "teacher": "t", "seed": 0}
    student |= {"best_epoch": 1, "epochs": 1, "versions": {}, "git_commit": None, "recipe_version": 1}
    text = "\n".join(model_card._training(opened, student))
    assert "- teacher: `t`, mine, unknown parameters, MAE 3.00 BPM" in text
    assert f"the teacher is brought (onnx): {UNSEEN}" in text


def test_report_and_card_tell_of_windows_without_labels(tmp_path: Path) -> None:
    results = [{"unlabelled_windows": n} for n in (1200, 4000)]
    (said,) = page._unlabelled(SimpleNamespace(results=[*results, {"id": "t"}]))
    assert said.startswith("2 students also learnt from 1,200 to 4,000 windows without labels")
    assert page._unlabelled(SimpleNamespace(results=[{"id": "t"}])) == []

    windows = prepare(DataConfig(options={"subjects": 6, "minutes": 1}), tmp_path)
    opened = SimpleNamespace(windows=windows, store=None, data=SimpleNamespace(source="synthetic"))
    student = {"strategy": "soft", "strategy_args": {}, "init": "random", "teacher": None, "seed": 0}
    student |= {"best_epoch": 1, "epochs": 1, "versions": {}, "git_commit": None, "recipe_version": 1}
    text = "\n".join(model_card._training(opened, student | {"unlabelled_windows": 1200}))
    assert "- 1,200 windows without labels besides" in text
    assert "without labels" not in "\n".join(model_card._training(opened, student))


def test_names_of_models() -> None:
    assert model_name("resnet1d", 8, 32) == "resnet1d-8x32"
    assert model_name("mine", 1, 1, "{} {}x{}") == "mine"
