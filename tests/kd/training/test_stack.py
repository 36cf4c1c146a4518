"""Members of a stack are the points they would be alone: in numbers, on disk, and when a neighbour dies."""

import dataclasses
import gc
import itertools
import json
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from kd.models import norm
from kd.models.layers import CONVOLUTIONS, linear
from kd.signals.prepare import Data
from kd.training.objective import Labels
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.strategies import STRATEGIES
from kd.training.train import Diverged, Run, Runs

# 5 steps an epoch, so 4 epochs are 20 steps.
RECIPE = Recipe(max_epochs=4, batch_size=48, windows_per_epoch=240, lr=3e-3)
MEMBERS = [
    ("scratch", {}, None, {"lr": 1e-2}),
    ("dkd", {"beta": 4.0, "warmup_fraction": 0.5}, 0, {}),
    ("feature", {}, 1, {"weight_decay": 0.1}),
    ("soft", {"temperature": 2.0}, 1, {"clip_norm": 0.1}),
    ("hard", {}, 0, {"warmup_fraction": 0.5}),
    ("feature", {"weight": 3.0}, 0, {"lr": 1e-3}),
    ("dkd", {"temperature": 2.0, "window": 2}, 1, {}),
    ("soft", {"ce": 0.0}, 0, {}),
]
SHAPES = [
    ("resnet1d", 2, 4),
    ("resnet1d", 5, 3),
    ("mlp", 2, 8),
    ("mlp", 1, 5),
    ("resnet1d-post", 2, 4),
    ("tcn", 2, 3),
    ("dscnn", 2, 3),
]
SPECTRA = ("spectra", 1, 2)


@pytest.fixture(scope="module")
def teachers(small_data: Data, tmp_path_factory):
    """Two teachers of different widths."""
    folders = []
    for width in (8, 6):
        folder = tmp_path_factory.mktemp(f"teacher{width}")
        spec = Spec(id=f"t{width}", role="teacher", arch="resnet1d", depth=2, width=width, recipe=RECIPE)
        run = Run(
            dataclasses.replace(spec, recipe=dataclasses.replace(RECIPE, max_epochs=2)), small_data, folder
        )
        while run.step():
            pass
        run.finish()
        folders.append(folder)
    return folders


def points(teachers, shape=SHAPES[0], count=None, **recipe):
    """Specs and teacher folders that differ in everything members may differ in."""
    specs, folders = [], []
    for i, (strategy, args, teacher, changes) in enumerate(MEMBERS[:count]):
        spec = Spec(
            id=f"p{i}",
            role="student",
            arch=shape[0],
            depth=shape[1],
            width=shape[2],
            strategy=strategy,
            strategy_args=args,
            teacher=None if teacher is None else f"t{teacher}",
            seed=i,
            recipe=dataclasses.replace(RECIPE, **recipe, **changes),
        )
        specs.append(spec)
        folders.append(None if teacher is None else teachers[teacher])
    return specs, folders


def stack(specs, from_folders, data, path, **how) -> Runs:
    folders = [path / spec.id for spec in specs]
    return Runs(specs, data, folders, teacher_folders=from_folders, **how)


def weights(runs: Runs, i: int) -> torch.Tensor:
    return flat(runs.best_state(i))


def flat(state) -> torch.Tensor:
    return torch.cat([v.flatten().double() for k, v in state.items() if "num_batches" not in k])


