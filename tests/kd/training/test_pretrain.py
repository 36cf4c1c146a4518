"""Pre-training without labels: on training windows alone, resumed to the bit, the start of fine-tuning."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from kd.signals.prepare import DataConfig, prepare
from kd.signals.splits import Split
from kd.signals.unlabelled import Unlabelled
from kd.training.compiled import Unavailable, library
from kd.training.pretrain import PROJECTED, Pretraining, nt_xent, view
from kd.training.recipe import Recipe, Spec
from kd.training.stack import Shape
from kd.training.strategies import PRETRAIN
from kd.training.train import Diverged, Run, Runs

RECIPE = Recipe(max_epochs=3, batch_size=32, lr=3e-3)
SPEC = Spec("t", "teacher", "resnet1d", 2, 8, strategy_args={PRETRAIN: 3}, recipe=RECIPE)
PLAIN = dataclasses.replace(SPEC, strategy_args={})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    split = Split(test=("synthetic/s000",), val=("synthetic/s001",))
    more = Unlabelled("synthetic", options={"subjects": 8, "minutes": 1.0})
    config = DataConfig(options={"subjects": 5, "minutes": 2.0}, split=split, unlabelled=more)
    return prepare(config, tmp_path_factory.mktemp("cache"))


def train(run):
    while run.step() is not None:
        pass
    return run.finish()


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def model(folder):
    return (folder / "model.safetensors").read_bytes()


def test_it_sees_training_windows_and_those_without_labels_only(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "kd.training.pretrain.view", lambda x, generator: seen.append(x) or view(x, generator)
    )
    run = Run(SPEC, data, tmp_path)
    for _ in range(3):
        run.step()
    assert run.epoch == 0
    known = {x.tobytes() for x in np.asarray(data.taught_x)}
    held_out = {x.tobytes() for side in (data.val, data.test) for x in np.asarray(side.x)}
    drawn = {x.tobytes() for x in torch.cat(seen).numpy()}
    assert drawn <= known
    assert not drawn & held_out
    without = {x.tobytes() for x in np.asarray(data.unlabelled.windows.x)}
    assert drawn & without
    assert drawn - without


def test_no_label_is_read(data, tmp_path):
    """The same weights whatever the labels are."""
    train_ = dataclasses.replace(data.train, bpm=np.full(len(data.train), 77.0, np.float32))
    for name, one in {"a": data, "b": dataclasses.replace(data, train=train_)}.items():
        run = Run(SPEC, one, tmp_path / name)
        for _ in range(3):
            run.step()
    states = [torch.load(tmp_path / name / "checkpoint.pt")["pretraining"]["model"] for name in "ab"]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(("arch", "falls"), [("resnet1d", 0.9), ("mlp", 0.97)])
def test_its_loss_falls_and_fine_tuning_begins_with_its_weights(data, tmp_path, arch, falls):
    spec = dataclasses.replace(SPEC, arch=arch, strategy_args={PRETRAIN: 8})
    run = Run(spec, data, tmp_path / "t")
    fresh = run.stack.state(0, 0)
    plain = Run(dataclasses.replace(spec, strategy_args={}), data, tmp_path / "plain").stack.state(0, 0)
    assert all(torch.equal(fresh[key], plain[key]) for key in fresh)
    for _ in range(8):
        row = run.step()
        assert row["val_mae_bpm"] is None
    losses = [row["pretrain_loss"] for row in rows(tmp_path / "t")]
    assert len(losses) == 8
    assert losses[-1] < falls * losses[0]
    assert losses[-1] < np.log(2 * RECIPE.batch_size - 1)  # all alike
    begins = run.stack.state(0, 0)
    held = torch.load(tmp_path / "t" / "checkpoint.pt")["pretraining"]["model"]
    counted = [key for key in begins if not key.endswith("num_batches_tracked")]
    assert all(torch.equal(begins[key], held[key]) for key in counted)
    assert {key for key in counted if torch.equal(begins[key], fresh[key])} == {"fc.weight", "fc.bias"}
    result = train(run)
    assert [row["epoch"] for row in rows(tmp_path / "t")] == [*range(1, 9), 1, 2, 3]
    assert result["epochs"] == 3
    assert result["pretrained_windows"] == len(data.taught_x)
    seconds = [row["train_seconds"] for row in rows(tmp_path / "t")]
    assert seconds == sorted(seconds)
    assert result["train_seconds"] >= seconds[-1]


@pytest.mark.parametrize("killed_after", [1, 3, 4])
@pytest.mark.parametrize("engine", ["torch", "fused"])
def test_killed_and_resumed_it_ends_with_the_same_bits(data, tmp_path, killed_after, engine):
    try:
        engines = {"engine": library()} if engine == "fused" else {}
    except Unavailable as why:
        pytest.skip(str(why))
    train(Run(SPEC, data, tmp_path / "whole", **engines))
    first = Run(SPEC, data, tmp_path / "killed", **engines)
    for _ in range(killed_after):
        first.step()
    first.checkpoint()
    if killed_after != 3:
        first.step()  # an epoch that the checkpoint doesn't know
    second = Run(SPEC, data, tmp_path / "killed", **engines)
    assert (second.members[0].pretrained, second.epoch) == (min(killed_after, 3), max(killed_after - 3, 0))
    train(second)
    assert model(tmp_path / "killed") == model(tmp_path / "whole")
    drop = {"train_seconds": 0}
    assert [r | drop for r in rows(tmp_path / "killed")] == [r | drop for r in rows(tmp_path / "whole")]


def test_where_pre_training_ends_there_is_a_checkpoint(data, tmp_path):
    first = Run(SPEC, data, tmp_path / "t", checkpoint_every_s=1e9)
    for _ in range(3):
        first.step()
    second = Run(SPEC, data, tmp_path / "t")
    assert second.members[0].pretrained == 3
    assert second.step()["train_loss"] > 0


def test_a_damaged_checkpoint_of_it_is_set_aside(data, tmp_path):
    first = Run(SPEC, data, tmp_path)
    first.step()
    first.checkpoint()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    again = Run(SPEC, data, tmp_path)
    assert "damaged" in again.members[0].set_aside
    assert again.members[0].pretrained == 0
    again.step()
    assert [row["epoch"] for row in rows(tmp_path)] == [1]


def test_a_stack_pre_trains_each_as_if_it_were_alone(data, tmp_path):
    specs = [SPEC, PLAIN, dataclasses.replace(SPEC, seed=5, strategy_args={PRETRAIN: 1})]
    runs = Runs(specs, data, [tmp_path / f"s{i}" for i in range(3)])
    for _ in range(3):
        assert all(row for row in runs.step())
    for i, spec in enumerate(specs):
        alone = Run(spec, data, tmp_path / f"a{i}")
        for _ in range(spec.strategy_args.get(PRETRAIN, 0)):
            alone.step()
        mine, theirs = runs.stack.state(i, 0), alone.stack.state(0, 0)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    while any(runs.step()):
        pass
    assert [member.epoch for member in runs.members] == [3, 3, 3]
    for i, spec in enumerate(specs):
        assert len(rows(tmp_path / f"s{i}")) == 3 + spec.strategy_args.get(PRETRAIN, 0)


def test_a_loss_that_is_not_finite_ends_it(data, tmp_path):
    spec = dataclasses.replace(SPEC, recipe=dataclasses.replace(RECIPE, lr=float("inf")))
    run = Run(spec, data, tmp_path)
    with pytest.raises(Diverged, match="the loss of pre-training is nan"):
        train(run)
    assert run.members[0].over


def test_windows_per_epoch_bounds_an_epoch(data):
    shape = Shape("resnet1d", 2, 8, 1, data.train.x.shape[2], data.classes)
    spec = dataclasses.replace(SPEC, recipe=dataclasses.replace(RECIPE, windows_per_epoch=70))
    one = Pretraining(spec, shape, shape.build().state_dict(), torch.from_numpy(np.array(data.taught_x)))
    assert (one.batch, one.steps) == (32, 2)


def test_views_differ_and_keep_the_rhythm():
    """The strongest frequency of most views is the window's: nothing is stretched."""
    t = torch.arange(200) / 25
    hz = torch.linspace(0.8, 3.0, 64)
    x = torch.sin(2 * torch.pi * hz[:, None] * t)[:, None]
    seen = view(x, torch.Generator().manual_seed(0))
    again = view(x, torch.Generator().manual_seed(0))
    assert torch.equal(seen, again)
    assert seen.shape == x.shape
    assert (seen - x).abs().amax((1, 2)).min() > 0.1
    strongest = torch.fft.rfft(seen, 1000).abs().argmax(2)[:, 0] * 25 / 1000
    assert ((strongest - hz).abs() < 0.15).float().mean() > 0.9


def test_the_loss_by_hand():
    rows = torch.nn.functional.normalize(torch.randn(6, PROJECTED), dim=1)
    expected = 0.0
    for i in range(6):
        own = (i + 3) % 6
        others = [float(rows[i] @ rows[k]) / 0.5 for k in range(6) if k != i]
        expected += np.log(np.sum(np.exp(others))) - float(rows[i] @ rows[own]) / 0.5
    assert float(nt_xent(3 * rows, 0.5)) == pytest.approx(expected / 6, rel=1e-5)
    alike = torch.cat([torch.eye(8), torch.eye(8)])
    assert float(nt_xent(alike)) < 0.01
