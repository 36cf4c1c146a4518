"""Model files: they say what they hold, equal weights make equal bytes, and old files are still read."""

import os
import random

import pytest
import torch
from safetensors.torch import save_file

from kd.errors import InputError
from kd.models import weights
from kd.models.architectures import ARCHITECTURES, build
from kd.training.train import load_model

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


def damaged(whole, dice):
    """A model file's bytes with a few changed, most of them in the header, cut off or added."""
    data, header = bytearray(whole), 8 + int.from_bytes(whole[:8], "little")
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(min(dice.choice([8, header, header, len(whole)]), len(data)))
        change = dice.randrange(5)
        if change == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif change == 1:
            data[at] = dice.choice(b'0123456789{}[]",:\\\x00\xff')
        elif change == 2:
            del data[at:]
        elif change == 3:
            del data[at : at + dice.randrange(1, 9)]
        else:
            data[at:at] = dice.randbytes(dice.randrange(1, 9))
        if len(data) < 9:
            break
    return bytes(data)


@pytest.mark.parametrize("named", [True, False])
def test_damaged_files_are_named(tmp_path, named):
    """Whatever the bytes: a model or one line that names the file, also where a finished point is read."""
    model, file = build("resnet1d", 2, 4, samples=64), tmp_path / "model.safetensors"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if named:
        weights.save(state, file, "resnet1d", 2, 4)
    else:
        save_file(state, file)
    whole, dice, said = file.read_bytes(), random.Random(0), []
    mutants = int(os.environ.get("KDSWEEP_FUZZ", "1")) * 250
    shape = {"arch": "resnet1d", "depth": 2, "width": 4, "channels": 1, "samples": 64, "classes": 180}
    readers = (
        lambda: weights.shape_of(file),
        lambda: weights.load(file, channels=1, samples=64),
        lambda: load_model(tmp_path, **shape),
    )
    for _ in range(mutants):
        file.write_bytes(damaged(whole, dice))
        for read in readers:
            try:
                read()
            except InputError as error:
                said.append(str(error))
    assert len(said) > mutants
    assert all(line.startswith(f"{file}: ") and "\n" not in line for line in said)


def test_a_size_that_the_file_does_not_hold_is_refused_before_it_is_built(tmp_path):
    file, state = tmp_path / "model.safetensors", build("mlp", 1, 2).state_dict()
    for depth, width in ((10**12, 2), (1, 10**12), (1, 3)):
        weights.save(state, file, "mlp", depth, width)
        with pytest.raises(InputError, match="too few for mlp"):
            weights.load(file, channels=1, samples=200)
    for text in ("{}", "[]", '{"arch": "mlp", "depth": true, "width": 2}', "[" * 10_000):
        save_file(state, file, metadata={weights.SHAPE: text})
        with pytest.raises(InputError, match="metadata names no shape"):
            weights.shape_of(file)
    with pytest.raises(InputError, match=r"none\.safetensors: not a readable model"):
        weights.shape_of(tmp_path / "none.safetensors")
