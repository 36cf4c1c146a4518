"""A trained model as an 8-bit student: post-training quantisation by windows of training subjects.

No batch norm is a step of its own: it goes into the convolution before it, or, where a residual sum lies
between, into the multiplication for each channel that makes a map of that sum.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd.edge.c.network import Array, folded
from kd.edge.int8.layers import (
    LEVEL,
    MOST_TERMS,
    Average,
    Block,
    Classes,
    Convolution,
    Dense,
    Rescale,
    Window,
)
from kd.edge.int8.ranges import map_scale, rescale, rows_to_int8, window
from kd.edge.int8.student import Student8
from kd.errors import InputError
from kd.training.teacher import as_tensor

MOST_SUM = 2**30  # of a class, its bias in it


@dataclass(frozen=True)
class Map:
    """Which map of an 8-bit student a module's output became: its name in `Student8.maps`, and its steps."""

    name: str
    to: Rescale
    zero: int = 0

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest real value it can have."""
        low, high = (-128, 127) if self.to.signed else (0, 255)
        return (low - self.zero) * self.to.scale, (high - self.zero) * self.to.scale

    def real(self, integers: Any) -> Tensor:
        """Its values (N, L, C), or (N, F), as the module gives them: float32 (N, C, 1, L), or (N, F)."""
        values = torch.from_numpy(((integers - self.zero) * self.to.scale).astype(np.float32))
        return values.permute(0, 2, 1).unsqueeze(2) if values.ndim == 3 else values


class Ranges:
    """The steps of a model's maps, by what its modules give for `windows` (N, C, S); each chosen once.

    So that layers can be quantised again, after their weights have changed, with the steps as they were.
    """

    def __init__(self, model: nn.Module, windows: Any) -> None:
        windows = np.asarray(windows, np.float32)
        if not len(windows):
            raise InputError("no window to take int8 ranges from: give training windows")
        self.channels, self.samples = windows.shape[1:]
        self.window: Window = window(windows)
        self._outputs: dict[nn.Module, Tensor] = {}
        self._steps: dict[tuple[nn.Module, bool], float] = {}
        hooks = [m.register_forward_hook(self._keep) for m in model.modules() if m is not model]
        with torch.no_grad():
            model.eval()(as_tensor(windows))
        for hook in hooks:
            hook.remove()

    def _keep(self, module: nn.Module, _: Any, output: Tensor) -> None:
        self._outputs[module] = output

    def step(self, module: nn.Module, signed: bool) -> float:
        """The step of the map that a module's output becomes."""
        if (module, signed) not in self._steps:
            self._steps[module, signed] = map_scale(self._outputs[module], signed)
        return self._steps[module, signed]


def quantise(model: nn.Module, arch: str, windows: Any) -> Student8:
    """The 8-bit student of a float model, its ranges those of `windows` (N, C, S).

    Raises InputError for an architecture that has none, and for layers too wide for 32-bit sums.
    """
    require_walk(arch)
    return walked(model, arch, Ranges(model, windows))[0]


def require_walk(arch: str) -> None:
    """InputError for an architecture that has no int8."""
    if arch not in WALKS:
        raise InputError(
            f"architecture {arch!r} has no int8 in C: take --precision fp32 (model.int8.onnx is int8 "
            f"all the same), or choose a student of {' or '.join(WALKS)}"
        )


def walked(model: Any, arch: str, ranges: Ranges) -> tuple[Student8, dict[nn.Module, Map]]:
    """The 8-bit student of a model with these ranges, and which modules' outputs became which maps."""
    maps: dict[nn.Module, Map] = {}
    with torch.no_grad():
        return WALKS[arch](model, ranges, maps), maps


def _values(tensor: Tensor) -> Array:
    return tensor.detach().to(torch.float64).cpu().numpy()


def _taps(conv: Any) -> Array:
    """Weights of a convolution: (cout, kernel, cin)."""
    return _values(conv.weight)[:, :, 0, :].transpose(0, 2, 1)


