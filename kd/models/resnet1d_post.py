"""1D ResNet of post-activation blocks: all batch norms follow convolutions, which take them in when shipped.

Filters and strides are those of `resnet1d`, whose pre-activation blocks normalise what no convolution has
just made: such norms stay work of their own on a device, and float32 in an int8 ONNX file. Torch-free until a
model is built.
"""

from typing import TYPE_CHECKING

from kd.models.contract import Architecture, Counts
from kd.models.resnet1d import KERNEL, filters, stride

if TYPE_CHECKING:
    from kd.models.layers import Classifier


def count(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
    """Its sizes in closed form."""
    n = filters(depth, width)
    length = samples
    weights, macs, layers = KERNEL * channels * width, KERNEL * channels * width * length, 1
    normed = width  # output channels of convolutions; each has a norm
    peak = (channels + width) * length
    for i in range(depth):
        cin, cout, out = n[i], n[i + 1], -(-length // stride(i))
        shortcut = stride(i) != 1 or cin != cout
        mine = KERNEL * cin * cout + KERNEL * cout * cout + shortcut * cin * cout
        weights, macs = weights + mine, macs + mine * out
        normed += (2 + shortcut) * cout
        layers += 2 + shortcut
        peak = max(peak, cin * length + 2 * cout * out)  # the block's input waits until both are convolved
        length = out
    last = n[-1]
    params = weights + 2 * normed + last * classes + classes
    peak = max(peak, last * length + last, last + classes)
    return Counts(params, macs + last * classes, peak, layers + 1, weights, normed)


def build(depth: int, width: int, *, channels: int, samples: int, classes: int, members: int) -> "Classifier":
    """(N, C, S) -> logits (N, K), features (N, F) after the global average pool; any number of samples."""
    from torch import channels_last, nn

    from kd.models.layers import BatchNormRelu, Classifier, Maps, Pool, PostBlock, conv, linear

    n = filters(depth, width)
    blocks = (PostBlock(n[i], n[i + 1], KERNEL, stride(i), members) for i in range(depth))
    body = {
        "maps": Maps(),
        "stem": conv(channels, width, KERNEL, members=members),
        "bn": BatchNormRelu(members * width),
        "blocks": nn.Sequential(*blocks),
        "pool": Pool(),
    }
    model = Classifier(body, linear(n[-1], classes, members=members))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model.to(memory_format=channels_last)  # type: ignore[call-overload]


ARCHITECTURE = Architecture(count, build, convolutional=True, prunable=True)
