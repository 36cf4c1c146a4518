"""Example ports: encoders of the sizes that foundation models for PPG have, to be filled with your own code.

A port is a class with `load(weights) -> module` and `outputs(x) -> tensor`, and `fs` and `window_s` as plain
numbers in its body. Replace the module by the one your weights belong to; the rest stays. The architectures
here are ours and stand for a size only.
"""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions round which the signal is carried on, at half the rate."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2),
            nn.BatchNorm1d(outputs),
        )
        self.carried = nn.Conv1d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, samples) -> (N, outputs, samples / stride)."""
        out: Tensor = (self.body(x) + self.carried(x)).relu()
        return out


class Encoder(nn.Module):
    """Blocks, the mean over time, and a linear layer to the embedding: windows of any length."""

    def __init__(self, widths: list[int], embedding: int, kernel: int = 7) -> None:
        super().__init__()
        pairs = zip([1, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, kernel) for a, b in pairs))
        self.embedding = nn.Linear(widths[-1], embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Windows (N, 1, samples) -> embedding (N, E)."""
        out: Tensor = self.embedding(self.blocks(x).mean(-1))
        return out


class Port:
    """What the ports below share; subclasses give the module."""

    def module(self) -> nn.Module:
        """The network that the weights belong to."""
        raise NotImplementedError

    def load(self, weights: dict[str, Tensor] | None) -> nn.Module:
        """The network with its weights; without any, random ones."""
        torch.manual_seed(0)
        self.network = self.module()
        if weights is not None:
            self.network.load_state_dict(weights)
        return self.network

    def outputs(self, x: Tensor) -> Tensor:
        """Embedding (N, E) of windows (N, 1, samples)."""
        out: Tensor = self.network(x)
        return out


class Encoder6M(Port):
    """5.8 million parameters, 10 s at 125 Hz, embedding 512."""

    fs = 125
    window_s = 10

    def module(self) -> nn.Module:
        return Encoder([32, 64, 128, 256, 384, 448], 512, kernel=7)


class Encoder28M(Port):
    """28.5 million parameters, windows of any length at 50 Hz, embedding 512."""

    fs = 50
    window_s = 8

    def module(self) -> nn.Module:
        return Encoder([64, 128, 256, 512, 960, 960], 512, kernel=7)


class Encoder4M(Port):
    """4.0 million parameters, 125 Hz, embedding 512."""

    fs = 125
    window_s = 8

    def module(self) -> nn.Module:
        return Encoder([32, 64, 128, 256, 500], 512, kernel=7)


class Encoder1M(Port):
    """1.2 million parameters, 10 s at 25 Hz, embedding 256."""

    fs = 25
    window_s = 10

    def module(self) -> nn.Module:
        return Encoder([32, 64, 128, 290], 256, kernel=7)