class _Sums:
    """Weights as int8, and what a unit of their sums is worth; ranges of what becomes of those."""

    def __init__(self, weights: Array, scale: float, border: bool = False) -> None:
        """scale: of the input."""
        terms = int(np.prod(weights.shape[1:]))
        if terms > MOST_TERMS:
            raise InputError(
                f"a layer with {terms:,} inputs is too wide for int8 in C (at most {MOST_TERMS:,}): "
                "export --precision fp32, or a narrower student"
            )
        self.weights, per_row = rows_to_int8(weights)
        self.unit = scale * per_row
        rows = self.weights.reshape(len(weights), -1)
        self.most = 255 * np.abs(rows).sum(1)
        self.level: Any = LEVEL * rows.sum(1) if border else 0

    def to(
        self,
        step: float,
        signed: bool,
        norm: tuple[Array, Array] | None,
        kept: float | None = None,
    ) -> Rescale:
        """To a map of this step. norm: scale and shift (C,). kept: the scale of what is kept."""
        scale, shift = norm or (np.ones(len(self.unit)), np.zeros(len(self.unit)))
        keep = None if kept is None else scale * kept
        return rescale(self.unit * scale, shift, keep, step, signed, self.most, self.level)


def _resnet1d(model: Any, ranges: Ranges, maps: dict[nn.Module, Map]) -> Student8:
    norms = [block.bn1 for block in model.blocks] + [model.bn]
    keeps = [block.shortcut is None for block in model.blocks] + [False]

    def mapped(
        name: str, sums: _Sums, module: nn.Module, signed: bool, norm: Any = None, kept: float | None = None
    ) -> Rescale:
        to = sums.to(ranges.step(module, signed), signed, norm, kept)
        maps[module] = Map(f"{name}_{'kept' if signed else 'map'}", to)
        return to

    sums = _Sums(_taps(model.stem), ranges.window.scale, border=True)
    to_kept = mapped("stem", sums, model.stem, True) if keeps[0] else None
    to_map = mapped("stem", sums, norms[0], False, folded(norms[0]))
    stem = Convolution("stem", sums.weights, 1, to_kept, to_map, border=True)
    blocks = []
    for i, block in enumerate(model.blocks):
        scale = to_map.scale
        shortcut, before = None, to_kept
        if block.shortcut is not None:
            sums = _Sums(_taps(block.shortcut), scale)
            before = mapped(f"{i}_s", sums, block.shortcut, True)
            shortcut = Convolution(f"{i}_s", sums.weights, block.stride, before, None)
        assert before is not None
        norm_scale, norm_shift = folded(block.bn2)
        sums = _Sums(_taps(block.conv1) * norm_scale[:, None, None], scale)
        to_hidden = mapped(f"{i}_1", sums, block.bn2, False, (np.ones(len(norm_shift)), norm_shift))
        first = Convolution(f"{i}_1", sums.weights, block.stride, None, to_hidden)
        sums = _Sums(_taps(block.conv2), to_hidden.scale)
        to_kept = mapped(f"{i}_2", sums, block, True, None, before.scale) if keeps[i + 1] else None
        to_map = mapped(f"{i}_2", sums, norms[i + 1], False, folded(norms[i + 1]), before.scale)
        blocks.append(Block(first, Convolution(f"{i}_2", sums.weights, 1, to_kept, to_map), shortcut))
    return _pooled(model, ranges, stem, blocks, to_map.scale)


