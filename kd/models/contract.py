"""What an architecture has to give, so that plans, training, pruning and export need to know no more of it.

Torch-free: plans ask for sizes without loading torch, so `build` imports its layers when it is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kd.models.conv import Plan

if TYPE_CHECKING:
    from kd.models.layers import Classifier


class Counts(NamedTuple):
    """What `kd.models.sizes.Size` is computed from; its words mean the same here.

    activations: peak of the live tensors, in values. int8_weights: weights of the layers that become int8,
    which are all but batch norms and the class layer. int8_channels: output channels of those layers.
    constants: values of float32 that a file holds and nothing trains.
    """

    params: int
    macs: int
    activations: int
    layers: int
    int8_weights: int
    int8_channels: int
    constants: int = 0


class Count(Protocol):
    """The sizes of a model in closed form."""

    def __call__(self, depth: int, width: int, channels: int, samples: int, classes: int) -> Counts: ...


class Build(Protocol):
    """A fresh model, or a stack of `members` of them (`kd.models.layers`)."""

    def __call__(
        self, depth: int, width: int, *, channels: int, samples: int, classes: int, members: int
    ) -> "Classifier": ...


# (depth, width) by the names and shapes of a model's weights; None if they are another architecture's
Recognise = Callable[[Mapping[str, tuple[int, ...]]], tuple[int, int] | None]


@dataclass(frozen=True)
class Architecture:
    """One entry of `kd.models.architectures.ARCHITECTURES`.

    convolutional: whether its stacks gain from trying each of `layers.CONVOLUTIONS`. prunable: whether every
    hidden layer is proportional to `width`, so that removing channels gives a narrower model of its kind.
    recognise: for model files written before their metadata named the architecture; later ones need none.
    plan: if it is nothing but convolutions one after the other (`kd.models.chain`), which ones.
    """

    count: Count
    build: Build
    convolutional: bool
    prunable: bool = False
    recognise: Recognise | None = None
    plan: Plan | None = None
