"""The benchmarks compare like with like: the naive script trains our models, a stack its members."""

import sys
from pathlib import Path

import pytest
import torch

from kd.models.architectures import build
from kd.training.objective import Labels, Objective
from kd.training.strategies import STRATEGIES

sys.path.insert(0, str(Path(__file__).resolve().parent))

import naive_tune
import stack_gpu


class Teacher:
    """Outputs of a teacher for a handful of windows."""

    logits, features = torch.randn(6, 180) * 3, torch.randn(6, 7)


@pytest.mark.parametrize(("arch", "depth", "width"), [("resnet1d", 5, 4), ("mlp", 2, 8)])
def test_the_naive_scripts_models_are_ours(arch, depth, width):
    ours = build(arch, depth, width)
    theirs = naive_tune.model_of({"arch": arch, "depth": depth, "width": width})
    state = {k: v.squeeze(2) if v.ndim == 4 else v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x = torch.randn(6, 1, 200)
    for mine, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_naive_scripts_losses_are_ours(strategy):
    generator = torch.Generator().manual_seed(1)
    logits, features = torch.randn(6, 180, generator=generator), torch.randn(6, 7, generator=generator)
    bpm = torch.tensor([30.0, 61.2, 72.4, 88.9, 120.0, 180.3])
    weights = STRATEGIES[strategy]()
    args = {"temperature": weights.temperature, **weights.terms}
    args |= {"alpha": weights.terms.get("tckd"), "beta": weights.terms.get("nckd")}
    args["weight"] = next((args[name] for name in ("hard", "soft", "feature") if name in args), None)
    point = {"strategy": strategy, "strategy_args": args, "recipe": {"label_sigma_bpm": 1.5}}
    taught = None if strategy == "scratch" else (Teacher.logits, Teacher.features)
    theirs = naive_tune.loss_of(point, (logits, features), taught, bpm, 0.5)
    labels = Labels(torch.arange(30.0, 210.0), 1.5)
    teachers = [None if strategy == "scratch" else Teacher()]
    objective = Objective([weights], labels, teachers)
    connected = {width: features.unsqueeze(0) for width in objective.featured}
    index = torch.arange(6).unsqueeze(0)
    ours = objective(logits.unsqueeze(0), connected, bpm.unsqueeze(0), index, torch.tensor([0.5]))
    torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-5)


def test_the_stack_that_is_timed_trains_its_members(monkeypatch):
    monkeypatch.setattr(stack_gpu, "WINDOWS", 512)
    windows = stack_gpu.Windows("cpu")
    for student in stack_gpu.QUICK:
        assert stack_gpu.check(windows, student, 2) < 1e-4
    rate = stack_gpu.stack_rate(("resnet1d", 2, 4), 2, windows, 1, "float32", 1)
    assert rate > 0
    memory, arithmetic = stack_gpu.floor_seconds(("resnet1d", 4, 14), stack_gpu.ROOF["H200"])
    assert 0 < arithmetic < memory < 1e-3
