"""Init from a teacher: exactly the student's shape, exactly the masked teacher's function."""

import dataclasses

import pytest
import torch

from kd.errors import InputError
from kd.files import sha256
from kd.models import inits
from kd.models.architectures import build
from kd.signals.prepare import Data
from kd.training.prune import initial_state, pruned_state
from kd.training.recipe import Recipe, Spec
from kd.training.strategies import STRATEGIES, needs_teacher
from kd.training.train import Run, Runs

RECIPE = Recipe(max_epochs=2, batch_size=32, lr=3e-3)
TEACHER = Spec(id="t", role="teacher", arch="resnet1d", depth=3, width=8, recipe=RECIPE)


def settled(arch: str, depth: int, width: int, channels: int = 1):
    """A model whose batch norms have seen data, as a trained one's have."""
    torch.manual_seed(depth)
    model = build(arch, depth, width, channels=channels)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, channels, 200))
    return model.eval()


def some_windows(channels: int = 1):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, channels, 200, generator=generator)
    return x, torch.randint(0, 180, (64,), generator=generator)


@pytest.fixture(scope="module")
def teacher(small_data: Data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    run = Run(TEACHER, small_data, folder)
    while run.step() is not None:
        pass
    run.finish()
    return folder


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "random"])
@pytest.mark.parametrize(
    ("arch", "depth", "of", "width"),
    [
        *[
            ("resnet1d", 6, 7, 5),
            ("resnet1d", 9, 4, 1),
            ("resnet1d-post", 6, 7, 5),
            ("tcn", 5, 6, 3),
            ("dscnn", 5, 6, 3),
        ],
        *[("mlp", 3, 24, 7), ("mlp", 1, 8, 7)],
    ],
)
def test_a_born_student_is_an_ordinary_one(arch, depth, of, width, importance):
    parent = settled(arch, depth, of, channels=2).requires_grad_(False)  # frozen, as teachers are
    before = {k: v.clone() for k, v in parent.state_dict().items()}
    x, target = some_windows(channels=2)
    state = pruned_state(parent, (arch, depth, of), width, importance=importance, x=x, target=target)
    student = build(arch, depth, width, channels=2)
    student.load_state_dict(state)
    assert student.eval()(x)[0].shape == (64, 180)
    assert all(torch.equal(before[k], v) for k, v in parent.state_dict().items())
    assert not torch.equal(
        state["fc.weight"], build(arch, depth, width, channels=2).state_dict()["fc.weight"]
    )


def test_every_width_can_be_born():
    parent, (x, _) = settled("resnet1d", 5, 12), some_windows()
    for width in range(1, 12):
        state = pruned_state(parent, ("resnet1d", 5, 12), width, x=x)
        build("resnet1d", 5, width).load_state_dict(state)


def test_channels_that_do_nothing_are_the_first_to_go():
    """Half an MLP's hidden units are silenced: pruning to half changes nothing, pruning at random does."""
    parent, (x, target) = settled("mlp", 2, 8), some_windows()
    off = [1, 2, 5, 6]
    with torch.no_grad():
        for i in (0, 3):
            parent.hidden[i].weight[off] = 0.0
            parent.hidden[i + 1].weight[off] = 0.0
            parent.hidden[i + 1].bias[off] = 0.0
        parent.hidden[3].weight[:, off] = 0.0
        parent.fc.weight[:, off] = 0.0
    wanted = parent(x)[0]
    error = {}
    for importance in ("magnitude", "taylor", "random"):
        student = build("mlp", 2, 4)
        student.load_state_dict(
            pruned_state(parent, ("mlp", 2, 8), 4, importance=importance, x=x, target=target, seed=1)
        )
        error[importance] = float((student.eval()(x)[0] - wanted).abs().max().detach())
    assert error["magnitude"] < 1e-5
    assert error["taylor"] < 1e-5
    assert error["random"] > 1e-3