@pytest.mark.parametrize(
    ("shape", "count"), [(s, len(MEMBERS)) for s in SHAPES] + [(SHAPES[0], 2), (SHAPES[2], 3), (SPECTRA, 3)]
)
def test_a_member_is_the_point_trained_alone(small_data, teachers, tmp_path, shape, count):
    """20 steps: to 1e-9 in float64; in float32 as near to the float64 weights as the point alone is."""
    specs, from_folders = points(teachers, shape, count)
    runs, rows = {}, {}
    for name, dtype in (("double", torch.float64), ("single", torch.float32)):
        runs[name] = stack(specs, from_folders, small_data, tmp_path / name, dtype=dtype)
        rows[name] = [runs[name].step() for _ in range(4)]
    for i, spec in enumerate(specs):
        ends = {}
        for name, dtype in (("double", torch.float64), ("single", torch.float32)):
            folder = tmp_path / f"{name}{i}"
            alone = Run(spec, small_data, folder, teacher_folder=from_folders[i], dtype=dtype)
            for epoch in range(4):
                row, other = alone.step(), rows[name][epoch][i]
                assert other["lr"] == row["lr"]
                if name == "double":
                    assert other["train_loss"] == pytest.approx(row["train_loss"], rel=1e-9)
            mine, own = runs[name].stack.state(i, 4), alone.stack.state(0, 4)
            assert [(k, v.shape) for k, v in mine.items()] == [(k, v.shape) for k, v in own.items()]
            ends[name] = flat(mine), flat(own)
            if name == "double":
                assert runs[name].members[i].best_epoch == alone.members[0].best_epoch
                torch.testing.assert_close(weights(runs[name], i), weights(alone, 0), rtol=0, atol=1e-9)
        truth = ends["double"][1]
        torch.testing.assert_close(ends["double"][0], truth, rtol=0, atol=1e-9)
        # Rounding grows where a ReLU flips: as much between float32 and float64 alone.
        growth = 1e-5 if shape[0] == "mlp" else 2e-2
        for end in ends["single"]:
            assert float((end - truth).norm() / truth.norm()) < growth


@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_a_member_with_relations_or_standardised_logits_is_the_point_alone(
    small_data, teachers, tmp_path, shape
):
    given = [
        ("dist", {"temperature": 1.0, "gamma": 1.0}, 1),
        ("soft_std", {}, 1),
        ("soft", {}, 0),
        ("dist", {}, 0),
        ("soft_std", {"temperature": 3.0}, 0),
    ]
    specs = [
        Spec(f"p{i}", "student", *shape, strategy=strategy, strategy_args=args, teacher=f"t{t}", seed=i)
        for i, (strategy, args, t) in enumerate(given)
    ]
    specs = [dataclasses.replace(spec, recipe=RECIPE) for spec in specs]
    from_folders = [teachers[t] for *_, t in given]
    runs = stack(specs, from_folders, small_data, tmp_path, dtype=torch.float64)
    rows = [runs.step() for _ in range(2)]
    for i, spec in enumerate(specs):
        folder = tmp_path / f"alone{i}"
        alone = Run(spec, small_data, folder, teacher_folder=from_folders[i], dtype=torch.float64)
        for row in rows:
            assert row[i]["train_loss"] == pytest.approx(alone.step()["train_loss"], rel=1e-9)
        mine, own = runs.stack.state(i, 2), alone.stack.state(0, 2)
        torch.testing.assert_close(flat(mine), flat(own), rtol=0, atol=1e-9)


def test_every_members_own_settings_matter(small_data, teachers, tmp_path):
    """Else the test above could pass with members that share what should be each one's own."""
    specs, from_folders = points(teachers)
    alike = [dataclasses.replace(spec, seed=0, recipe=RECIPE) for spec in specs]
    ends = []
    for name, chosen in (("own", specs), ("alike", alike)):
        runs = stack(chosen, from_folders, small_data, tmp_path / name)
        for _ in range(4):
            runs.step()
        ends.append([weights(runs, i) for i in range(len(specs))])
    for a, b in itertools.combinations(ends[0], 2):
        assert not torch.equal(a, b)
    assert all(not torch.equal(a, b) for a, b in list(zip(*ends, strict=True))[1:])


def test_finished_members_are_ordinary_points(small_data, teachers, tmp_path):
    specs, from_folders = points(teachers, count=3)
    runs = stack(specs, from_folders, small_data, tmp_path)
    while any(runs.step()):
        pass
    for i, spec in enumerate(specs):
        figures = runs.finish(i)
        assert figures["epochs"] == 4
        history = (tmp_path / spec.id / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in history] == [1, 2, 3, 4]
        alone = Run(spec, small_data, tmp_path / f"alone{i}", teacher_folder=from_folders[i])
        while alone.step():
            pass
        assert alone.finish()["mae_bpm"] == pytest.approx(figures["mae_bpm"], abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float64])
