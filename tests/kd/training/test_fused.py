"""The compiled engine does what torch does: gradients, steps, outputs; it ends and resumes alike."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kd.models.layers import by_member
from kd.signals.windows import WindowSet
from kd.training import compiled, fused
from kd.training.compiled import Unavailable
from kd.training.fused import FusedStack
from kd.training.metrics import class_centres
from kd.training.objective import Labels
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.train import Diverged, Run, evaluate

CLASSES = 40
SHAPES = [  # architecture, depth, width, channels, samples
    *[("resnet1d", *rest) for rest in ((1, 1, 1, 20), (2, 3, 2, 31), (3, 7, 1, 50), (5, 4, 1, 40))],
    *[("resnet1d", *rest) for rest in ((9, 2, 3, 37), (2, 13, 1, 24), (4, 8, 1, 8))],
    *[("mlp", *rest) for rest in ((1, 1, 1, 20), (2, 8, 2, 25), (3, 17, 1, 30))],
    *[("resnet1d-post", *rest) for rest in ((1, 1, 1, 20), (3, 7, 2, 31), (9, 2, 1, 37), (4, 8, 1, 40))],
    *[("tcn", *rest) for rest in ((1, 1, 1, 20), (4, 7, 2, 51), (5, 4, 1, 33))],
    *[("dscnn", *rest) for rest in ((1, 1, 1, 20), (4, 7, 2, 51), (6, 4, 1, 33))],
]
STRATEGIES = {
    "scratch": {},
    "hard": {"ce": 0.3, "weight": 0.7},
    "soft": {"temperature": 3.0},
    "dkd": {"temperature": 2.0, "window": 2},
    "feature": {"weight": 0.5},
    "soft_std": {},
    "dist": {"beta": 1.5, "gamma": 3.0, "temperature": 2.0},
}


@pytest.fixture(scope="module")
def engine() -> ctypes.CDLL:
    return compiled.library()


def inputs(spec: Spec, shape: Shape, draw: int) -> tuple[Any, ...]:
    """What a stack of one takes: 70 windows, fresh weights, a teacher with 11 features."""
    generator = torch.Generator().manual_seed(draw)
    x = torch.randn(70, shape.channels, shape.samples, generator=generator)
    bpm = 30 + 39 * torch.rand(70, generator=generator)
    teacher = SimpleNamespace(
        logits=3 * torch.randn(70, CLASSES, generator=generator),
        features=torch.randn(70, 11, generator=generator),
        besides=torch.arange(40, 70, dtype=torch.int32),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw)
        model = shape.build()
        connector = torch.nn.Linear(int(model.fc.in_features), 11)
        for parameter in model.parameters():  # norms too
            parameter.data += 0.1 * torch.randn(parameter.shape)
    start = Start(model.state_dict(), connector.state_dict())
    taught = None if spec.strategy == "scratch" else teacher
    return [spec], shape, [start], [taught], x, bpm


def as_dtype(given: tuple[Any, ...], dtype: torch.dtype) -> Stack:
    """The same in torch."""
    specs, shape, starts, teachers, x, bpm = given
    teachers = [
        t and SimpleNamespace(logits=t.logits.to(dtype), features=t.features.to(dtype), besides=t.besides)
        for t in teachers
    ]
    labels = Labels(class_centres(30, CLASSES), specs[0].recipe.label_sigma_bpm)
    return Stack(specs, shape, starts, teachers, x.to(dtype), bpm.to(dtype), labels, dtype=dtype)


def as_fused(given: tuple[Any, ...], engine: ctypes.CDLL) -> FusedStack:
    labels = Labels(class_centres(30, CLASSES), given[0][0].recipe.label_sigma_bpm)
    return FusedStack(engine, *given, labels)


def gradients(stack: Stack) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first batch of torch's own step."""
    stack._fill((1,))
    order = stack._orders[:, 0].t()
    features = stack.model.features(stack.x[order].flatten(1, 2))
    connected = {
        w: by_member(layer, stack._features_of(features, w)) for w, layer in stack.connectors.items()
    }
    logits, index = by_member(stack.model.fc, features), order.t()
    loss = stack.objective(logits, connected, stack.bpm[index], index, stack._ramp)
    loss.sum().backward()
    return float(loss.detach()), stack.optimiser.layout.of_member(stack.optimiser.gradient, 0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}-{s[1]}x{s[2]}x{s[3]}x{s[4]}")
