"""Quantisation-aware fine-tuning: forward the reference to the bit; killed, it ends with the same weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd.edge.int8.aware import LR_SHARE, AwareRun, aware_spec, straight_through
from kd.edge.int8.quantise import Ranges, quantise, walked
from kd.models.architectures import build
from kd.training.recipe import Recipe, Spec
from kd.training.teacher import TeacherOutputs, as_tensor, outputs
from kd.training.train import Run

SHAPES = [("resnet1d", 6, 3), ("resnet1d-post", 6, 3), ("mlp", 2, 5)]


def model_of(arch, depth, width, samples=64):
    torch.manual_seed(0)
    model = build(arch, depth, width, channels=1, samples=samples)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.3)
            torch.nn.init.normal_(module.bias, std=0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def windows_of(many, seed, samples=64):
    return np.random.default_rng(seed).standard_normal((many, 1, samples)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[0])
def test_forward_is_the_reference_to_the_bit_and_every_weight_learns(shape):
    model, arch = model_of(*shape), shape[0]
    ranges = Ranges(model, windows_of(32, 0))
    x = torch.from_numpy(3 * windows_of(20, 1))  # beyond what calibration saw
    with torch.no_grad():
        model.fc.weight *= 1.3  # after the ranges were taken, as an optimiser's step does
        next(model.parameters()).mul_(1.2)
    with straight_through(model, arch, ranges):
        logits = model.fc(model.features(x))
        logits.square().mean().backward()
    student, _ = walked(model, arch, ranges)
    np.testing.assert_array_equal(logits.detach().numpy(), student.logits(x.numpy()))
    exact = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert all(bool(p.grad.abs().max() > 0) for p in model.parameters())
    model.zero_grad()
    float_logits = model.fc(model.features(x))  # no hook is left
    assert not np.array_equal(float_logits.detach().numpy(), logits.detach().numpy())
    float_logits.square().mean().backward()
    real = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.nn.functional.cosine_similarity(exact, real, 0) > 0.5


def test_no_gradient_passes_where_a_map_is_cut_off():
    model = model_of("mlp", 1, 4)
    ranges = Ranges(model, windows_of(32, 0))
    x = torch.from_numpy(windows_of(8, 1))
    with torch.no_grad():
        model.hidden[1].bias[0] = 1000.0  # far beyond the steps it was given
    with straight_through(model, "mlp", ranges):
        model.fc(model.features(x)).square().mean().backward()
    assert model.hidden[1].bias.grad[0] == 0
    assert model.hidden[1].bias.grad[1:].abs().max() > 0


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """A teacher, and a student of its features after one epoch: its spec, folder and weights."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe(max_epochs=1, batch_size=64, lr=4e-3)
    teacher = Run(Spec("t", "teacher", "mlp", 1, 8, recipe=recipe), small_data, folder / "t")
    teacher.step()
    teacher.finish()
    spec = Spec("s", "student", "resnet1d-post", 2, 2, strategy="feature", teacher="t", recipe=recipe)
    run = Run(spec, small_data, folder / "s", teacher_folder=folder / "t")
    run.step()
    return spec, folder / "t", run.best_state(0)


def fine_tune(trained, data, folder, epochs=2):
    spec, teacher, weights = trained
    calibration = data.train.x[::8]
    return AwareRun(aware_spec(spec, epochs), weights, data, calibration, folder, teacher_folder=teacher)


def test_killed_it_ends_with_the_same_weights_and_validation_is_the_integers_own(
    trained, small_data, tmp_path
):
    spec, _, weights = trained
    run = fine_tune(trained, small_data, tmp_path / "whole")
    assert (run.spec.recipe.lr, run.spec.strategy) == (pytest.approx(LR_SHARE * 4e-3), "feature")
    connector, model = run.connector, run.shape.build()
    model.load_state_dict(dict(weights))
    features = outputs(model, as_tensor(small_data.train.x))[1]
    wanted = TeacherOutputs(spec, trained[1], len(features), torch.device("cpu")).features
    error = (connector(features) - wanted).square().mean().detach()  # fitted, not random
    assert error < wanted.var(0).mean()
    rows = [run.step(), run.step()]
    assert run.step() is None
    half = fine_tune(trained, small_data, tmp_path / "half")
    half.step()
    half.checkpoint()
    again = fine_tune(trained, small_data, tmp_path / "half")
    assert again.epoch == 1
    assert again.step()["val_mae_bpm"] == rows[1]["val_mae_bpm"]
    for name, tensor in run.model_chosen().state_dict().items():
        assert torch.equal(tensor, again.model_chosen().state_dict()[name]), name
    history = [json.loads(line) for line in (tmp_path / "half" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    best = min(row["val_mae_bpm"] for row in rows)
    assert run.chosen == (0 if best >= run.before else run.members[0].best_epoch)
    student = quantise(run.model_chosen(), spec.arch, small_data.train.x[::8])
    logits = torch.from_numpy(student.logits(small_data.val.x)).softmax(1).double()
    bpm = logits @ torch.arange(small_data.min_bpm, small_data.min_bpm + small_data.classes).double()
    found = np.abs(bpm.numpy() - small_data.val.bpm).mean()
    assert found == pytest.approx(min(best, run.before), abs=1e-3)


def test_an_epoch_that_is_no_better_is_not_chosen(trained, small_data, tmp_path):
    spec, teacher, weights = trained
    wild = replace(aware_spec(spec, 1), recipe=replace(spec.recipe, max_epochs=1, lr=3.0))
    run = AwareRun(wild, weights, small_data, small_data.train.x[::8], tmp_path, teacher_folder=teacher)
    row = run.step()
    assert row["val_mae_bpm"] > run.before
    assert run.chosen == 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in run.model_chosen().state_dict().items())
