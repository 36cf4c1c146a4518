"""Adding an architecture: ten lines and an entry, and everything that asks the registry knows it."""

import pytest
import torch

from kd.models import costs, inits, weights
from kd.models.architectures import ARCHITECTURES, build
from kd.models.contract import Architecture, Counts
from kd.models.layers import BatchNormRelu, Classifier, Maps, Pool, conv, linear
from kd.models.sizes import size
from kd.signals.prepare import DataConfig, prepare
from kd.training.recipe import Recipe, Spec
from kd.training.train import Run


def count(depth, width, channels, samples, classes):
    inputs = [channels, *[width] * (depth - 1)]
    kernels, last, peak = 3 * width * sum(inputs), (width + 1) * classes, (max(inputs) + width) * samples
    params, macs = kernels + 2 * depth * width + last, kernels * samples + width * classes
    return Counts(params, macs, max(peak, width + classes), depth + 1, kernels, depth * width)


def plain(depth, width, *, channels, samples, classes, members):
    body = {"maps": Maps()}
    for i in range(depth):
        body[f"conv{i}"] = conv(width if i else channels, width, 3, members=members)
        body[f"norm{i}"] = BatchNormRelu(members * width)
    return Classifier({**body, "pool": Pool()}, linear(width, classes, members=members))


@pytest.fixture
def registered(monkeypatch):
    size.cache_clear()
    monkeypatch.setitem(ARCHITECTURES, "plain", Architecture(count, plain, convolutional=True))
    yield
    size.cache_clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = DataConfig(source="synthetic", options={"subjects": 6, "minutes": 1.0})
    return prepare(config, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "plain"])
@pytest.mark.parametrize(("depth", "width"), [(1, 1), (1, 5), (2, 3), (5, 4), (9, 2)])
def test_sizes_are_those_of_the_built_model(registered, arch, depth, width):
    shape = {"channels": 2, "samples": 67, "classes": 50}
    model, closed = build(arch, depth, width, **shape), size(arch, depth, width, **shape)
    assert closed.params == sum(p.numel() for p in model.parameters())
    assert costs.cost(model, 2, 67) == costs.Cost(
        closed.params, closed.macs, closed.weight_bytes, closed.weight_bytes_int8, closed.activation_bytes
    )


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "plain"])
def test_a_stack_computes_what_its_members_do(registered, arch):
    shape = {"channels": 2, "samples": 67, "classes": 50}
    stack, plain = (build(arch, 3, 4, **shape, members=m).eval() for m in (3, 1))
    x, each = (
        torch.randn(5, 3, 2, 67),
        {name: len(tensor) for name, tensor in plain.state_dict().items() if tensor.ndim},
    )
    logits = stack(x.flatten(1, 2))[0].unflatten(1, (3, 50))
    for m in range(3):
        state = {
            name: tensor[m * each[name] :][: each[name]]
            for name, tensor in stack.state_dict().items()
            if name in each
        }
        plain.load_state_dict(state, strict=False)
        torch.testing.assert_close(plain(x[:, m])[0], logits[:, m], rtol=1e-4, atol=1e-4)


def test_it_trains_and_its_file_is_read_back(registered, data, tmp_path):
    recipe = Recipe(max_epochs=1, batch_size=32, windows_per_epoch=32)
    spec = Spec(id="n", role="teacher", arch="plain", depth=2, width=6, recipe=recipe)
    run = Run(spec, data, tmp_path)
    before = run.model.conv1.weight.detach().clone()
    assert run.steps_per_epoch == 1
    assert run.step() is not None
    assert not torch.equal(run.model.conv1.weight, before)
    assert run.finish()["params"] == size("plain", 2, 6).params
    file = tmp_path / "model.safetensors"
    assert weights.shape_of(file) == ("plain", 2, 6)
    model, x = weights.load(file, channels=1, samples=200), torch.randn(3, 1, 200)
    assert torch.equal(model.conv1.weight, run.best_state(0)["conv1.weight"])
    assert model(x)[0].shape == (3, 180)
    assert "can't be pruned" in inits.why_not("plain", 2, 6, "plain", 2, 4)
