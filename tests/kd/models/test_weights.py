"""Model files: they say what they hold, equal weights make equal bytes, and old files are still read."""

import pytest
import torch
from safetensors.torch import save_file

from kd.errors import InputError
from kd.models import weights
from kd.models.architectures import ARCHITECTURES, build

SHAPES = [(arch, depth, width) for arch in ARCHITECTURES for depth, width in ((1, 3), (5, 2), (12, 4))]


@pytest.mark.parametrize(("arch", "depth", "width"), SHAPES)
def test_a_file_says_what_it_holds(tmp_path, arch, depth, width):
    model, x = build(arch, depth, width, channels=2, samples=64, classes=70).eval(), torch.randn(3, 2, 64)
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for file in files:
        weights.save(model.state_dict(), file, arch, depth, width)
    assert len({file.read_bytes() for file in files}) == 1
    assert weights.shape_of(files[0]) == (arch, depth, width)
    again = weights.load(files[0], channels=2, samples=64)
    assert not again.training
    assert torch.equal(again(x)[0], model(x)[0])


@pytest.mark.parametrize(
    ("arch", "depth", "width"), [shape for shape in SHAPES if ARCHITECTURES[shape[0]].recognise]
)
def test_files_of_before_they_said_so_are_recognised(tmp_path, arch, depth, width):
    model, x = build(arch, depth, width).eval(), torch.randn(3, 1, 200)
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    assert weights.shape_of(file) == (arch, depth, width)
    assert torch.equal(weights.load(file, channels=1, samples=200)(x)[0], model(x)[0])


def test_a_file_of_something_else_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: not a model of resnet1d or mlp"):
        weights.shape_of(tmp_path / "other.safetensors")
    weights.save({"fc.bias": torch.zeros(2)}, tmp_path / "new.safetensors", "lstm", 2, 4)
    with pytest.raises(InputError, match="unknown architecture 'lstm': use resnet1d or mlp"):
        weights.load(tmp_path / "new.safetensors", channels=1, samples=200)
