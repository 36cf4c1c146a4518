"""The two architectures of the sweep. Both return `(logits, features)`, so no hook is ever needed.

N windows, C channels, S samples, K classes, F features, L samples left after strides. Sizes: `kd.sizes`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd.sizes import CLASSES, KERNEL, filters, stride


def conv(cin: int, cout: int, kernel: int = KERNEL, stride: int = 1) -> nn.Conv2d:
    """A 1D convolution over the last axis of (N, cin, 1, L), without bias.

    Written as a 2D one of height 1, since only those have a channels-last layout: a training step of the
    8-block, 16-filter ResNet takes a quarter less time so on one CPU thread, and edge runtimes want it.
    """
    return nn.Conv2d(cin, cout, (1, kernel), (1, stride), (0, kernel // 2), bias=False)


class Block(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027).

    forward: (N, cin, 1, L) -> (N, cout, 1, ceil(L / stride)).
    """

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = conv(cin, cout, stride=stride)
        self.bn2 = nn.BatchNorm2d(cout)
        self.conv2 = conv(cout, cout)
        self.stride = stride
        changes_shape = stride != 1 or cin != cout
        self.shortcut = conv(cin, cout, kernel=1) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        pre = torch.relu(self.bn1(x))
        # Strided by slicing: the backward pass of a strided 1x1 convolution in channels-last layout crashes
        # with more than one thread on AVX-512 CPUs (torch 2.13).
        kept = x if self.shortcut is None else self.shortcut(pre[..., :: self.stride])
        return kept + self.conv2(torch.relu(self.bn2(self.conv1(pre))))


class ResNet1d(nn.Module):
    """1D ResNet: `width` filters that double every 4 blocks, stride 2 in every second block.

    forward: (N, C, S) -> logits (N, K), features (N, F) after the global average pool.
    The plan of filters and strides is WildPPG's ResNet1D (increasefilter_gap 4, downsample_gap 2).
    """

    def __init__(self, width: int, depth: int, *, channels: int = 1, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = conv(channels, width)
        n = filters(depth, width)
        self.blocks = nn.Sequential(*(Block(n[i], n[i + 1], stride=stride(i)) for i in range(depth)))
        self.bn = nn.BatchNorm2d(n[-1])
        self.fc = nn.Linear(n[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (N, C, 1, S)
        x = torch.relu(self.bn(self.blocks(self.stem(x))))  # (N, F, 1, L)
        features = x.mean((2, 3))  # (N, F)
        return self.fc(features), features


class Mlp(nn.Module):
    """`depth` hidden layers of `width` units with batch norm and ReLU on the flattened window.

    forward: (N, C, S) -> logits (N, K), features (N, width), the last hidden layer.
    """

    def __init__(
        self, width: int, depth: int, *, channels: int = 1, samples: int = 200, classes: int = CLASSES
    ) -> None:
        super().__init__()
        inputs = [channels * samples, *[width] * (depth - 1)]
        self.hidden = nn.Sequential(
            *(
                layer
                for n in inputs
                for layer in (nn.Linear(n, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
            )
        )
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.hidden(x.flatten(1))  # (N, width)
        return self.fc(features), features


def build(
    arch: str, depth: int, width: int, *, channels: int = 1, samples: int = 200, classes: int = CLASSES
) -> nn.Module:
    """A fresh model of an architecture named in `kd.sizes.ARCHS`; raises ValueError on any other name."""
    if arch == "resnet1d":
        return ResNet1d(width, depth, channels=channels, classes=classes)
    if arch == "mlp":
        return Mlp(width, depth, channels=channels, samples=samples, classes=classes)
    raise ValueError(f"unknown architecture {arch!r}; known: resnet1d, mlp")


def shape_of(state: Mapping[str, Tensor]) -> tuple[str, int, int]:
    """Architecture, depth and width of the model a state dict belongs to."""
    if "stem.weight" in state:
        blocks = {m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))}
        return "resnet1d", len(blocks), len(state["stem.weight"])
    layers = [k for k, v in state.items() if k.startswith("hidden.") and v.ndim == 2]
    return "mlp", len(layers), len(state[layers[0]])
