"""Depthwise-separable CNN: `depth` blocks of a convolution of each channel alone and one across channels.

The blocks are MobileNet's (Howard et al. 2017, arXiv 1704.04861), in one dimension; filters and strides are
those of `resnet1d`, after a stem that halves the rate. Torch-free until a model is built.
"""

from kd.models.chain import chain
from kd.models.conv import Conv
from kd.models.resnet1d import filters, stride

STEM_KERNEL = 5
KERNEL = 9  # of one channel alone: taps cost little there, and a pulse is long


def plan(depth: int, width: int, channels: int) -> list[Conv]:
    """A stem that halves the rate, and two convolutions a block."""
    n = filters(depth, width)
    convs = [Conv(channels, width, STEM_KERNEL, 2)]
    for i in range(depth):
        convs.append(Conv(n[i], n[i], KERNEL, stride(i), depthwise=True))
        convs.append(Conv(n[i], n[i + 1], 1))
    return convs


ARCHITECTURE = chain(plan)
