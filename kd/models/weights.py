"""A model's file: its weights, and in the metadata which architecture, depth and width they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES, build
from kd.models.layers import Classifier

SHAPE = "shape"  # the metadata's one key: safetensors writes several in a random order, hence other bytes


def save(state: Mapping[str, Tensor], path: Path, arch: str, depth: int, width: int) -> None:
    """Write a plain model's state dict, and what `shape_of` reads; equal weights make equal bytes."""
    shape = {"arch": arch, "depth": depth, "width": width}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(contiguous, path, metadata={SHAPE: json.dumps(shape)})


def shape_of(path: Path | str) -> tuple[str, int, int]:
    """Architecture, depth and width of the model in a file; reads no weights.

    By the metadata; in files of before it was written, by names and shapes of the weights. Raises InputError
    for a file that is no model of a known architecture.
    """
    with safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get(SHAPE)
        if said is not None:
            shape = json.loads(said)
            return str(shape["arch"]), int(shape["depth"]), int(shape["width"])
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for arch, entry in ARCHITECTURES.items():
        found = entry.recognise(shapes) if entry.recognise else None
        if found is not None:
            return arch, *found
    raise InputError(
        f"{path}: not a model of {' or '.join(ARCHITECTURES)}, by its metadata or by its weights: "
        f"give the model.safetensors of a trained point"
    )


def load(path: Path | str, channels: int, samples: int) -> Classifier:
    """The model in a file, in evaluation mode, for windows (N, channels, samples)."""
    state = load_file(path)
    model = build(*shape_of(path), channels=channels, samples=samples, classes=len(state["fc.bias"]))
    model.load_state_dict(state)
    return model.eval()