def test_members_go_on_alone_and_in_other_stacks(small_data, teachers, tmp_path, dtype):
    """Checkpoints don't know the stack: 2 epochs together, the third in other company, the fourth alone."""
    specs, from_folders = points(teachers)
    whole = stack(specs, from_folders, small_data, tmp_path / "whole", dtype=dtype)
    for _ in range(4):
        whole.step()
    first = stack(specs, from_folders, small_data, tmp_path / "moved", dtype=dtype)
    first.step()
    first.step()
    first.checkpoint()
    first.step()  # an epoch that the checkpoints don't know
    for half in (slice(0, None, 2), slice(1, None, 2)):
        other = stack(
            specs[half][::-1], from_folders[half][::-1], small_data, tmp_path / "moved", dtype=dtype
        )
        assert [point.epoch for point in other.members] == [2] * 4
        other.step()
        other.checkpoint()
    for i, spec in enumerate(specs):
        alone = Run(
            spec, small_data, tmp_path / "moved" / spec.id, teacher_folder=from_folders[i], dtype=dtype
        )
        alone.step()
        assert alone.step() is None
        torch.testing.assert_close(weights(alone, 0), weights(whole, i), rtol=0, atol=1e-9)
        assert alone.finish()["epochs"] == 4


def test_a_stack_on_a_cpu_resumes_to_the_bit(small_data, teachers, tmp_path):
    specs, from_folders = points(teachers)
    whole = stack(specs, from_folders, small_data, tmp_path / "whole")
    killed = stack(specs, from_folders, small_data, tmp_path / "killed")
    for _ in range(4):
        whole.step()
    killed.step()
    killed.checkpoint()
    killed.step()
    killed = stack(specs, from_folders, small_data, tmp_path / "killed")
    for _ in range(3):
        killed.step()
    for i in range(len(specs)):
        assert torch.equal(weights(killed, i), weights(whole, i))


def test_a_diverging_member_neither_stops_nor_changes_the_others(small_data, teachers, tmp_path):
    specs, from_folders = points(teachers, count=4)
    wild = dataclasses.replace(specs[1].recipe, lr=1e30, clip_norm=1e30)
    specs[1] = dataclasses.replace(specs[1], recipe=wild)
    runs = stack(specs, from_folders, small_data, tmp_path, dtype=torch.float64)
    rows = [runs.step() for _ in range(5)]
    gone = [row[1] for row in rows]
    assert isinstance(gone[0], Diverged)
    assert "epoch 1: " in str(gone[0])
    assert gone[1:] == [None] * 4
    assert not (tmp_path / specs[1].id / "history.jsonl").exists()
    for i in (0, 2, 3):
        assert [row[i] is not None for row in rows] == [True] * 4 + [False]
        alone = Run(
            specs[i], small_data, tmp_path / f"{i}", teacher_folder=from_folders[i], dtype=torch.float64
        )
        while alone.step():
            pass
        torch.testing.assert_close(weights(runs, i), weights(alone, 0), rtol=0, atol=1e-9)


def test_members_end_each_in_its_own_time(small_data, teachers, tmp_path):
    specs, from_folders = points(teachers, count=3)
    lazy = dataclasses.replace(specs[1].recipe, lr=1e-9, patience=1, max_epochs=30)  # learns nothing
    short = dataclasses.replace(specs[2].recipe, max_epochs=2)
    specs = [
        specs[0],
        *(dataclasses.replace(s, recipe=r) for s, r in zip(specs[1:], (lazy, short), strict=True)),
    ]
    runs = stack(specs, from_folders, small_data, tmp_path)
    steps = 0
    while any(runs.step()):
        steps += 1
    assert 4 <= steps < 30
    figures = [runs.finish(i) for i in range(3)]
    assert figures[0]["epochs"] == 4
    assert figures[1]["epochs"] == figures[1]["best_epoch"] + 1
    assert figures[2]["epochs"] == 2
    for i, spec in enumerate(specs):
        alone = Run(spec, small_data, tmp_path / f"{i}", teacher_folder=from_folders[i])
        while alone.step():
            pass
        assert alone.finish()["mae_bpm"] == pytest.approx(figures[i]["mae_bpm"], abs=0.05)


