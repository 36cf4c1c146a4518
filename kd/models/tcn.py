"""Causal dilated TCN: `depth` blocks of a dilated and a plain convolution, stride 2 in every second block.

In the manner of TimePPG (arXiv 2203.16339): taps ever farther apart, strides between. The numbers are ours,
and so is the average over time at the end. Torch-free until a model is built.
"""

from kd.models.chain import chain
from kd.models.conv import Conv
from kd.models.resnet1d import filters, stride

KERNEL, STEM_KERNEL = 3, 5
DILATED = 4  # blocks; of a window of 200 samples the fourth one's outputs see all that came before them


def dilation(block: int) -> int:
    """Samples between the taps of a block's first convolution, blocks counted from 0: 2, 4, 8, 16, then 1."""
    return 2 ** (block + 1) if block < DILATED else 1


def plan(depth: int, width: int, channels: int) -> list[Conv]:
    """A stem that halves the rate, and two convolutions a block."""
    n = filters(depth, width)
    convs = [Conv(channels, width, STEM_KERNEL, 2, causal=True)]
    for i in range(depth):
        convs.append(Conv(n[i], n[i + 1], KERNEL, dilation=dilation(i), causal=True))
        convs.append(Conv(n[i + 1], n[i + 1], KERNEL, stride(i), causal=True))
    return convs


ARCHITECTURE = chain(plan)
