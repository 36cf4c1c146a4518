"""The training loop on a few hundred windows: it learns, resumes to the bit, and says when it can't."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from kd.errors import InputError
from kd.files import sha256
from kd.signals.prepare import Data
from kd.training import teacher as teacher_outputs
from kd.training.member import Member
from kd.training.objective import Labels
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape
from kd.training.teacher import outputs
from kd.training.train import Diverged, Run, evaluate, figures, load_model, write

RECIPE = Recipe(max_epochs=4, batch_size=32, lr=3e-3)
TEACHER = Spec(id="t", role="teacher", arch="resnet1d", depth=2, width=8, recipe=RECIPE)
STRATEGIES = {"scratch": None, "hard": "t", "soft": "t", "dkd": "t", "feature": "t"}


def student(strategy: str, **changes) -> Spec:
    spec = Spec(
        id=strategy,
        role="student",
        arch="resnet1d",
        depth=2,
        width=4,
        strategy=strategy,
        recipe=RECIPE,
        seed=1,
    )
    return dataclasses.replace(spec, teacher=STRATEGIES[strategy], **changes)


def train(run: Run) -> dict:
    while run.step() is not None:
        pass
    return run.finish()


def state(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def teacher(small_data: Data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    train(Run(TEACHER, small_data, folder))
    return folder


@pytest.mark.parametrize("arch", ["resnet1d", "mlp"])
def test_training_beats_always_the_median(small_data: Data, tmp_path, arch):
    recipe = dataclasses.replace(RECIPE, max_epochs=25)
    spec = dataclasses.replace(TEACHER, arch=arch, depth=2, width=16, recipe=recipe)
    result = train(Run(spec, small_data, tmp_path))
    median = float(np.median(small_data.train.bpm))
    constant = float(np.abs(small_data.test.bpm - median).mean())
    assert result["mae_bpm"] < 0.8 * constant
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows] == list(range(1, 26))
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert (
        result["val_mae_bpm"]
        == min(r["val_mae_bpm"] for r in rows)
        == rows[result["best_epoch"] - 1]["val_mae_bpm"]
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_run_ends_with_the_same_bits(small_data, teacher, tmp_path, strategy, killed_after):
    folders = {"teacher_folder": teacher if STRATEGIES[strategy] else None}
    whole = Run(student(strategy), small_data, tmp_path / "whole", **folders)
    train(whole)
    first = Run(student(strategy), small_data, tmp_path / "killed", **folders)
    for _ in range(killed_after):
        first.step()
    first.checkpoint()
    if killed_after < 3:
        first.step()  # an epoch that the checkpoint doesn't know
    (tmp_path / "killed" / ".checkpoint.pt.123.tmp").write_bytes(b"half a checkpoint")
    second = Run(student(strategy), small_data, tmp_path / "killed", **folders)
    assert second.epoch == killed_after
    result = train(second)
    assert state(tmp_path / "killed") == state(tmp_path / "whole")
    epochs = [
        json.loads(r)["epoch"] for r in (tmp_path / "killed" / "history.jsonl").read_text().splitlines()
    ]
    assert epochs == [1, 2, 3, 4]
    assert result["epochs"] == 4
    assert not list((tmp_path / "killed").glob(".*"))


def test_strategies_start_alike_and_end_apart(small_data, teacher, tmp_path):
    ends = {}
    for strategy, needs in STRATEGIES.items():
        run = Run(
            student(strategy), small_data, tmp_path / strategy, teacher_folder=teacher if needs else None
        )
        start = {k: v.clone() for k, v in run.model.state_dict().items()}
        ends.setdefault("start", start)
        assert all(torch.equal(start[k], ends["start"][k]) for k in start), strategy
        train(run)
        ends[strategy] = state(tmp_path / strategy)
    assert len({v for k, v in ends.items() if k != "start"}) == 5


def test_a_students_connector_learns_and_is_not_part_of_it(small_data, teacher, tmp_path):
    run = Run(student("feature"), small_data, tmp_path, teacher_folder=teacher)
    before = run.connector.weight.detach().clone()
    result = train(run)
    assert not torch.equal(before, run.connector.weight)
    plain = sum(p.numel() for p in run.model.parameters())
    assert result["params"] == plain
    assert b"connector" not in state(tmp_path)


def test_the_teachers_stored_outputs_are_its_outputs_and_it_stays_frozen(small_data, teacher, tmp_path):
    before = sha256(teacher / "model.safetensors")
    channels, samples = small_data.train.x.shape[1:]
    model = load_model(
        teacher, arch="resnet1d", depth=2, width=8, channels=channels, samples=samples, classes=180
    )
    logits, features = outputs(model, torch.from_numpy(np.array(small_data.train.x)))
    np.testing.assert_allclose(np.load(teacher / "logits.npy"), logits.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.load(teacher / "features.npy"), features.numpy(), rtol=1e-5, atol=1e-5)
    result = train(Run(student("dkd"), small_data, tmp_path, teacher_folder=teacher))
    assert result["teacher_sha256"] == before == sha256(teacher / "model.safetensors")


def test_a_teachers_outputs_are_written_as_they_come(tmp_path, monkeypatch):
    """The files numpy would write; none of them if it ends on the way."""
    monkeypatch.setattr(teacher_outputs, "EVAL_BATCH", 4)
    x, held = torch.randn(10, 1, 20), []

    def forward(batch):
        held.append(len(batch))
        return batch[:, 0, :7] * 2, batch[:, 0, :3]

    teacher_outputs.write_teacher_outputs(forward, x, tmp_path)
    assert held == [4, 4, 2]
    for name, array in (("logits", x[:, 0, :7] * 2), ("features", x[:, 0, :3])):
        np.save(tmp_path / "numpys.npy", array.numpy())
        assert (tmp_path / f"{name}.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()

    def broken(batch):
        if len(held) > 3:
            raise RuntimeError("broken")
        return forward(batch)

    (tmp_path / "other").mkdir()
    with pytest.raises(RuntimeError, match="broken"):
        teacher_outputs.write_teacher_outputs(broken, x, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_a_teacher_that_changes_meanwhile_is_noticed(small_data, tmp_path):
    train(Run(TEACHER, small_data, tmp_path / "t"))
    run = Run(student("soft"), small_data, tmp_path / "s", teacher_folder=tmp_path / "t")
    while run.step() is not None:
        pass
    with (tmp_path / "t" / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(AssertionError, match="changed while a student learned"):
        run.finish()


def test_divergence_names_the_epoch_and_the_cause(small_data, tmp_path):
    recipe = dataclasses.replace(RECIPE, lr=1e30, clip_norm=1e30)
    run = Run(dataclasses.replace(TEACHER, recipe=recipe), small_data, tmp_path)
    with pytest.raises(Diverged, match=r"epoch 1: .*learning rate"):
        train(run)


def test_a_student_without_its_teacher_is_refused(small_data, tmp_path):
    with pytest.raises(InputError, match="train the teacher first"):
        Run(student("soft"), small_data, tmp_path, teacher_folder=tmp_path / "nowhere")


def test_patience_stops_early(small_data, tmp_path):
    recipe = dataclasses.replace(RECIPE, max_epochs=50, lr=1e-9, patience=2)  # learns nothing
    result = train(Run(dataclasses.replace(TEACHER, recipe=recipe), small_data, tmp_path))
    assert result["epochs"] <= result["best_epoch"] + 2 < 50


def test_windows_per_epoch_bounds_the_steps(small_data, tmp_path):
    recipe = dataclasses.replace(RECIPE, windows_per_epoch=64)
    run = Run(dataclasses.replace(TEACHER, recipe=recipe), small_data, tmp_path)
    assert run.steps_per_epoch == 2


def test_evaluate_write_and_figures_each_alone(small_data, tmp_path):
    """An untrained model: its errors, its files and its record, without a run."""
    channels, samples = small_data.train.x.shape[1:]
    shape = Shape("resnet1d", 2, 8, channels, samples, small_data.classes)
    model, test = shape.build().eval(), small_data.test
    centres = torch.arange(30.0, 210.0)
    x = torch.from_numpy(np.array(test.x))
    errors, logits = evaluate(model, test, x, centres)
    assert logits.shape == (len(test), 180)
    with torch.no_grad():
        predicted = (model(x)[0].softmax(1) @ centres).numpy()
    assert errors["mae_bpm"] == pytest.approx(float(np.abs(predicted - test.bpm).mean()), rel=1e-4)
    assert list(errors["mae_by_subject"]) == sorted({str(subject) for subject in test.subject})
    write(model, shape, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    again = load_model(
        tmp_path, arch="resnet1d", depth=2, width=8, channels=channels, samples=samples, classes=180
    )
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    write(model, shape, tmp_path, x[:5])
    assert np.load(tmp_path / "logits.npy").shape == (5, 180)
    member = Member(TEACHER, tmp_path, None)
    record = figures(member, shape, model, errors)
    assert record["model_sha256"] == sha256(tmp_path / "model.safetensors")
    assert (record["epochs"], record["teacher_sha256"]) == (0, None)
    assert errors.items() <= record.items()
    with pytest.raises(AssertionError, match=r"resnet1d 2x9: \d+ parameters, not"):
        figures(member, dataclasses.replace(shape, width=9), model, errors)


def test_a_member_knows_how_far_it_is(tmp_path):
    recipe = dataclasses.replace(RECIPE, max_epochs=9, patience=2)
    member = Member(dataclasses.replace(TEACHER, recipe=recipe), tmp_path, None)
    bests = []
    for mae in (9.0, 8.0, 8.0, 8.5):
        assert not member.over
        row = member.trained(1.5, {"mae_bpm": mae}, 1e-3)
        assert row == {"epoch": member.epoch, "train_loss": 1.5, "val_mae_bpm": mae, "lr": 1e-3}
        bests.append(member.best_epoch)
    assert (bests, member.best_mae, member.over) == ([1, 2, 2, 2], 8.0, True)
    member = Member(TEACHER, tmp_path, None)
    assert isinstance(member.trained(math.nan, {"mae_bpm": 1.0}, 1e-3), Diverged)
    assert (member.over, member.epoch, member.best_epoch) == (True, 1, 0)


def test_labels():
    labels = Labels(torch.arange(30.0, 210.0), sigma_bpm=2.0)
    bpm = torch.tensor([30.0, 29.0, 72.4, 209.0, 400.0])
    assert labels.index(bpm).tolist() == [0, 0, 42, 179, 179]
    target = labels.target(torch.tensor([72.4]))
    torch.testing.assert_close(target.sum(1), torch.ones(1))
    assert target.argmax().item() == 42
    assert math.isclose(float(target @ labels.centres), 72.4, abs_tol=1e-3)
    ratio = float(target[0, 44] / target[0, 42])
    assert math.isclose(ratio, math.exp(-((74 - 72.4) ** 2 - (72 - 72.4) ** 2) / 8), rel_tol=1e-4)