def test_loss_gradients_and_outputs_are_those_of_float64(shape, strategy, engine) -> None:
    """Of three draws the best counts: a ReLU's input at 0 within rounding changes sign in any float32."""
    arch, depth, width, channels, samples = shape
    mine_off, torch_off = [], []
    for draw, batch in enumerate((33, 16, 5)):
        recipe = Recipe(max_epochs=30, batch_size=batch, label_sigma_bpm=1.5 if draw else 0.0)
        spec = Spec("s", "student", arch, depth, width, strategy=strategy, recipe=recipe)
        spec.strategy_args.update(STRATEGIES[strategy])
        given = inputs(spec, Shape(arch, depth, width, channels, samples, CLASSES), draw)
        mine, reference = as_fused(given, engine), as_dtype(given, torch.float64)
        assert mine.logits(mine.x).numpy() == pytest.approx(
            reference.logits(reference.x).numpy(), rel=1e-4, abs=1e-4
        )
        loss, got = mine.gradients([1])
        expected_loss, expected = gradients(reference)
        assert loss == pytest.approx(expected_loss, rel=2e-6)
        assert got.keys() == expected.keys()
        mine_off.append(off(got, expected))
        torch_off.append(off(gradients(as_dtype(given, torch.float32))[1], expected))
        assert mine._running.numpy() == pytest.approx(reference._running.numpy(), rel=1e-5, abs=1e-6)
    usual = sorted(torch_off)[1]  # of deep and tiny nets it is more, and varies with torch's threads
    assert min(mine_off) <= max(5e-6, usual)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "scratch"])
@pytest.mark.parametrize(
    "shape", SHAPES[1:2] + SHAPES[8:9] + SHAPES[11:12] + SHAPES[15:16], ids=lambda s: f"{s[0]}-{s[1]}x{s[2]}"
)
def test_windows_without_labels_weigh_what_torch_gives_them(shape, strategy, engine) -> None:
    """As above, of 70 windows the last 30 without labels."""
    arch, depth, width, channels, samples = shape
    mine_off = []
    for draw, (batch, share, weight) in enumerate(((33, 0.3, 0.4), (16, 0.5, 2.0), (21, 0.75, 1.0))):
        recipe = Recipe(max_epochs=30, batch_size=batch, label_sigma_bpm=1.5 if draw else 0.0)
        spec = Spec("s", "student", arch, depth, width, strategy=strategy, recipe=recipe)
        spec.strategy_args.update(STRATEGIES[strategy], unlabelled_share=share, unlabelled_weight=weight)
        *given, bpm = inputs(spec, Shape(arch, depth, width, channels, samples, CLASSES), draw)
        given = (*given, bpm[:40])
        mine, reference = as_fused(given, engine), as_dtype(given, torch.float64)
        assert mine.steps == 40 // (batch - round(share * batch))
        loss, got = mine.gradients([1])
        expected_loss, expected = gradients(reference)
        assert loss == pytest.approx(expected_loss, rel=2e-6)
        mine_off.append(off(got, expected))
    assert min(mine_off) <= 5e-6