@pytest.mark.parametrize("shape", [*SHAPES[:2], *SHAPES[-2:]])
def test_convolutions_as_matrix_products_are_convolutions(small_data, teachers, tmp_path, shape):
    specs, from_folders = points(teachers, shape, 3)
    ends = []
    for way in CONVOLUTIONS:
        runs = stack(specs, from_folders, small_data, tmp_path / way, dtype=torch.float64, convolution=way)
        for _ in range(4):
            runs.step()
        ends.append([weights(runs, i) for i in range(3)])
    for grouped, matmul in zip(*ends, strict=True):
        torch.testing.assert_close(grouped, matmul, rtol=0, atol=1e-9)


@settings(max_examples=5, deadline=None)
@given(
    depth=st.integers(1, 6),
    width=st.integers(1, 6),
    members=st.integers(1, 3),
    channels=st.integers(1, 3),
    batch=st.sampled_from([24, 64]),
)
@example(depth=5, width=1, members=1, channels=1, batch=64)  # one filter, then two: torch's norm, then ours
@example(depth=5, width=1, members=3, channels=2, batch=64)
def test_training_with_the_fused_norm_is_training_with_torchs_own(depth, width, members, channels, batch):
    """Weights, moments and running statistics after 2 steps; whichever layers are large enough to fuse."""
    shape = Shape("resnet1d", depth, width, channels, 520, 30)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2 * batch, channels, 520, generator=g, dtype=torch.float64)
    bpm = 30 + torch.rand(2 * batch, generator=g, dtype=torch.float64) * 29
    labels = Labels(torch.arange(30.0, 60.0, dtype=torch.float64), 1.5)
    recipe = Recipe(max_epochs=1, batch_size=batch)
    specs = [Spec("p", "student", "resnet1d", depth, width, seed=m, recipe=recipe) for m in range(members)]
    torch.manual_seed(0)
    starts = [Start(shape.build().state_dict(), {}) for _ in specs]
    ends = []
    for fewest in (norm.FEWEST_PIXELS, x.numel() * 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(norm, "FEWEST_PIXELS", fewest)
            one = Stack(specs, shape, starts, [None] * members, x, bpm, labels, dtype=torch.float64)
            loss = one.epoch([0] * members)
            ends.append((loss, one.optimiser.flat, one.optimiser.square, one._running))
    for fused, own in zip(*ends, strict=True):
        torch.testing.assert_close(fused, own, rtol=1e-7, atol=1e-9)


class Recorded(TorchDispatchMode):
    """What a step asks of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append((str(func), args))
        return func(*args, **(kwargs or {}))


def test_a_step_by_cursor_is_the_step_and_can_be_captured(small_data, teachers, tmp_path):
    """What a CUDA graph replays ends in the same bits; it reads no number back and brings none along."""
    specs, from_folders = points(teachers)
    loop = stack(specs, from_folders, small_data, tmp_path / "loop").stack
    graph = stack(specs, from_folders, small_data, tmp_path / "graph").stack
    for epoch in range(2):
        losses = loop.epoch([epoch] * len(specs))
        graph._fill((epoch,) * len(specs))
        for _ in range(graph.steps):
            with Recorded() as recorded:
                graph._step_at_cursor()
        assert torch.equal(losses, graph._loss / graph.steps)
    assert torch.equal(loop.optimiser.flat, graph.optimiser.flat)
    assert graph._cursor.item() == graph.steps
    waits = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave", "lift_fresh", "unique")
    assert not [name for name, _ in recorded.calls if any(wait in name for wait in waits)]
    masks = [
        index
        for name, args in recorded.calls
        if name.startswith("aten.index")
        for index in (args[1] if isinstance(args[1], list) else [])
        if index is not None and index.dtype == torch.bool
    ]
    assert not masks
    assert len(recorded.calls) > 100


def test_capturing_a_step_leaves_no_trace(small_data, teachers, tmp_path, monkeypatch):
    """Warming up and capturing train the models; what they did is undone before the first replay."""
    specs, from_folders = points(teachers)
    loop = stack(specs, from_folders, small_data, tmp_path / "loop").stack
    graph = stack(specs, from_folders, small_data, tmp_path / "graph").stack

    class Graph:
        replays = 0

        def replay(self):
            Graph.replays += 1
            graph._step_at_cursor()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(),
        "graph": lambda _: nullcontext(),
        "CUDAGraph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for epoch in range(2):
        losses = loop.epoch([epoch] * len(specs))
        graph._fill((epoch,) * len(specs))
        graph._replay()
        assert torch.equal(losses, graph._loss / graph.steps)
    assert Graph.replays == 2 * graph.steps
    for m, spec in enumerate(specs):
        for ours, theirs in ((loop.state(m, 2), graph.state(m, 2)), (loop.moments(m), graph.moments(m))):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=spec.strategy)


@pytest.mark.parametrize("shape", [*SHAPES, SPECTRA])
@pytest.mark.parametrize("way", CONVOLUTIONS)
def test_all_that_a_step_reads_is_on_its_device(shape, way):
    """torch refuses to mix devices; "meta" is one that every machine has."""
    device, windows = torch.device("meta"), 96
    x, bpm = torch.zeros(windows, 1, 200, device=device), torch.zeros(windows, device=device)
    labels = Labels(torch.arange(30.0, 210.0, device=device), 1.5)
    made = Shape(*shape, 1, 200, 180)
    recipe = Recipe(max_epochs=3, batch_size=32)
    specs, starts, teachers = [], [], []
    for seed, strategy in enumerate([*STRATEGIES, *STRATEGIES]):
        specs.append(Spec("p", "student", *shape, seed=seed, recipe=recipe, strategy=strategy, teacher="t"))
        teachers.append(None if strategy == "scratch" else Outputs(windows, 8 + seed % 2, device))
        connector = linear(made.build().fc.in_features, 8 + seed % 2) if strategy == "feature" else None
        starts.append(Start(made.build().state_dict(), connector.state_dict() if connector else {}))
    one = Stack(specs, made, starts, teachers, x, bpm, labels, convolution=way)
    one._fill((0,) * len(specs))
    one._step_at_cursor()
    one.keep_best([True] * len(specs))
    assert one.logits(x).device == one._loss.device == device
    assert {tensor.device for tensor in one.moments(1)["mean"].values()} == {device}


class Outputs:
    """What a teacher said, as far as devices are concerned."""

    def __init__(self, windows, width, device):
        self.logits = torch.zeros(windows, 180, device=device)
        self.features = torch.zeros(windows, width, device=device)


def test_a_stack_that_is_left_gives_its_memory_back_at_once(small_data, teachers, tmp_path):
    """The next one needs it; nobody waits for Python's collector."""
    specs, from_folders = points(teachers, count=3)
    for _ in range(2):  # torch itself leaves a cycle behind when it is used for the first time
        runs = stack(specs, from_folders, small_data, tmp_path)
        runs.step()
        gc.collect()
        gc.disable()
        try:
            left = weakref.ref(runs.stack.optimiser.flat)
            del runs
            gone = left() is None
        finally:
            gc.enable()
    assert gone


def test_points_of_different_shapes_are_refused(small_data, teachers, tmp_path):
    specs, from_folders = points(teachers, count=2)
    specs[1] = dataclasses.replace(specs[1], width=5)
    with pytest.raises(ValueError, match="different shapes"):
        stack(specs, from_folders, small_data, tmp_path)
