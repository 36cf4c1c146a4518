"""Exact sizes of a model from its shape alone: no torch, no model built, microseconds a call.

`kd.models` builds what is counted here, and training asserts that both agree; tests hold MACs against torch's
FLOP counter and the activation peak against a walk over the exported graph.
"""

from dataclasses import dataclass
from functools import lru_cache

from kd.errors import InputError

KERNEL = 5  # WildPPG's ResNet1D; odd, so that padding KERNEL // 2 is symmetric on every runtime
CLASSES = 180  # 30..209 BPM
BYTES = 4  # of a float32
# filters double every 4 blocks, every second block has stride 2; WildPPG's ResNet1D
GROW_GAP, DOWN_GAP = 4, 2


@dataclass(frozen=True)
class Size:
    """What one model costs for one window.

    params: trainable, batch norms counted. macs: multiply-adds of convolutions and linear layers.
    weight_bytes: float32. activation_bytes: peak of the live tensors, input included, float32; batch norm,
    ReLU and the residual sum work in place where nothing else needs their input. layers: convolutions and
    linear layers.
    """

    params: int
    macs: int
    weight_bytes: int
    activation_bytes: int
    layers: int


@lru_cache(maxsize=1 << 16)
def size(
    arch: str, depth: int, width: int, *, channels: int = 1, samples: int = 200, classes: int = CLASSES
) -> Size:
    """The size of one model; InputError for an unknown architecture or a shape that can't be built."""
    if arch not in ARCHS:
        raise InputError(f"unknown architecture {arch!r}: use {' or '.join(ARCHS)}")
    if depth < 1 or width < 1:
        raise InputError(f"{arch} {depth}x{width}: depth and width must be 1 or more")
    params, macs, peak, layers = ARCHS[arch](depth, width, channels, samples, classes)
    return Size(params, macs, BYTES * params, BYTES * peak, layers)


def filters(depth: int, width: int) -> list[int]:
    """Filters of a ResNet's stem and of each of its blocks, (depth + 1,)."""
    return [width, *(width * 2 ** (i // GROW_GAP) for i in range(depth))]


def stride(block: int) -> int:
    """Stride of a ResNet's block, counted from 0."""
    return 2 if block % DOWN_GAP == DOWN_GAP - 1 else 1


def _resnet1d(depth: int, width: int, channels: int, samples: int, classes: int) -> tuple[int, int, int, int]:
    n = filters(depth, width)
    length = samples
    params, macs, layers = KERNEL * channels * width, KERNEL * channels * width * length, 1
    peak = (channels + width) * length
    for i in range(depth):
        cin, cout, out = n[i], n[i + 1], -(-length // stride(i))
        shortcut = stride(i) != 1 or cin != cout
        params += 2 * cin + KERNEL * cin * cout + 2 * cout + KERNEL * cout * cout + shortcut * cin * cout
        macs += (KERNEL * cin + KERNEL * cout + shortcut * cin) * cout * out
        layers += 2 + shortcut
        kept = cout * out if shortcut else cin * length  # what the residual sum waits for
        peak = max(peak, kept + cin * length + cout * out, kept + 2 * cout * out)
        length = out
    last = n[-1]
    params += 2 * last + last * classes + classes
    macs += last * classes
    return params, macs, max(peak, last * length + last, last + classes), layers + 1


def _mlp(depth: int, width: int, channels: int, samples: int, classes: int) -> tuple[int, int, int, int]:
    inputs = [channels * samples, *[width] * (depth - 1)]
    params = sum(n * width + 2 * width for n in inputs) + width * classes + classes
    macs = sum(n * width for n in inputs) + width * classes
    peak = max(*(n + width for n in inputs), width + classes)
    return params, macs, peak, depth + 1


ARCHS = {"resnet1d": _resnet1d, "mlp": _mlp}
