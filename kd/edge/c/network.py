"""A model as the calls and constants of a C program, with the place of every map in one arena.

Maps are channels-last, (L, C). The map a layer reads lies at one end of the arena and what is kept of its
result at the other, so that nothing is ever fragmented and the arena is no larger than the most that is live.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kd.errors import InputError
from kd.models.architectures import ARCHITECTURES

Array = npt.NDArray[np.float64]


@dataclass
class Network:
    """calls: functions and their arguments, some of them a Place. constants: name -> values, any shape.

    arena: its size in values. channels_last: whether the window lies in it as (S, C), or as (C, S).
    logits_at_top: at which end they lie.
    """

    channels_last: bool
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    arena: int = 0
    logits_at_top: bool = False

    def constant(self, name: str, values: Any) -> str:
        """Add an array; its name."""
        self.constants[name] = np.asarray(values, np.float64)
        return name

    def live(self, *sizes: int) -> None:
        """So many values are alive at once."""
        self.arena = max(self.arena, sum(sizes))

    def call(self, function: str, *arguments: Any) -> None:
        """Add a statement."""
        self.calls.append((function, arguments))

    def statements(self) -> list[str]:
        """The calls as C, places resolved."""
        return [f"{name}({', '.join(self._argument(a) for a in given)});" for name, given in self.calls]

    def _argument(self, argument: Any) -> str:
        return f"arena + {argument.offset(self.arena)}" if isinstance(argument, Place) else str(argument)


@dataclass(frozen=True)
class Place:
    """`size` values at an end of the arena, `beyond` values away from it."""

    top: bool
    size: int
    beyond: int = 0

    def offset(self, arena: int) -> int:
        """Where it starts, in values."""
        return arena - self.beyond - self.size if self.top else self.beyond


def network(model: nn.Module, arch: str, channels: int, samples: int) -> Network:
    """The C program of a model; InputError for an architecture that has none."""
    require_c(arch)
    return WALKS.get(arch, _chain)(model.eval(), channels, samples)


def require_c(arch: str) -> None:
    """InputError for an architecture that has no C."""
    if arch not in WALKS and not (arch in ARCHITECTURES and ARCHITECTURES[arch].plan):
        known = " or ".join([*WALKS, *(name for name, known in ARCHITECTURES.items() if known.plan)])
        raise InputError(
            f"architecture {arch!r} has no C export: ship its model.onnx (export without --c), or choose a "
            f"student of {known}"
        )


def folded(norm: Any) -> tuple[Array, Array]:
    """Scale and shift of a batch norm in evaluation, (C,) each."""
    scale = _values(norm.weight) / np.sqrt(_values(norm.running_var) + norm.eps)
    return scale, _values(norm.bias) - _values(norm.running_mean) * scale


def _values(tensor: Tensor) -> Array:
    return tensor.detach().to(torch.float64).cpu().numpy()


def _taps(conv: nn.Conv2d) -> Array:
    """Weights of a convolution as C reads them: (cout, kernel, cin)."""
    return _values(conv.weight)[:, :, 0, :].transpose(0, 2, 1)


def _normed(net: Network, name: str, conv: nn.Conv2d, norm: Any) -> tuple[str, str]:
    """Names of the weights and the shift of a convolution and the norm after it, which it takes in."""
    scale, shift = folded(norm)
    return net.constant(f"w{name}", _taps(conv) * scale[:, None, None]), net.constant(f"t{name}", shift)


def _resnet1d(model: Any, channels: int, samples: int) -> Network:
    net, length = Network(channels_last=True), samples
    width, kernel = model.stem.out_channels, model.stem.kernel_size[1]
    x = Place(top=True, size=width * length)
    window = Place(top=False, size=channels * length)
    stem = net.constant("w_stem", _taps(model.stem))
    net.call("convolve", window, length, channels, width, kernel, 1, stem, "NONE", "PLAIN", x)
    net.live(window.size, x.size)
    for i, block in enumerate(model.blocks):
        x, length = _block(net, f"{i}", block, x, length)
    scale, shift = folded(model.bn)
    last = len(scale)
    net.call("norm_relu", x, length, last, net.constant("s_out", scale), net.constant("t_out", shift), x)
    _pool(net, model.fc, x, length, last)
    return net


def _resnet1d_post(model: Any, channels: int, samples: int) -> Network:
    net, length = Network(channels_last=True), samples
    width, kernel = model.stem.out_channels, model.stem.kernel_size[1]
    x = Place(top=True, size=width * length)
    window = Place(top=False, size=channels * length)
    stem = _normed(net, "_stem", model.stem, model.bn)
    net.call("convolve", window, length, channels, width, kernel, 1, *stem, "RELU", x)
    net.live(window.size, x.size)
    for i, block in enumerate(model.blocks):
        x, length = _post_block(net, f"{i}", block, x, length)
    _pool(net, model.fc, x, length, model.fc.in_features)
    return net


def _block(net: Network, name: str, block: Any, x: Place, length: int) -> tuple[Place, int]:
    """One residual block: where its result lies, and the result's length."""
    cin, cout, kernel = block.conv1.in_channels, block.conv1.out_channels, block.conv1.kernel_size[1]
    out = -(-length // block.stride)
    s1, t1 = (net.constant(f"{n}{name}", v) for n, v in zip("st", folded(block.bn1), strict=True))
    w1, t2 = _normed(net, f"{name}_1", block.conv1, block.bn2)
    w2 = net.constant(f"w{name}_2", _taps(block.conv2))
    if block.shortcut is None:
        kept, pre = x, Place(not x.top, x.size)
        hidden = Place(pre.top, cout * out, beyond=pre.size)
    else:  # nothing else needs x: the norm works in place
        kept, pre = Place(not x.top, cout * out), x
        hidden = Place(pre.top, cout * out, beyond=pre.size)
    net.call("norm_relu", x, length, cin, s1, t1, pre)
    if block.shortcut is not None:
        ws = net.constant(f"w{name}_s", _taps(block.shortcut))
        net.call("convolve", pre, length, cin, cout, 1, block.stride, ws, "NONE", "PLAIN", kept)
    net.call("convolve", pre, length, cin, cout, kernel, block.stride, w1, t2, "RELU", hidden)
    net.call("convolve", hidden, out, cout, cout, kernel, 1, w2, "NONE", "ADD", kept)
    net.live(kept.size, pre.size, hidden.size)
    return kept, out


def _post_block(net: Network, name: str, block: Any, x: Place, length: int) -> tuple[Place, int]:
    """One post-activation block: where its result lies, and the result's length."""
    cin, cout, kernel = block.conv1.in_channels, block.conv1.out_channels, block.conv1.kernel_size[1]
    out = -(-length // block.stride)
    kept = x  # the second convolution adds to it in place
    if block.shortcut is not None:
        kept = Place(not x.top, cout * out)
        shortcut = _normed(net, f"{name}_s", block.shortcut, block.bn_shortcut)
        net.call("convolve", x, length, cin, cout, 1, block.stride, *shortcut, "PLAIN", kept)
    hidden = Place(not x.top, cout * out, beyond=0 if kept is x else kept.size)
    first = _normed(net, f"{name}_1", block.conv1, block.bn1)
    second = _normed(net, f"{name}_2", block.conv2, block.bn2)
    net.call("convolve", x, length, cin, cout, kernel, block.stride, *first, "RELU", hidden)
    net.call("convolve", hidden, out, cout, cout, kernel, 1, *second, "ADD_RELU", kept)
    net.live(x.size, hidden.size, 0 if kept is x else kept.size)
    return kept, out


def _chain(model: Any, channels: int, samples: int) -> Network:
    """Convolutions one after the other (`kd.models.chain`)."""
    net, length = Network(channels_last=True), samples
    x = Place(top=False, size=channels * length)
    for i, part in enumerate(model.convs):
        c, out = part.of, -(-length // part.of.stride)
        y = Place(not x.top, c.cout * out)
        w, t = _normed(net, f"{i}", part.conv, part.bn)
        if c.depthwise:
            net.constants[w] = net.constants[w][:, :, 0].T  # (kernel, channels)
            net.call("depthwise", x, length, c.cin, c.kernel, c.stride, w, t, y)
        elif c.causal:
            net.call("look_back", x, length, c.cin, c.cout, c.kernel, c.dilation, c.stride, w, t, y)
        else:
            net.call("convolve", x, length, c.cin, c.cout, c.kernel, c.stride, w, t, "RELU", y)
        net.live(x.size, y.size)
        x, length = y, out
    _pool(net, model.fc, x, length, model.fc.in_features)
    return net


def _pool(net: Network, fc: Any, x: Place, length: int, features: int) -> None:
    pooled = Place(not x.top, features)
    net.call("average", x, length, features, pooled)
    net.live(x.size, pooled.size)
    _classify(net, fc, pooled)


def _mlp(model: Any, channels: int, samples: int) -> Network:
    net = Network(channels_last=False)
    x = Place(top=False, size=channels * samples)
    layers = list(model.hidden)
    for i in range(0, len(layers), 3):
        scale, shift = folded(layers[i + 1])
        w = net.constant(f"w{i // 3}", _values(layers[i].weight) * scale[:, None])
        y = Place(not x.top, len(scale))
        net.call("dense", x, x.size, y.size, w, net.constant(f"t{i // 3}", shift), "RELU", y)
        net.live(x.size, y.size)
        x = y
    _classify(net, model.fc, x)
    return net


def _classify(net: Network, fc: Any, x: Place) -> None:
    logits = Place(not x.top, fc.out_features)
    w, t = net.constant("w_fc", _values(fc.weight)), net.constant("t_fc", _values(fc.bias))
    net.call("dense", x, x.size, logits.size, w, t, "PLAIN", logits)
    net.live(x.size, logits.size)
    net.logits_at_top = logits.top


WALKS: dict[str, Callable[[Any, int, int], Network]] = {
    "resnet1d": _resnet1d,
    "mlp": _mlp,
    "resnet1d-post": _resnet1d_post,
}
