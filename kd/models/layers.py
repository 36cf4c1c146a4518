"""Layers that architectures are put together from; each can be several models' layers side by side.

N windows, C channels, S samples, K classes, F features, L samples left after strides.

A model can be a stack of M `members` of one shape, each with its own windows and its own weights: the members
lie side by side along the channels, convolutions are grouped, linear layers batched. Every parameter and
buffer of a stack holds its members' one after the other along the first axis; one member is the plain model.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd.models.conv import Conv
from kd.models.norm import BatchNormRelu

CONVOLUTIONS = ("grouped", "matmul")  # how a stack computes them: the same numbers, up to rounding


def conv(
    cin: int,
    cout: int,
    kernel: int,
    stride: int = 1,
    members: int = 1,
    *,
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> nn.Conv2d:
    """A 1D convolution over the last axis of (N, cin, 1, L), without bias; an odd kernel, padded by half.

    padding: zeros at both ends, if not half the kernel's reach. groups: of one member's channels.

    Written as a 2D one of height 1, since only those have a channels-last layout: a training step of the
    8-block, 16-filter ResNet takes a quarter less time so on one CPU thread, and edge runtimes want it.
    """
    kind = nn.Conv2d if members == 1 else Convs
    return kind(
        members * cin,
        members * cout,
        (1, kernel),
        (1, stride),
        (0, dilation * (kernel // 2) if padding is None else padding),
        (1, dilation),
        groups=members * groups,
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
        apart = self.dilation[1]
        windows = x.unfold(1, (kernel - 1) * apart + 1, self.stride[1])
        windows = windows[..., ::apart]  # (N, L', M, cin, kernel)
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


class Bins(nn.Module):
    """A class layer for bins of frequency: `step` classes each, by one set of weights, and each class's bias.

    (N, M * in, 1, L) -> (N, M * K); the first class is the one `below` classes above the first bin's first.
    """

    def __init__(self, inputs: int, step: int, below: int, classes: int, members: int) -> None:
        super().__init__()
        self.members, self.in_features, self.step = members, inputs, step
        self.kept = slice(below, below + classes)
        spread = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members * step, inputs).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.zeros(members * classes))

    def forward(self, x: Tensor) -> Tensor:
        maps = x.squeeze(2).unflatten(1, (self.members, -1))  # (N, M, in, L)
        of_bins = self.weight.view(self.members, self.step, -1) @ maps  # (N, M, step, L)
        logits = of_bins.transpose(2, 3).flatten(2)[..., self.kept]
        return (logits + self.bias.view(self.members, -1)).flatten(1)

    def by_member(self, x: Tensor) -> Tensor:
        """(N, M * in, 1, L) -> (M, N, K)."""
        return self.forward(x).unflatten(1, (self.members, -1)).transpose(0, 1)


ClassLayer = nn.Linear | Linears | Bins


def by_member(layer: ClassLayer, x: Tensor) -> Tensor:
    """(N, M * in) -> (M, N, out), without the copy that putting them side by side again would take."""
    return layer(x).unsqueeze(0) if isinstance(layer, nn.Linear) else layer.by_member(x)


def summary(features: Tensor) -> Tensor:
    """What is distilled of features: (N, F) as they are, of maps (N, F, 1, L) their mean over places."""
    return features.mean((2, 3)) if features.ndim == 4 else features


class Block(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027).

    forward: (N, cin, 1, L) -> (N, cout, 1, ceil(L / stride)).
    """

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, members: int = 1) -> None:
        super().__init__()
        self.bn1 = BatchNormRelu(members * cin)
        self.conv1 = conv(cin, cout, kernel, stride, members)
        self.bn2 = BatchNormRelu(members * cout)
        self.conv2 = conv(cout, cout, kernel, members=members)
        self.stride = stride
        changes_shape = stride != 1 or cin != cout
        self.shortcut = conv(cin, cout, 1, members=members) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        pre = self.bn1(x)
        # Strided by slicing: the backward pass of a strided 1x1 convolution in channels-last layout crashes
        # with more than one thread on AVX-512 CPUs (torch 2.13).
        kept = x if self.shortcut is None else self.shortcut(pre[..., :: self.stride])
        return kept + self.conv2(self.bn2(self.conv1(pre)))


class PostBlock(nn.Module):
    """Post-activation residual block (He et al. 2015, arXiv 1512.03385): every norm follows a convolution.

    forward: (N, cin, 1, L) -> (N, cout, 1, ceil(L / stride)).
    """

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, members: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(cin, cout, kernel, stride, members)
        self.bn1 = BatchNormRelu(members * cout)
        self.conv2 = conv(cout, cout, kernel, members=members)
        self.bn2 = nn.BatchNorm2d(members * cout)
        self.stride = stride
        changes_shape = stride != 1 or cin != cout
        self.shortcut = conv(cin, cout, 1, members=members) if changes_shape else None
        self.bn_shortcut = nn.BatchNorm2d(members * cout) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        if self.shortcut is not None and self.bn_shortcut is not None:
            x = self.bn_shortcut(self.shortcut(x[..., :: self.stride]))  # sliced as in `Block`
        return torch.relu(y + x)


class ConvNorm(nn.Module):
    """One convolution of a `kd.models.chain`, its norm and ReLU.

    forward: (N, cin, 1, L) -> (N, cout, 1, ceil(L / stride)).
    """

    def __init__(self, of: Conv, members: int = 1) -> None:
        super().__init__()
        self.of = of
        self.before = of.before if of.causal else 0  # zeros that stand before the first sample
        self.conv = conv(
            *(of.cin, of.cout, of.kernel, of.stride, members),
            dilation=of.dilation,
            padding=0 if of.causal else None,
            groups=of.cin if of.depthwise else 1,
        )
        self.bn = BatchNormRelu(members * of.cout)

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = functional.pad(x, (self.before, 0))
        y: Tensor = self.bn(self.conv(x))
        return y


class Maps(nn.Module):
    """Windows as convolutions take them: (N, C, S) -> (N, C, 1, S) in channels-last layout."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class Pool(nn.Module):
    """Global average: (N, C, 1, L) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Classifier(nn.Module):
    """What every architecture builds: the parts of `body` in turn, and a class layer `fc` on their features.

    forward: (N, C, S) -> logits (N, K), features (N, F), so that no hook is ever needed. Each part is a child
    of the name it has in `body`, and so are its weights in the state dict. `features` may give maps, for a
    class layer that takes them (`Bins`).
    """

    def __init__(self, body: Mapping[str, nn.Module], fc: ClassLayer) -> None:
        super().__init__()
        self._body = tuple(body)
        for name, part in body.items():
            self.add_module(name, part)
        self.fc = fc

    def features(self, x: Tensor) -> Tensor:
        """(N, M * C, S) -> what `fc` takes: (N, M * F), or maps (N, M * F, 1, L)."""
        parts = self._modules  # looked up directly: get_submodule costs a small model some percent of a step
        for name in self._body:
            x = parts[name](x)  # type: ignore[misc]
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.fc(features), summary(features)