def _resnet1d_post(model: Any, ranges: Ranges, maps: dict[nn.Module, Map]) -> Student8:
    def normed(conv: Any, norm: Any, scale: float, border: bool = False) -> tuple[_Sums, tuple[Array, Array]]:
        """A convolution and the norm after it, which it takes in."""
        norm_scale, norm_shift = folded(norm)
        return _Sums(_taps(conv) * norm_scale[:, None, None], scale, border), (
            np.ones_like(norm_shift),
            norm_shift,
        )

    sums, shift = normed(model.stem, model.bn, ranges.window.scale, border=True)
    to_map = sums.to(ranges.step(model.bn, False), False, shift)
    maps[model.bn] = Map("stem_map", to_map)
    stem = Convolution("stem", sums.weights, 1, None, to_map, border=True)
    blocks = []
    for i, block in enumerate(model.blocks):
        kept_scale, shortcut = to_map.scale, None
        sums, shift = normed(block.conv1, block.bn1, to_map.scale)
        to_hidden = sums.to(ranges.step(block.bn1, False), False, shift)
        maps[block.bn1] = Map(f"{i}_1_map", to_hidden)
        first = Convolution(f"{i}_1", sums.weights, block.stride, None, to_hidden)
        if block.shortcut is not None:
            sums, shift = normed(block.shortcut, block.bn_shortcut, to_map.scale)
            about = sums.to(ranges.step(block.bn_shortcut, True), True, shift)
            about = replace(about, offset=about.offset + (LEVEL << about.shift), signed=False)
            maps[block.bn_shortcut] = Map(f"{i}_s_map", about, LEVEL)
            shortcut, kept_scale = Convolution(f"{i}_s", sums.weights, block.stride, None, about), about.scale
        sums, shift = normed(block.conv2, block.bn2, to_hidden.scale)
        to_map = sums.to(ranges.step(block, False), False, shift, kept_scale)
        if shortcut is not None and to_map.keep is not None:
            to_map = replace(to_map, offset=to_map.offset - LEVEL * to_map.keep)
        maps[block] = Map(f"{i}_2_map", to_map)
        blocks.append(Block(first, Convolution(f"{i}_2", sums.weights, 1, None, to_map), shortcut))
    return _pooled(model, ranges, stem, blocks, to_map.scale, post=True)


def _pooled(
    model: Any, ranges: Ranges, stem: Convolution, blocks: list[Block], scale: float, post: bool = False
) -> Student8:
    """A ResNet with these layers, the last of which makes maps of steps of `scale`."""
    length = ranges.samples
    for block in blocks:
        length = -(-length // block.first.stride)
    average = _average(len(blocks[-1].second.weights) if blocks else len(stem.weights), length, scale)
    return Student8(
        channels=ranges.channels,
        samples=ranges.samples,
        window=ranges.window,
        classes=_classes(model.fc, average.scale),
        stem=stem,
        blocks=blocks,
        average=average,
        post=post,
    )


def _average(features: int, length: int, scale: float) -> Average:
    """The mean over `length` of maps of steps of `scale`."""
    shift = int(255 * length * 127 * features / (MOST_SUM // 2)).bit_length()
    return Average(shift, scale / length * 2**shift)


def _mlp(model: Any, ranges: Ranges, maps: dict[nn.Module, Map]) -> Student8:
    scale, layers, hidden = ranges.window.scale, list(model.hidden), []
    for i in range(0, len(layers), 3):
        norm_scale, norm_shift = folded(layers[i + 1])
        sums = _Sums(_values(layers[i].weight) * norm_scale[:, None], scale, border=i == 0)
        step = ranges.step(layers[i + 2], False)
        to_map = sums.to(step, False, (np.ones(len(norm_shift)), norm_shift))
        maps[layers[i + 2]] = Map(f"{i // 3}_map", to_map)
        hidden.append(Dense(f"{i // 3}", sums.weights, to_map))
        scale = to_map.scale
    return Student8(
        channels=ranges.channels,
        samples=ranges.samples,
        window=ranges.window,
        classes=_classes(model.fc, scale),
        hidden=hidden,
    )


def _classes(fc: Any, scale: float) -> Classes:
    """The class layer on features of steps of `scale`."""
    weights, bias = _values(fc.weight), _values(fc.bias)
    rows = np.maximum(np.abs(weights).max(1) / 127, np.abs(bias) / scale / (MOST_SUM // 4))
    rows = np.where(rows > 0, rows, 1.0)
    integers = np.rint(weights / rows[:, None]).astype(np.int64)
    unit = (scale * rows).astype(np.float32)
    return Classes(integers, np.rint(bias / unit).astype(np.int64), unit)


WALKS: dict[str, Callable[[Any, Ranges, dict[nn.Module, Map]], Student8]] = {
    "resnet1d": _resnet1d,
    "resnet1d-post": _resnet1d_post,
    "mlp": _mlp,
}
