"""How many models of one shape to train as one stack on a device: as many as still make it faster."""

import dataclasses
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd.models.architectures import architecture
from kd.models.layers import CONVOLUTIONS
from kd.training import metrics
from kd.training.objective import Labels
from kd.training.recipe import Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.teacher import as_tensor

if TYPE_CHECKING:
    from kd.signals.prepare import Data

STEPS = 20  # a timed epoch of the probe
WORTH = 1.1  # doubling the members must make students per second grow by this factor
MOST = 512  # members of a stack; more make epochs, and the wait for a checkpoint, long
SHARE = 0.8  # of the free memory that a stack may take


@dataclass(frozen=True)
class Choice:
    """How to train points of one shape together, and what that gave: member steps a second."""

    members: int = 1
    convolution: str = "grouped"
    rate: float = 0.0
    bounded: bool = False  # there were too few points to find out whether more members would be faster


def choose(spec: Spec, data: "Data", device: str, points: int) -> Choice:
    """How many of `points` points like `spec` to train as one stack on a GPU."""
    channels, samples = data.train.x.shape[1:]
    shape = Shape(spec.arch, spec.depth, spec.width, channels, samples, data.classes)
    centres = metrics.class_centres(data.min_bpm, data.classes).to(device)
    labels = Labels(centres, spec.recipe.label_sigma_bpm)
    x, bpm = (as_tensor(array).to(device) for array in (data.train.x, data.train.bpm))
    return best_choice(spec, shape, x, bpm, labels, min(points, MOST))


def best_choice(spec: Spec, shape: Shape, x: Tensor, bpm: Tensor, labels: Labels, most: int) -> Choice:
    """The number of members, at most `most`, beyond which a stack trains hardly more of them a second.

    Doubles the stack until that is reached or the next might not fit in the device's memory. x, bpm: the
    training windows, on the device. Takes a second or two per doubling on a GPU.
    """
    best = Choice()
    ways = CONVOLUTIONS if architecture(spec.arch).convolutional else CONVOLUTIONS[:1]
    members = 1
    while members <= most:
        free, tried = _free(x.device), []
        for way in ways if members > 1 else CONVOLUTIONS[:1]:
            with suppress(torch.cuda.OutOfMemoryError):
                rate, used = rate_of(spec, shape, x, bpm, labels, members, convolution=way)
                tried.append((Choice(members, way, rate), used))
        if not tried:
            break
        choice, used = max(tried, key=lambda each: each[0].rate)
        if choice.rate < best.rate * WORTH:
            break
        best = choice
        if 2 * used > SHARE * free > 0:
            break
        members = min(2 * members, most) if members < most else most + 1
    else:
        best = dataclasses.replace(best, bounded=most < MOST)
    if x.device.type == "cuda":
        torch.cuda.empty_cache()
    return best


def rate_of(
    spec: Spec,
    shape: Shape,
    x: Tensor,
    bpm: Tensor,
    labels: Labels,
    members: int,
    *,
    convolution: str = "grouped",
    repeats: int = 2,
) -> tuple[float, int]:
    """Member steps a second of a stack of copies of `spec` trained from scratch, and the bytes it took."""
    recipe = dataclasses.replace(spec.recipe, windows_per_epoch=STEPS * spec.recipe.batch_size)
    copies = [
        dataclasses.replace(
            spec, strategy="scratch", strategy_args={}, teacher=None, seed=seed, recipe=recipe
        )
        for seed in range(members)
    ]
    device = x.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
    before = _free(device)
    start = Start(shape.build().state_dict(), {})
    stack = Stack(
        copies,
        shape,
        [start] * members,
        [None] * members,
        x,
        bpm,
        labels,
        convolution=convolution,
    )
    stack.epoch([0] * members)  # captures the graph
    fastest = float("inf")
    for _ in range(repeats):
        _wait(device)
        began = time.perf_counter()
        stack.epoch([0] * members)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - began)
    return members * stack.steps / fastest, before - _free(device)


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
