"""The two architectures of the sweep. Both return `(logits, features)`, so no hook is ever needed.

N windows, C channels, S samples, K classes, F features, L samples left after strides. Sizes: `sizes.py`.

A model can be a stack of M `members` of one shape, each with its own windows and its own weights: the members
lie side by side along the channels, convolutions are grouped, linear layers batched. Every parameter and
buffer of a stack holds its members' one after the other along the first axis; one member is the plain model.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.models.norm import BatchNormRelu
from kd.models.sizes import CLASSES, KERNEL, filters, stride

CONVOLUTIONS = ("grouped", "matmul")  # how a stack computes them: the same numbers, up to rounding


def conv(cin: int, cout: int, kernel: int = KERNEL, stride: int = 1, members: int = 1) -> nn.Conv2d:
    """A 1D convolution over the last axis of (N, cin, 1, L), without bias.

    Written as a 2D one of height 1, since only those have a channels-last layout: a training step of the
    8-block, 16-filter ResNet takes a quarter less time so on one CPU thread, and edge runtimes want it.
    """
    kind = nn.Conv2d if members == 1 else Convs
    return kind(
        members * cin,
        members * cout,
        (1, kernel),
        (1, stride),
        (0, kernel // 2),
        groups=members,
        bias=False,
    )


class Convs(nn.Conv2d):
    """`members` convolutions side by side: (N, M * cin, 1, L) -> (N, M * cout, 1, L').

    Grouped, or as one batched matrix product over copied windows: libraries differ widely in how well they do
    groups of a few channels, so that `kd.training.probe` tries both.
    """

    as_matmul = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.as_matmul:
            return super().forward(x)
        kernel, pad, cin = self.kernel_size[1], self.padding[1], self.in_channels // self.groups
        x = x.permute(0, 3, 2, 1).unflatten(3, (self.groups, cin)).squeeze(2)  # (N, L, M, cin)
        x = functional.pad(x, (0, 0, 0, 0, pad, pad))  # type: ignore[arg-type]
        windows = x.unfold(1, kernel, self.stride[1])  # (N, L', M, cin, kernel)
        n, length = windows.shape[:2]
        rows = windows.permute(2, 0, 1, 4, 3).reshape(self.groups, n * length, kernel * cin)
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.groups, -1, kernel * cin).transpose(1, 2)
        y = torch.bmm(rows, weight).view(self.groups, n, length, -1)  # (M, N, L', cout)
        return y.permute(1, 2, 0, 3).reshape(n, length, -1).transpose(1, 2).unsqueeze(2)


def linear(inputs: int, outputs: int, bias: bool = True, members: int = 1) -> "nn.Linear | Linears":
    """A linear layer, or `members` side by side."""
    return nn.Linear(inputs, outputs, bias) if members == 1 else Linears(inputs, outputs, bias, members)


class Linears(nn.Module):
    """`members` linear layers side by side: (N, M * in) -> (N, M * out)."""

    def __init__(self, inputs: int, outputs: int, bias: bool, members: int) -> None:
        super().__init__()
        self.members, self.in_features, self.out_features = members, inputs, outputs
        self.weight = nn.Parameter(torch.empty(members * outputs, inputs).uniform_(-1, 1) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(members * outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.by_member(x).transpose(0, 1).flatten(1)

    def by_member(self, x: Tensor) -> Tensor:
        """(N, M * in) -> (M, N, out)."""
        x = x.unflatten(1, (self.members, self.in_features)).transpose(0, 1)  # (M, N, in)
        weight = self.weight.view(self.members, self.out_features, self.in_features).transpose(1, 2)
        if self.bias is None:
            return torch.bmm(x, weight)
        return torch.baddbmm(self.bias.view(self.members, 1, self.out_features), x, weight)


def by_member(layer: "nn.Linear | Linears", x: Tensor) -> Tensor:
    """(N, M * in) -> (M, N, out), without the copy that putting them side by side again would take."""
    return layer.by_member(x) if isinstance(layer, Linears) else layer(x).unsqueeze(0)


class Block(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027).

    forward: (N, cin, 1, L) -> (N, cout, 1, ceil(L / stride)).
    """

    def __init__(self, cin: int, cout: int, stride: int, members: int = 1) -> None:
        super().__init__()
        self.bn1 = BatchNormRelu(members * cin)
        self.conv1 = conv(cin, cout, stride=stride, members=members)
        self.bn2 = BatchNormRelu(members * cout)
        self.conv2 = conv(cout, cout, members=members)
        self.stride = stride
        changes_shape = stride != 1 or cin != cout
        self.shortcut = conv(cin, cout, kernel=1, members=members) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        pre = self.bn1(x)
        # Strided by slicing: the backward pass of a strided 1x1 convolution in channels-last layout crashes
        # with more than one thread on AVX-512 CPUs (torch 2.13).
        kept = x if self.shortcut is None else self.shortcut(pre[..., :: self.stride])
        return kept + self.conv2(self.bn2(self.conv1(pre)))


class ResNet1d(nn.Module):
    """1D ResNet: `width` filters that double every 4 blocks, stride 2 in every second block.

    forward: (N, C, S) -> logits (N, K), features (N, F) after the global average pool.
    The plan of filters and strides is WildPPG's ResNet1D (increasefilter_gap 4, downsample_gap 2).
    """

    def __init__(
        self, width: int, depth: int, *, channels: int = 1, classes: int = CLASSES, members: int = 1
    ) -> None:
        super().__init__()
        self.stem = conv(channels, width, members=members)
        n = filters(depth, width)
        self.blocks = nn.Sequential(
            *(Block(n[i], n[i + 1], stride=stride(i), members=members) for i in range(depth))
        )
        self.bn = BatchNormRelu(members * n[-1])
        self.fc = linear(n[-1], classes, members=members)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Tensor) -> Tensor:
        """(N, M * C, S) -> (N, M * F)."""
        x = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (N, M * C, 1, S)
        return self.bn(self.blocks(self.stem(x))).mean((2, 3))  # (N, M * F, 1, L) before the mean

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.fc(features), features


