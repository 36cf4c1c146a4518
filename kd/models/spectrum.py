"""The layers of `spectra.py` that no other architecture has; for stacks, as those of `layers.py`.

N windows, M members, C channels, S samples, B branches, F bins of frequency, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kd.models.layers import conv
from kd.models.norm import BatchNormRelu

FLOOR = 1e-4  # of power, where white noise of variance 1 has about 1: the log of nothing


class Spectrum(nn.Module):
    """Log powers by a Hann window and a product with sines: (N, M * C, S) -> (N, M * B, 1, F).

    bpm: of the bins. Of two branches the first is the first channel's, the second the sum of all others'.
    """

    turns: Tensor

    def __init__(self, samples: int, fs: float, bpm: Sequence[int], branches: int, members: int) -> None:
        super().__init__()
        self.branches, self.members = branches, members
        taper = np.hanning(samples + 2)[1:-1, None]  # none of them 0, however few
        turns = np.exp(-2j * np.pi * np.outer(np.arange(samples) / fs, np.asarray(bpm) / 60)) * taper
        turns /= np.sqrt(np.square(taper).sum())
        table = torch.tensor(np.concatenate([turns.real, turns.imag], 1), dtype=torch.float32)
        self.register_buffer("turns", table, persistent=False)  # (S, 2 * F), no weights

    def forward(self, x: Tensor) -> Tensor:
        power = (x @ self.turns).square().unflatten(2, (2, -1))  # (N, M * C, 2, F)
        power = power.unflatten(1, (self.members, -1))
        if self.branches == 1:
            sums = power.sum((2, 3)).unsqueeze(2)
        else:
            sums = torch.stack([power[:, :, :1].sum((2, 3)), power[:, :, 1:].sum((2, 3))], 2)
        maps = (sums.flatten(1, 2) + FLOOR).log().unsqueeze(2)
        return maps.contiguous(memory_format=torch.channels_last)


def conv_norm(
    cin: int, cout: int, kernel: int, dilation: int = 1, *, members: int, groups: int = 1
) -> nn.Sequential:
    """A convolution over frequency that keeps the number of bins, its norm and ReLU."""
    reach = dilation * (kernel // 2)
    layer = conv(cin, cout, kernel, members=members, dilation=dilation, padding=reach, groups=groups)
    return nn.Sequential(layer, BatchNormRelu(members * cout))


class Residual(nn.Module):
    """What a convolution adds to its input: (N, M * C, 1, F) -> the same."""

    def __init__(self, channels: int, kernel: int, dilation: int, members: int) -> None:
        super().__init__()
        self.conv = conv_norm(channels, channels, kernel, dilation, members=members)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.conv(x)
        return x + added
