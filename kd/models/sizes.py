"""Exact sizes of a model from its shape alone: no torch, no model built, microseconds a call.

`architectures.py` builds what is counted here, and training asserts that both agree; tests hold MACs against
torch's FLOP counter and the activation peak against a walk over the exported graph.
"""

from dataclasses import dataclass
from functools import lru_cache

from kd.errors import InputError

KERNEL = 5  # WildPPG's ResNet1D; odd, so that padding KERNEL // 2 is symmetric on every runtime
CLASSES = 180  # 30..209 BPM
BYTES = 4  # of a float32
# filters double every 4 blocks, every second block has stride 2; WildPPG's ResNet1D
GROW_GAP, DOWN_GAP = 4, 2


# params, macs, activation peak in values, layers, weights kept in int8, scales (output channels) of those
Counts = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Size:
    """What one model costs for one window.

    params: trainable, batch norms counted. macs: multiply-adds of convolutions and linear layers.
    weight_bytes: float32. weight_bytes_int8: convolutions and hidden linear layers in int8 with one float32
    scale per output channel; batch norms and the class layer stay float32. activation_bytes: peak of the live
    tensors, input included, float32; batch norm, ReLU and the residual sum work in place where nothing else
    needs their input (`costs.py` walks the graph by the same rule). layers: convolutions and linear layers.
    """

    params: int
    macs: int
    weight_bytes: int
    weight_bytes_int8: int
    activation_bytes: int
    layers: int

    @property
    def activation_bytes_int8(self) -> int:
        """The activation peak of a runtime that keeps activations in int8."""
        return self.activation_bytes // BYTES


@lru_cache(maxsize=1 << 16)
def size(
    arch: str, depth: int, width: int, *, channels: int = 1, samples: int = 200, classes: int = CLASSES
) -> Size:
    """The size of one model; InputError for an unknown architecture or a shape that can't be built."""
    if arch not in ARCHS:
        raise InputError(f"unknown architecture {arch!r}: use {' or '.join(ARCHS)}")
    if depth < 1 or width < 1:
        raise InputError(f"{arch} {depth}x{width}: depth and width must be 1 or more")
    params, macs, peak, layers, quantised, scales = ARCHS[arch](depth, width, channels, samples, classes)
    int8 = quantised + BYTES * (params - quantised + scales)
    return Size(params, macs, BYTES * params, int8, BYTES * peak, layers)


def filters(depth: int, width: int) -> list[int]:
    """Filters of a ResNet's stem and of each of its blocks, (depth + 1,)."""
    return [width, *(width * 2 ** (i // GROW_GAP) for i in range(depth))]


def stride(block: int) -> int:
    """Stride of a ResNet's block, counted from 0."""
    return 2 if block % DOWN_GAP == DOWN_GAP - 1 else 1


def _resnet1d(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
    n = filters(depth, width)
    length = samples
    params, macs, layers = KERNEL * channels * width, KERNEL * channels * width * length, 1
    norms, scales = 0, width
    peak = (channels + width) * length
    for i in range(depth):
        cin, cout, out = n[i], n[i + 1], -(-length // stride(i))
        shortcut = stride(i) != 1 or cin != cout
        params += KERNEL * cin * cout + KERNEL * cout * cout + shortcut * cin * cout
        norms += 2 * cin + 2 * cout
        scales += (2 + shortcut) * cout
        macs += (KERNEL * cin + KERNEL * cout + shortcut * cin) * cout * out
        layers += 2 + shortcut
        kept = cout * out if shortcut else cin * length  # what the residual sum waits for
        peak = max(peak, kept + cin * length + cout * out, kept + 2 * cout * out)
        length = out
    last = n[-1]
    rest = norms + 2 * last + last * classes + classes
    macs += last * classes
    peak = max(peak, last * length + last, last + classes)
    return params + rest, macs, peak, layers + 1, params, scales


def _mlp(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
    inputs = [channels * samples, *[width] * (depth - 1)]
    quantised = sum(n * width for n in inputs)
    params = quantised + depth * 2 * width + width * classes + classes
    peak = max(*(n + width for n in inputs), width + classes)
    return params, quantised + width * classes, peak, depth + 1, quantised, depth * width


ARCHS = {"resnet1d": _resnet1d, "mlp": _mlp}
