"""A trained model as an 8-bit student: post-training quantisation by windows of training subjects.

No batch norm is a step of its own: it goes into the convolution before it, or, where a residual sum lies
between, into the multiplication for each channel that makes a map of that sum.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd.edge.c.network import Array, folded
from kd.edge.int8.layers import LEVEL, MOST_TERMS, Average, Block, Classes, Convolution, Dense, Rescale
from kd.edge.int8.ranges import map_scale, rescale, rows_to_int8, window
from kd.edge.int8.student import Student8
from kd.errors import InputError
from kd.training.teacher import as_tensor

MOST_SUM = 2**30  # of a class, its bias in it


def quantise(model: nn.Module, arch: str, windows: Any) -> Student8:
    """The 8-bit student of a float model, its ranges those of `windows` (N, C, S).

    Raises InputError for an architecture that has none, and for layers too wide for 32-bit sums.
    """
    if arch not in WALKS:
        raise InputError(
            f"architecture {arch!r} has no int8 in C: take --precision fp32 (model.int8.onnx is int8 "
            f"all the same), or choose a student of {' or '.join(WALKS)}"
        )
    if not len(windows):
        raise InputError("no window to take int8 ranges from: give training windows")
    with torch.no_grad():
        return WALKS[arch](model.eval(), as_tensor(np.asarray(windows, np.float32)))


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
        self, real: Any, signed: bool, norm: tuple[Array, Array] | None, kept: float | None = None
    ) -> Rescale:
        """To a map of the range of `real`. norm: scale and shift (C,). kept: the scale of what is kept."""
        scale, shift = norm or (np.ones(len(self.unit)), np.zeros(len(self.unit)))
        keep = None if kept is None else scale * kept
        step = map_scale(real, signed)
        return rescale(self.unit * scale, shift, keep, step, signed, self.most, self.level)


def _resnet1d(model: Any, windows: Tensor) -> Student8:
    net_window = window(windows.numpy())
    x = model.stem(model.maps(windows))
    norms = [block.bn1 for block in model.blocks] + [model.bn]
    keeps = [block.shortcut is None for block in model.blocks] + [False]
    sums = _Sums(_taps(model.stem), net_window.scale, border=True)
    pre = norms[0](x)
    to_kept = sums.to(x, True, None) if keeps[0] else None
    to_map = sums.to(pre, False, folded(norms[0]))
    stem = Convolution("stem", sums.weights, 1, to_kept, to_map, border=True)
    blocks = []
    for i, block in enumerate(model.blocks):
        scale = to_map.scale
        if block.shortcut is None:
            kept, shortcut = x, None
            assert to_kept is not None
            kept_scale = to_kept.scale
        else:
            kept = block.shortcut(pre[..., :: block.stride])
            sums = _Sums(_taps(block.shortcut), scale)
            shortcut = Convolution(f"{i}_s", sums.weights, block.stride, sums.to(kept, True, None), None)
            assert shortcut.to_kept is not None
            kept_scale = shortcut.to_kept.scale
        norm_scale, norm_shift = folded(block.bn2)
        hidden = block.bn2(block.conv1(pre))
        sums = _Sums(_taps(block.conv1) * norm_scale[:, None, None], scale)
        to_hidden = sums.to(hidden, False, (np.ones(len(norm_shift)), norm_shift))
        first = Convolution(f"{i}_1", sums.weights, block.stride, None, to_hidden)
        x = kept + block.conv2(hidden)
        pre = norms[i + 1](x)
        sums = _Sums(_taps(block.conv2), to_hidden.scale)
        to_kept = sums.to(x, True, None, kept_scale) if keeps[i + 1] else None
        to_map = sums.to(pre, False, folded(norms[i + 1]), kept_scale)
        blocks.append(Block(first, Convolution(f"{i}_2", sums.weights, 1, to_kept, to_map), shortcut))
    average = _average(pre, to_map.scale)
    return Student8(
        channels=windows.shape[1],
        samples=windows.shape[2],
        window=net_window,
        classes=_classes(model.fc, average.scale),
        stem=stem,
        blocks=blocks,
        average=average,
    )


def _resnet1d_post(model: Any, windows: Tensor) -> Student8:
    net_window = window(windows.numpy())

    def normed(conv: Any, norm: Any, scale: float, border: bool = False) -> tuple[_Sums, tuple[Array, Array]]:
        """A convolution and the norm after it, which it takes in."""
        norm_scale, norm_shift = folded(norm)
        return _Sums(_taps(conv) * norm_scale[:, None, None], scale, border), (
            np.ones_like(norm_shift),
            norm_shift,
        )

    x = model.bn(model.stem(model.maps(windows)))
    sums, shift = normed(model.stem, model.bn, net_window.scale, border=True)
    to_map = sums.to(x, False, shift)
    stem = Convolution("stem", sums.weights, 1, None, to_map, border=True)
    blocks = []
    for i, block in enumerate(model.blocks):
        kept, kept_scale, shortcut = x, to_map.scale, None
        hidden = block.bn1(block.conv1(x))
        sums, shift = normed(block.conv1, block.bn1, to_map.scale)
        to_hidden = sums.to(hidden, False, shift)
        first = Convolution(f"{i}_1", sums.weights, block.stride, None, to_hidden)
        if block.shortcut is not None:
            kept = block.bn_shortcut(block.shortcut(x[..., :: block.stride]))
            sums, shift = normed(block.shortcut, block.bn_shortcut, to_map.scale)
            about = sums.to(kept, True, shift)
            about = replace(about, offset=about.offset + (LEVEL << about.shift), signed=False)
            shortcut, kept_scale = Convolution(f"{i}_s", sums.weights, block.stride, None, about), about.scale
        x = torch.relu(block.bn2(block.conv2(hidden)) + kept)
        sums, shift = normed(block.conv2, block.bn2, to_hidden.scale)
        to_map = sums.to(x, False, shift, kept_scale)
        if shortcut is not None and to_map.keep is not None:
            to_map = replace(to_map, offset=to_map.offset - LEVEL * to_map.keep)
        blocks.append(Block(first, Convolution(f"{i}_2", sums.weights, 1, None, to_map), shortcut))
    average = _average(x, to_map.scale)
    return Student8(
        channels=windows.shape[1],
        samples=windows.shape[2],
        window=net_window,
        classes=_classes(model.fc, average.scale),
        stem=stem,
        blocks=blocks,
        average=average,
        post=True,
    )


def _average(x: Tensor, scale: float) -> Average:
    """The mean over length of maps (N, C, 1, L) of steps of `scale`."""
    features, length = x.shape[1], x.shape[3]
    shift = int(255 * length * 127 * features / (MOST_SUM // 2)).bit_length()
    return Average(shift, scale / length * 2**shift)


def _mlp(model: Any, windows: Tensor) -> Student8:
    net_window = window(windows.numpy())
    x, scale, layers, hidden = windows.flatten(1), net_window.scale, list(model.hidden), []
    for i in range(0, len(layers), 3):
        norm_scale, norm_shift = folded(layers[i + 1])
        x = layers[i + 2](layers[i + 1](layers[i](x)))
        sums = _Sums(_values(layers[i].weight) * norm_scale[:, None], scale, border=i == 0)
        to_map = sums.to(x, False, (np.ones(len(norm_shift)), norm_shift))
        hidden.append(Dense(f"{i // 3}", sums.weights, to_map))
        scale = to_map.scale
    return Student8(
        channels=windows.shape[1],
        samples=windows.shape[2],
        window=net_window,
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


WALKS: dict[str, Callable[[Any, Tensor], Student8]] = {
    "resnet1d": _resnet1d,
    "resnet1d-post": _resnet1d_post,
    "mlp": _mlp,
}
