"""Python: calls return what the commands print, and leave the caller's process as it was."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from kd.errors import InputError
from kd.signals.prepare import load_recordings
from kd.signals.synthetic import Synthetic, recordings
from kd.signals.windows import subject_label
from orchestrator import open_sweep
from orchestrator.commands import main as cli
from orchestrator.space.resolve import open_space
from orchestrator.store.store import Store

HEAVY = ("torch", "ray", "mlflow", "matplotlib", "pandas", "scipy")


@pytest.fixture(scope="module")
def folder(tiny_sweep, tmp_path_factory):
    """`tiny_sweep` with its laws fitted, by way of Python, beside its cache of windows."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    shutil.copytree(tiny_sweep, folder)
    shutil.copytree(tiny_sweep.parent / ".cache", folder.parent / ".cache")
    open_sweep(folder).fit()
    return folder


def printed(*args):
    """What a command prints as JSON."""
    run = CliRunner().invoke(cli.cli, [*map(str, args), "--json"])
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def test_importing_it_costs_nothing_heavy() -> None:
    program = (
        "import sys, orchestrator\nfrom orchestrator import open_sweep\nfrom orchestrator.api import run\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout == "\n"


def test_a_sweep_by_path_and_by_name(folder, monkeypatch, tmp_path):
    assert open_sweep(folder) == open_sweep(str(folder))
    shutil.copytree(folder, tmp_path / "sweeps" / "mine")
    monkeypatch.chdir(tmp_path)
    assert len(open_sweep("mine").results()) == 6
    with pytest.raises(InputError, match="no sweep at nowhere"):
        open_sweep("nowhere")


def test_results_are_typed_and_whole(folder):
    sweep, store = open_sweep(folder), Store(folder)
    found = sweep.results()
    assert list(found["point"]) == sorted(store.done())
    types = {name: str(found[name].dtype) for name in ("params", "mae_bpm", "arch", "seed", "teacher")}
    assert types == {
        "params": "Int64",
        "mae_bpm": "Float64",
        "arch": "string",
        "seed": "Int64",
        "teacher": "string",
    }
    assert found["finished_at"].dtype == pd.DatetimeTZDtype("ns", "UTC")
    assert found["teacher"].isna().all()
    assert found["recipe.max_epochs"].tolist() == [1] * 6
    for row in found.to_dict("records"):
        result = store.result(row["point"])
        assert (row["mae_bpm"], row["params"]) == (result["mae_bpm"], result["params"])


def test_nested_figures_are_a_frame_of_their_own(folder):
    sweep, store = open_sweep(folder), Store(folder)
    found = sweep.results(by="subject")
    expected = {(r["id"], s): mae for r in store.results() for s, mae in r["mae_by_subject"].items()}
    assert dict(zip(zip(found["point"], found["subject"], strict=True), found["mae_bpm"], strict=True)) == (
        pytest.approx(expected)
    )
    assert list(sweep.results(by="dataset").columns) == ["point", "dataset", "mae_bpm"]
    with pytest.raises(InputError, match="by='wrist'"):
        sweep.results(by="wrist")


def test_an_empty_sweep_has_all_columns(tmp_path):
    (tmp_path / "points").mkdir()
    sweep = open_sweep(tmp_path)
    assert {"point", "mae_bpm", "finished_at"} <= set(sweep.results().columns)
    assert str(sweep.results()["params"].dtype) == "Int64"
    assert list(sweep.results(by="subject").columns)[:3] == ["point", "subject", "mae_bpm"]


def test_history_is_a_row_an_epoch_and_a_point_is_found_by_its_beginning(folder):
    sweep = open_sweep(folder)
    id = sweep.results()["point"][0]
    found = sweep.history(id[:6])
    assert found["epoch"].tolist() == [1]
    assert found["val_mae_bpm"][0] == Store(folder).history(id)[0]["val_mae_bpm"]
    with pytest.raises(InputError, match="points start with ''"):
        sweep.history("")
    with pytest.raises(InputError, match="no point 'zz'"):
        sweep.history("zz")


def test_python_and_the_commands_say_the_same(folder, tmp_path):
    sweep = open_sweep(folder)
    assert sweep.status() == printed("status", folder)
    found = sweep.query(max_params=20000)
    assert found.as_dict() == printed("query", folder, "--max-params", 20000)
    reached = sweep.query(max_mae=80, confidence=0.5)
    assert reached.as_dict() == printed("query", folder, "--max-mae", 80, "--confidence", 0.5)
    laws = json.loads((folder / "laws.json").read_text())
    assert printed("fit", folder)["arms"] == laws["arms"]
    assert sweep.fit()["arms"] == laws["arms"]
    path = sweep.report(tmp_path / "report.html")
    assert path == tmp_path / "report.html"
    assert "<html" in path.read_text()[:500]


def test_a_suggestion_is_a_space_to_run(fitted_sweep, tmp_path):
    folder = tmp_path / "fitted"
    shutil.copytree(fitted_sweep, folder)
    (folder / "space.yaml").write_text("name: fitted\ndata: {source: synthetic}\n")
    document = json.loads((folder / "laws.json").read_text())
    document["arms"] = [a for a in document["arms"] if a["strategy"] == "scratch"]
    (folder / "laws.json").write_text(json.dumps(document))
    found = open_sweep(folder).suggest(0.01, out=tmp_path / "next.yaml")
    text = (tmp_path / "next.yaml").read_text()
    assert found.picks
    assert found.command in text
    again = printed("suggest", folder, "--gpu-hours", 0.01, "-o", tmp_path / "next.yaml")
    assert again["picks"] == list(found.picks)
    assert str(found.picks[0]["seed"]) in repr(found)
    assert found._repr_html_().count("<tr>") == 1 + len(found.picks)


def test_an_answer_shows_itself_as_text_and_as_a_table(fitted_sweep):
    found = open_sweep(fitted_sweep).query(max_params=20000)
    text = CliRunner().invoke(cli.cli, ["query", str(fitted_sweep), "--max-params", "20000"]).stdout
    assert repr(found) + "\n" == text
    shown = found._repr_html_()
    assert shown.startswith("<table>")
    assert "<script>" not in shown, "a strategy's name is text"
    assert f"{found.best['params']:,}" in shown
    with pytest.raises(AttributeError):
        found.verdict = "ok"
    refused = open_sweep(fitted_sweep).query(max_params=1)
    assert refused.verdict == "refuse"
    assert refused.why in repr(refused)
    with pytest.raises(InputError, match="did you mean max_params"):
        open_sweep(fitted_sweep).query(max_parms=3)


def test_a_model_and_its_preprocessing_reproduce_the_sweeps_error(folder):
    sweep = open_sweep(folder)
    best = sweep.results().sort_values("mae_bpm").iloc[0]
    model, prepare = sweep.model(best["point"][:6])
    assert not model.training
    opened = open_space(str(folder), [], None)
    tested = set(map(str, np.unique(opened.windows.test.subject)))
    windows = prepare([r for r in load_recordings(opened.data) if subject_label(r) in tested])
    with torch.inference_mode():
        bpm = prepare.decode(model(torch.from_numpy(windows.x))[0])
    assert np.abs(bpm - windows.bpm).mean() == pytest.approx(best["mae_bpm"], abs=1e-3)
    one = prepare(recordings(Synthetic(subjects=3, minutes=1, seed=5))[0])
    assert one.x.shape[1:] == windows.x.shape[1:]


DOCS = Path(__file__).resolve().parents[2] / "docs"
QUICKSTART = """
name: quickstart
data: {options: {subjects: 9, minutes: 2}}
students:
  - {arch: resnet1d, depth: 1, width: [3, 5, 8, 12, 16]}
  - {arch: mlp, depth: 1, width: [4, 8]}
training: {max_epochs: 1, batch_size: 64}
"""


def in_a_process(program, folder):
    """Run Python text in a process of its own, with no Ray of somebody else around."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = os.pathsep.join([os.getcwd(), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**kept, "HOME": str(folder), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=250,
    )


def snippets(path):
    """The Python blocks of a Markdown file, as one program."""
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))


@pytest.mark.cluster
@pytest.mark.timeout(600)  # two processes that train
def test_the_documents_run_as_they_stand(tmp_path):
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "quickstart.yaml").write_text(QUICKSTART)
    script = in_a_process((DOCS / "first_sweep.py").read_text(), tmp_path)
    assert script.returncode == 0, script.stderr[-3000:]
    assert "7 of 7 points done" in script.stdout
    assert "BPM on new wrists" in script.stdout
    assert "expected regret" in script.stdout, "the laws answered, and what to train next was suggested"
    assert (tmp_path / "sweeps" / "quickstart" / "report.html").is_file()
    assert snippets(DOCS / "python.md").count("import") >= 4
    read = in_a_process(snippets(DOCS / "python.md"), tmp_path)
    assert read.returncode == 0, read.stderr[-3000:]
    assert read.stdout.splitlines()[-1] == "7 []"


def test_evaluating_on_other_recordings(folder, tmp_path):
    made = recordings(Synthetic(subjects=3, minutes=1, seed=5))
    meta = [{"name": r.name, "dataset": r.dataset, "subject": r.subject, "fs": r.fs} for r in made]
    arrays = {f"{r.name}/{key}": getattr(r, key) for r in made for key in ("ppg", "hr")}
    np.savez(tmp_path / "w.npz", meta_json=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    found = open_sweep(folder).evaluate("best", tmp_path / "w.npz")
    assert found == printed("evaluate", folder, "best", "--data", tmp_path / "w.npz")
    model, prepare = open_sweep(folder).model("best")
    windows = prepare(tmp_path / "w.npz")
    with torch.inference_mode():
        bpm = prepare.decode(model(torch.from_numpy(windows.x))[0])
    assert np.abs(bpm - windows.bpm).mean() == pytest.approx(found["mae_bpm"], abs=1e-3)


RUN = """
import os, signal, sys
import ray, ray.tune  # as a notebook may have done long before
from kd.errors import InputError
from orchestrator.api import open_sweep, run

def state():
    return {s: signal.getsignal(s) for s in signal.valid_signals()}, dict(os.environ)

before = state()
sweep = run("space.yaml", ["training.max_epochs=1"], out="made", dashboard=False)
assert state() == before, "handlers and environment are given back"
assert (sweep.last_run.done, sweep.last_run.total, len(sweep.results())) == (1, 1, 1)
assert not ray.is_initialized()
again = run("space.yaml", ["training.max_epochs=1", "students.0.width=[4,5]"], out="made", dashboard=False)
assert (again.last_run.already_done, again.last_run.done) == (1, 2), "and a second time in the same process"
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)  # the caller's own, with its own token
try:
    run("space.yaml", out="other", dashboard=False)
except InputError as error:
    assert "ray.shutdown() first" in str(error), error
else:
    raise AssertionError("two Rays in one process")
assert ray.get(ray.put(1)) == 1, "the caller's Ray still works"
ray.shutdown()
"""
THREAD = """
import threading
from orchestrator.api import run
found = []
thread = threading.Thread(target=lambda: found.append(run("space.yaml", out="made", dashboard=False)))
thread.start()
thread.join()
assert found[0].last_run.done == 1
"""
SPACE = """
data: {options: {subjects: 9, minutes: 2}}
students:
  - {arch: mlp, depth: 1, width: [4]}
training: {max_epochs: 1, batch_size: 64}
"""


@pytest.mark.cluster
@pytest.mark.parametrize("program", [RUN, THREAD], ids=["after ray was imported", "in a thread"])
def test_run_works_in_a_process_that_has_a_life_of_its_own(tmp_path, program):
    (tmp_path / "space.yaml").write_text(SPACE)
    out = in_a_process(program, tmp_path)
    assert out.returncode == 0, out.stderr[-3000:]
    assert out.stdout == "", "data on stdout is the commands' business"
