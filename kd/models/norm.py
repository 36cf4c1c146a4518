"""Batch norm and ReLU in one, for the few channels that torch's own batch norm is slow with on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LANES = 256  # numbers a folded row has at least: long enough to vectorise
VECTOR, FEWEST_PIXELS = 8, 8192  # torch's own is faster with channels in whole vectors, and on small maps


class BatchNormRelu(nn.BatchNorm2d):
    """relu(batch norm(x)) of (N, C, H, W), fastest in channels-last layout.

    torch's own channels-last batch norm vectorises over channels, so that with the 2 to 7 filters of a tiny
    student it takes more time than the convolution before it. There, in training on a CPU, `_Fused` takes a
    third of it; everywhere else (other widths, evaluation, export, CUDA, half precision) these are the two
    ordinary layers. Always has weights, statistics and a momentum, as `_Fused` needs them.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.num_features
        # Cheapest first: a step asks this at every norm.
        slow = self.training and channels > 1 and channels % VECTOR and x.ndim == 4 and x.shape[1] == channels
        pixels = x.numel() // channels if slow else 0
        if pixels < FEWEST_PIXELS or x.device.type != "cpu" or not _full(x, self.weight):
            return torch.relu(super().forward(x))
        y, mean, var = _Fused.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(var * (pixels / (pixels - 1)), self.momentum)  # type: ignore[union-attr, arg-type]
        return y


def _full(x: Tensor, weight: Tensor) -> bool:
    """Whether both are of one precision in which sums may be taken."""
    return x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)


class _Fused(torch.autograd.Function):
    """Pixels of a channels-last map are rows of C numbers; `g` rows together are one row of g * C lanes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x)
        g, count = rows.shape[1] // len(weight), x.numel() // len(weight)
        mean = _sum(rows, g).div_(count)
        centred = rows - mean.repeat(g)
        var = _sum(centred.square(), g).div_(count)  # two passes: no cancellation
        inverse = (var + eps).rsqrt_()
        y = torch.addcmul(bias.repeat(g), centred, (inverse * weight).repeat(g)).relu_()
        ctx.save_for_backward(centred, y, weight, inverse)
        ctx.shape = x.shape
        ctx.mark_non_differentiable(mean, var)
        return _map(y, x.shape), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        centred, y, weight, inverse = ctx.saved_tensors
        g, count = centred.shape[1] // len(weight), centred.numel() // len(weight)
        grad = torch.ops.aten.threshold_backward(_rows(grad), y, 0)
        to_bias = _sum(grad, g)
        to_weight = _sum(grad * centred, g).mul_(inverse)
        scale = inverse * weight
        # dx = scale * (grad - mean(grad) - normalised * mean(grad * normalised))
        dx = grad.mul_(scale.repeat(g))
        dx.addcmul_(centred, (scale * inverse * to_weight).div_(-count).repeat(g))
        dx.sub_((scale * to_bias).div_(count).repeat(g))
        return _map(dx, ctx.shape), to_weight, to_bias, None


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N * H * W / g, g * C) in channels-last order, for a power of two g."""
    c = x.shape[1]
    # x itself, if it is channels-last; of one window in one row `reshape` alone gives a view in any layout.
    pixels = x.permute(0, 2, 3, 1).reshape(-1, c).contiguous()
    g = 1
    while g * c < LANES and len(pixels) % (2 * g) == 0:
        g *= 2
    return pixels.reshape(-1, g * c)


def _map(rows: Tensor, shape: torch.Size) -> Tensor:
    """`_rows` undone: (N, C, H, W) in channels-last layout, whatever the layout of what it was given."""
    _, c, h, w = shape
    return rows.as_strided(shape, (h * w * c, 1, w * c, c))


def _sum(rows: Tensor, g: int) -> Tensor:
    """Sum over pixels: (R, g * C) -> (C,)."""
    return rows.sum(0).view(g, -1).sum(0)
