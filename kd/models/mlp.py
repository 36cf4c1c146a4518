"""MLP: `depth` hidden layers of `width` units with batch norm and ReLU on the flattened window.

Torch-free until a model is built.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kd.models.contract import Architecture, Counts

if TYPE_CHECKING:
    from kd.models.layers import Classifier


def count(depth: int, width: int, channels: int, samples: int, classes: int) -> Counts:
    """Its sizes in closed form."""
    inputs = [channels * samples, *[width] * (depth - 1)]
    weights = sum(n * width for n in inputs)
    params = weights + depth * 2 * width + width * classes + classes
    peak = max(*(n + width for n in inputs), width + classes)
    return Counts(params, weights + width * classes, peak, depth + 1, weights, depth * width)


def build(depth: int, width: int, *, channels: int, samples: int, classes: int, members: int) -> "Classifier":
    """(N, C, S) -> logits (N, K), features (N, width), the last hidden layer."""
    from torch import nn

    from kd.models.layers import Classifier, linear

    hidden: list[nn.Module] = []
    for inputs in [channels * samples, *[width] * (depth - 1)]:
        hidden.append(linear(inputs, width, bias=False, members=members))
        hidden += [nn.BatchNorm1d(members * width), nn.ReLU()]
    body = {"flatten": nn.Flatten(), "hidden": nn.Sequential(*hidden)}
    return Classifier(body, linear(width, classes, members=members))


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Depth and width by the names and shapes of its weights; None if they aren't an MLP's."""
    layers = [shape for name, shape in shapes.items() if name.startswith("hidden.") and len(shape) == 2]
    return (len(layers), layers[0][0]) if layers else None


ARCHITECTURE = Architecture(count, build, convolutional=False, prunable=True, recognise=recognise)
