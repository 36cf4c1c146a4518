"""Windows without labels in training: seen by terms that need only a teacher, as many as their share says."""

import dataclasses

import numpy as np
import pytest
import torch

from kd.errors import InputError
from kd.signals.prepare import DataConfig, prepare
from kd.signals.splits import Split
from kd.signals.unlabelled import Unlabelled
from kd.training import losses
from kd.training.objective import Labels, Objective
from kd.training.orders import Orders
from kd.training.recipe import Recipe, Spec
from kd.training.strategies import STRATEGIES, UNLABELLED, full_args, needs_teacher, weights
from kd.training.teacher import entropy
from kd.training.terms import Weights
from kd.training.train import Run, Runs

LABELS = Labels(torch.arange(30.0, 210.0), 1.5)
RECIPE = Recipe(max_epochs=2, batch_size=32, lr=3e-3)
SHAPE = {"arch": "resnet1d", "depth": 2, "width": 4}


@pytest.fixture(scope="module")
def config():
    split = Split(test=("synthetic/s000",), val=("synthetic/s001",))
    more = Unlabelled("synthetic", options={"subjects": 8, "minutes": 2.0})
    return DataConfig(options={"subjects": 5, "minutes": 2.0}, split=split, unlabelled=more)


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    return prepare(config, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    train(Run(Spec("t", "teacher", "resnet1d", 2, 8, recipe=RECIPE), data, folder))
    return folder


def student(strategy, seed=1, **args):
    return Spec(
        "s", "student", **SHAPE, strategy=strategy, teacher="t", seed=seed, strategy_args=args, recipe=RECIPE
    )


def train(run):
    while run.step() is not None:
        pass
    return run.finish()


def state(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_teacher_says_of_all_windows_what_it_thinks(data, teacher):
    assert len(np.load(teacher / "logits.npy")) == len(data.train) + len(data.unlabelled.windows)
    assert len(np.load(teacher / "features.npy")) == len(data.taught_x)


def test_a_teacher_and_scratch_are_what_they_are_without(data, teacher, tmp_path):
    alone = dataclasses.replace(data, unlabelled=None)
    spec = Spec("t", "teacher", "resnet1d", 2, 8, recipe=RECIPE)
    train(Run(spec, alone, tmp_path / "t"))
    assert state(tmp_path / "t") == state(teacher)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if needs_teacher(name)])
def test_every_strategy_with_a_teacher_learns_from_them(strategy, data, teacher, tmp_path):
    shas = {}
    for name, args in {
        "none": {},
        "half": {"unlabelled_share": 0.5},
        "light": {"unlabelled_share": 0.5, "unlabelled_weight": 0.25},
    }.items():
        run = Run(student(strategy, **args), data, tmp_path / name, teacher_folder=teacher)
        figures = train(run)
        assert np.isfinite(figures["mae_bpm"])
        seen = None if name == "none" else len(data.unlabelled.windows)
        assert figures.get("unlabelled_windows") == seen
        assert run.steps_per_epoch == len(data.train) // (32 if name == "none" else 16)
        shas[name] = figures["model_sha256"]
    assert len(set(shas.values())) == 3


def test_a_killed_run_ends_with_the_same_bits(data, teacher, tmp_path):
    spec = student("dkd", unlabelled_share=0.25)
    whole = train(Run(spec, data, tmp_path / "whole", teacher_folder=teacher))
    run = Run(spec, data, tmp_path / "killed", teacher_folder=teacher)
    run.step()
    run.checkpoint()
    again = train(Run(spec, data, tmp_path / "killed", teacher_folder=teacher))
    assert again["model_sha256"] == whole["model_sha256"]


