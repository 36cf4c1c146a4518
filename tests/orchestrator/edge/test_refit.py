"""A student trained on everybody: resumed when killed, exported; its error is the folds'."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from kd.errors import InputError
from kd.signals.synthetic import Synthetic, recordings
from orchestrator.api import open_sweep
from orchestrator.commands.evaluate import evaluate
from orchestrator.commands.export import export
from orchestrator.commands.profile import profile
from orchestrator.commands.refit import epochs_shown, refit
from orchestrator.edge import refit as edge
from orchestrator.store.metric import Headline
from orchestrator.store.refits import Refits
from orchestrator.store.store import Store


@pytest.fixture
def sweep(tiny_sweep, tmp_path):
    """A copy of the sweep whose points say that their second epoch of three was best."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_sweep, folder)
    for result in Store(folder).results():
        more = {"best_epoch": 2, "recipe": {**result["recipe"], "max_epochs": 3}}
        Store(folder).write_result(result["id"], result | more)
    return folder


def invoke(command, *words):
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_is_trained_on_everybody_and_has_no_test_error(sweep):
    point = next(Store(sweep).results())["id"]
    said = invoke(refit, str(sweep), point, "--dry-run")
    assert "would be trained on all 9 subjects" in said
    assert not Refits(sweep).ids()
    made = json.loads(invoke(refit, str(sweep), point, "--json"))
    assert made["epochs"] == 2
    assert len(made["trained_on"]) == 9
    assert "mae_bpm" not in made
    assert made["estimate"]["error_bpm"] == pytest.approx(
        Headline("by-window")(Store(sweep).result(point)), rel=0.2
    )
    assert open_sweep(sweep).refit(point)["finished_at"] == made["finished_at"]  # not trained again
    model, _ = open_sweep(sweep).model(made["id"])
    assert sum(p.numel() for p in model.parameters()) == made["params"]


