"""A model's file: its weights, and in the metadata which architecture, depth and width they belong to."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES, architecture, build
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
    for a damaged file, and for one that is no model of a known architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(SHAPE)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    if said is not None:
        return _said(path, said)
    for arch, entry in ARCHITECTURES.items():
        found = entry.recognise(shapes) if entry.recognise else None
        if found is not None and min(found) > 0:
            return arch, *found
    raise InputError(
        f"{path}: not a model of {' or '.join(ARCHITECTURES)}, by its metadata or by its weights: "
        f"give the model.safetensors of a trained point"
    )


def read(path: Path | str) -> dict[str, Tensor]:
    """The weights in a file by their names, on the CPU. Raises InputError for a damaged file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def load(path: Path | str, channels: int, samples: int) -> Classifier:
    """The model in a file, in evaluation mode, for windows (N, channels, samples).

    Raises InputError for a damaged file, and for weights that aren't those of the shape it names.
    """
    state, (arch, depth, width) = read(path), shape_of(path)
    bias = state.get("fc.bias")
    if bias is None or bias.ndim != 1:
        raise _damaged(path, "no fc.bias (classes,) in it")
    # A file may name any size: before a model of that size is made, the file must hold as many weights.
    there, classes = sum(tensor.numel() for tensor in state.values()), len(bias)
    count = architecture(arch).count
    if depth > len(state) or count(depth, width, channels, samples, classes).params > there:
        raise _damaged(path, f"its {there} weights are too few for {arch} of depth {depth}, width {width}")
    model = build(arch, depth, width, channels=channels, samples=samples, classes=classes)
    fill(model, state, path)
    return model.eval()


def fill(model: Classifier, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Put the weights of a file into a model. Raises InputError if they aren't this model's."""
    for name, tensor in model.state_dict().items():
        if name in state and state[name].is_floating_point() != tensor.is_floating_point():
            raise _damaged(path, f"{name} is {state[name].dtype}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # missing, additional and misshapen weights, each on a line
        raise _damaged(path, " ".join(str(error).split())[:300]) from None


def _said(path: Path | str, text: str) -> tuple[str, int, int]:
    """The shape that the metadata names."""
    try:
        shape = json.loads(text)
        arch, depth, width = (shape[key] for key in ("arch", "depth", "width"))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path, f"its metadata names no shape: {error!r}") from None
    if not (isinstance(arch, str) and all(type(n) is int and n > 0 for n in (depth, width))):
        raise _damaged(path, f"its metadata names no shape: {text[:80]!r}")
    try:
        architecture(arch)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return arch, depth, width


def _damaged(path: Path | str, why: object) -> InputError:
    return InputError(f"{path}: not a readable model ({why}): restore the file, or train the point again")