def test_a_stack_is_its_members_alone(data, teacher, tmp_path):
    specs = [
        student("soft", seed, unlabelled_share=0.25, unlabelled_weight=w) for seed, w in ((1, 1), (2, 0.5))
    ]
    folders = [tmp_path / "a", tmp_path / "b"]
    stacked = Runs(specs, data, folders, teacher_folders=[teacher] * 2).step()
    for spec, row in zip(specs, stacked, strict=True):
        alone = Run(spec, data, tmp_path / f"alone{spec.seed}", teacher_folder=teacher).step()
        assert row["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)


def test_different_shares_do_not_stack(data, teacher, tmp_path):
    specs = [student("soft"), student("soft", unlabelled_share=0.5)]
    with pytest.raises(ValueError, match="can't train as one stack"):
        Runs(specs, data, [tmp_path / "a", tmp_path / "b"], teacher_folders=[teacher] * 2)


def test_students_see_those_their_teacher_is_surest_of(config, data, teacher, tmp_path):
    gated = dataclasses.replace(data, unlabelled=dataclasses.replace(data.unlabelled, sure=0.25))
    run = Run(student("soft", unlabelled_share=0.5), gated, tmp_path / "s", teacher_folder=teacher)
    seen = run.members[0].teacher.besides.long()
    unsure = entropy(torch.from_numpy(np.load(teacher / "logits.npy")))
    others = torch.ones(len(unsure), dtype=torch.bool)
    others[: len(data.train)] = False
    others[seen] = False
    assert len(seen) == round(0.25 * len(data.unlabelled.windows))
    assert unsure[seen].max() <= unsure[others].min()
    assert train(run)["unlabelled_windows"] == len(seen)


def test_orders_go_over_labelled_windows_once_and_over_the_others_in_turn():
    besides = torch.arange(100, 107, dtype=torch.int32)
    orders = Orders([3], 20, 20, ahead=False, steps=5, more=10, besides=[besides])
    table = torch.zeros(1, 5, 6, dtype=torch.int32)
    orders.to(table, [0])
    assert sorted(table[0, :, :4].flatten().tolist()) == list(range(20))
    drawn = table[0, :, 4:].flatten().tolist()
    assert sorted(drawn[:7]) == besides.tolist()
    assert len(set(drawn[7:])) == 3
    plain = torch.zeros(1, 5, 4, dtype=torch.int32)
    Orders([3], 20, 20, ahead=False, steps=5).to(plain, [0])
    assert torch.equal(plain, table[..., :4])  # labelled windows come as they would alone


def test_label_terms_see_labels_only_and_the_others_weigh_what_they_should():
    generator = torch.Generator().manual_seed(0)

    class Teacher:
        logits = 3 * torch.randn(40, 180, generator=generator)
        features = torch.randn(40, 5, generator=generator)

    logits = torch.randn(1, 6, 180, generator=generator, requires_grad=True)
    index = torch.randint(40, (1, 6), generator=generator)
    bpm = 40 + 100 * torch.rand(1, 6, generator=generator)
    bpm[:, 4:] = torch.nan
    given = Weights({"ce": 0.5, "soft": 2.0, "nckd": 1.0}, temperature=2.0, unlabelled_weight=0.25)
    made = Objective([given], LABELS, [Teacher()], unlabelled=2)
    ours = made(logits, {}, bpm, index, torch.ones(1))
    said = Teacher.logits[index[0]]
    ce = losses.cross_entropy(logits[0, :4], LABELS.target(bpm[0, :4])).mean()
    label = torch.cat([LABELS.index(bpm[0, :4]), said[4:].argmax(1)])
    each = 2.0 * losses.soft(logits[0], said, 2.0) + losses.decoupled(logits[0], said, label, 2.0)[1]
    expected = 0.5 * ce + (each[:4].sum() + 0.25 * each[4:].sum()) / 4.5
    torch.testing.assert_close(ours[0], expected)
    ours.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 4:].abs().sum() > 0


def test_relations_over_a_batch_count_windows_without_labels_as_they_should():
    """Two members: for one such a window counts as much as one with a label, for the other nothing."""
    generator = torch.Generator().manual_seed(0)

    class Teacher:
        logits = torch.randn(40, 180, generator=generator)
        features = torch.randn(40, 5, generator=generator)

    logits = torch.randn(2, 6, 180, generator=generator)
    index = torch.randint(40, (2, 6), generator=generator)
    bpm = torch.full((2, 6), 70.0)
    bpm[:, 4:] = torch.nan
    given = [Weights({"inter": 1.0, "intra": 2.0}, unlabelled_weight=w) for w in (1.0, 0.0)]
    ours = Objective(given, LABELS, [Teacher()] * 2, unlabelled=2)(logits, {}, bpm, index, torch.ones(2))
    for m, seen in ((0, 6), (1, 4)):
        said = Teacher.logits[index[m, :seen]]
        inter, intra = losses.dist(logits[m, :seen], said, 1.0, torch.ones(1, seen))
        torch.testing.assert_close(ours[m], inter.mean() + 2 * intra.mean())


def test_arguments_are_there_where_there_are_recordings_without_labels():
    assert full_args("soft", {}) == {"ce": 0.5, "weight": 0.5, "temperature": 4.0}
    assert full_args("soft", {}, unlabelled=True) == {**full_args("soft", {}), **UNLABELLED}
    assert full_args("scratch", {}, unlabelled=True) == {}
    none = [full_args("dkd", {"unlabelled_share": 0, "unlabelled_weight": w}, True) for w in (1, 2)]
    assert none[0] == none[1]
    with pytest.raises(InputError, match=r"there are none: add data\.unlabelled"):
        full_args("soft", {"unlabelled_share": 0.5})
    with pytest.raises(InputError, match="a share below 1"):
        full_args("soft", {"unlabelled_share": 1}, unlabelled=True)
    with pytest.raises(InputError, match="scratch has no 'unlabelled_share'"):
        full_args("scratch", {"unlabelled_share": 0.5}, unlabelled=True)


def test_the_weights_of_a_strategy_hold_its_share():
    assert weights("soft", {}).unlabelled_share == 0.0
    assert weights("soft", {"ce": 0.1, **UNLABELLED}).terms["ce"] == 0.1
    assert weights("soft", UNLABELLED).unlabelled_share == UNLABELLED["unlabelled_share"]