def test_killed_it_ends_with_the_same_weights(sweep, monkeypatch):
    from kd.training.train import Run

    point = next(Store(sweep).results())["id"]
    whole = edge.refit_point(sweep, point)
    first = (Refits(sweep).folder(whole["id"]) / "model.safetensors").read_bytes()
    shutil.rmtree(sweep / "refit")
    step, calls = Run.step, []

    def killed(run):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return step(run)

    monkeypatch.setattr(Run, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        edge.refit_point(sweep, point)
    assert not Refits(sweep).done()
    monkeypatch.setattr(Run, "step", step)
    again = edge.refit_point(sweep, point)
    assert (Refits(sweep).folder(again["id"]) / "model.safetensors").read_bytes() == first


def test_a_running_sweep_is_left_alone(sweep, monkeypatch):
    monkeypatch.setattr("orchestrator.run.alone.is_running", lambda beat: True)
    with pytest.raises(InputError, match="is running"):
        edge.refit_point(sweep, next(Store(sweep).results())["id"])


def test_folds_and_seeds_make_one_estimate():
    def result(subject, error, fold):
        row = {"windows": 10, "abs_sum": 10 * error, "sq_sum": 0.0, "within_5": 0}
        return {"subjects": {subject: row}, "fold": fold, "seed": 0}

    found = edge.estimate_of([result(f"A/{i}", float(i), i) for i in range(3)], Headline("by-subject"))
    assert found["error_bpm"] == pytest.approx(1)
    assert found["how"] == "by 3-fold cross-validation"
    assert found["interval_90"][0] < 1 < found["interval_90"][1]


def test_export_prefers_it_and_says_so(sweep, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [edge]")
    point = next(Store(sweep).results())["id"]
    made = edge.refit_point(sweep, point)
    said = json.loads(invoke(export, str(sweep), point, "-o", str(tmp_path / "out"), "--json"))
    assert said["point"] == made["id"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "rained on all 9 subjects; error estimated" in card
    assert "it was not trained on" not in card
    assert point in invoke(export, str(sweep), point, "-o", str(tmp_path), "--dry-run", "--no-refit")


def written(path, people):
    meta, arrays = [], {}
    for name, r in zip("abcd", people, strict=False):
        meta.append({"name": name, "dataset": r.dataset, "subject": r.subject, "fs": r.fs})
        arrays |= {f"{name}/ppg": r.ppg, f"{name}/hr": r.hr}
    np.savez(path, meta_json=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return path


def test_evaluated_it_names_the_people_it_was_trained_on(sweep, tmp_path):
    made = edge.refit_point(sweep, next(Store(sweep).results())["id"])
    others = recordings(Synthetic(subjects=2, minutes=2, seed=99))
    own = [replace(r, subject=made["trained_on"][i].split("/")[1]) for i, r in enumerate(others)]
    others = [replace(r, dataset="new") for r in others]
    for name, people, known in (("mixed", [*own, *others], made["trained_on"][:2]), ("new", others, [])):
        path = written(tmp_path / f"{name}.npz", people)
        words = [str(sweep), made["id"], "--data", str(path)]
        done = CliRunner().invoke(evaluate, words, catch_exceptions=False)
        assert "own test subjects" not in done.output
        assert "rained on all 9 subjects; error estimated" in done.stdout
        assert done.stdout.count(", trained on") == len(known)
        assert ("warning:" in done.stderr) == bool(known)
        if known:
            assert f"was trained on 2 of these 4 subjects ({', '.join(known)})" in done.stderr
        found = open_sweep(sweep).evaluate(made["id"], path)
        assert (found["trained_on"], found["subjects_of_the_sweep"]) == (known, [])


def test_epochs_are_shown_as_a_bar_on_a_terminal_and_as_lines_elsewhere(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with epochs_shown(terminal) as (say, tick):
        say("reading \x1b[31m recordings")
        for epoch in range(3):
            tick("r12", epoch, 2)
    shown = terminal.getvalue()
    assert "epoch 0 of 2" in shown
    assert "epoch 2 of 2" in shown
    assert "reading \\x1b[31m recordings\n" in shown
    assert not capsys.readouterr().err
    with epochs_shown(io.StringIO()) as (say, tick):
        say("reading")
        for epoch in range(3):
            tick("r12", epoch, 2)
    assert capsys.readouterr().err == "reading\nr12: epoch 0 of 2\nr12: epoch 2 of 2\n"


def test_profile_and_the_card_agree_on_which_model_was_measured(sweep, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [edge]")
    point = next(r for r in Store(sweep).results() if r["role"] == "student")["id"]
    made = edge.refit_point(sweep, point)

    def card():
        invoke(export, str(sweep), point, "-o", str(tmp_path / "out"))
        return (tmp_path / "out" / "README.md").read_text()

    assert f"Latency is not measured: run `kdsweep profile --points {made['id']}`." in card()
    invoke(profile, str(sweep), "--points", point, "--runs", "20")
    assert f"measured on point `{point}`, which has the same shape" in card()
    table = invoke(profile, str(sweep), "--points", made["id"][:6], "--runs", "20")
    (row,) = [line for line in table.splitlines() if line.startswith(made["id"])]
    assert row.split()[-1] == "–"
    profiled = json.loads((sweep / "profile.json").read_text())["points"]
    assert set(profiled) == {point, made["id"]}
    (mine,) = profiled[made["id"]]["devices"].values()
    assert mine["model_sha256"] == made["model_sha256"]
    assert profiled[made["id"]]["mae_bpm"] == made["estimate"]["mae_bpm"]
    said = card()
    assert "which has the same shape" not in said
    assert (
        f"| {mine['fp32']['latency_ms']['median']:.3f} | {mine['int8']['latency_ms']['median']:.3f} |" in said
    )


SPACE = """
name: folds
data: {options: {subjects: 6, minutes: 2}, split: {scheme: kfold, folds: 3, use: [0, 1]}}
teachers: [{arch: mlp, depth: 1, width: [8]}]
students: [{arch: mlp, depth: 1, width: [4], init: pruned}]
strategies: {soft: {}}
training: {max_epochs: 2, batch_size: 64}
"""


def test_a_pruned_student_gets_a_teacher_that_saw_everybody(tmp_path):
    from dataclasses import asdict

    from kd.training.train import Run
    from orchestrator.run.worker import spec_of
    from orchestrator.space.resolve import open_space

    folder = tmp_path / "folds"
    folder.mkdir()
    (folder / "space.yaml").write_text(SPACE)
    opened = open_space(str(folder), [], None)
    opened.plan.save(folder / "plan.json")
    store = opened.store
    for point in opened.plan.points:
        teacher = store.folder(point.teacher) if point.teacher else None
        data = opened.of_fold(point.fold).windows
        run = Run(spec_of(point), data, store.folder(point.id), teacher_folder=teacher)
        while run.step() is not None:
            pass
        store.write_result(point.id, {**asdict(point), **run.finish()})
    students = [r for r in store.results() if r["role"] == "student"]
    made = edge.refit_point(folder, students[0]["id"])
    assert made["of_points"] == sorted(r["id"] for r in students)
    assert len(students) == 2
    assert made["estimate"]["how"] == "by 2-fold cross-validation"
    teacher = Refits(folder).result(made["teacher"])
    assert teacher["role"] == "teacher"
    assert teacher["trained_on"] == made["trained_on"]
    assert len(made["trained_on"]) == 6
    assert made["teacher_sha256"] == teacher["model_sha256"]
    assert edge.refit_point(folder, students[1]["id"])["finished_at"] == made["finished_at"]


def test_no_space_may_test_nobody(tmp_path):
    from orchestrator.space.schema import load_space

    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace("kfold, folds: 3, use: [0, 1]", "everybody"))
    with pytest.raises(InputError, match="tests nobody"):
        load_space(path)
