"""How many models of one shape to train as one stack on a device: as many as make it faster, and fit."""

import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kd.errors import out_of_gpu_memory
from kd.models.architectures import architecture
from kd.models.layers import CONVOLUTIONS
from kd.training import metrics
from kd.training.objective import Labels
from kd.training.recipe import Spec
from kd.training.stack import Shape, Stack, Start
from kd.training.teacher import EVAL_BATCH, FEATURES, LOGITS, as_tensor, outputs

if TYPE_CHECKING:
    from kd.signals.prepare import Data

STEPS = 20  # a timed epoch of the probe
WORTH = 1.1  # doubling the members must make students per second grow by this factor
MOST = 512  # members of a stack; more make epochs, and the wait for a checkpoint, long
SHARE = 0.8  # of the free memory that a stack may take


@dataclass(frozen=True)
class Choice:
    """How to train points of one shape together, and what that gave: member steps a second.

    taken: bytes of the device's memory that the stack took in training, validation and the test, all that
    torch reserved and CUDA needs included; the windows and the teachers' outputs come on top.
    """

    members: int = 1
    convolution: str = "grouped"
    rate: float = 0.0
    bounded: bool = False  # there were too few points to find out whether more members would be faster
    taken: int = 0


def choose(
    spec: Spec,
    data: "Data",
    device: str,
    points: int,
    *,
    teachers: Iterable[Path] = (),
    say: Callable[[str], None] = print,
) -> Choice:
    """How many of `points` points like `spec` to train as one stack on a GPU.

    teachers: the folders of those they learn from, whose outputs will be on the device, too. Whatever fails
    here fails no point: they are trained one by one then, and `say` is told why.
    """
    try:
        data = data.seen_by(spec.recipe.channels)
        channels, samples = data.train.x.shape[1:]
        shape = Shape(spec.arch, spec.depth, spec.width, channels, samples, data.classes)
        centres = metrics.class_centres(data.min_bpm, data.classes).to(device)
        labels = Labels(centres, spec.recipe.label_sigma_bpm)
        x, bpm = (as_tensor(array).to(device) for array in (data.train.x, data.train.bpm))
        return best_choice(spec, shape, x, bpm, labels, min(points, MOST), beside(data, teachers))
    except Exception as error:
        lines = str(error).splitlines() or [""]
        why = f"{type(error).__name__}: {lines[0]}"
    # Only here, when the error no longer holds what was on the device.
    try:
        _release(torch.device(device))
    except RuntimeError as error:  # the next thing done on the device says so, too
        say(f"nor could its memory be released: {error}")
    say(f"how many points to train together could not be measured ({why}): one by one")
    return Choice()


def beside(data: "Data", teachers: Iterable[Path]) -> int:
    """Bytes on the device beside training windows and stack: validation windows, teachers' outputs."""
    files = [folder / name for folder in teachers for name in (LOGITS, FEATURES)]
    return int(data.val.x.nbytes) + sum(file.stat().st_size for file in files if file.exists())


def best_choice(
    spec: Spec, shape: Shape, x: Tensor, bpm: Tensor, labels: Labels, most: int, beside: int = 0
) -> Choice:
    """The number of members, at most `most`, beyond which a stack trains hardly more of them a second.

    Doubles the stack until that is reached or the next might not fit in the device's memory, of which
    `beside` bytes are spoken for. x, bpm: the training windows, on the device. Takes a second or two per
    doubling on a GPU. Raises whatever goes wrong but want of memory.
    """
    best = Choice()
    ways = CONVOLUTIONS if architecture(spec.arch).convolutional else CONVOLUTIONS[:1]
    members = 1
    while members <= most:
        _release(x.device)  # the last stack's memory is free only then
        room = SHARE * (_free(x.device) - beside)
        tried = []
        for way in ways if members > 1 else CONVOLUTIONS[:1]:
            try:
                rate, taken = rate_of(spec, shape, x, bpm, labels, members, convolution=way)
            except Exception as error:
                if not out_of_gpu_memory(error):
                    raise
            else:
                if taken <= room or members == 1:
                    tried.append(Choice(members, way, rate, taken=taken))
        if not tried:
            break
        choice = max(tried, key=lambda each: each.rate)
        if choice.rate < best.rate * WORTH:
            break
        best = choice
        following = min(2 * members, most) if members < most else most + 1
        if choice.taken * following / members > room and members < most:
            break
        members = following
    else:
        best = dataclasses.replace(best, bounded=most < MOST)
    _release(x.device)
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
    """Member steps a second of a stack of copies of `spec` trained from scratch, and the bytes it took.

    The bytes include a batch of the validation and one of a test, which all batches of them need again.
    """
    recipe = dataclasses.replace(spec.recipe, windows_per_epoch=STEPS * spec.recipe.batch_size)
    copies = [
        dataclasses.replace(
            spec, strategy="scratch", strategy_args={}, teacher=None, seed=seed, recipe=recipe
        )
        for seed in range(members)
    ]
    device = x.device
    _release(device)
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
    for epoch in range(1, 1 + repeats):
        _wait(device)
        began = time.perf_counter()
        stack.epoch([epoch] * members)
        _wait(device)
        fastest = min(fastest, time.perf_counter() - began)
    stack.predict(x[: stack.eval_batch])
    with stack.precise():
        outputs(shape.build().to(device), x[:EVAL_BATCH])
    _wait(device)
    return members * stack.steps / fastest, before - _free(device)


def _free(device: torch.device) -> int:
    """Bytes of a GPU that nobody has; of a CPU more than anything asks for."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize


def _release(device: torch.device) -> None:
    """Give the device back what torch keeps of stacks that are gone."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