class Mlp(nn.Module):
    """`depth` hidden layers of `width` units with batch norm and ReLU on the flattened window.

    forward: (N, C, S) -> logits (N, K), features (N, width), the last hidden layer.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        channels: int = 1,
        samples: int = 200,
        classes: int = CLASSES,
        members: int = 1,
    ) -> None:
        super().__init__()
        inputs = [channels * samples, *[width] * (depth - 1)]
        self.hidden = nn.Sequential(
            *(
                layer
                for n in inputs
                for layer in (
                    linear(n, width, bias=False, members=members),
                    nn.BatchNorm1d(members * width),
                    nn.ReLU(),
                )
            )
        )
        self.fc = linear(width, classes, members=members)

    def features(self, x: Tensor) -> Tensor:
        """(N, M * C, S) -> (N, M * F)."""
        return self.hidden(x.flatten(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.fc(features), features


def build(
    arch: str,
    depth: int,
    width: int,
    *,
    channels: int = 1,
    samples: int = 200,
    classes: int = CLASSES,
    members: int = 1,
) -> nn.Module:
    """A fresh model of an architecture named in `sizes.ARCHS`; raises ValueError on any other name."""
    if arch == "resnet1d":
        return ResNet1d(width, depth, channels=channels, classes=classes, members=members)
    if arch == "mlp":
        return Mlp(width, depth, channels=channels, samples=samples, classes=classes, members=members)
    raise ValueError(f"unknown architecture {arch!r}; known: resnet1d, mlp")


def shape_of(state: Mapping[str, Tensor]) -> tuple[str, int, int]:
    """Architecture, depth and width of the model a state dict belongs to."""
    if "stem.weight" in state:
        blocks = {m[1] for key in state if (m := re.match(r"blocks\.(\d+)\.", key))}
        return "resnet1d", len(blocks), len(state["stem.weight"])
    layers = [k for k, v in state.items() if k.startswith("hidden.") and v.ndim == 2]
    return "mlp", len(layers), len(state[layers[0]])