def off(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference, as a share of its tensor's largest number, or of 3 % of all tensors'."""
    largest = max(float(g.abs().max()) for g in expected.values())
    scales = {name: max(float(g.abs().max()), 3e-2 * largest) for name, g in expected.items()}
    return max(float((found[name] - g).abs().max()) / scales[name] for name, g in expected.items())


def test_two_hundred_steps_of_adamw(engine: ctypes.CDLL) -> None:
    recipe = Recipe(clip_norm=0.5, weight_decay=0.1, batch_size=8)
    spec = Spec("s", "student", "resnet1d", 2, 5, recipe=recipe)
    given = inputs(spec, Shape("resnet1d", 2, 5, 1, 20, CLASSES), 0)
    mine, theirs, exact = (
        as_fused(given, engine),
        as_dtype(given, torch.float32),
        as_dtype(given, torch.float64),
    )
    generator = torch.Generator().manual_seed(1)
    used = theirs.optimiser.layout.views(theirs.optimiser.gradient)
    for step in range(200):
        for view in used.values():
            view.copy_(torch.randn(view.shape, generator=generator) * 0.1)
        for other in (mine, exact):
            other.optimiser.gradient.copy_(theirs.optimiser.gradient)
        table = exact.optimiser.coefficients(0, np.array([step]), np.array([0.01]))[0]
        mine._coefficients[0] = torch.from_numpy(table)[:, None]
        engine.kds_adamw(ctypes.byref(mine._epoch()))
        theirs.optimiser.step(torch.from_numpy(table)[:, None].float())
        exact.optimiser.step(torch.from_numpy(table)[:, None])
        assert not mine.optimiser.gradient.any()
    flat = exact.optimiser.flat
    mine_off, torch_off = (float((s.optimiser.flat - flat).abs().max()) for s in (mine, theirs))
    assert mine_off <= max(1e-6 * float(flat.abs().max()), 2 * torch_off)


def run(data, folder: Path, engine: ctypes.CDLL | None, **recipe: Any) -> Run:
    recipe = {"max_epochs": 4, "batch_size": 48, **recipe}
    spec = Spec("s", "student", "resnet1d", 2, 4, recipe=Recipe(**recipe))
    return Run(spec, data, folder, engine=engine)


def test_a_run_that_was_killed_ends_with_the_same_bits_by_any_number_of_threads(
    small_data, tmp_path, engine
) -> None:
    whole = run(small_data, tmp_path / "whole", engine)
    while whole.step():
        pass
    assert whole.finish()["engine"] == "fused"
    first = run(small_data, tmp_path / "killed", engine)
    first.step()
    first.step()
    first.checkpoint()
    first.step()
    torch.set_num_threads(2)
    try:
        again = run(small_data, tmp_path / "killed", engine)
        assert again.epoch == 2
        while again.step():
            pass
        again.finish()
    finally:
        torch.set_num_threads(1)
    one, other = ((tmp_path / kind / "model.safetensors").read_bytes() for kind in ("whole", "killed"))
    assert one == other


@pytest.mark.parametrize("arch", ["tcn", "dscnn"])
def test_convolutions_of_a_chain_give_the_same_bits_by_any_number_of_threads(arch, engine) -> None:
    spec = Spec("s", "student", arch, 5, 5, strategy="dkd", recipe=Recipe(max_epochs=30, batch_size=33))
    ends = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            stack = as_fused(inputs(spec, Shape(arch, 5, 5, 2, 101, CLASSES), 0), engine)
            stack.epoch([0])
            stack.epoch([1])
            ends.append(torch.cat([stack.optimiser.flat, stack._running]))
    finally:
        torch.set_num_threads(1)
    assert torch.isfinite(ends[0]).all()
    assert torch.equal(*ends)


def test_torch_goes_on_where_the_engine_stopped(small_data, tmp_path, engine) -> None:
    first = run(small_data, tmp_path, engine)
    first.step()
    first.checkpoint()
    second = run(small_data, tmp_path, None)
    assert second.epoch == 1
    assert second.step()
    assert second.finish()["engine"] == "torch"


@pytest.mark.parametrize(
    "shape", [("resnet1d", 2, 4), ("mlp", 2, 8), ("resnet1d-post", 2, 4), ("tcn", 2, 4)], ids=lambda s: s[0]
)
def test_a_teachers_outputs_and_its_test_come_from_the_engine(small_data, tmp_path, engine, shape) -> None:
    """Those of float64 within rounding, by its best weights, which aren't its last."""
    spec = Spec("t", "teacher", *shape, recipe=Recipe(max_epochs=2, batch_size=48))
    one = Run(spec, small_data, tmp_path, engine=engine)
    one.step()
    one.members[0].best_mae = -1.0  # nothing will be better
    one.step()
    result = one.finish()
    assert result["best_epoch"] == 1
    model = one.shape.build()
    model.load_state_dict(one.best_state(0))
    x = torch.from_numpy(np.array(small_data.train.x))
    with torch.no_grad():
        wanted = model.double().eval()(x.double())
    for name, expected in zip(("logits", "features"), wanted, strict=True):
        found = np.load(tmp_path / f"{name}.npy")
        assert found.dtype == np.float32
        assert np.abs(found - expected.numpy()).max() <= 5e-6 * float(expected.abs().max())
    by_torch, _ = evaluate(model.float(), small_data.test, x_of(small_data.test), one.labels.centres)
    assert result["mae_bpm"] == pytest.approx(by_torch["mae_bpm"], rel=1e-5)
    plain = FusedStack.best_outputs(one.stack, x[:40])[0]
    assert np.array_equal(np.load(tmp_path / "logits.npy")[:40], plain.numpy())  # to the bit: not torch's


def x_of(windows: WindowSet) -> torch.Tensor:
    return torch.from_numpy(np.array(windows.x))


def test_a_run_that_leaves_the_finite_numbers_says_so(small_data, tmp_path, engine) -> None:
    wild = run(small_data, tmp_path, engine, lr=1e30, clip_norm=1e30)
    with pytest.raises(Diverged):
        _ = [wild.step() for _ in range(4)]


def test_what_the_engine_does_not_know_is_left_to_torch(small_data, tmp_path, engine, monkeypatch) -> None:
    monkeypatch.setattr(fused, "ARCHITECTURES", ("mlp",))
    assert type(run(small_data, tmp_path, engine).stack) is Stack


def test_terms_that_the_engine_does_not_know_are_left_to_torch(
    small_data, tmp_path, engine, monkeypatch
) -> None:
    monkeypatch.setattr(fused, "KNOWN_TERMS", fused.KNOWN_TERMS - {"dist"})
    recipe = Recipe(max_epochs=1, batch_size=48)
    teacher = Run(Spec("t", "teacher", "mlp", 1, 4, recipe=recipe), small_data, tmp_path / "t", engine=engine)
    teacher.step()
    assert teacher.finish()["engine"] == "fused"
    spec = Spec("s", "student", "mlp", 1, 4, strategy="dist", teacher="t", recipe=recipe)
    one = Run(spec, small_data, tmp_path / "s", teacher_folder=tmp_path / "t", engine=engine)
    assert type(one.stack) is Stack
    one.step()
    assert one.finish()["engine"] == "torch"


def test_it_is_compiled_once_whoever_asks(tmp_path: Path) -> None:
    wrapper = tmp_path / "compiler"
    wrapper.write_text(f'#!/bin/bash\n[[ $* == *--version* ]] || echo once >>{tmp_path}/log\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    env = os.environ | {"CXX": str(wrapper), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "from kd.training.compiled import library; library()"
    asking = [subprocess.Popen([sys.executable, "-c", code], env=env) for _ in range(3)]
    assert [process.wait(120) for process in asking] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "once\n"


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/g++"])
def test_without_a_compiler_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(Unavailable, match=compiler):
        compiled.library(tmp_path)
    assert not list(tmp_path.glob("*.so"))
