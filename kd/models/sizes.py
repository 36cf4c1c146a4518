"""Exact sizes of a model from its shape alone: no torch, no model built, microseconds a call.

Every architecture counts what it builds, and training asserts that both agree; tests hold MACs against
torch's FLOP counter and the activation peak against a walk over the exported graph.
"""

from dataclasses import dataclass
from functools import lru_cache

from kd.errors import InputError
from kd.models.architectures import CLASSES, architecture

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Size:
    """What one model costs for one window.

    params: trainable, batch norms counted. macs: multiply-adds of convolutions and linear layers.
    weight_bytes: float32, with what a file holds besides, such as a table of sines. weight_bytes_int8:
    convolutions and hidden linear layers in int8 with one float32 scale per output channel; batch norms, the
    class layer and tables stay float32. activation_bytes: peak of the live
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
    entry = architecture(arch)
    if depth < 1 or width < 1:
        raise InputError(f"{arch} {depth}x{width}: depth and width must be 1 or more")
    n = entry.count(depth, width, channels, samples, classes)
    rest = n.params + n.constants
    int8 = n.int8_weights + BYTES * (rest - n.int8_weights + n.int8_channels)
    return Size(n.params, n.macs, BYTES * rest, int8, BYTES * n.activations, n.layers)