def test_taylor_keeps_what_the_loss_needs_and_magnitude_what_is_large():
    """Large weights that lead nowhere: magnitude keeps the units, Taylor knows the loss doesn't see them."""
    parent, (x, target) = settled("mlp", 1, 4), some_windows()
    with torch.no_grad():
        parent.hidden[0].weight[:2] *= 100.0  # batch norm takes the scale out again
        parent.fc.weight[:, :2] = 0.0
    kept = {}
    for importance in ("magnitude", "taylor"):
        state = pruned_state(parent, ("mlp", 1, 4), 2, importance=importance, x=x, target=target)
        kept[importance] = float(state["fc.weight"].abs().sum())
    assert kept["magnitude"] == 0
    assert kept["taylor"] > 0


def test_random_birth_follows_the_seed():
    parent, (x, _) = settled("resnet1d", 2, 8), some_windows()
    one, same, other = (
        pruned_state(parent, ("resnet1d", 2, 8), 4, importance="random", x=x, seed=s) for s in (3, 3, 4)
    )
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        (("mlp", 3, 4), "can't be pruned to a mlp"),
        (("resnet1d-post", 3, 4), "a resnet1d teacher can't be pruned to a resnet1d-post student"),
        (("tcn", 3, 4), "a resnet1d teacher can't be pruned to a tcn student"),
        (("resnet1d", 2, 4), "not blocks: the teacher has depth 3"),
        (("resnet1d", 3, 8), "nothing is left to prune"),
        (("resnet1d", 3, 9), "nothing is left to prune"),
    ],
)
def test_a_teacher_that_cannot_says_why(small_data: Data, teacher, tmp_path, shape, why):
    assert why in inits.why_not("resnet1d", 3, 8, *shape)
    arch, depth, width = shape
    spec = dataclasses.replace(
        TEACHER, id="s", role="student", arch=arch, depth=depth, width=width, init="pruned", teacher="t"
    )
    with pytest.raises(InputError, match=r"point s .* teacher t: "):
        initial_state(spec, teacher, small_data)
    with pytest.raises(InputError, match="train the teacher first"):
        initial_state(spec, tmp_path / "none", small_data)


def test_unknown_births_are_refused():
    assert inits.why_not("resnet1d", 3, 8, "resnet1d", 3, 7) == ""
    assert not inits.needs_teacher("random")
    with pytest.raises(InputError, match=r"unknown init 'prune': use random, pruned"):
        inits.needs_teacher("prune")


@pytest.mark.parametrize("init", inits.INITS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whoever_uses_a_teacher_records_its_hash(small_data, teacher, tmp_path, init, strategy):
    spec = dataclasses.replace(TEACHER, id="s", role="student", width=5, init=init, strategy=strategy)
    uses = needs_teacher(strategy) or inits.needs_teacher(init)
    member = Runs([spec], small_data, [tmp_path], teacher_folders=[teacher if uses else None]).members[0]
    assert member.teacher_sha256 == (sha256(teacher / "model.safetensors") if uses else None)


@pytest.mark.parametrize(("init", "strategy"), [("pruned", "scratch"), ("pruned_taylor", "soft")])
def test_a_run_starts_from_its_birth_and_resumes_to_the_bit(
    small_data: Data, teacher, tmp_path, init, strategy
):
    spec = dataclasses.replace(
        TEACHER, id="s", role="student", width=5, init=init, strategy=strategy, teacher="t", seed=2
    )
    run = Run(spec, small_data, tmp_path / "a", teacher_folder=teacher)
    wanted = initial_state(spec, teacher, small_data)
    assert all(torch.equal(v, wanted[k]) for k, v in run.model.state_dict().items())
    while run.step() is not None:
        pass
    whole = run.finish()
    first = Run(spec, small_data, tmp_path / "b", teacher_folder=teacher)
    first.step()
    first.checkpoint()
    second = Run(spec, small_data, tmp_path / "b", teacher_folder=teacher)
    assert second.epoch == 1
    second.step()
    ended = second.finish()
    assert ended["model_sha256"] == whole["model_sha256"]
    assert ended["teacher_sha256"] == whole["teacher_sha256"] == sha256(teacher / "model.safetensors")
    assert whole["weight_bytes_int8"] < whole["weight_bytes"]
