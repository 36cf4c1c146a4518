"""1D ResNet: `width` filters that double every 4 blocks, stride 2 in every second block; `depth` blocks.

Pre-activation blocks; `resnet1d_post.py` has those whose norms all follow a convolution.
The plan of filters and strides is WildPPG's ResNet1D (increasefilter_gap 4, downsample_gap 2). Torch-free
until a model is built.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kd.models.contract import Architecture, Counts

if TYPE_CHECKING:
    from kd.models.layers import Classifier

KERNEL = 5  # WildPPG's ResNet1D; odd, so that padding KERNEL // 2 is symmetric on every runtime
# filters double every 4 blocks, every second block has stride 2; WildPPG's ResNet1D
GROW_GAP, DOWN_GAP = 4, 2


def filters(depth: int, width: int) -> list[int]:
    """Filters of the stem and of each block, (depth + 1,)."""
    return [width, *(width * 2 ** (i // GROW_GAP) for i in range(depth))]


def stride(block: int) -> int:
    """Stride of a block, counted from 0."""
    return 2 if block % DOWN_GAP == DOWN_GAP - 1 else 1


def count(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
    """Its sizes in closed form."""
    n = filters(depth, width)
    length = samples
    weights, macs, layers = KERNEL * channels * width, KERNEL * channels * width * length, 1
    norms, scales = 0, width
    peak = (channels + width) * length
    for i in range(depth):
        cin, cout, out = n[i], n[i + 1], -(-length // stride(i))
        shortcut = stride(i) != 1 or cin != cout
        weights += KERNEL * cin * cout + KERNEL * cout * cout + shortcut * cin * cout
        norms += 2 * cin + 2 * cout
        scales += (2 + shortcut) * cout
        macs += (KERNEL * cin + KERNEL * cout + shortcut * cin) * cout * out
        layers += 2 + shortcut
        kept = cout * out if shortcut else cin * length  # what the residual sum waits for
        peak = max(peak, kept + cin * length + cout * out, kept + 2 * cout * out)
        length = out
    last = n[-1]
    rest = norms + 2 * last + last * classes + classes
    macs += last * classes
    peak = max(peak, last * length + last, last + classes)
    return Counts(weights + rest, macs, peak, layers + 1, weights, scales)


def build(depth: int, width: int, *, channels: int, samples: int, classes: int, members: int) -> "Classifier":
    """(N, C, S) -> logits (N, K), features (N, F) after the global average pool; any number of samples."""
    from torch import channels_last, nn

    from kd.models.layers import BatchNormRelu, Block, Classifier, Maps, Pool, conv, linear

    n = filters(depth, width)
    body = {
        "maps": Maps(),
        "stem": conv(channels, width, KERNEL, members=members),
        "blocks": nn.Sequential(*(Block(n[i], n[i + 1], KERNEL, stride(i), members) for i in range(depth))),
        "bn": BatchNormRelu(members * n[-1]),
        "pool": Pool(),
    }
    model = Classifier(body, linear(n[-1], classes, members=members))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model.to(memory_format=channels_last)  # type: ignore[call-overload]


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Depth and width by the names and shapes of its weights; None if they aren't a ResNet's."""
    if not shapes.get("stem.weight"):
        return None
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    return len(blocks), shapes["stem.weight"][0]


ARCHITECTURE = Architecture(count, build, convolutional=True, prunable=True, recognise=recognise)
