"""Architectures that are convolutions one after the other, each with a norm and ReLU, and a global average.

No convolution's input is needed again, so that no more than two maps are ever alive, and every norm folds. A
file such as `tcn.py` says which convolutions; everything else that concerns the architecture reads that plan.
Torch-free until a model is built.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kd.models.contract import Architecture, Counts
from kd.models.conv import Conv, Plan

if TYPE_CHECKING:
    from kd.models.layers import Classifier


def chain(plan: Plan) -> Architecture:
    """The architecture of a plan whose channels, but the input's, are all proportional to width."""

    def count(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
        return _count(plan(depth, width, channels), samples, classes)

    def build(
        depth: int, width: int, *, channels: int, samples: int, classes: int, members: int
    ) -> "Classifier":
        """(N, C, S) -> logits (N, K), features (N, F) after the global average; any number of samples."""
        return _build(plan(depth, width, channels), classes, members)

    return Architecture(count, build, convolutional=True, prunable=True, plan=plan)


def _count(convs: Sequence[Conv], samples: int, classes: int) -> Counts:
    """Its sizes in closed form."""
    length, macs, peak = samples, 0, 0
    for conv in convs:
        out = -(-length // conv.stride)
        macs += conv.weights * out
        peak = max(peak, conv.cin * length + conv.cout * out)
        length = out
    weights, normed = sum(conv.weights for conv in convs), sum(conv.cout for conv in convs)
    last = convs[-1].cout
    params = weights + 2 * normed + last * classes + classes
    peak = max(peak, last * length + last, last + classes)
    return Counts(params, macs + last * classes, peak, len(convs) + 1, weights, normed)


def _build(convs: Sequence[Conv], classes: int, members: int) -> "Classifier":
    from torch import channels_last, nn

    from kd.models.layers import Classifier, ConvNorm, Maps, Pool, linear

    body = {
        "maps": Maps(),
        "convs": nn.Sequential(*(ConvNorm(conv, members) for conv in convs)),
        "pool": Pool(),
    }
    model = Classifier(body, linear(convs[-1].cout, classes, members=members))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return model.to(memory_format=channels_last)  # type: ignore[call-overload]
